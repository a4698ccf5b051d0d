"""Every thread of a serving process is one whose failure ends the process, or is known to be needed by nobody."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLAIN = {
    "shared/lasting.py": "makes those that last",
    "shared/metrics/listener.py": "answers scrapes, and without it they fail",
    "shared/metrics/servers.py": "reads once, for a scrape that waits for it no longer than its limit",
    "shared/tracing/tracer.py": "sends spans, which may be lost",
}
"""Modules that start a thread of their own, and why nobody depends on it."""
LASTING = {
    "api/notices.py",
    "api/relay/hub.py",
    "worker/process/liveness.py",
    "worker/process/loop.py",
    "worker/recovery/leases.py",
    "worker/recovery/sweeper.py",
}
TASKS = {
    "api/relay/delivery.py": {"subscription"},
    "api/relay/hub.py": {"callers"},
    "worker/main.py": {"aborts"},
    "worker/publishing/publisher.py": {"publisher"},
}


def sources():
    for wing in ("api", "shared", "worker"):
        for path in sorted((ROOT / wing).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def test_no_other_module_starts_a_thread_that_may_end_unseen():
    found = {name for name, source in sources() if re.search(r"threading\.Thread\((?!\))", source)}
    assert found == set(PLAIN)


@pytest.mark.parametrize("name", sorted(LASTING))
def test_a_thread_that_others_depend_on_takes_its_process_along(name):
    assert re.search(r"\blasting_thread\(", (ROOT / name).read_text())


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_that_others_depend_on_takes_its_process_along(name):
    source = (ROOT / name).read_text()
    assert set(re.findall(r'\blasting_task\(\s*"(\w+)"', source)) == TASKS[name]
