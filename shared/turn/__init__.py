"""What a turn is to everyone: its states, its events, and what a reader makes of them. No I/O."""
