"""What the api and the worker must agree on: states, events, names, rows and settings."""
