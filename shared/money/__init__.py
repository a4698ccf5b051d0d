"""What a turn uses, costs, and may cost. No I/O but the price table's file."""
