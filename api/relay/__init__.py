"""Delivers streams to readers: one event loop per process serves every websocket and event stream."""
