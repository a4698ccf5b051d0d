"""The message that wakes a worker: a task's name and two arguments, never authority or content.

Celery on Redis loses and repeats messages by design, so the row decides; the doorbell only says
where to look.
"""

from typing import Final

TASK_NAME: Final = "turnkeeper.run_turn"
"""Called with `(turn_id, traceparent)`, both strings; `traceparent` may be empty."""

CANARY_NAME: Final = "turnkeeper.canary"
"""Called without arguments, by workers: whoever hears it knows that it hears."""

QUEUE_NAME: Final = "turns"
