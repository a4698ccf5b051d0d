"""The choreography: turns a request and its script into the steps of the answer, in either dialect.

It neither waits nor writes to a socket, so every misbehaviour can be tested as a list.
"""

import gzip
import random
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from functools import cache
from itertools import chain
from typing import Final

from turnkeeper.scripted.answer import answer_tokens, grouped, limited
from turnkeeper.scripted.anthropic_wire import AnthropicWire
from turnkeeper.scripted.ask import Ask, Dialect
from turnkeeper.scripted.openai_wire import OpenAIWire
from turnkeeper.scripted.script import Finish, Gzip, Script
from turnkeeper.scripted.steps import Act, Emit, Head, Pause, Say, Step, Steps
from turnkeeper.scripted.wire import SECRET_MARK, Delta, Tally, Wire, as_json

EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"
DEMONSTRATION: Final = {"first": 0.3, "rate": 40.0}
"""The pace for requests without directives, as of a model that a person reads."""

_FLOOD: Final = b"a" * 65_536
_BOMB_BYTES: Final = 64 * 2**20
_GARBAGE: Final = b'data: {"choices": [{"index": 0, "delta": {"content": "hal\n\n'
_HTML: Final = (
    b"<!doctype html><title>Login</title><h1>Please log in</h1><p>" + SECRET_MARK.encode() + b"</p>\n"
)


def wire_for(ask: Ask, script: Script, number: int) -> Wire:
    """Return the encoder of answer `number` in the request's dialect."""
    match ask.dialect:
        case Dialect.OPENAI:
            return OpenAIWire(ask, script, number)
        case Dialect.ANTHROPIC:
            return AnthropicWire(ask, script, number)


def play(ask: Ask, script: Script, wire: Wire, *, directed: bool) -> Steps:
    """Yield the steps of the answer.

    Args:
        ask: The request.
        script: How to answer.
        wire: The encoder, used only for this answer.
        directed: Whether the request itself had directives; one without them is answered in prose.
    """
    if script.delay:
        yield Pause(script.delay)
    if script.hang_headers:
        yield Act.HANG
        return
    instead = _instead(ask, script, wire)
    if instead is not None:
        yield from instead
        return
    tally = Tally()
    tokens = limited(answer_tokens(ask, script, directed), _limit(ask, script), tally)
    yield from (_streamed if ask.stream else _whole)(script, wire, tokens, tally)


def _instead(ask: Ask, script: Script, wire: Wire) -> Iterable[Step] | None:
    """Return the response that a script gives instead of an answer."""
    message = f"refused by the script; key {SECRET_MARK}"
    if script.status is not None:
        headers: tuple[tuple[str, str], ...] = ()
        if script.retry_after is not None:
            headers = (("retry-after", _retry_after(script.retry_after, as_date=script.retry_date)),)
        body = wire.error_body(script.status, message, script.error_type, script.error_code)
        return response(script.status, JSON, body, headers)
    if script.refuse is not None and script.refuse in ask.fields:
        return response(400, JSON, _refusal_of(script.refuse))
    if script.redirect is not None:
        return response(302, "text/plain", b"", (("location", script.redirect),))
    if script.html:
        return response(200, "text/html; charset=utf-8", _HTML)
    if script.json:
        body = wire.error_body(500, message, script.error_type, script.error_code)
        return response(200, JSON, body)
    if script.gzip is Gzip.BOMB:
        return _bomb()
    return None


def _refusal_of(field: str) -> bytes:
    """Return the error with which OpenAI names a field that it does not take."""
    message = f"Unsupported parameter: '{field}' is not supported with this model."
    error = {
        "type": "invalid_request_error",
        "code": "unsupported_parameter",
        "param": field,
        "message": message,
    }
    return as_json({"error": error})


def _retry_after(seconds: float, *, as_date: bool) -> str:
    return formatdate(time.time() + seconds, usegmt=True) if as_date else f"{seconds:g}"


