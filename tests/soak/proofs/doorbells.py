"""Loses doorbells: the api dies after its commit and before it rings, or Redis loses all its data."""

from typing import Any, Final

from tests.soak.chaos.nemesis import Fault
from tests.soak.chaos.run import Run, execute
from tests.soak.chaos.service import Size
from tests.soak.proofs.crowd import Asked, broken

CHANCE: Final = 0.25
"""The chance that a post is its process's last: high, and yet some posts are served in between."""
FLUSH_SECONDS: Final = 0.7
"""Mean interval between flushes: several during most turns."""
USERS: Final = 30
_DEATHS: Final = ("RemoteProtocolError", "ReadError", "ConnectError")


def killed_before_ringing(asked: Asked) -> dict[str, Any]:
    """Kill the api between commit and doorbell, at random; every turn must end (I1)."""
    settings = {"TURNKEEPER_FAILPOINTS": f"after_accept=kill:{CHANCE}", **asked.settings}
    summary = execute(
        Run(
            turns=asked.turns,
            seed=asked.seed,
            users=USERS,
            size=Size(web=4, relay=2, worker=2),
            kinds=frozenset(),
            settings=settings,
            measurement="proof-doorbells",
        )
    )
    deaths = sum(
        count
        for answer, count in summary["answers"].items()
        if answer.startswith("POST") and answer.endswith(_DEATHS)
    )
    summary["figures"] = {"posts that died unanswered": deaths}
    if deaths < asked.turns * CHANCE / 4:
        broken(summary, "no_proof", f"only {deaths} posts died")
    return summary


def flushed(asked: Asked) -> dict[str, Any]:
    """FLUSHALL at random moments; every turn must end, and every reader must have its exact text (I1, I4)."""
    summary = execute(
        Run(
            turns=asked.turns,
            seed=asked.seed,
            users=USERS,
            every_seconds=FLUSH_SECONDS,
            size=Size(web=2, relay=2, worker=2),
            kinds=frozenset({Fault.REDIS_FLUSH}),
            settings=asked.settings,
            measurement="proof-flushes",
        )
    )
    summary["figures"] = {"flushes": summary["faults"]["all"]}
    if summary["faults"]["all"] < asked.turns / 20:
        broken(summary, "no_proof", f"only {summary['faults']['all']} flushes")
    return summary
