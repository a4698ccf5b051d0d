"""Named places where a test can make a process die, freeze or fail; off unless the environment names them.

A test on the wire cannot hit a moment such as "after the commit, before the doorbell", so a few lines of the code are
named here. They are reached a few times per turn, never for a delta; when off, each costs one look at an empty mapping.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final

from shared.errors import SettingsError

VARIABLE: Final = "TURNKEEPER_FAILPOINTS"
ONCE_VARIABLE: Final = "TURNKEEPER_FAILPOINTS_ONCE"


class Failpoint(StrEnum):
    """The places, in the order in which a turn reaches them."""

    AFTER_ACCEPT = "after_accept"
    """The API has committed the turn and has not rung."""
    AFTER_CLAIM = "after_claim"
    """The worker has committed its claim and has not yet published anything."""
    AFTER_SENT = "after_sent"
    """The prompt was sent to the provider; no answer has been read."""
    BEFORE_SETTLE = "before_settle"
    """The whole answer was published; only a checkpoint of it is stored."""
    AFTER_SETTLE = "after_settle"
    """The outcome is committed and not yet published."""


class Action(StrEnum):
    """What happens at a failpoint."""

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"


class FailpointError(Exception):
    """Raised by a failpoint."""


@dataclass(frozen=True, slots=True)
class _Armed:
    action: Action
    chance: float


_armed: dict[Failpoint, _Armed] = {}
_once: Path | None = None
_random = Random()  # noqa: S311 -- chooses when to die, protects nothing


def arm(environ: Mapping[str, str], *, production: bool) -> None:
    """Arm the failpoints that the environment names, for the rest of this process.

    Args:
        environ: `TURNKEEPER_FAILPOINTS` holds `place=action` or `place=action:chance`, separated by commas; the action
            is `kill`, `stop` or `raise`, the chance a number above 0 and at most 1. If `TURNKEEPER_FAILPOINTS_ONCE`
            names a folder, a place fails only while the folder contains a file of its name, and removes that file:
            once, in whichever process comes first.
        production: Whether this service has users.

    Raises:
        SettingsError: A place or an action does not exist, or this is production.
    """
    global _once
    given = {name: environ[name] for name in (VARIABLE, ONCE_VARIABLE) if environ.get(name, "").strip()}
    if given and production:
        raise SettingsError(
            [f"{name} is set, which is for tests: take it out of production" for name in given]
        )
    _armed.clear()
    _armed.update(_parse(given.get(VARIABLE, "")))
    _once = Path(given[ONCE_VARIABLE]) if ONCE_VARIABLE in given else None


def reach(place: Failpoint) -> None:
    """Mark that `place` was reached; does nothing if no failpoint is armed.

    Raises:
        FailpointError: The place is armed to raise.
    """
    if _armed:
        _fail(place)


def _fail(place: Failpoint) -> None:
    armed = _armed.get(place)
    if armed is None or _random.random() >= armed.chance or not _is_due(place):
        return
    match armed.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Action.RAISE:
            raise FailpointError(f"the failpoint {place.value} was reached")


def _is_due(place: Failpoint) -> bool:
    if _once is None:
        return True
    try:
        (_once / place.value).unlink()
    except FileNotFoundError:
        return False
    return True


def _parse(given: str) -> Mapping[Failpoint, _Armed]:
    armed, problems = {}, []
    for part in filter(None, (part.strip() for part in given.split(","))):
        name, _, what = part.partition("=")
        action, _, chance = what.partition(":")
        try:
            armed[Failpoint(name)] = _Armed(Action(action), _chance(chance or "1"))
        except ValueError:
            problems.append(
                f"{VARIABLE} holds {part!r}: use {'|'.join(Failpoint)}={'|'.join(Action)}, "
                "with a chance such as :0.1 behind it or without"
            )
    if problems:
        raise SettingsError(problems)
    return armed


def _chance(given: str) -> float:
    chance = float(given)
    if not 0 < chance <= 1:
        raise ValueError(given)
    return chance
