"""Failpoints are off unless they are asked for, and cannot be asked for where there are users."""

import signal
import subprocess
import sys
import textwrap

import pytest

from shared import failpoints
from shared.errors import SettingsError
from shared.failpoints import Action, Failpoint, FailpointError, arm, reach


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm({}, production=False)


def test_nothing_happens_at_a_place_that_nobody_named():
    arm({}, production=True)
    for place in Failpoint:
        reach(place)
    arm({"TURNKEEPER_FAILPOINTS": "after_claim=raise"}, production=False)
    reach(Failpoint.AFTER_SETTLE)


@pytest.mark.parametrize(
    "environ",
    [
        {"TURNKEEPER_FAILPOINTS": "after_claim=kill"},
        {"TURNKEEPER_FAILPOINTS": "after_claim=raise:0.01"},
        {"TURNKEEPER_FAILPOINTS_ONCE": "/tmp"},
    ],
)
def test_production_refuses_them(environ):
    with pytest.raises(SettingsError, match="take it out of production"):
        arm(environ, production=True)
    reach(Failpoint.AFTER_CLAIM)


@pytest.mark.parametrize(
    "given",
    [
        "nowhere=kill",
        "after_claim",
        "after_claim=explode",
        "after_claim=kill:0",
        "after_claim=kill:1.1",
        "after_claim=kill:x",
        "after_claim=kill:nan",
        "after_claim=kill,=",
    ],
)
def test_what_it_does_not_know_is_an_error_that_says_what_it_knows(given):
    with pytest.raises(SettingsError, match="after_claim"):
        arm({"TURNKEEPER_FAILPOINTS": given}, production=False)


def test_a_place_that_is_to_raise_raises():
    arm({"TURNKEEPER_FAILPOINTS": " before_settle=raise:1 , after_claim=kill"}, production=False)
    with pytest.raises(FailpointError, match="before_settle"):
        reach(Failpoint.BEFORE_SETTLE)


def test_a_chance_is_how_often_it_fails_of_all_times():
    arm({"TURNKEEPER_FAILPOINTS": "after_claim=raise:0.25"}, production=False)
    failed = 0
    for _ in range(4000):
        try:
            reach(Failpoint.AFTER_CLAIM)
        except FailpointError:
            failed += 1
    assert 800 < failed < 1200


def test_a_place_fails_once_for_each_file_that_names_it(tmp_path):
    environ = {"TURNKEEPER_FAILPOINTS": "after_claim=raise", "TURNKEEPER_FAILPOINTS_ONCE": str(tmp_path)}
    arm(environ, production=False)
    reach(Failpoint.AFTER_CLAIM)
    (tmp_path / "after_claim").touch()
    reach(Failpoint.AFTER_SETTLE)
    with pytest.raises(FailpointError):
        reach(Failpoint.AFTER_CLAIM)
    reach(Failpoint.AFTER_CLAIM)


@pytest.mark.parametrize(("action", "number"), [(Action.KILL, signal.SIGKILL), (Action.STOP, signal.SIGSTOP)])
def test_a_process_kills_or_stops_itself(monkeypatch, action, number):
    sent = []
    monkeypatch.setattr(failpoints.os, "kill", lambda _pid, number: sent.append(number))
    arm({"TURNKEEPER_FAILPOINTS": f"after_sent={action}"}, production=False)
    reach(Failpoint.AFTER_SENT)
    assert sent == [number]


def test_a_worker_and_a_web_process_refuse_to_start_with_them_in_production():
    environ = {
        "ENVIRONMENT": "production",
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": "https://example.com/v1",
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": "k",
        "ALLOWED_ORIGINS": "https://example.com",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1",
        "TURNKEEPER_FAILPOINTS": "after_claim=kill",
    }
    started = textwrap.dedent("""
        import sys
        from api.app import create_app
        from shared.errors import SettingsError
        from worker.main import main
        try:
            create_app()
        except SettingsError as refused:
            print(refused, file=sys.stderr)
        sys.exit(main([]))
    """)
    ended = subprocess.run(
        [sys.executable, "-c", started], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("take it out of production") == 2
