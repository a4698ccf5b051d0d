"""The plan of each turn of a run: fixed by the seed and the turn's number, whatever happens meanwhile."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final


class Kind(StrEnum):
    """What the provider does with a turn."""

    ANSWER = "answer"
    REASONING = "reasoning"
    RETRIED = "refused once"
    REFUSED = "refused"
    CUT = "cut"
    ERROR = "error in band"
    SILENT_END = "end without a mark"
    MENDED = "broken off once"
    SPOILED = "spoiled"
    GREEDY = "longer than its limit"
    UNCOUNTED = "usage untold"


class Way(StrEnum):
    """How a reader reads."""

    AHEAD = "websocket, subscribed before the turn"
    SOCKET = "websocket"
    SNAPSHOT = "websocket, by snapshot"
    SSE = "sse"
    POST = "sse, in the answer to the post"


_KINDS: Final = {
    Kind.ANSWER: 70,
    Kind.REASONING: 10,
    Kind.RETRIED: 6,
    Kind.REFUSED: 3,
    Kind.CUT: 4,
    Kind.ERROR: 4,
    Kind.SILENT_END: 3,
}
FAILING: Final = frozenset({Kind.REFUSED, Kind.CUT, Kind.ERROR, Kind.SILENT_END, Kind.SPOILED})
_RATES: Final = (0, 30, 60, 120, 300)
"""Tokens a second; 0 for as fast as the client reads."""


@dataclass(frozen=True, slots=True)
class ReaderPlan:
    """How one reader reads a turn.

    Attributes:
        way: The protocol.
        cuts: After how many further events it drops its connection, each time.
        late_seconds: How long after the turn's start it connects.
    """

    way: Way
    cuts: tuple[int, ...]
    late_seconds: float


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One turn.

    Attributes:
        number: From 1.
        kind: What the provider does.
        content: What is posted; its directives make the provider do it.
        recovery: `restart` or `fail`.
        stop_after_seconds: When a stop is requested, if at all.
        delete_after_seconds: When the session is deleted, if at all.
        is_posted_twice: Whether the post is repeated with its key.
        readers: Its readers; the first may connect before the turn exists.
        max_output_tokens: The requested limit; None for the service's own.
        may_lack_money: Its organization has a budget, which may refuse or end the turn.
    """

    number: int
    kind: Kind
    content: str
    recovery: str
    stop_after_seconds: float | None
    delete_after_seconds: float | None
    is_posted_twice: bool
    readers: tuple[ReaderPlan, ...]
    max_output_tokens: int | None = None
    may_lack_money: bool = False

    @property
    def idempotency_key(self) -> str:
        """Return the key that all posts of this turn carry."""
        return f"chaos-{self.number}"


def plan_turn(seed: int, number: int) -> TurnPlan:
    """Return a turn of a run."""
    random = Random(f"turn {seed} {number}")
    (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
    tokens = int(random.lognormvariate(4.2, 0.9)) + 1
    rate = random.choice(_RATES)
    # Each delta contains the time at which it was sent, so that no two requests get the same text.
    directives = [f"key=chaos-{number}", "stamp=1", f"tokens={min(tokens, 600)}", f"rate={rate}"]
    at = random.randrange(min(tokens, 600) + 1)
    match kind:
        case Kind.ANSWER:
            directives.append(f"first={random.choice((0, 0, 0.3, 2))}")
        case Kind.REASONING:
            directives.append(f"reasoning={random.randrange(1, 80)}")
        case Kind.RETRIED:
            directives += [f"status={random.choice((502, 503, 529))}", "fail_times=1"]
        case Kind.REFUSED:
            directives.append("status=400")
        case Kind.CUT:
            directives.append(f"cut={at}")
        case Kind.ERROR:
            directives.append(f"error_after={at}")
        case Kind.SILENT_END:
            directives.append(f"eof={at}")
    lasts = tokens / rate if rate else 0.3
    return TurnPlan(
        number,
        kind,
        f"[[{' '.join(directives)}]] question {number}: {'tell me more. ' * random.randrange(1, 20)}",
        random.choices(("restart", "fail"), (4, 1))[0],
        random.uniform(0, 1.2 * lasts) if random.random() < 0.08 else None,
        random.uniform(0, 1.2 * lasts) if random.random() < 0.04 else None,
        random.random() < 0.1,
        tuple(_reader(random, first=number == 0) for number in range(random.choice((1, 1, 2, 3)))),
    )


def _reader(random: Random, *, first: bool) -> ReaderPlan:
    ways = list(Way) if first else [Way.SOCKET, Way.SNAPSHOT, Way.SSE]
    cuts = tuple(int(random.expovariate(1 / 25)) for _ in range(random.choice((0, 0, 0, 1, 2, 4))))
    late = 0.0 if first else random.choice((0.0, 0.5, 2.0, 8.0))
    return ReaderPlan(random.choice(ways), cuts, late)
