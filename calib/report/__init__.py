"""The pages: a model's report, its figures, tables and words in one HTML file."""
