"""`python -m tests.soak.upgrade --from REF`: an older release and this one, beside each other, as during a deploy.

The older one is taken from git and runs with this one's packages. Turns are asked for and stopped in every mixture,
before the schema was migrated and afterwards, and handed from a worker of the one to a worker of the other.
"""

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from turnkeeper.up.embedded import temporary_postgres, temporary_redis
from turnkeeper.up.embedded.child import free_port

NEW = Path(__file__).parents[2]
LIMIT_SECONDS = 120.0
TURNS = 4
REFUSED = 2
"""The exit code of a process whose configuration or schema is refused."""


@dataclass(frozen=True)
class Stage:
    """The releases that serve at the same time.

    Args:
        name: What it shows.
        web: The release of the web process: `old` or `new`.
        workers: The releases of the workers.
        hands_over: Whether the first worker is ended with a turn in mid-stream.
        refused: A release whose worker must refuse to start meanwhile, because the schema is older than it.
    """

    name: str
    web: str
    workers: tuple[str, ...]
    hands_over: bool = False
    refused: str | None = None


BEFORE = (
    Stage("the old one alone, on its schema", "old", ("old",)),
    Stage("a new worker that is started too early, on the old schema", "old", ("old",), refused="new"),
)
AFTER = (
    Stage("the old worker on the new schema, asked by the new web", "new", ("old",)),
    Stage("the new worker, asked by the old web", "old", ("new",)),
    Stage("from an old worker to a new one", "new", ("old", "new"), hands_over=True),
    Stage("from a new worker to an old one: back again", "old", ("new", "old"), hands_over=True),
    Stage("the new one alone", "new", ("new",)),
)


