"""Traces: how long a request, a turn and its attempts took, as spans for an OpenTelemetry collector."""
