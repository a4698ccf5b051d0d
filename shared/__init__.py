"""Everything on which the API and the worker must agree: states, events, names, rows and settings."""
