"""How a process is observed: its log, and its errors in Sentry."""
