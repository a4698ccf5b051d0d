"""`turnkeeper up`: every process and server of the service on one machine, and how each is served."""
