"""What a message to a worker may contain: names of ours, a turn's id and a trace context, and nothing else (I10)."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from shared.redis.doorbell import CANARY_NAME, QUEUE_NAME, TASK_NAME
from tests.monitor import Monitor

FIXED = frozenset({TASK_NAME, CANARY_NAME, QUEUE_NAME, "application/json", "utf-8", "base64", "py"})
FREE = (
    re.compile(r"[0-9a-f-]*"),
    # Celery's own: the arguments again, and the process that sent them.
    re.compile(r"[(\[](?:'[0-9a-f-]*'(?:, |,)?)*[)\]]"),
    re.compile(r"gen\d+@[\w.-]+"),
    re.compile(r"\{\}"),
)
NAMES = frozenset(
    {
        "body",
        "content-encoding",
        "content-type",
        "headers",
        "properties",
        "callbacks",
        "errbacks",
        "chain",
        "chord",
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "correlation_id",
        "reply_to",
        "delivery_mode",
        "delivery_info",
        "exchange",
        "routing_key",
        "priority",
        "body_encoding",
        "delivery_tag",
    }
)
PUSHES = frozenset({"LPUSH", "RPUSH"})
PUSH = b'USH" '
"""Part of each line of `MONITOR` that shows a push."""
OURS = "tk:"
"""Prefix of the names of lists that no worker takes messages from."""


class WrongMessageError(Exception):
    """A message contains more than it may; it is not repeated here."""


def listening(redis_url: str) -> Monitor:
    """Listen to a Redis for as long as the context lasts; leaving it raises `WrongMessageError`."""
    return Monitor(redis_url, check_push, only=PUSH)


def check_push(words: Sequence[str]) -> None:
    """Check a command that Redis received, as `MONITOR` shows it.

    Raises:
        WrongMessageError: It pushes something that is not a doorbell.
    """
    if words[0].upper() in PUSHES and not words[1].startswith(OURS):
        for word in words[2:]:
            if not word.isdigit():  # a time in a rate window
                check_message(json.loads(f'"{word}"'))


def check_message(message: str) -> None:
    """Check a message as it is in the queue.

    Raises:
        WrongMessageError: It contains more than a task, a turn and a trace.
    """
    envelope = json.loads(message)
    # The API writes the body as it is, Celery in a worker as base64.
    is_encoded = envelope["properties"].get("body_encoding") == "base64"
    body = base64.b64decode(envelope["body"]) if is_encoded else envelope["body"]
    for place, word in _words(envelope | {"body": json.loads(body)}, ""):
        if word not in FIXED and not any(form.fullmatch(word) for form in FREE):
            raise WrongMessageError(f"{place} holds {len(word)} characters that are none of ours")


def _words(value: Any, place: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield place, value
        case list():
            for each in value:
                yield from _words(each, f"{place}[]")
        case dict():
            for name, each in value.items():
                if name not in NAMES:
                    raise WrongMessageError(f"{place} has a name of {len(name)} characters")
                yield from _words(each, f"{place}.{name}")
        case _:
            pass
