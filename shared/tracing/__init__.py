"""Traces: what a request, a turn and its attempts took, as spans that a collector is sent."""