def response(
    status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> Iterator[Step]:
    """Yield the steps of a response that is complete from the start."""
    yield Head(status, content_type, len(body), headers)
    yield Emit(body)


def _bomb() -> Iterator[Step]:
    body = _packed_bomb()
    yield Head(200, EVENT_STREAM, len(body), (("content-encoding", "gzip"),))
    yield Emit(body)


@cache
def _packed_bomb() -> bytes:
    """Return a comment of 64 MiB, compressed; made only once, since compressing stops every stream for a while."""
    return gzip.compress(b": " + b"a" * _BOMB_BYTES + b"\n\n", 6)


def _streamed(script: Script, wire: Wire, tokens: Iterator[Delta], tally: Tally) -> Steps:
    encoded = (("content-encoding", "gzip"),) if script.gzip is Gzip.ON else ()
    yield Head(200, EVENT_STREAM, None, encoded)
    yield Emit(wire.opening())
    if script.first:
        yield Pause(script.first)
    faults = _faults(script, wire)
    gap = _gaps(script)
    stops = [after for after, _ in faults]
    # None stands for the answer's end, where the remaining faults strike.
    for delta in chain(grouped(tokens, script.chunk, stops), (None,)):
        while faults and (delta is None or faults[0][0] <= tally.output_tokens):
            for step in faults.pop(0)[1]():
                yield step
                if isinstance(step, Act):
                    return
        if delta is None:
            break
        tally.add(delta)
        head, tail = wire.affixes(delta, tally)
        text = delta.text.ljust(script.pad, ".") if script.pad else delta.text
        yield Say(head, text, tail, delta.tokens, delta.reasoning, gap(delta.tokens), delta.raw)
    *events, last = wire.closing(_finish(script, tally), tally)
    for event in events:
        yield Emit(event)
    yield Emit(last[: len(last) - script.no_final_blank])
    if script.torn:
        yield Act.FIN


def _whole(script: Script, wire: Wire, tokens: Iterator[Delta], tally: Tally) -> Steps:
    """Yield the steps of an answer in one body; the faults of a stream strike in the middle of it."""
    if script.endless:
        yield Act.HANG
        return
    if script.error_after is not None:
        yield from response(
            500, JSON, wire.error_body(500, SECRET_MARK, script.error_type, script.error_code)
        )
        return
    said: dict[bool, list[str]] = {False: [], True: []}
    for token in tokens:
        said[token.reasoning].append(token.text)
        tally.add(token)
    spoken = tally.output_tokens / script.rate if script.rate else 0.0
    if script.first + spoken:
        yield Pause(script.first + spoken)
    text = "".join(said[False])
    body = wire.whole(text, "".join(said[True]), _finish(script, tally), tally)
    half = body[: len(body) // 2]
    broken = next((act for act in _BREAKS if getattr(script, act.value) is not None), None)
    if broken is not None or script.garbage is not None:
        yield Head(200, JSON, len(half) if broken is None else len(body))
        yield Emit(half)
        if broken is not None:
            yield broken
        return
    yield Head(200, JSON, len(body))
    yield Emit(body, text, tally.content_tokens, tally.reasoning_tokens)


_BREAKS: Final = (Act.CUT, Act.FIN, Act.EOF, Act.HANG)


def _faults(script: Script, wire: Wire) -> list[tuple[int, Callable[[], Iterator[Step]]]]:
    """Return the faults, each with the number of tokens after which it strikes, in that order."""

    def breaking(act: Act) -> Callable[[], Iterator[Step]]:
        return lambda: iter((act,))

    def emitting(make: Callable[[], bytes], *then: Act) -> Callable[[], Iterator[Step]]:
        return lambda: iter((Emit(make()), *then))

    def failing() -> bytes:
        return wire.in_band_error(script.error_type or "overloaded_error", script.error_code)

    def flooding() -> Iterator[Step]:
        yield Emit(b'data: {"x":"')
        left = script.huge_line
        while left > 0:
            yield Emit(_FLOOD[:left])
            left -= len(_FLOOD)
        yield Emit(b'"}\n\n')

    faults: list[tuple[int, Callable[[], Iterator[Step]]]] = []
    if script.garbage is not None:
        faults.append((script.garbage, emitting(lambda: _GARBAGE)))
    if script.second_start:
        faults.append((1, emitting(wire.opening)))
    if script.huge_line:
        faults.append((1, flooding))
    if script.error_after is not None:
        faults.append((script.error_after, emitting(failing, Act.ERROR)))
    for act in _BREAKS:
        after = getattr(script, act.value)
        if after is not None:
            faults.append((after, breaking(act)))
    return sorted(faults, key=lambda fault: fault[0])


def _limit(ask: Ask, script: Script) -> int | None:
    return None if script.ignore_max or script.endless else ask.max_tokens


def _gaps(script: Script) -> Callable[[int], float]:
    """Return a function that gives the time, in seconds, of a delta of so many tokens."""
    if not script.rate:
        return lambda _tokens: 0.0
    interval = 1 / script.rate
    if not script.jitter:
        return lambda tokens: tokens * interval
    rng = random.Random(script.seed)  # noqa: S311  # pace, not secrets
    return lambda tokens: tokens * interval * (1 + script.jitter * rng.uniform(-1, 1))


def _finish(script: Script, tally: Tally) -> Finish:
    if script.finish is not None:
        return script.finish
    if tally.cut_short:
        return Finish.LENGTH
    return Finish.TOOL_CALLS if script.tool_call else Finish.STOP
