"""The pages of docs/reference and the types that are made from the code."""
