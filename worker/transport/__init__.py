"""HTTP to a provider: connections, their pool, where they may go, and event streams."""
