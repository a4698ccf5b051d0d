"""Redis: names of keys and channels, scripts, the raw connection and the doorbell."""
