"""The same load on other ways to carry a stream: their added delay, their limit and their cost."""
