"""How several workers share out the tests, and what keeps them apart."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.clone import environment
from tests.ports import part_of
from tests.workers import TOGETHER, place_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", [path for paths in TOGETHER for path in paths])
def test_what_stays_together_is_there(path: str):
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_a_file_of_no_set_comes_after_all_of_them():
    assert place_of("tests/browser/test_page.py") == 0
    assert place_of("tests/e2e/test_up.py") == place_of("tests/unit/test_workers.py") == len(TOGETHER)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_port_belongs_to_two_workers(workers: int):
    ports = range(18_000, 32_768)
    parts = [
        part_of(ports, {"PYTEST_XDIST_WORKER_COUNT": str(workers), "PYTEST_XDIST_WORKER": f"gw{number}"})
        for number in range(workers)
    ]
    taken = [port for part in parts for port in part]
    assert len(set(taken)) == len(taken) > len(ports) - workers
    assert set(taken) <= set(ports)


def test_a_worker_for_one_that_crashed_has_ports_and_a_run_without_workers_all():
    ports = range(18_000, 32_768)
    assert (
        part_of(ports, {"PYTEST_XDIST_WORKER_COUNT": "2", "PYTEST_XDIST_WORKER": "gw2"})
        == ports[: len(ports) // 2]
    )
    assert part_of(ports, {}) == ports


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ("", ["-n", "2"]),
        ("-x", ["-n", "2", "-x"]),
        ("-n 4", ["-n", "4"]),
        ("tests/unit -x", ["tests/unit", "-x"]),
    ],
)
def test_make_runs_all_tests_in_two_processes_and_those_that_are_named_in_one(
    given: str, arguments: list[str]
):
    done = subprocess.run(
        ["make", "--dry-run", "test", f"ARGS={given}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split()[1:] == ["-m", "pytest", *arguments]
