"""The HTTP API: accepts turns, and lets clients watch and stop them; thin, and knows no provider."""
