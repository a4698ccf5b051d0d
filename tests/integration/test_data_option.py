"""With a `turnkeeper up` that was started with `--data`, the commands find its logins."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from turnkeeper import cli
from turnkeeper.up.records import State, write_state

Run = Callable[..., list[str]]


@pytest.fixture(params=["--data", "TURNKEEPER_DATA"])
def run(
    request: pytest.FixtureRequest,
    owner_url: str,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command far from the folder on which an `up` runs, and return the lines that it prints."""
    data = tmp_path / "data"
    data.mkdir()
    state = State("http://127.0.0.1:1", "s", "u", "a", database_url, owner_url, redis_url, "", 1, {})
    write_state(data / "state.json", state)
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "TURNKEEPER_DATA"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "TURNKEEPER_DATA":
        monkeypatch.setenv("TURNKEEPER_DATA", str(data))
    named = ["--data", str(data)] if request.param == "--data" else []

    def run_command(line: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert cli.main([*line.split(), *named]) == code
        return capsys.readouterr().out.splitlines()

    return run_command


def test_keys_are_listed_with_their_times(run: Run):
    run("migrate")
    run("orgs create Hooli")
    run("keys create --org Hooli --name first --expires 90d")
    run("keys create --org Hooli --role user --user a --expires 2999-12-31")
    header, second, first = run("keys list --org Hooli")
    assert header.split() == [
        "ID",
        "ROLE",
        "STATE",
        "PREFIX",
        "USER",
        "CREATED",
        "EXPIRES",
        "LAST-USED",
        "NAME",
    ]
    assert [line.index(word) for line, word in ((header, "NAME"), (first, "first"))] == [
        header.index("NAME")
    ] * 2
    assert second.split()[6] == "2999-12-31T00:00Z"
    in_90_days = datetime.now(UTC) + timedelta(days=90)
    assert abs(datetime.fromisoformat(first.split()[6]) - in_90_days) < timedelta(hours=1)


def test_its_database_is_asked(run: Run):
    assert run("migrate") == []
    (organization,) = run("orgs create Initech")
    assert run("orgs list") == [f"{organization}  Initech"]
    (key,) = run("keys create --org Initech --role user --user ada")
    _, listed = run("keys list")
    key_id, role, state, prefix, user, created, expires, used = listed.split()
    assert (role, state, user, expires, used) == ("user", "active", "ada", "-", "-")
    assert created.startswith(str(datetime.now(UTC).year))
    assert key.startswith(prefix.removesuffix("…"))
    assert run(f"keys revoke {key_id}") == []
    assert run(f"keys revoke {key_id}", code=1) == []
    assert run("ledger check --org Initech") == ["ledger, totals and holds agree"]
    assert run("users export ada") == []
    assert run("users erase ada --yes")[0] == "sessions emptied and closed:  0"


def test_the_doctor_looks_at_its_servers(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    found = {
        each["name"]: each for each in json.loads("\n".join(run("doctor --json --ports", code=1)))["checks"]
    }
    assert found["settings"]["level"] == found["postgres.role"]["level"] == "ok"
    assert "redis.eviction" in found


def test_logins_of_the_environment_are_for_a_command_that_names_no_folder(
    run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATABASE_OWNER_URL", "postgresql://owner@127.0.0.1:1/none")
    is_named = request.node.callspec.params["run"] == "--data"
    run("orgs list", code=0 if is_named else 1)
