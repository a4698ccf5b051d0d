"""The parts of the documentation that are generated from the code: docs/reference, the map of the code, types."""
