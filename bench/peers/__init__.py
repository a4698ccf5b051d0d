"""The same load on other ways to carry a stream: what they add, where they end, what they cost."""
