"""HTTP to a provider: connections, their pool, the addresses they may reach, and decoding of event streams."""
