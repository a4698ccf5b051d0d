"""The measurements behind the README's figures: a load generator of our own, and its raw results."""
