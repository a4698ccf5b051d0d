"""What every process knows of a turn: its states, its events, and how a reader puts them together. No I/O."""
