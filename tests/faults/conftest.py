"""A service behind proxies, shared by all modules of faults that set no variables of their own.

`make test` runs the quick rows; `make faults`, which is `-m "soak or not soak"`, all of them.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.failpoints import Failpoint
from tests import doorbells
from tests.e2e.conftest import PROVIDER_KEY, await_file, running_service, spawn, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS, Oracle
from tests.faults.proxy import Proxy
from tests.faults.world import SHORT_LEASE, World, through
from tests.standby import Pair
from turnkeeper.up.embedded import EmbeddedPostgres, temporary_redis

HERE = Path(__file__).parent
QUICK_ROWS = frozenset(
    {
        "w1",
        "w4",
        "w6",
        "r1",
        "r9",
        "r10",
        "r14",
        "v4",
        "v8",
        "v15",
        "v16",
        "v20",
        "c3",
        "c9",
        "a1",
        "a2",
        "a11",
        "a12",
        "a13",
        "a14",
        "p10",
        "p11",
    }
)
"""The rows that `make test` runs: a minute or two. `make faults` runs all of them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.getoption("markexpr"):
        long = [item for item in items if is_long(item)]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if item not in long]
    # Modules without variables of their own run in sequence: they share a service, which takes longer to start than
    # they run.
    places = [place for place, item in enumerate(items) if HERE in item.path.parents]
    ours = sorted(
        (items[place] for place in places), key=lambda item: not hasattr(item.module, "more_environment")
    )
    for place, item in zip(places, ours, strict=True):
        items[place] = item


def is_long(item: pytest.Item) -> bool:
    if item.path.parent.name != "faults":
        return False
    row = re.match(r"test_([wrpvca]\d+)_", item.name)
    return item.get_closest_marker("soak") is not None or (row is not None and row[1] not in QUICK_ROWS)


@contextmanager
def running_oracle() -> Iterator[Oracle]:
    """The scripted provider in a process of its own, which no fault affects."""
    with temporary_folder() as path:
        process = spawn(path, ["provider", "--port-file", str(path / "port")], {})
        account = Oracle(f"http://127.0.0.1:{await_file(path / 'port', process).strip()}")
        yield account
        account.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == 0


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """The scripted provider for a test without a world."""
    with running_oracle() as account:
        yield account


@pytest.fixture(scope="module")
def more_environment() -> dict[str, str]:
    """A module's additional variables; override it there."""
    return {}


class Shared:
    """The running world and its variables; another one replaces it, so that there is at most one."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._environment: dict[str, str] = {}
        self._stack = ExitStack()

    def world(self, more_environment: dict[str, str]) -> World:
        if self._world is None or self._environment != more_environment:
            self.end()
            self._world = self._stack.enter_context(running_world(more_environment))
            self._environment = more_environment
        return self._world

    def end(self) -> None:
        self._world = None
        self._stack.close()


SHARED = Shared()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End what is shared after the last test of faults: a session fixture would run until the very last test."""
    if nextitem is None or HERE not in nextitem.path.parents:
        SHARED.end()


def pytest_sessionfinish() -> None:
    """Also end it if the run was interrupted: after a failure with `-x`, or by hand."""
    SHARED.end()


@pytest.fixture(scope="module")
def world(more_environment: dict[str, str]) -> World:
    """Two of each process, a proxy in front of PostgreSQL and one in front of Redis."""
    return SHARED.world(more_environment)


@contextmanager
def running_world(
    more_environment: dict[str, str],
    postgres_in: Callable[[Path], AbstractContextManager[EmbeddedPostgres | Pair]] = EmbeddedPostgres,
) -> Iterator[World]:
    with ExitStack() as stack:
        oracle = stack.enter_context(running_oracle())
        data = stack.enter_context(temporary_folder())
        # What it has committed must survive when it is killed.
        postgres = stack.enter_context(postgres_in(data / "postgres"))
        redis_server = stack.enter_context(temporary_redis())
        postgres_proxy = stack.enter_context(Proxy(urlsplit(postgres.app_url).port or 0))
        redis_proxy = stack.enter_context(Proxy(urlsplit(redis_server.url).port or 0))
        folder = stack.enter_context(temporary_folder())
        failpoints = folder / "failpoints"
        failpoints.mkdir()
        environ = {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{oracle.url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": PROVIDER_KEY,
            "MCP_LLM_PRICE_INPUT_PER_M_USD": "3",
            "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15",
            "DATABASE_URL": through(postgres.app_url, postgres_proxy),
            "DATABASE_OWNER_URL": through(postgres.owner_url, postgres_proxy),
            "REDIS_URL": through(redis_server.url, redis_proxy),
            # Armed, and waiting for a file that `World.failing` creates there.
            "TURNKEEPER_FAILPOINTS": ",".join(f"{place}=kill" for place in Failpoint),
            "TURNKEEPER_FAILPOINTS_ONCE": str(failpoints),
            **SHORT_LEASE,
            **more_environment,
        }
        stack.enter_context(doorbells.listening(redis_server.url))
        service = stack.enter_context(running_service(folder, 2, **environ))
        yield World(service, oracle, postgres, redis_server, postgres_proxy, redis_proxy, failpoints)


@pytest.fixture(autouse=True)
def readers_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """A reader that a failed test left behind must not read during the next."""
    yield
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        for reader in world.readers:
            reader.wants_end.set()
        world.readers.clear()
