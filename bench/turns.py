"""Many turns at once: the delay that Turnkeeper adds between the provider's socket and the reader's.

The provider writes its send time into every token, and the reader stamps its receipt with the same monotonic
clock of the same machine, so a delay covers the whole way: worker, Redis, relay, websocket.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from bench.figures import figures
from bench.http import Connection
from bench.meter import used
from bench.stack import Stack, make_sessions
from bench.stream import Judged, Stream

STAMP: Final = re.compile(r"⟦(\d+)⟧")
POSTERS: Final = 16
GRACE_SECONDS: Final = 60.0
"""In addition to the length of the answers; after that, what is missing counts as failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """How many turns, how long and how fast."""

    turns: int = 200
    tokens: int = 200
    rate: float = 50.0
    sockets: int = 0
    """0 means one for each session, as browsers have."""
    ramp_seconds: float = 0.0
    """The time over which the turns begin; 0 posts them as fast as the service accepts them."""
    first_seconds: float = 0.0
    """How long the provider waits before its first token: if long enough, it has all turns at the same time."""


@dataclass(slots=True)
class Run:
    """What has happened so far."""

    turn_of_session: dict[str, str] = field(default_factory=dict)
    posted_ns: dict[str, int] = field(default_factory=dict)
    accepted_seconds: list[float] = field(default_factory=list)
    done_ns: dict[str, int] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    all_done: asyncio.Event = field(default_factory=asyncio.Event)
    all_caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    caught_up: int = 0
    wanted: int = 0

    def told(self, message: Mapping[str, Any], received_ns: int) -> None:
        """Take a message other than text."""
        match message["type"]:
            case "caught_up":
                self.caught_up += 1
                if self.caught_up == self.wanted:
                    self.all_caught_up.set()
            case "refused":
                raise RuntimeError(f"subscribing was refused: {message}")
            case "done":
                self.done[message["turn_id"]] = dict(message)
                self.done_ns[message["turn_id"]] = received_ns
                if len(self.done) >= self.wanted:
                    self.all_done.set()


class Token(NamedTuple):
    """When the provider wrote a token and when we read it, on one clock."""

    sent_ns: int
    received_ns: int

    @property
    def delay_ms(self) -> float:
        """Return the delay of the whole way."""
        return (self.received_ns - self.sent_ns) / 1e6


class Envelope(msgspec.Struct):
    """The fields of an event that are needed."""

    type: str
    turn_id: str | None = None
    seq: int = 0
    delta: str = ""
    content: str = ""


async def measure(stack: Stack, load: Load) -> dict[str, Any]:
    """Run the load once and return its figures."""
    sessions = await make_sessions(stack, load.turns)
    run = Run(wanted=load.turns)
    streams = await subscribe(stack, sessions, load.sockets or load.turns, run)
    meter = stack.meter()
    before, began = meter.cpu_seconds(), time.monotonic()
    await post_all(stack, sessions, load, run)
    limit = (
        load.ramp_seconds + load.first_seconds + GRACE_SECONDS + (load.tokens / load.rate if load.rate else 0)
    )
    try:
        async with asyncio.timeout(limit):
            await run.all_done.wait()
    except TimeoutError:
        pass  # unfinished turns are counted below
    seconds, after = time.monotonic() - began, meter.cpu_seconds()
    for stream in streams:
        stream.close()
    return _figures(load, run, streams, seconds) | {
        "cpu_seconds": (cpu := used(before, after)),
        "cpu_ms_per_1000_deltas": {
            group: round(1e6 * spent / (load.turns * load.tokens), 1) for group, spent in cpu.items()
        },
        "memory_mib": meter.memory_mib(),
        "provider_peak_running": stack.provider("/_stats")["peak_running"],
    }


async def subscribe(stack: Stack, sessions: Sequence[str], sockets: int, run: Run) -> list[Stream]:
    """Open `sockets` websockets and distribute the sessions among them; return them once all have caught up."""
    streams = []
    for number in range(min(sockets, len(sessions))):
        stream = Stream(run.told)
        await stream.connect(stack.url, stack.key)
        streams.append(stream)
        for session in sessions[number::sockets]:
            stream.send({"op": "subscribe", "session_id": session})
    async with asyncio.timeout(GRACE_SECONDS):
        await run.all_caught_up.wait()
    return streams


