"""`turnkeeper up`: starts and supervises every process and server of the service on one machine."""
