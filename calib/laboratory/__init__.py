"""The laboratory: an invented world whose truth is known, and the small models trained in it."""
