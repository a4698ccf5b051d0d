"""Redis: its names, its scripts, the raw connection and the doorbell."""
