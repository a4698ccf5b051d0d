"""Streams to readers: one event loop per process delivers to every websocket and event stream."""
