"""The production setup on one machine: two of each process, each with its own port, behind nginx.

Every process is started as by the Procfile and the how-to page, and can be restarted by itself.
"""

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis import Redis

from shared.postgres.accounts import create_key, create_organization
from shared.postgres.migrate import migrate
from tests.e2e.conftest import CALM, START_LIMIT_SECONDS, spawn
from tests.e2e.protocol_client import LIMIT_SECONDS, Api, wait_until
from tests.marks import leaks_in_redis
from tests.nginx import await_listening, configuration, running_nginx
from tests.ports import free_port
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

KINDS = ("web", "relay", "worker")


@dataclass
class Formation:
    """The running processes; can replace a `Service` in tests that need no process of `up`."""

    folder: Path
    url: str
    owner_url: str
    redis_url: str
    keys: Mapping[str, str]
    environ: Mapping[str, str]
    ports: Mapping[str, int]
    relay_options: tuple[str, ...]
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    apis: list[Api] = field(default_factory=list)

    def key(self, role: str = "service") -> str:
        return self.keys[role]

    def api(self, role: str = "service") -> Api:
        self.apis.append(Api(self.url, self.key(role)))
        return self.apis[-1]

    def start(self, name: str) -> None:
        """Start one process; it listens when this returns."""
        kind = name.partition("-")[0]
        where = ["--bind", f"127.0.0.1:{self.ports[name]}", "--grace", "5"] if name in self.ports else []
        more = self.relay_options if kind == "relay" else ()
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        self.processes[name] = spawn(folder, [kind, *where, *more], dict(self.environ))
        if name in self.ports:
            await_listening(self.ports[name], self.processes[name], folder / "output", START_LIMIT_SECONDS)

    def end(self, name: str) -> None:
        """End one process and wait until it has ended."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0, self.log(name)

    def restart(self, name: str) -> None:
        self.end(name)
        self.start(name)

    def log(self, name: str) -> str:
        return (self.folder / name / "output").read_text(errors="replace")

    def names(self, kind: str) -> list[str]:
        return [f"{kind}-1", f"{kind}-2"]

    def await_ready(self) -> None:
        def is_ready() -> bool:
            return httpx.get(f"{self.url}/readyz", timeout=LIMIT_SECONDS, trust_env=False).status_code == 200

        wait_until(is_ready, "the service to be ready", START_LIMIT_SECONDS)

    def redis(self) -> Redis:
        return Redis.from_url(self.redis_url)


@contextlib.contextmanager
def running_formation(
    folder: Path, *changes: tuple[str, str], relay_options: tuple[str, ...] = (), **environ: str
) -> Iterator[Formation]:
    """Run everything; `changes` are made to nginx's file."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres())
        redis_server = stack.enter_context(temporary_redis())
        migrate(postgres.owner_url, postgres.app_url)
        organization = create_organization(postgres.owner_url, "Acme")
        keys = {
            role: create_key(postgres.owner_url, organization, role, user="alice" if role == "user" else None)
            for role in ("user", "service", "admin")
        }
        ports = {f"{kind}-{number}": free_port() for kind in ("web", "relay") for number in (1, 2)}
        port = free_port()
        servers = {"DATABASE_URL": postgres.app_url, "REDIS_URL": redis_server.url}
        formation = Formation(
            folder,
            f"http://127.0.0.1:{port}",
            postgres.owner_url,
            redis_server.url,
            keys,
            {**CALM, **servers, **environ},
            ports,
            relay_options,
        )
        stack.callback(end_all, formation)
        for kind in KINDS:
            for name in formation.names(kind):
                formation.start(name)
        (folder / "nginx").mkdir()
        web, relay = ([ports[name] for name in formation.names(kind)] for kind in ("web", "relay"))
        stack.enter_context(running_nginx(folder / "nginx", port, configuration(port, web, relay, *changes)))
        formation.await_ready()
        yield formation
        found = leaks_in_redis(redis_server.url)
        assert not found, found


def end_all(formation: Formation) -> None:
    """End all running processes at once; one that does not end is killed, which is an error."""
    for api in formation.apis:
        api.close()
    for process in formation.processes.values():
        process.send_signal(signal.SIGTERM)
    late = []
    for name, process in formation.processes.items():
        try:
            process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_SECONDS)
            late.append(name)
    assert late == []
