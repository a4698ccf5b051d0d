"""What keeps, checks and takes up running turns: leases, stops, the sweeper, retention."""
