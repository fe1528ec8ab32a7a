"""Many answers: drawn from the model, and the confidence that lies in their agreement."""
