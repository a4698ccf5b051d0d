"""What it costs to read one event of a provider's stream: the beginning of a delta's way, without any network."""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from worker.providers.anthropic import EventReader
from worker.providers.chunks import ChunkReader
from worker.providers.reading import Reader, Reading

_ROOM: Final = 1 << 40


def _chunk(delta: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    head = {
        "id": "chatcmpl-1234567890",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "m",
    }
    return json.dumps({**head, "choices": [choice], **more}).encode()


_MESSAGE: Final = b'{"type":"message_start","message":{"id":"m"}}'
_TEXT_DELTA: Final = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}'
FORMS: Final[dict[str, tuple[Callable[[Reading], Reader], tuple[bytes, ...], bytes]]] = {
    "chat completion: text": (ChunkReader, (), _chunk({"content": " word"})),
    "text, and no calls": (ChunkReader, (), _chunk({"content": " word", "tool_calls": []})),
    "text with usage": (
        ChunkReader,
        (),
        _chunk({"content": " word"}, usage={"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}),
    ),
    "thinking": (ChunkReader, (), _chunk({"reasoning_content": " word"})),
    "text in a list of parts": (ChunkReader, (), _chunk({"content": [{"type": "text", "text": " word"}]})),
    "message: text": (EventReader, (_MESSAGE,), _TEXT_DELTA),
}
"""By name: the reader, the events before, and the event that is read again and again."""


def measure(events: int, rounds: int) -> list[dict[str, Any]]:
    """Read each form of event some thousand times, several times over; return a row for each form."""
    return [
        {"event": name, "us_per_event": round(median(_round(name, events) for _ in range(rounds)), 3)}
        for name in FORMS
    ]


def _round(name: str, events: int) -> float:
    make, before, event = FORMS[name]
    reading = Reading(_ROOM)
    reader = make(reading)
    for each in before:
        reader.feed("", each)
    began = time.perf_counter()
    for _ in range(events):
        reader.feed("", event)
    took = time.perf_counter() - began
    if len(reading.take()) < events:
        raise AssertionError(f"{name}: text was lost")
    return 1e6 * took / events
