"""For every test, the client's too: secrets carry a mark, and what is logged, printed or written is searched for it.

Here and not in `tests/`, so that it is done before anything that a test needs is imported.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest

from tests import documents, workers
from tests.children import HEARD, leaks_in_sections, search_children, taken
from tests.marks import Listener, listen, mark_new_secrets

mark_new_secrets()
search_children()
# The same examples on every machine, as long as they take: how fast one is does not decide whether a test passes.
hypothesis.settings.register_profile(
    "certain",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("certain")


RUN = ExitStack()
"""What lasts as long as a run with workers."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.Scheduler:
    """Decide which worker runs which tests; called in a run with workers alone."""
    workers.hold_preferred_ports(RUN)
    return workers.Scheduler(config, log)


def pytest_unconfigure() -> None:
    """End what lasts as long as the run."""
    RUN.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the sets that stay together first; a run without workers keeps its order."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: workers.place_of(item.nodeid))


@pytest.fixture(scope="session")
def listener() -> Listener:
    """Hears what this process logs, from the first test on."""
    return listen()


@pytest.fixture(scope="session", autouse=True)
def nothing_was_told() -> Iterator[None]:
    """What a fixture of a module or of the whole run started is searched when that ends, after its last test."""
    yield
    heard = taken(HEARD)
    assert not heard, heard


@pytest.fixture(autouse=True)
def nothing_is_told(listener: Listener) -> Iterator[None]:
    """No test may make this process, or one that it starts, tell a secret or content (I10)."""
    yield
    heard = taken(listener.heard) + taken(HEARD)
    assert not heard, heard


@pytest.fixture(scope="module", autouse=True)
def every_block_is_taken(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file that runs blocks of the documentation runs all that are its own, where all of its tests passed."""
    yield
    config = request.config
    chosen = [config.getoption(name) for name in ("keyword", "markexpr", "deselect")]
    is_part = any(chosen) or any("::" in argument for argument in config.args)
    if not is_part and not request.node.stash.get(documents.INCOMPLETE, False):
        untaken = documents.untaken(request.path)
        assert not untaken, untaken


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Search what a test, or a process that inherits its output, printed."""
    report = yield
    module = item.getparent(pytest.Module)
    if module is not None and not report.passed:
        module.stash[documents.INCOMPLETE] = True
    printed = leaks_in_sections(report.sections) if report.when == "teardown" else []
    if printed and report.passed:
        report.outcome, report.longrepr = "failed", f"printed: {printed}"
    return report
