"""The turns of the proof `money` and their organizations: fixed by the seed and the turn's number.

The provider's prompts have at most one token for four bytes, and its answers at most one for a word, so that no
estimate of ours is below them and no hold is too small. Only a turn that is meant to exceed its limit does so, and
only if the budget is large.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.soak.chaos.plan import Kind, ReaderPlan, TurnPlan, Way

_CYCLE: Final = (
    *(Kind.ANSWER,) * 6,
    *(Kind.REASONING,) * 3,
    *(Kind.MENDED,) * 3,
    *(Kind.SPOILED,) * 2,
    Kind.RETRIED,
    Kind.REFUSED,
    Kind.CUT,
    Kind.ERROR,
    Kind.SILENT_END,
    Kind.UNCOUNTED,
)
"""The kinds of that many turns in a row, so that a short run has all of them."""
_GREEDY_EVERY: Final = 5
_LONG_WORD: Final = "incomprehensibilities "
_MOST_CACHED: Final = 40
"""Tokens of each of three classes: together fewer than the estimate for the long words."""
_RATES: Final = (30, 60, 120, 240)
"""Never as fast as the client reads: so all that was sent was read, except what was in flight."""
_FAULTS_ONCE: Final = (
    "status=503",
    "hang_headers=1",
    "cut={}",
    "fin={}",
    "eof={}",
    "error_after={}",
    "hang={}",
)
_SPOILS: Final = (
    "garbage={}",
    "html=1",
    "json=1",
    "redirect=http://127.0.0.1:9/",
    "tool_call=1",
    "huge_line=2000000",
    "fin={}",
)
_SECOND_START: Final = "second_start=1"
"""Breaks only Anthropic's answers: in the other dialect it merely repeats the role."""
_TRUE_USAGE: Final = ("full", "full", "duplicate", "decreasing", "with_finish", "continuous")
_FALSE_USAGE: Final = ("none", "negative", "huge")


@dataclass(frozen=True, slots=True)
class House:
    """An organization of the run.

    Attributes:
        name: Its name.
        share: Its share of the turns asked for; more than 1 in all, since not all are accepted.
        daily_usd: Its daily budget, for each turn that it asks for; None for none.
        monthly_usd: Its monthly budget, likewise.
        has_long_system_prompt: Whether its sessions have a long system prompt.
    """

    name: str
    share: float
    daily_usd: float | None = None
    monthly_usd: float | None = None
    has_long_system_prompt: bool = False

    @property
    def is_rich(self) -> bool:
        """Return whether it has a budget that pays for everything."""
        budgets = [usd for usd in (self.daily_usd, self.monthly_usd) if usd is not None]
        return bool(budgets) and min(budgets) > _POOR_USD

    @property
    def system_prompt(self) -> str | None:
        """Return its sessions' system prompt."""
        return f"You are terse. {_LONG_WORD * 40}".strip() if self.has_long_system_prompt else None


_POOR_USD: Final = 0.0008
"""The budget for a turn that pays for about half of the turns."""
HOUSES: Final = (
    House("unlimited", 0.35, has_long_system_prompt=True),
    House("rich", 0.4, daily_usd=1.0, monthly_usd=1.0),
    House("poor by the day", 0.25, daily_usd=_POOR_USD),
    House("poor by the month", 0.25, daily_usd=1.0, monthly_usd=_POOR_USD, has_long_system_prompt=True),
)


def planner(house: House, *, is_anthropic: bool) -> Callable[[int, int], TurnPlan]:
    """Return the function that plans a turn of this organization, given the seed and the turn's number."""

    def plan(seed: int, number: int) -> TurnPlan:
        return _plan(Random(f"money {seed} {number}"), seed, number, house, is_anthropic=is_anthropic)

    return plan


def _plan(random: Random, seed: int, number: int, house: House, *, is_anthropic: bool) -> TurnPlan:
    kind = _kind(seed, number, house)
    tokens = min(600, int(random.lognormvariate(4.0, 0.8)) + 2)
    rate = random.choice(_RATES)
    # Some are too long for their limit, to which an obedient provider then keeps.
    limit = max(16, int(tokens * random.choice((0.7, 1.2, 2.0))))
    directives = [
        f"key=chaos-{number}",
        f"rate={rate}",
        "progress=1",
        *_cached(random, is_anthropic=is_anthropic),
    ]
    if kind is Kind.GREEDY:
        limit = max(16, tokens // 4)
        tokens = limit * 2
        directives.append("ignore_max=1")
    directives.append(f"tokens={tokens}")
    directives += _of_kind(random, kind, min(tokens, limit), is_anthropic=is_anthropic)
    lasts = tokens / rate
    return TurnPlan(
        number,
        kind,
        f"[[{' '.join(directives)}]] question {number}: {_LONG_WORD * random.randrange(40, 60)}".strip(),
        "restart" if kind is Kind.MENDED else random.choices(("restart", "fail"), (4, 1))[0],
        random.uniform(0, 1.2 * lasts) if random.random() < 0.2 else None,
        random.uniform(0, 1.2 * lasts) if random.random() < 0.03 else None,
        random.random() < 0.05,
        (ReaderPlan(random.choice((Way.SOCKET, Way.SSE, Way.POST)), (), 0.0),),
        max_output_tokens=limit,
        may_lack_money=house.daily_usd is not None or house.monthly_usd is not None,
    )


def _kind(seed: int, number: int, house: House) -> Kind:
    if house.is_rich and number % _GREEDY_EVERY == 0:
        return Kind.GREEDY
    cycle = list(_CYCLE)
    Random(f"cycle {seed} {number // len(cycle)}").shuffle(cycle)
    return cycle[number % len(cycle)]


def _cached(random: Random, *, is_anthropic: bool) -> list[str]:
    classes = ("cached", "cache_write", "cache_write_1h") if is_anthropic else ("cached",)
    return [f"{name}={random.randrange(1, _MOST_CACHED)}" for name in classes if random.random() < 0.5]


def _of_kind(random: Random, kind: Kind, tokens: int, *, is_anthropic: bool) -> list[str]:
    """Return the directives for a turn's kind; a fault happens at a random one of its tokens."""
    at = random.randrange(tokens + 1)
    match kind:
        case Kind.ANSWER:
            return [f"first={random.choice((0, 0, 0.3, 1))}", f"usage={random.choice(_TRUE_USAGE)}"]
        case Kind.REASONING:
            return [f"reasoning={random.randrange(1, 60)}", f"usage={random.choice(_TRUE_USAGE)}"]
        case Kind.RETRIED:
            return [f"status={random.choice((502, 503, 529))}", "fail_times=1"]
        case Kind.REFUSED:
            return [f"status={random.choice((400, 401, 404, 413))}"]
        case Kind.CUT:
            return [f"cut={at}"]
        case Kind.ERROR:
            return [f"error_after={at}"]
        case Kind.SILENT_END:
            return [f"eof={at}"]
        case Kind.MENDED:
            return [random.choice(_FAULTS_ONCE).format(at), "fail_times=1"]
        case Kind.SPOILED:
            spoils = (*_SPOILS, _SECOND_START) if is_anthropic else _SPOILS
            return [random.choice(spoils).format(at)]
        case Kind.UNCOUNTED:
            return [f"usage={random.choice(_FALSE_USAGE)}"]
        case _:
            return []
