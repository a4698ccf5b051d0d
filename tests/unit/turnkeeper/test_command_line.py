"""The command line: what it accepts and how it refuses."""

from pathlib import Path

import pytest

from shared.errors import SettingsError, TurnkeeperError
from tests.command_line import parsed
from turnkeeper import cli
from turnkeeper.cli.service import where
from turnkeeper.up.records import State, write_state
from turnkeeper.up.up import checked, names_provider


def test_up_takes_the_options_that_it_promises():
    line = "up --port 9000 --data d --state s.json --web 2 --relay 3 --worker 4"
    options = parsed(line.split())
    assert (options.port, options.data, options.state) == (9000, Path("d"), Path("s.json"))
    assert (options.web, options.relay, options.worker) == (2, 3, 4)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "up --web 0",
        "up --port 70000",
        "web --bind 127.0.0.1:1 --handoff relay.sock",
        "doctor 8080",
        "doctor --ports 8080 70000",
        "doctor --limit 0",
        "doctor --limit nan",
        "keys",
        "keys create --role owner",
        "keys create --expires soon",
        "keys create --expires 0d",
        "keys create --expires 2020-01-31",
        "keys create --expires 999999w",
        "completion tcsh",
        "keys revoke not-a-uuid",
        "users",
        "users erase",
        "users erase ada --wait -1",
    ],
)
def test_wrong_use_ends_with_2(line: str, capsys):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert "Usage:" in said.err
    assert said.out == ""


def test_an_owners_login_that_is_no_url_is_told_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("DATABASE_OWNER_URL", "nonsense")
    assert cli.main(["orgs", "list"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "DATABASE_OWNER_URL is no URL" in said.err
    assert "nonsense" not in said.err


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_a_provider_is_refused_a_port_that_there_is_not(port: str, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["provider", f"--port={port}"])
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_an_option_without_its_value_ends_with_2(capsys):
    assert cli.main(["up", "--host"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Error: Option '--host' requires an argument.\n")


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [(SettingsError(["a", "b"]), 2), (TurnkeeperError("no"), 1), (KeyboardInterrupt(), 130)],
)
def test_an_error_is_an_exit_code_and_no_traceback(error: BaseException, code: int, capsys):
    assert cli.run(raising(error)) == code
    assert "Traceback" not in capsys.readouterr().err


def test_all_problems_stand_in_one_message(capsys):
    cli.run(raising(SettingsError(["one", "two"])))
    said = capsys.readouterr().err
    assert "one" in said
    assert "two" in said


def meant(arguments: list[str]) -> tuple[str, str]:
    """The service that a command would talk to."""
    options = parsed(arguments)
    return where(options.url, options.key, options.data)


def test_a_service_on_the_command_line_wins_over_the_one_that_runs_here(tmp_path):
    write_state(tmp_path / "state.json", State("http://here", "s", "u", "a", "", "", "", "", 1, {}))
    assert meant(["smoke", "--data", str(tmp_path)]) == ("http://here", "u")
    line = ["smoke", "--data", str(tmp_path), "--url", "http://there/", "--key", "k"]
    assert meant(line) == ("http://there", "k")


def test_without_any_service_both_missing_things_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TURNKEEPER_KEY", raising=False)
    with pytest.raises(SettingsError) as refused:
        meant(["chat", "--data", str(tmp_path)])
    assert len(refused.value.problems) == 2
    assert all(str(tmp_path) in problem for problem in refused.value.problems)


def test_without_a_provider_the_scripted_one_is_chosen():
    environ, settings = checked({"MCP_LLM_PROVIDER": " ", "ANTHROPIC_API_KEY": ""})
    assert settings.provider.name == "scripted"
    assert environ["MCP_LLM_PROVIDER"] == "scripted"


@pytest.mark.parametrize(
    "name", ["MCP_LLM_BASE_URL", "MCP_LLM_API_KEY", "MCP_LLM_PROVIDER", "ANTHROPIC_API_KEY"]
)
def test_half_a_provider_is_not_none(name: str):
    assert names_provider({name: "x"})


def test_a_wrong_configuration_names_every_problem_before_anything_starts():
    with pytest.raises(SettingsError) as refused:
        checked({"MCP_LLM_PROVIDER": "openai-compatible", "WEB_THREADS": "none"})
    said = str(refused.value)
    for name in ("MCP_LLM_BASE_URL", "MCP_LLM_MODEL", "MCP_LLM_API_KEY", "WEB_THREADS"):
        assert name in said
    assert "DATABASE_URL" not in said


@pytest.mark.parametrize(
    ("line", "ports"),
    [
        ("doctor", None),
        ("doctor --ports", ()),
        ("doctor --ports --json", ()),
        ("doctor --ports 1 2 --json", (1, 2)),
        ("doctor --json --ports=3", (3,)),
        ("doctor --ports 1 2 --ports 4", (4,)),
    ],
)
def test_the_doctor_takes_any_number_of_ports(line: str, ports: tuple[int, ...] | None):
    assert parsed(line.split()).ports == ports


def test_a_process_with_a_grammar_of_its_own_gets_its_words_as_they_are(monkeypatch):
    monkeypatch.setattr("turnkeeper.scripted.command.run", lambda words: len(words) * 10)
    assert cli.main(["provider", "--port", "0", "-x", "--", "--help"]) == 50
