"""What a check finds, and how checks are run: in parallel, each within a time limit, none able to stop another."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Final, TypeAlias

from redis import RedisError
from sqlalchemy.exc import DBAPIError

from shared.errors import UnavailableError

_MOST_REASON: Final = 200
"""How much of a server's own words is shown: one line on a terminal."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was checked: `redis.eviction`.
        level: How bad it is.
        says: What was found.
        remedy: How to fix it; empty if it is ok.
    """

    name: str
    level: Level
    says: str
    remedy: str = ""


Check: TypeAlias = Callable[[], Iterator[Finding]]
"""Checks one thing, and yields each finding as soon as it is known."""


@dataclass(slots=True)
class _Run:
    check: Check
    found: list[Finding] = field(default_factory=list)


def fine(name: str, says: str) -> Finding:
    """Return a finding that something is as it should be."""
    return Finding(name, Level.OK, says)


def warning(name: str, says: str, remedy: str) -> Finding:
    """Return a finding that something works, but not as it should."""
    return Finding(name, Level.WARNING, says, remedy)


def wrong(name: str, says: str, remedy: str) -> Finding:
    """Return a finding that something does not work, or breaks a promise."""
    return Finding(name, Level.WRONG, says, remedy)


def judged(name: str, says: str, level: Level, remedy: str) -> Finding:
    """Return a finding whose level was computed; an ok one needs no remedy."""
    return Finding(name, level, says, "" if level is Level.OK else remedy)


def reason(failure: BaseException) -> str:
    """Return a failure in one line; a server's own message names hosts and logins, never passwords."""
    while failure.__cause__ is not None and isinstance(failure, UnavailableError):
        failure = failure.__cause__
    words = failure.orig if isinstance(failure, DBAPIError) and failure.orig is not None else failure
    line = (str(words).strip().splitlines() or [""])[0]
    return line[:_MOST_REASON] or type(words).__name__


def looked_at(name: str, question: Callable[[], Finding]) -> Finding:
    """Return a question's answer; a failure to answer is also a finding."""
    try:
        return question()
    except (UnavailableError, DBAPIError, RedisError, OSError) as failure:
        return wrong(
            name, f"could not be looked at: {reason(failure)}", "see to what it says, and run this again"
        )


def examine(checks: Mapping[str, Check], limit_seconds: float) -> tuple[list[Finding], bool]:
    """Run checks in parallel.

    Args:
        checks: The checks by name.
        limit_seconds: For all of them; what is found by then is kept.

    Returns:
        The findings, in the checks' order, and whether a check is still running.
    """
    runs = {name: _Run(check) for name, check in checks.items()}
    threads = {
        # Daemons: a thread that hangs must not keep the process alive.
        name: threading.Thread(target=_run, args=(name, run), name=name, daemon=True)
        for name, run in runs.items()
    }
    for thread in threads.values():
        thread.start()
    give_up_at = monotonic() + limit_seconds
    found: list[Finding] = []
    is_late = False
    for name, thread in threads.items():
        thread.join(max(0.0, give_up_at - monotonic()))
        found += tuple(runs[name].found)
        if thread.is_alive():
            is_late = True
            found.append(
                wrong(
                    name,
                    f"no answer within {limit_seconds:g} s",
                    "see whether it hangs; the rest of it is not known",
                )
            )
    return found, is_late


def _run(name: str, run: _Run) -> None:
    try:
        for finding in run.check():
            run.found.append(finding)
    except Exception as failure:  # noqa: BLE001 -- a check that breaks must not stop the others
        run.found.append(
            wrong(name, f"the check broke: {type(failure).__name__}", "report it, with your versions")
        )
