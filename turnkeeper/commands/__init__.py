"""Commands of `turnkeeper` that work on a service from outside, with one module each."""
