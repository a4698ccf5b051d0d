"""Each table of the benchmark runs, small, on a service of its own: what it counts is checked, never a time.

One table is in every run. The others take a service or two each, for half a minute, and are asked for:
`make test ARGS="tests/e2e/test_bench.py -m soak"`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from bench.peers.comparison import NEEDS
from tests.e2e.protocol_client import wait_until

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 240.0
MARK = "BENCH_TEST_RUN"
"""No name that is kept from what a measurement starts."""

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)


def run(mark: str, results: Path, command: str) -> subprocess.CompletedProcess:
    """Run the command line; what it starts carries the mark in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "bench", "--results", str(results), *command.split()],
        cwd=ROOT,
        env={**os.environ, MARK: mark},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def left_over(mark: str) -> list[psutil.Process]:
    """The processes that a run has left behind."""
    return [process for process in psutil.process_iter() if mark_of(process) == mark]


def await_nothing_left(mark: str) -> None:
    """The children of a service are gone a moment after it."""
    wait_until(lambda: left_over(mark) == [], "what a run has started to be gone")


def mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None


def measured(results: Path, command: str) -> list[dict]:
    """Run one measurement and return its columns."""
    mark = uuid4().hex
    finished = run(mark, results, command)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    await_nothing_left(mark)
    name = command.split()[0]
    kept = json.loads(next(results.glob(f"*-{name}.json")).read_text())
    assert kept["measurement"] == name
    assert {"date", "commit", "cores", "cpu"} <= set(kept["surroundings"])
    assert kept["runs"]
    assert not any(column.get("failures") for column in kept["runs"])
    return kept["runs"]


@pytest.mark.soak
def test_growth_doubles_the_turns_and_loses_none(tmp_path: Path):
    columns = measured(tmp_path, "growth --least 2 --most 4 --rate 20 --seconds 1")
    assert [column["turns"] for column in columns] == [2, 4]
    assert all(column["added_delay_ms"]["count"] > 0 for column in columns)


@pytest.mark.soak
def test_history_is_sent_to_the_provider_as_it_grows(tmp_path: Path):
    first, last = measured(tmp_path, "history --messages 8 --step 4 --sessions 2 --tokens 5")
    assert (first["messages"], last["messages"]) == (4, 8)
    assert last["input_tokens"] > first["input_tokens"]


def test_idle_sockets_stay_open_and_are_weighed(tmp_path: Path):
    (weighed,) = measured(tmp_path, "idle --sockets 200 --seconds 0.5")
    assert weighed["sockets"] == 200
    # What a socket weighs is a difference, which a busy machine can make negative.
    assert {"kib_per_open_socket", "kib_per_subscribed_socket"} <= weighed.keys()
    assert min(weighed["relay_mib_before"], weighed["relay_mib_subscribed"]) > 0


@pytest.mark.soak
def test_all_who_watch_get_the_whole_turn_beside_bad_readers_that_are_given_up(tmp_path: Path):
    alone, hindered = measured(tmp_path, "fanout --sockets 10 --tokens 200 --rounds 1")
    assert (alone["bad_readers"], hindered["bad_readers"]) == (0, 2)
    assert alone["tokens_missing"] == hindered["tokens_missing"] == 0
    assert hindered["bad_readers_given_up"] == 2


@pytest.mark.soak
def test_of_a_crowd_every_delta_is_counted(tmp_path: Path):
    columns = measured(tmp_path, "crowd --no-warm --turns 5 10 --tokens 20 --first 5")
    assert [column["tokens_received"] for column in columns] == [100, 200]
    assert [column["provider_peak_running"] for column in columns] == [5, 10]
    assert all(column["tokens_missing"] == 0 for column in columns)
    assert all(column["sha256_right"] == column["turns"] for column in columns)


@pytest.mark.soak
def test_the_capacity_formula_is_put_to_twice_the_processes(tmp_path: Path):
    command = "scaling --streaming 4 --seconds 1 --short 16 --turns 6 --tokens 20 --ramp 1"
    cost, tried = measured(tmp_path, command)
    assert set(cost["us_per_delta"]) == {"web", "relay", "worker", "redis", "postgres"}
    assert tried["predicted_cpu_seconds"]["all"] > 0
    assert tried["measured_cpu_seconds"]["all"] > 0


def compared(results: Path, *names: str) -> None:
    load = "--streams 2 --most 2 --tokens 20 --at-once 2 --seconds 1"
    columns = measured(results, f"peers --only {' '.join(names)} {load}")
    assert [column["candidate"] for column in columns] == list(names)
    for column in columns:
        assert "did_not_finish" not in column
        assert column["added_delay_ms"]["count"] == 40
        assert column["short_turns_failed"] == 0
        assert column["short_turns_per_second"] > 0


@pytest.mark.soak
def test_turnkeeper_and_the_bare_provider_are_compared_by_the_same_reader(tmp_path: Path):
    compared(tmp_path, "provider", "turnkeeper")


@pytest.mark.soak
@pytest.mark.parametrize("name", NEEDS)
def test_each_peer_is_compared_where_it_is_installed(name: str, tmp_path: Path):
    if not NEEDS[name].is_ready:
        pytest.skip("`make bench ARGS=peers` installs what is compared with")
    compared(tmp_path, name)


@pytest.mark.soak
def test_a_measurement_that_takes_too_long_ends_what_it_started(tmp_path: Path):
    mark = uuid4().hex
    # Longer than a service takes to start, far shorter than what is asked for.
    finished = run(mark, tmp_path, "--limit 12 growth --seconds 600 --most 10")
    assert finished.returncode == 1
    assert "SIGALRM" in finished.stderr
    await_nothing_left(mark)
    assert list(tmp_path.iterdir()) == []
