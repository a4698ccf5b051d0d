"""How a process is seen: its log, and its errors at Sentry."""
