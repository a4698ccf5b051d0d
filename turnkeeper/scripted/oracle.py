"""What the provider remembers: an independent record of what was asked and sent, and when a client left.

Times come from the monotonic clock and are also shown as wall-clock times. The memory is bounded, in records
and in text, so a benchmark of hours cannot fill the machine.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

MAX_RECORDS: Final = 200_000
"""About a kilobyte each without text, so at most about 200 MB."""
MAX_TEXT_BYTES: Final = 256 * 2**20
"""All stored messages and answers; beyond this the oldest records lose theirs."""
MAX_ANSWER_CHARACTERS: Final = 4 * 2**20
"""How much of one answer is stored, for those that never end."""
MAX_PROGRESS: Final = 10_000
"""How many times of writes are stored for an answer that asks for it; about 0.6 MB."""
MAX_COUNTED: Final = 100_000
"""Conversations whose requests are counted for `fail_times`; the longest unused is forgotten."""


class Outcome(StrEnum):
    """How a request ended, as the provider saw it."""

    RUNNING = "running"
    COMPLETED = "completed"
    CLIENT_DISCONNECTED = "client_disconnected"
    REFUSED = "refused"
    """Anything other than an answer: an error, a redirect, a page."""
    IN_BAND_ERROR = "in_band_error"
    CUT = "cut"
    FIN = "fin"
    EOF = "eof"
    SERVER_STOPPED = "server_stopped"


@dataclass(slots=True)
class Record:
    """One request and its answer so far; times in monotonic nanoseconds."""

    id: int
    dialect: str
    path: str
    received_at: float
    received_ns: int
    headers: Mapping[str, Any]
    model: str = ""
    messages: bytes = b"[]"
    system: str = ""
    fields: tuple[str, ...] = ()
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    tools: bool = False
    continues: bool = False
    script: Mapping[str, Any] = field(default_factory=dict)
    conversation: str = ""
    number_in_conversation: int = 0
    healed: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    content_tokens: int = 0
    reasoning_tokens: int = 0
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    text_characters: int = 0
    text_forgotten: bool = False
    usage_reported: Mapping[str, Any] | None = None
    status: int | None = None
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    finished_ns: int | None = None
    disconnected_ns: int | None = None
    bytes_sent: int = 0
    outcome: Outcome = Outcome.RUNNING
    progress: list[tuple[int, int]] = field(default_factory=list)

    def say(self, text: str, reasoning: bool) -> None:
        """Store text that was sent, up to a bound."""
        self.text_characters += len(text)
        if self.text_characters <= MAX_ANSWER_CHARACTERS:
            (self.reasoning if reasoning else self.text).append(text)
        else:
            self.text_forgotten = True

    def note_progress(self) -> None:
        """Record that everything said so far has been written, up to a bound."""
        tokens = self.content_tokens + self.reasoning_tokens
        if tokens and len(self.progress) < MAX_PROGRESS:
            self.progress.append((time.monotonic_ns(), tokens))

    def shown(self, *, with_text: bool = True) -> dict[str, Any]:
        """Return the record as `GET /_log` shows it."""
        shown: dict[str, Any] = {
            name: getattr(self, name)
            for name in _SHOWN
            if name not in _TEXTS and not name.endswith("_ns") and name not in _INTERNAL
        }
        for name in _TIMES:
            moment = getattr(self, f"{name}_ns")
            shown[f"{name}_ns"] = moment
            shown[f"{name}_at"] = None if moment is None else self._on_the_wall(moment)
        shown["progress"] = [(self._on_the_wall(moment), tokens) for moment, tokens in self.progress]
        shown["output_tokens"] = self.content_tokens + self.reasoning_tokens
        if with_text:
            shown["messages"] = msgspec.Raw(self.messages)
            shown["system"] = self.system
            shown["text"] = "".join(self.text)
            shown["reasoning"] = "".join(self.reasoning)
        return shown

    def _on_the_wall(self, moment_ns: int) -> float:
        return self.received_at + (moment_ns - self.received_ns) / 1e9


_SHOWN: Final = tuple(Record.__slots__)
_TEXTS: Final = frozenset({"messages", "system", "text", "reasoning"})
_INTERNAL: Final = frozenset({"text_characters", "progress"})
_TIMES: Final = ("received", "first_byte", "first_token", "last_token", "finished", "disconnected")


class Oracle:
    """The records of one server, oldest first, and totals since it started.

    Args:
        keep_text: Whether messages and answers are stored at all.
    """

    def __init__(self, *, keep_text: bool = True) -> None:
        self._records: dict[int, Record] = {}
        self._texts: OrderedDict[int, int] = OrderedDict()
        self._text_bytes = 0
        self._keep_text = keep_text
        self._last_id = 0
        self._counted: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._outcomes: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._content_tokens = 0
        self._reasoning_tokens = 0
        self._bytes_sent = 0
        self._running = 0
        self._peak_running = 0
        self._started = time.monotonic()

    def open(self, dialect: str, path: str, headers: Mapping[str, Any]) -> Record:
        """Start the record of a request that has just arrived."""
        self._last_id += 1
        record = Record(self._last_id, dialect, path, time.time(), time.monotonic_ns(), headers)
        self._records[record.id] = record
        if len(self._records) > MAX_RECORDS:
            self._forget(next(iter(self._records)))
        self._running += 1
        self._peak_running = max(self._peak_running, self._running)
        return record

    def close(self, record: Record, outcome: Outcome) -> None:
        """Finish a record, once."""
        if record.outcome is not Outcome.RUNNING:
            return
        record.outcome = outcome
        now = time.monotonic_ns()
        record.finished_ns = now
        if outcome is Outcome.CLIENT_DISCONNECTED:
            record.disconnected_ns = now
        self._running -= 1
        self._outcomes[outcome.value] += 1
        if record.status is not None:
            self._statuses[record.status] += 1
        self._content_tokens += record.content_tokens
        self._reasoning_tokens += record.reasoning_tokens
        self._bytes_sent += record.bytes_sent
        record.text = ["".join(record.text)]
        record.reasoning = ["".join(record.reasoning)]
        self._bound_text(record)

    def count(self, conversation: str, script: str) -> int:
        """Return which request of this conversation and script this is, from 1."""
        key = (conversation, script)
        number = self._counted.pop(key, 0) + 1
        self._counted[key] = number
        if len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)
        return number

    def find(self, record_id: int) -> Record | None:
        """Return a record by its id, or None if it is unknown or forgotten."""
        return self._records.get(record_id)

    def after(self, record_id: int) -> Iterator[Record]:
        """Yield the records newer than `record_id`, oldest first."""
        # Ids are consecutive from the oldest on, so the start is found without a scan.
        oldest = next(iter(self._records), self._last_id + 1)
        for number in range(max(record_id + 1, oldest), self._last_id + 1):
            record = self._records.get(number)
            if record is not None:
                yield record

    def clear(self) -> None:
        """Forget all records and the conversations' counts; ids and totals continue."""
        self._records.clear()
        self._texts.clear()
        self._text_bytes = 0
        self._counted.clear()

    def totals(self) -> dict[str, Any]:
        """Return the counts since the start; tokens and bytes are those of finished requests."""
        return {
            "requests": self._last_id,
            "running": self._running,
            "peak_running": self._peak_running,
            "records": len(self._records),
            "last_id": self._last_id,
            "outcomes": dict(self._outcomes),
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "content_tokens": self._content_tokens,
            "reasoning_tokens": self._reasoning_tokens,
            "bytes_sent": self._bytes_sent,
            "uptime_seconds": time.monotonic() - self._started,
            "cpu_seconds": time.process_time(),
        }

    def _bound_text(self, record: Record) -> None:
        if not self._keep_text:
            self._drop_text(record)
            return
        if record.id not in self._records:
            return
        size = len(record.messages) + len(record.system) + record.text_characters
        self._texts[record.id] = size
        self._text_bytes += size
        while self._text_bytes > MAX_TEXT_BYTES:
            oldest, size = self._texts.popitem(last=False)
            self._text_bytes -= size
            self._drop_text(self._records[oldest])

    def _drop_text(self, record: Record) -> None:
        record.messages = b"[]"
        record.system = ""
        record.text = []
        record.reasoning = []
        record.text_forgotten = True

    def _forget(self, record_id: int) -> None:
        del self._records[record_id]
        self._text_bytes -= self._texts.pop(record_id, 0)
