"""The message that wakes a worker: a task's name and two arguments, never authority or content.

Celery on Redis loses and repeats messages by design, so the row decides; the doorbell only says where to look. It is
written here exactly as Celery and kombu would write it, since two messages differ in only two strings: the API rings in
the same round trip that opens a turn's log, and a worker over a connection of its own, without Celery.
"""

import json
from typing import Any, Final
from uuid import UUID

TASK_NAME: Final = "turnkeeper.run_turn"
"""Called with `(turn_id, traceparent)`, both strings; `traceparent` may be empty."""

CANARY_NAME: Final = "turnkeeper.canary"
"""Called without arguments, by workers: a worker that receives one knows that it still receives."""

QUEUE_NAME: Final = "turns"
KEY_PREFIX: Final = "turns:"
QUEUE_KEY: Final = f"{KEY_PREFIX}{QUEUE_NAME}"
"""The list in Redis that is the queue: `LPUSH` rings, and Celery's workers wait at the other end."""

_NO_CALLBACKS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def doorbell(turn_id: UUID, traceparent: str) -> bytes:
    """Return the message that rings for a turn.

    Celery's message protocol, version 2 (https://docs.celeryq.dev/en/stable/internals/protocol.html), in the envelope
    of kombu's virtual transports.

    Args:
        turn_id: The turn.
        traceparent: The W3C trace context to pass on; may be empty.
    """
    named = str(turn_id)
    return _packed(_envelope(TASK_NAME, named, [named, traceparent]))


def canary(message_id: UUID) -> bytes:
    """Return the message by which a worker learns whether it still receives.

    Args:
        message_id: Anything that is used once.
    """
    return _packed(_envelope(CANARY_NAME, str(message_id), []))


def arguments_of(body: bytes | str) -> list[Any]:
    """Return the arguments in a message's body.

    Raises:
        ValueError: It is not JSON.
        TypeError: It does not have the shape of such a body.
    """
    arguments, *_ = json.loads(body)
    if not isinstance(arguments, list):
        raise TypeError("the body does not begin with a list of arguments")
    return arguments


def _packed(envelope: dict[str, Any]) -> bytes:
    return json.dumps(envelope, separators=(",", ":")).encode()


def _envelope(task: str, message_id: str, arguments: list[str]) -> dict[str, Any]:
    return {
        "body": json.dumps([arguments, {}, _NO_CALLBACKS], separators=(",", ":")),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": message_id,
            "root_id": message_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "argsrepr": "",
            "kwargsrepr": "",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": message_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE_NAME},
            "priority": 0,
            "delivery_tag": message_id,
        },
    }
