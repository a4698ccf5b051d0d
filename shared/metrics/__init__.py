"""Metrics: the figures that every process keeps in memory, and one scrape that answers for a whole service."""
