"""`turnkeeper doctor`: checks everything that the service depends on, and says how to fix what is wrong."""
