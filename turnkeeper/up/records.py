"""What `turnkeeper up` stores next to the data: its keys, and the address at which it is running.

Both files contain secrets, so they are created with mode 0600 and replaced in one step.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from shared.errors import SettingsError

DATA_FOLDER: Final = Path(".turnkeeper")
STATE_NAME: Final = "state.json"
KEYS_NAME: Final = "keys.json"


@dataclass(frozen=True, slots=True)
class Keys:
    """The first organization and its keys."""

    organization_id: UUID
    service_key: str = field(repr=False)
    user_key: str = field(repr=False)
    admin_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class State:
    """A running service, as `--state` prints it."""

    url: str
    service_key: str = field(repr=False)
    user_key: str = field(repr=False)
    admin_key: str = field(repr=False)
    database_url: str = field(repr=False)
    database_owner_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    provider_url: str
    pid: int
    pids: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder in which a command looks for a running `up`.

    Args:
        path: Where `up` keeps its data.
        is_named: The command line names it, so that no other service can be meant.
    """

    path: Path = DATA_FOLDER
    is_named: bool = False

    def state(self) -> State | None:
        """Return where the `up` runs; None when none does.

        Raises:
            SettingsError: We may not look.
        """
        try:
            return read_state(self.path / STATE_NAME)
        except OSError as unreadable:
            raise SettingsError(
                [
                    f"--data {self.path.absolute()} cannot be read ({unreadable.strerror}): name the folder of an `up`"
                ]
            ) from unreadable

    def running(self) -> State:
        """Return where the `up` runs.

        Raises:
            SettingsError: None does, or we may not look.
        """
        state = self.state()
        if state is None:
            raise SettingsError(
                [f"no `turnkeeper up` runs in {self.path.absolute()}: start it, or give --data its folder"]
            )
        return state

    def lacks(self, names: Iterable[str]) -> SettingsError:
        """Return the error of a command that has to be told what no `up` here says."""
        where = f"where no `turnkeeper up` runs, and none does in {self.path.absolute()}"
        remedy = "set it, or name the folder of the `up` with --data or TURNKEEPER_DATA"
        return SettingsError([f"{name} is required {where}: {remedy}" for name in names])


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that only this user may read; a reader sees the old file or the new one, never half."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    fresh.replace(path)


def write_state(path: Path, state: State) -> None:
    """Record where the service runs."""
    write_private(path, asdict(state))


def read_state(path: Path) -> State | None:
    """Return where a service runs; None if the file says that none does."""
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_keys(path: Path, keys: Keys) -> None:
    """Store the keys for later runs."""
    write_private(path, {**asdict(keys), "organization_id": str(keys.organization_id)})


def read_keys(path: Path) -> Keys | None:
    """Return the stored keys, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Keys(**{**content, "organization_id": UUID(content["organization_id"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
