"""Performs the steps of one answer on a link, at their pace, and keeps its record up to date."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, assert_never

from turnkeeper.scripted.framing import LAST_CHUNK, chunk, head_bytes, shape_of
from turnkeeper.scripted.link import Link
from turnkeeper.scripted.oracle import Outcome, Record
from turnkeeper.scripted.pacer import TICKS_PER_SECOND, Pacer, tick_after
from turnkeeper.scripted.script import Script
from turnkeeper.scripted.steps import Act, Emit, Head, Pause, Say, Step, Steps
from turnkeeper.scripted.wire import Wire, as_json

MAX_HANG_SECONDS: Final = 3600.0
"""Longer than any client's patience; after that the connection is reset."""
_BLOCK_BYTES: Final = 16_384
"""How much is written in one go if nothing paces it: few system calls, and the others get their turn."""
_OK: Final = 200
_COMMENT: Final = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class Part:
    """What to perform: the steps, and what they need.

    `record` and `wire` are None for requests that are not recorded. `chunked` says whether the client
    understands HTTP chunks, `keep` whether the connection may serve another request.
    """

    steps: Steps
    script: Script
    record: Record | None
    wire: Wire | None
    request_id: str
    chunked: bool
    keep: bool


class Performance:
    """One answer that is being sent.

    Args:
        part: What to perform; its steps are closed if the client leaves.
        link: The connection.
        loop: For pauses.
        pacer: For the gaps between deltas.
        ended: Called once, with the outcome and whether the connection may still be used.
    """

    __slots__ = (
        "_beats",
        "_call",
        "_chunked",
        "_due",
        "_ended",
        "_in_stream",
        "_link",
        "_loop",
        "_notes_progress",
        "_over",
        "_pacer",
        "_part",
        "_record",
        "_resume",
        "_sent_before",
        "_shape",
        "_stamp",
        "_status",
        "_steps",
        "_timer",
    )

    def __init__(
        self,
        part: Part,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        pacer: Pacer,
        ended: Callable[[Outcome, bool], None],
    ) -> None:
        self._part = part
        self._steps = part.steps
        self._record = part.record
        self._link = link
        self._loop = loop
        self._pacer = pacer
        self._ended = ended
        self._shape = shape_of(part.script)
        self._stamp = part.script.stamp
        self._notes_progress = part.script.progress
        self._sent_before = link.sent_bytes
        self._chunked = False
        self._in_stream = False
        self._status = 0
        self._due = 0.0
        self._over = False
        self._resume: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beats: list[asyncio.TimerHandle] = []
        # Made once: a bound method made for each token would be garbage for each token.
        self._call = self._go_on

    def start(self) -> None:
        """Perform until the first step that has to wait."""
        self._link.drip(self._part.script.drip)
        self._go_on()

    def drained(self) -> None:
        """Continue, since the client has read what was waiting."""
        resume, self._resume = self._resume, None
        if resume is not None and not self._over:
            resume()

    def abandon(self, outcome: Outcome) -> None:
        """End at once: the client left, or the server is stopping."""
        self._end(outcome, keep=False)

    def _go_on(self) -> None:
        if self._over:
            return
        if self._link.blocked:
            self._resume = self._call
            return
        block: list[bytes] = []
        size = 0
        for step in self._steps:
            if type(step) is Say:
                piece = self._said(step)
                if step.gap_seconds:
                    block.append(piece)
                    self._write(piece if len(block) == 1 else b"".join(block))
                    self._due += step.gap_seconds
                    self._pacer.at(self._due, self._call)
                    return
            elif type(step) is Emit:
                piece = self._emitted(step)
            elif type(step) is Head:
                piece = self._began(step)
            else:
                self._write(b"".join(block))
                if not self._over:
                    self._wait_or_break(step)
                return
            block.append(piece)
            size += len(piece)
            if size >= _BLOCK_BYTES:
                self._write(b"".join(block))
                self._loop.call_soon(self._call)
                return
        block.append(self._tail())
        self._write(b"".join(block))
        self._when_drained(partial(self._conclude, None))

    def _write(self, block: bytes) -> None:
        self._link.write(block)
        if self._notes_progress and self._record is not None:
            self._record.note_progress()

    def _said(self, step: Say) -> bytes:
        text = step.text
        now = time.monotonic_ns()
        if self._stamp:
            text = f"⟦{now}⟧{text}"
        record = self._record
        if record is not None:
            if step.reasoning:
                record.reasoning_tokens += step.tokens
            else:
                record.content_tokens += step.tokens
            record.say(text, step.reasoning)
            record.last_token_ns = now
            if record.first_token_ns is None:
                record.first_token_ns = now
        body = b"%b%b%b" % (step.head, step.raw or as_json(text), step.tail)
        if self._chunked and self._shape is None:
            return b"%x\r\n%b\r\n" % (len(body), body)
        return self._framed(body)

    def _emitted(self, step: Emit) -> bytes:
        record = self._record
        if record is not None and step.text:
            record.content_tokens += step.tokens
            record.reasoning_tokens += step.reasoning_tokens
            record.first_token_ns = record.last_token_ns = time.monotonic_ns()
            record.say(step.text, reasoning=False)
        return self._framed(step.body)

    def _framed(self, body: bytes) -> bytes:
        if not body or (self._shape is None and not self._chunked):
            return body
        if self._shape is None:
            return chunk(body)
        bent = self._shape.bend(body) if self._in_stream else body
        return self._shape.chunks(bent) if self._chunked else bent

    def _began(self, head: Head) -> bytes:
        self._status = head.status
        self._in_stream = head.length is None
        self._chunked = self._in_stream and self._part.chunked
        # Not the loop's time, which is that of the current iteration's start: what is due by it would come
        # too early.
        self._due = time.monotonic()
        if self._record is not None:
            self._record.status = head.status
            self._record.first_byte_ns = int(self._due * 1e9)
        if self._in_stream:
            self._beat(self._part.script.comments, _COMMENT)
            if self._part.wire is not None:
                self._beat(self._part.script.pings, self._part.wire.ping())
        keep = self._part.keep and (head.length is not None or self._chunked)
        return head_bytes(head, self._part.request_id, chunked=self._chunked, close=not keep)

    def _beat(self, seconds: float, event: bytes) -> None:
        """Send `event` every so many seconds until the end."""
        if not seconds:
            return
        place = len(self._beats)

        def beat() -> None:
            if not self._link.blocked:  # a client that does not read needs no sign of life
                self._link.write(self._framed(event))
            if not self._over:
                self._beats[place] = self._loop.call_later(seconds, beat)

        self._beats.append(self._loop.call_later(seconds, beat))

    def _wait_or_break(self, step: Step) -> None:
        match step:
            case Pause(seconds):
                self._due = time.monotonic() + seconds
                self._timer = self._loop.call_at(tick_after(self._due) / TICKS_PER_SECOND, self._call)
            case Act.HANG:
                self._timer = self._loop.call_later(MAX_HANG_SECONDS, self._conclude, Act.CUT)
            case Act.EOF | Act.ERROR:
                self._link.write(self._tail())
                self._when_drained(partial(self._conclude, step))
            case Act():
                self._when_drained(partial(self._conclude, step))
            case _:
                raise AssertionError(step)

    def _tail(self) -> bytes:
        """Return the end of the body."""
        end = self._shape.end() if self._shape is not None and self._in_stream else b""
        if not self._chunked:
            return end
        return (chunk(end) if end else b"") + LAST_CHUNK

    def _when_drained(self, call: Callable[[], None]) -> None:
        if self._link.blocked:
            self._resume = call
        else:
            call()

    def _conclude(self, act: Act | None) -> None:
        if self._over:
            return
        keep = self._part.keep and (self._chunked or not self._in_stream)
        match act:
            case None:
                refused = self._status != _OK or self._part.script.is_no_answer()
                self._end(Outcome.REFUSED if refused else Outcome.COMPLETED, keep=keep)
            case Act.ERROR:
                self._end(Outcome.IN_BAND_ERROR, keep=keep)
            case Act.CUT:
                self._end(Outcome.CUT, keep=False, closing=self._link.reset)
            case Act.FIN:
                self._end(Outcome.FIN, keep=False)
            case Act.EOF:
                self._end(Outcome.EOF, keep=False)
            case Act.HANG:
                raise AssertionError(act)
            case _:
                assert_never(act)

    def _end(self, outcome: Outcome, *, keep: bool, closing: Callable[[], None] | None = None) -> None:
        if self._over:
            return
        self._over = True
        self._resume = None
        for timer in (self._timer, *self._beats):
            if timer is not None:
                timer.cancel()
        if self._record is not None:
            self._record.bytes_sent = self._link.sent_bytes - self._sent_before
            if self._part.wire is not None:
                self._record.usage_reported = self._part.wire.reported
        self._link.drip(0)
        if closing is not None:
            closing()
        self._ended(outcome, keep)
