"""`turnkeeper up`: the whole service from one command, on a machine that has nothing installed.

The module is about the order: refuse a wrong configuration first, then start servers, schema, keys and processes, and
print the address only after a request went through all of them. Stopping goes the other way.
"""

import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from shared.configuration.settings import Settings, load_settings
from shared.errors import TurnkeeperError
from turnkeeper import direct
from turnkeeper.dotenv import read_dotenv
from turnkeeper.up.embedded.child import HOST, FolderLock, free_port, log_tail
from turnkeeper.up.embedded.postgres import EmbeddedPostgres
from turnkeeper.up.embedded.programs import is_root
from turnkeeper.up.embedded.redis import EmbeddedRedis
from turnkeeper.up.formation import (
    Addresses,
    child_environ,
    handoff_paths,
    scripted_provider,
    servings,
    workers,
)
from turnkeeper.up.front import Front, Kind
from turnkeeper.up.journal import Journal
from turnkeeper.up.logins import owning_database, split_roles
from turnkeeper.up.places import listening_at, shown, socket_folder
from turnkeeper.up.records import DATA_FOLDER, KEYS_NAME, STATE_NAME, Keys, State, write_state
from turnkeeper.up.supervisor import Child, Kept, Server, Wakeup, end_all

POSTGRES_PORT: Final = 15432
REDIS_PORT: Final = 16379
TICK_SECONDS: Final = 0.1
READY_LIMIT_SECONDS: Final = 90.0
"""Everything is up in a few seconds; the limit allows for a machine that is busy with something else."""
START_TRIES: Final = 3
"""Of one process, before the whole start is given up: what is wrong will not mend itself."""
PROBE_LIMIT_SECONDS: Final = 5.0
PLACEHOLDER_URLS: Final = {
    "DATABASE_URL": "postgresql://later",
    "REDIS_URL": "redis://later",
    "SCRIPTED_BASE_URL": f"http://{HOST}:1/v1",
}
"""They stand in for servers that start only after the rest of the configuration was found valid."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asked for."""

    data: Path = DATA_FOLDER
    state: Path | None = None
    host: str = HOST
    port: int | None = None
    processes: Mapping[str, int] = field(default_factory=lambda: {"web": 1, "relay": 1, "worker": 1})


