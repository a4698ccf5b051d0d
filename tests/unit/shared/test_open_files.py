"""The limit of open files is raised, and what a process promises stays within it. Each case runs in its own process."""

import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

RAISE = "from shared import open_files; print(open_files.reachable(), open_files.raise_limit(), open_files.share(4))"


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def run(script: str, soft: int, hard: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=limited(soft, hard),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 1000, 1000), (300, 300, 300)])
def test_the_soft_limit_becomes_the_hard_one(soft: int, hard: int, raised: int):
    assert run(RAISE, soft, hard).split() == [str(raised), str(raised), str(raised // 4)]


def test_more_than_enough_is_left_as_it_is():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 70_000:
        assert run(RAISE, 70_000, 70_000).split()[1] == "70000"
    else:
        assert run(RAISE, soft, hard).split()[1] == str(max(soft, min(hard, 65_536)))


SETTINGS = """
import sys
from shared.configuration.settings import load_settings
environ = {"DATABASE_URL": "postgresql://nowhere", "REDIS_URL": "redis://nowhere", "MCP_LLM_PROVIDER": "scripted",
           "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1"}
"""


def test_a_worker_runs_no_more_turns_than_it_may_open_files():
    script = SETTINGS + (
        "from worker.main import within_open_files\nprint(within_open_files(load_settings(environ)).worker_turns)"
    )
    assert run(script, 256, 1000) == "250\n"
    assert run(script, 4096, 4096) == "512\n"


def test_a_relay_takes_no_more_streams_than_it_may_open_files():
    script = SETTINGS + (
        "from api.app import _limits_of_streams\nprint(_limits_of_streams(load_settings(environ)).most_sockets)"
    )
    assert run(script, 1000, 1000) == "500\n"


def test_the_doctor_says_what_the_limit_cuts():
    script = SETTINGS + (
        "from turnkeeper.doctor.machine import check_open_files\n"
        "for found in check_open_files(environ): print(found.level, found.says)"
    )
    cut = "a process may have 1000; MAX_SOCKETS is 20000, 500 is possible; WORKER_TURNS is 512, 250 is possible\n"
    assert run(script, 256, 1000) == f"ok {cut}"
    assert (
        run(script.replace("environ = {", 'environ = {"WORKER_TURNS": "512", '), 256, 1000)
        == f"warning {cut}"
    )
