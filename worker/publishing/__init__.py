"""Publishes an attempt's events: numbers them, gathers them and sends them to Redis."""