def up(plan: Plan, environ: Mapping[str, str], console: Console) -> int:
    """Run the whole service until Ctrl-C or SIGTERM; return the exit code.

    Raises:
        SettingsError: The configuration cannot run; nothing was started.
    """
    environ = {**read_dotenv(Path(".env")), **environ}
    environ, settings = checked(environ)
    data = plan.data.absolute()
    try:
        # Root's PostgreSQL runs as another user, who must be able to pass through the folder.
        data.mkdir(parents=True, exist_ok=True, mode=0o711 if is_root() else 0o700)
        with FolderLock(data / "up.lock"), Wakeup().listening() as wakeup:
            Run(plan, data, dict(environ), settings, console, wakeup).run()
    except TurnkeeperError as failed:
        console.print(f"turnkeeper: {failed}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except OSError as failed:
        console.print(f"turnkeeper: {failed}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def checked(environ: Mapping[str, str]) -> tuple[Mapping[str, str], Settings]:
    """Return the environment, with the scripted provider if none is configured, and its settings.

    Raises:
        SettingsError: Something is wrong; the error lists all of it.
    """
    if not names_provider(environ):
        environ = {**environ, "MCP_LLM_PROVIDER": "scripted"}
    given = {name: value for name, value in environ.items() if value.strip()}
    return environ, load_settings({**PLACEHOLDER_URLS, **given})


def names_provider(environ: Mapping[str, str]) -> bool:
    """Return whether anything about a provider is configured: half a configuration is an error."""
    return any(
        value.strip() and (name.startswith("MCP_LLM_") or name == "ANTHROPIC_API_KEY")
        for name, value in environ.items()
    )


class Run:
    """One run of the service, from the first server to the last process."""

    def __init__(
        self,
        plan: Plan,
        data: Path,
        environ: dict[str, str],
        settings: Settings,
        console: Console,
        wakeup: Wakeup,
    ) -> None:
        self._plan = plan
        self._data = data
        self._environ = environ
        self._settings = settings
        self._console = console
        self._wakeup = wakeup
        self._servers: list[Server] = []
        self._children: list[Child] = []
        self._journals: list[Journal] = []
        self._state: State | None = None

    def run(self) -> None:
        """Start everything, keep it alive until a stop is requested, and end everything."""
        with ExitStack() as stack:
            listener = stack.enter_context(listening_at(self._plan.host, self._plan.port))
            stack.callback(self._forget_state)
            self._forget_state()
            sockets = stack.enter_context(socket_folder(self._data))
            addresses = self._start_servers(stack)
            keys, is_new = self._prepare_database(addresses)
            stack.callback(self._end_children)
            self._add_children(addresses, sockets)
            front = Front(listener, self._backends(sockets))
            front.start()
            stack.callback(front.close)
            self._state = self._describe(listener, addresses, keys)
            if self._keep_until(self._is_ready(self._state.url), READY_LIMIT_SECONDS):
                self._announce(keys, is_new=is_new)
                self._keep_until(lambda: False, None)

    def _start_servers(self, stack: ExitStack) -> Addresses:
        redis_url = self._environ.get("REDIS_URL", "").strip()
        if not redis_url:
            redis = stack.enter_context(EmbeddedRedis(self._data / "redis", port=REDIS_PORT))
            self._servers.append(Server("redis", redis))
            redis_url = redis.url
        app_url = self._environ.get("DATABASE_URL", "").strip()
        owner_url = self._environ.get("DATABASE_OWNER_URL", "").strip()
        if not app_url:
            postgres = stack.enter_context(EmbeddedPostgres(self._data / "postgres", port=POSTGRES_PORT))
            self._servers.append(Server("postgres", postgres))
            app_url, owner_url = postgres.app_url, postgres.owner_url
        elif not owner_url:
            app_url, owner_url = split_roles(app_url, self._data)
        return Addresses(app_url, owner_url, redis_url, self._provider_url())

    def _provider_url(self) -> str:
        """Return the address of the scripted provider; empty with a real one."""
        if self._settings.provider.name != "scripted":
            return ""
        return self._environ.get("SCRIPTED_BASE_URL", "").strip() or f"http://{HOST}:{free_port()}/v1"

    def _prepare_database(self, addresses: Addresses) -> tuple[Keys, bool]:
        from shared.postgres.migrate import migrate
        from turnkeeper.up.tenant import ensure_keys

        with owning_database():
            migrate(addresses.database_owner_url, addresses.database_url)
            return ensure_keys(addresses.database_owner_url, self._data / KEYS_NAME)

    def _add_children(self, addresses: Addresses, sockets: Path) -> None:
        """Define every process; `_keep` starts them."""
        logs = self._data / "logs"
        logs.mkdir(exist_ok=True, mode=0o700)
        environ = child_environ(self._environ, addresses)
        parts = [*scripted_provider(self._environ, addresses)]
        parts += [part for kind in Kind for part in servings(kind, self._plan.processes[kind], sockets)]
        parts += workers(self._plan.processes["worker"], self._settings.drain_seconds)
        for part in parts:
            log = logs / f"{part.name}.log"
            self._children.append(Child(part.program(environ, log)))
            self._journals.append(Journal(part.name, log))

    def _backends(self, sockets: Path) -> Mapping[Kind, Sequence[Path]]:
        return {kind: handoff_paths(kind, self._plan.processes[kind], sockets) for kind in Kind}

    def _describe(self, listener: socket.socket, addresses: Addresses, keys: Keys) -> State:
        port = listener.getsockname()[1]
        return State(
            url=f"http://{self._plan.host}:{port}",
            service_key=keys.service_key,
            user_key=keys.user_key,
            admin_key=keys.admin_key,
            database_url=addresses.database_url,
            database_owner_url=addresses.database_owner_url,
            redis_url=addresses.redis_url,
            provider_url=addresses.provider_url,
            pid=os.getpid(),
            pids={},
        )

    def _keep_until(self, is_done: Callable[[], bool], limit_seconds: float | None) -> bool:
        """Keep everything alive until `is_done`; False if a stop was requested first.

        Raises:
            TurnkeeperError: It was not done within the limit.
        """
        give_up_at = None if limit_seconds is None else time.monotonic() + limit_seconds
        while not self._wakeup.stops:
            self._keep()
            if is_done():
                return True
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise TurnkeeperError(f"not ready after {limit_seconds:g} s; see {self._data / 'logs'}")
            self._wakeup.wait(TICK_SECONDS)
        return False

    def _keep(self) -> None:
        now = time.monotonic()
        kept: Sequence[Kept] = [*self._servers, *self._children]
        for one in kept:
            for notice in one.keep(now):
                self._say(notice)
        for journal in self._journals:
            for notice in journal.news():
                self._say(notice)
        self._refresh_state(kept)

    def _refresh_state(self, kept: Sequence[Kept]) -> None:
        """Write the state again if a process was replaced; before the address is announced there is no file."""
        if self._state is None:
            return
        pids: dict[str, list[int]] = {name: [] for name in ("web", "relay", "worker", "postgres", "redis")}
        for one in kept:
            if one.kind in pids:
                pids[one.kind].extend(one.pids)
        if pids != self._state.pids:
            before, self._state = self._state, replace(self._state, pids=pids)
            if before.pids and (self._data / STATE_NAME).exists():
                try:
                    self._write_state()
                except OSError:  # a full disk, or no open files left: the next round tries again
                    self._state = before

    def _write_state(self) -> None:
        assert self._state is not None
        for path in self._state_paths():
            write_state(path, self._state)

    def _state_paths(self) -> Iterator[Path]:
        yield self._data / STATE_NAME
        if self._plan.state is not None:
            yield self._plan.state.absolute()

    def _forget_state(self) -> None:
        """Remove the files that say where the service runs: they would be wrong."""
        self._state = None
        for path in self._state_paths():
            path.unlink(missing_ok=True)

    def _is_ready(self, url: str) -> Callable[[], bool]:
        """Return a check of whether a request goes through and the service reports ready."""

        def is_ready() -> bool:
            now = time.monotonic()
            for child in self._children:
                if child.quick_deaths >= START_TRIES:
                    raise TurnkeeperError(
                        f"{child.name} does not start; its log ends:\n{log_tail(child.log)}"
                    )
            is_steady = all(child.is_steady(now) for child in self._children)
            return is_steady and answers_ok(f"{url}/healthz") and answers_ok(f"{url}/readyz")

        return is_ready

    def _announce(self, keys: Keys, *, is_new: bool) -> None:
        assert self._state is not None
        self._keep()
        for warning in self._settings.warnings:
            self._say(f"note: {warning}")
        if self._state.provider_url:
            self._say(
                "No model provider is configured, so answers come from the scripted provider.\n"
                "For a real one set ANTHROPIC_API_KEY, or MCP_LLM_PROVIDER=openai-compatible with\n"
                "MCP_LLM_BASE_URL, MCP_LLM_MODEL and MCP_LLM_API_KEY, here or in .env."
            )
        where = shown(self._data / KEYS_NAME)
        if is_new:
            self._say(
                f"Organization 'default' was made, with three keys, shown this once:\n"
                f"  service  {keys.service_key}\n"
                f"  user     {keys.user_key}\n"
                f"  admin    {keys.admin_key}\n"
                f"A convenience for development: they are also kept in {where} (mode 0600)."
            )
        else:
            self._say(f"Keys: {where}")
        self._write_state()
        self._say(f"turnkeeper is running at {self._state.url}   (Ctrl-C stops it)", style="bold green")

    def _end_children(self) -> None:
        """End the processes: workers first, while relays still send readers the ends of their turns."""
        asked = self._wakeup.stops
        if asked:
            self._say(
                f"stopping: running turns have {self._settings.drain_seconds:g} s (Ctrl-C again hurries)"
            )
        for kinds in (("worker",), ("web", "relay"), ("provider",)):
            group = [child for child in self._children if child.kind in kinds]
            hurried = self._wakeup.stops > max(asked, 1)
            for name in end_all(group, self._wakeup, hurry=hurried):
                self._say(f"{name} did not end in time and was killed")

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def answers_ok(url: str) -> bool:
    """Return whether a GET of `url` is answered with 200."""
    try:
        with direct.get(url, PROBE_LIMIT_SECONDS) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False
