"""What makes up a worker process: Celery's settings, the doorbell's transport, the loop, admission, liveness."""
