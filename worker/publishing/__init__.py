"""What an attempt publishes, and its way to Redis."""
