"""Claims turns, streams them from the provider, publishes their events and settles them."""
