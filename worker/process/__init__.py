"""What makes a worker process: Celery's settings, the doorbell's transport, the loop, liveness."""
