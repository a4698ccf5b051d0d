"""`python -m bench peers`: added delay, saturation, CPU per delta and short turns of each candidate, in one run.

The load doubles at each step. Delay and CPU are compared at the first step; the last one that a candidate can carry
says where it saturates. Each candidate is alone on the machine, with its own provider and the same reader.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

import uvloop

from bench.figures import figures
from bench.meter import used
from bench.peers import candidates, load
from bench.peers.candidates import Candidate, Started
from bench.peers.direct import Direct
from bench.peers.environment import LANGGRAPH, PROXIES, Environment
from bench.processes import START_SECONDS

CANDIDATES: Final[dict[str, Started]] = {
    "provider": candidates.provider_alone,
    "httpx": Direct.running,
    "fastapi+httpx": candidates.fastapi_httpx,
    "fastapi+openai": candidates.fastapi_openai,
    "litellm": candidates.litellm,
    "langgraph": candidates.langgraph,
    "turnkeeper": candidates.turnkeeper,
}
NEEDS: Final[dict[str, Environment]] = {
    "httpx": PROXIES,
    "fastapi+httpx": PROXIES,
    "fastapi+openai": PROXIES,
    "litellm": PROXIES,
    "langgraph": LANGGRAPH,
}
CARRIED: Final = 0.9
"""As a share of a stream's rate; a candidate that is slower is saturated, however long it took to begin."""
WARM_SECONDS: Final = 1.0
ONCE_SECONDS: Final = 0.1
MOST_DELAY_MS: Final = 250.0
"""At the 99th percentile; beyond this there is a queue."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--streams", type=int, default=25, help="of the first step; they double")
    parser.add_argument("--most", type=int, default=800, help="of the last step")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each")
    parser.add_argument("--tokens", type=int, default=150, help="of each")
    parser.add_argument("--at-once", type=int, default=32, help="short turns")
    parser.add_argument("--short-tokens", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of short turns")
    parser.set_defaults(measure=measure, heads="candidate")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each candidate in turn; for one that does not run, the column says why."""
    needed = list(dict.fromkeys(NEEDS[name] for name in options.only if name in NEEDS))
    for environment in needed:
        environment.ensure()
    options.versions = {environment.name: environment.versions() for environment in needed}
    columns = []
    for name in options.only:
        try:
            with CANDIDATES[name]() as candidate:
                column = uvloop.run(_measure(candidate, options))
        except (RuntimeError, OSError) as failed:
            print(f"{name}: {failed}", file=sys.stderr)
            column = {"did_not_finish": type(failed).__name__}
        columns.append({"candidate": name, **column})
    return columns


async def _measure(candidate: Candidate, options: argparse.Namespace) -> dict[str, Any]:
    await _until_it_answers(candidate)
    await candidate.repeat(options.at_once, options.short_tokens, WARM_SECONDS)
    # First: otherwise the remains of a crowd, such as hundreds of idle connections to search, would be measured too.
    short = await _short(candidate, options)
    steps: list[dict[str, Any]] = []
    count = options.streams
    while count <= options.most:
        steps.append(await _step(candidate, load.Streams(count, options.tokens, options.rate)))
        if not steps[-1]["is_carried"]:
            break
        count *= 2
    carried = [step for step in steps if step["is_carried"]]
    return {
        "first_token_ms": steps[0]["first_token_ms"],
        "added_delay_ms": steps[0]["added_delay_ms"],
        "cpu_us_per_delta": steps[0]["cpu_us_per_delta"],
        "failures": steps[0]["failures"],
        "carried_per_second": carried[-1]["offered_per_second"] if carried else 0,
        "cpu_us_per_delta_there": carried[-1]["cpu_us_per_delta"] if carried else None,
        "is_saturated_at_per_second": None if steps[-1]["is_carried"] else steps[-1]["offered_per_second"],
        "most_deltas_per_second": max(step["deltas_per_second"] for step in steps),
        **short,
        "memory_mib": candidate.meter.memory_mib()["peer"],
        "steps": steps,
    }


async def _until_it_answers(candidate: Candidate) -> None:
    """Ask until there is an answer: a server's parent may listen long before its children serve.

    Raises:
        RuntimeError: There was none.
    """
    give_up_at = time.monotonic() + START_SECONDS
    while not (seen := await candidate.repeat(1, 1, ONCE_SECONDS)).answers:
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"it does not answer: {list(seen.failures[:3])}")
        await asyncio.sleep(ONCE_SECONDS)


async def _step(candidate: Candidate, streams: load.Streams) -> dict[str, Any]:
    before = candidate.meter.cpu_seconds()
    seen = await candidate.stream(streams)
    spent = _spent(before, candidate, seen)
    deltas = sum(len(each.sent_ns) for each in seen.answers)
    late = load.delays(seen)
    offered = streams.count * streams.rate
    pace = _pace(seen, streams)
    p99 = late["added_delay_ms"]["p99"] if late["added_delay_ms"] else None
    return {
        "streams": streams.count,
        "offered_per_second": offered,
        "deltas_per_second": round(offered * pace, 1),
        "pace": round(pace, 3),
        **late,
        "cpu_us_per_delta": {group: round(1e6 * value / max(1, deltas), 1) for group, value in spent.items()},
        "failures": len(seen.failures),
        "what_failed": list(seen.failures[:3]),
        "is_carried": not seen.failures and pace >= CARRIED and p99 is not None and p99 <= MOST_DELAY_MS,
    }


def _pace(seen: load.Seen, streams: load.Streams) -> float:
    """Return the rate of the median stream, from its first token to its last, as a share of the ideal rate."""
    took = [(each.received_ns[-1] - each.received_ns[0]) / 1e9 for each in seen.answers]
    return min(1.0, (streams.tokens - 1) / streams.rate / median(took)) if took else 0.0


async def _short(candidate: Candidate, options: argparse.Namespace) -> dict[str, Any]:
    before = candidate.meter.cpu_seconds()
    seen = await candidate.repeat(options.at_once, options.short_tokens, options.seconds)
    spent = _spent(before, candidate, seen)
    turns = max(1, len(seen.answers))
    return {
        "short_turns_per_second": round(len(seen.answers) / seen.seconds, 1),
        "short_turn_ms": figures([(each.ended_ns - each.posted_ns) / 1e6 for each in seen.answers]),
        "cpu_ms_per_short_turn": round(1000 * spent["peer"] / turns, 2),
        "short_turns_failed": len(seen.failures),
        "what_failed": list(seen.failures[:3]),
    }


def _spent(before: Mapping[str, float], candidate: Candidate, seen: load.Seen) -> dict[str, float]:
    spent = used(before, candidate.meter.cpu_seconds())
    return spent if seen.cpu_seconds is None else {**spent, "peer": seen.cpu_seconds}
