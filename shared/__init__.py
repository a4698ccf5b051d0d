"""What the API and the worker must agree on: states, events, names, rows and settings."""
