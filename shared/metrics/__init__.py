"""What operators are shown: figures that every process keeps in memory, and one answer for all of a service."""