async def post_all(stack: Stack, sessions: Sequence[str], load: Load, run: Run) -> None:
    """Post a turn in each session, over a few connections."""
    connections = [stack.connection() for _ in range(POSTERS)]
    for connection in connections:
        await connection.expect(200, "GET", "/healthz")
    content = f"[[tokens={load.tokens} rate={load.rate:g} first={load.first_seconds:g} stamp=1]] measure"
    waiting = iter(enumerate(sessions))
    began = time.monotonic()

    async def post(connection: Connection) -> None:
        for number, session in waiting:
            due = began + load.ramp_seconds * number / len(sessions)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            body = {"content": content, "max_output_tokens": load.tokens + 10}
            answer = await connection.expect(202, "POST", f"/v1/sessions/{session}/turns", body)
            run.turn_of_session[session] = answer.body["id"]
            run.posted_ns[answer.body["id"]] = answer.sent_ns
            run.accepted_seconds.append(answer.seconds)

    await asyncio.gather(*(post(connection) for connection in connections))
    for connection in connections:
        connection.close()


def judge(streams: Sequence[Stream]) -> tuple[dict[str, Judged], list[Token]]:
    """Return each turn's text and numbers, and every token's times."""
    decoder = msgspec.json.Decoder(Envelope)
    turns: dict[str, Judged] = {}
    tokens: list[Token] = []
    for stream in streams:
        for frame in stream.frames:
            event = decoder.decode(frame.payload)
            if not event.turn_id or event.type == "subscribed":
                continue
            turn = turns.setdefault(event.turn_id, Judged())
            match event.type:
                case "snapshot":
                    turn.text, turn.snapshots = [event.content], turn.snapshots + 1
                    turn.seqs.append(event.seq)
                    continue
                case "gap":
                    continue
                case "message_reset":
                    turn.text, turn.resets = [], turn.resets + 1
                case "content_delta":
                    turn.text.append(event.delta)
                    turn.delta_events += 1
                    turn.first_delta_ns = turn.first_delta_ns or frame.received_ns
                    tokens += [Token(int(sent), frame.received_ns) for sent in STAMP.findall(event.delta)]
            turn.seqs.append(event.seq)
    return turns, tokens


def is_whole(turn: Judged, done: Mapping[str, Any] | None) -> bool:
    """Return whether a reader's text is the stored one, by the SHA-256 in `done`."""
    text = "".join(turn.text)
    return done is not None and hashlib.sha256(text.encode()).hexdigest() == done["content_sha256"]


def _steady(turns: Mapping[str, Judged], run: Run, tokens: Sequence[Token]) -> list[float]:
    """Return the delays between the last turn's first token and the first turn's end."""
    begun = [turn.first_delta_ns for turn in turns.values() if turn.first_delta_ns is not None]
    begins, ends = max(begun, default=0), min(run.done_ns.values(), default=0)
    return [token.delay_ms for token in tokens if begins < token.sent_ns < ends]


def _figures(load: Load, run: Run, streams: Sequence[Stream], seconds: float) -> dict[str, Any]:
    turns, tokens = judge(streams)
    whole = sum(is_whole(turn, run.done.get(turn_id)) for turn_id, turn in turns.items())
    holes = sum(turn.seqs != list(range(1, len(turn.seqs) + 1)) for turn in turns.values())
    first = [
        (turn.first_delta_ns - run.posted_ns[turn_id]) / 1e6
        for turn_id, turn in turns.items()
        if turn.first_delta_ns is not None and turn_id in run.posted_ns
    ]
    events = sum(turn.delta_events for turn in turns.values())
    return {
        "seconds": round(seconds, 3),
        "turns_done": len(run.done),
        "turns_completed": sum(done["status"] == "completed" for done in run.done.values()),
        "sha256_right": whole,
        "turns_with_holes": holes,
        "resets": sum(turn.resets for turn in turns.values()),
        "snapshots": sum(turn.snapshots for turn in turns.values()),
        "tokens_received": len(tokens),
        "tokens_missing": load.turns * load.tokens - len(tokens),
        "tokens_per_second": round(len(tokens) / seconds, 1),
        "delta_events": events,
        "tokens_per_event": round(len(tokens) / max(1, events), 2),
        "added_delay_ms": figures([token.delay_ms for token in tokens]),
        "added_delay_ms_while_all_stream": figures(_steady(turns, run, tokens)),
        "post_to_first_token_ms": figures(first),
        "accept_ms": figures([1000 * one for one in run.accepted_seconds]),
        "failures": load.turns - whole,
    }
