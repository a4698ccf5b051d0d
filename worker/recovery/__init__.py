"""Keeps running turns safe: renews leases, watches for stops, recovers what dead workers left, removes old content."""
