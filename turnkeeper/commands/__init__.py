"""Commands of `turnkeeper` that work on a service from outside, one module each."""
