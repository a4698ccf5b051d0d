"""The strategies for a new turn of a session that already has a queued or running one."""

from enum import StrEnum


class MultitaskStrategy(StrEnum):
    """What a new turn does to those before it."""

    REJECT = "reject"
    """It is refused while one is active."""
    ENQUEUE = "enqueue"
    """It waits: first in, first out."""
    INTERRUPT = "interrupt"
    """They are stopped and keep their partial text."""
    ROLLBACK = "rollback"
    """They are stopped and leave no message; what they cost stays in the ledger."""
