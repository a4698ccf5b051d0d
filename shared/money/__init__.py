"""What a turn uses, what it costs and what it may cost. No I/O except reading the price table's file."""
