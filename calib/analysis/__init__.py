"""What a reading says: phases, parts, comparisons, and where it is known, the truth."""