@dataclass
class World:
    """The servers, the code of both releases, and the folder for output."""

    code: dict[str, Path]
    environ: dict[str, str]
    folder: Path

    def command(self, whose: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "turnkeeper", *arguments]

    def environment(self, whose: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        return {**kept, **self.environ, "PYTHONPATH": str(self.code[whose])}

    def run(self, whose: str, *arguments: str) -> str:
        """Run a command to its end and return its output."""
        done = subprocess.run(
            self.command(whose, *arguments),
            cwd=self.code[whose],
            env=self.environment(whose),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{whose} {arguments}: {done.stderr}"
        return done.stdout.strip()

    @contextmanager
    def running(self, whose: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process, which is ended in good order."""
        with (self.folder / f"{whose}-{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(whose, *arguments),
                cwd=self.code[whose],
                env=self.environment(whose),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LIMIT_SECONDS)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait(LIMIT_SECONDS)


def main(argv: Sequence[str]) -> int:
    """Run every combination; return 0 if each turn was whole and the sums agree, 1 at the first failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.upgrade", description=__doc__)
    parser.add_argument(
        "--from", dest="base", required=True, metavar="REF", help="tag or commit of the older release"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help="seconds for a turn to end (default: %(default)g)"
    )
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ending this ends its children too
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tk-upgrade-")))
        old = taken_from_git(options.base, folder)
        postgres, redis = stack.enter_context(temporary_postgres()), stack.enter_context(temporary_redis())
        port = free_port()
        world = World(
            {"old": old, "new": NEW},
            {
                "DATABASE_URL": postgres.app_url,
                "DATABASE_OWNER_URL": postgres.owner_url,
                "REDIS_URL": redis.url,
                "MCP_LLM_PROVIDER": "scripted",
                "SCRIPTED_BASE_URL": f"http://127.0.0.1:{port}/v1",
                "DRAIN_SECONDS": "1",
                "LEASE_SECONDS": "5",
                "LEASE_RENEW_SECONDS": "1",
                "LEASE_TRUST_SECONDS": "3.5",
            },
            folder,
        )
        stack.enter_context(world.running("new", "provider", "--port", str(port)))
        world.run("old", "migrate")
        world.run("old", "orgs", "create", "Acme")
        key = world.run("old", "keys", "create")
        for schema, stages in (("old", BEFORE), ("new", AFTER)):
            if schema == "new":
                world.run("new", "migrate")
            for stage in stages:
                try:
                    play(world, stage, key, options.limit)
                except AssertionError as failed:
                    say(f"{schema} schema: {stage.name}: {failed}")
                    return 1
                say(f"{schema} schema: {stage.name}: all turns are whole")
        say(world.run("new", "ledger", "check"))
    return 0


def taken_from_git(base: str, folder: Path) -> Path:
    """Return a folder with the files of a tag or commit."""
    archive, code = folder / "old.tar", folder / "old"
    command = ["git", "archive", "--format=tar", f"--output={archive}", base]
    subprocess.run(command, cwd=NEW, check=True, timeout=LIMIT_SECONDS)
    with tarfile.open(archive) as tar:
        tar.extractall(code, filter="data")
    return code


def play(world: World, stage: Stage, key: str, limit_seconds: float = LIMIT_SECONDS) -> None:
    """Ask for turns of every kind and check that each is whole.

    Args:
        world: The servers and the code.
        stage: The releases that serve.
        key: An API key.
        limit_seconds: How long each turn may take to end.

    Raises:
        AssertionError: A turn did not end in time, or not as it should.
    """
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(world.running(stage.web, "web", "--bind", f"127.0.0.1:{port}"))
        first = stack.enter_context(world.running(stage.workers[0], "worker"))
        headers = {"Authorization": f"Bearer {key}"}
        api = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)
        )
        until(lambda: is_ready(api), "the service")
        if stage.refused is not None:
            early = stack.enter_context(world.running(stage.refused, "worker"))
            until(lambda: early.poll() is not None, "the refusal")
            assert early.poll() == REFUSED, early.poll()
        session = api.post("/v1/sessions", json={"user": "alice"}).raise_for_status().json()["id"]
        for number in range(TURNS):
            turn = ended(api, asked(api, session, f"[[tokens=20]] {number}"), limit_seconds)
            assert (turn["status"], turn["attempt"]) == ("completed", 1), turn
            assert_whole(api, turn["id"])
        stopped = asked(api, session, "[[tokens=2000 rate=50]]")
        until(lambda: has_text(api, stopped), "some text")
        api.post(f"/v1/turns/{stopped}/stop", json={}).raise_for_status()
        assert ended(api, stopped, limit_seconds)["status"] == "stopped"
        assert_whole(api, stopped)
        if stage.hands_over:
            running = asked(api, session, "[[tokens=300 rate=40]]")
            until(lambda: has_text(api, running), "some text")
            stack.enter_context(world.running(stage.workers[1], "worker"))
            first.send_signal(signal.SIGTERM)
            turn = ended(api, running, limit_seconds)
            assert turn["status"] == "completed", turn
            assert turn["attempt"] > 1, turn
            assert_whole(api, running)


def asked(api: httpx.Client, session: str, content: str) -> str:
    answer = api.post(f"/v1/sessions/{session}/turns", json={"content": content})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(api: httpx.Client, turn: str, limit_seconds: float) -> dict:
    def found() -> dict | None:
        row = api.get(f"/v1/turns/{turn}", params={"wait": 5}).raise_for_status().json()
        return row if row["finished_at"] else None

    return until(found, f"the end of {turn}", limit_seconds)


def events_of(api: httpx.Client, turn: str) -> list[dict]:
    return list(api.get(f"/v1/turns/{turn}/events").raise_for_status().json()["data"])


def has_text(api: httpx.Client, turn: str) -> bool:
    return any(event["type"] == "content_delta" for event in events_of(api, turn))


def assert_whole(api: httpx.Client, turn: str) -> None:
    """Check that its events are numbered without a gap and end with `done`."""
    events, after = [], 0
    while True:
        page = api.get(f"/v1/turns/{turn}/events", params={"after": after}).raise_for_status().json()["data"]
        events += page
        if not page or page[-1]["type"] == "done":
            break
        after = page[-1]["seq"]
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    assert events[-1]["type"] == "done", events[-1]


def is_ready(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object], what: str, limit_seconds: float = LIMIT_SECONDS) -> object:
    give_up_at = time.monotonic() + limit_seconds
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"{what} did not come in time"
        threading.Event().wait(0.05)
    return found


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
