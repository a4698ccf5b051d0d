"""Accepts turns, lets them be watched and stopped; thin, and knows no provider."""
