"""One turn, from the claim to its settlement."""
