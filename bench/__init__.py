"""What the README's figures come from: a load generator of its own, and the raw results beside it."""
