"""The command line: what it accepts and how it refuses."""

from pathlib import Path

import pytest

from shared.errors import SettingsError, TurnkeeperError
from turnkeeper import cli
from turnkeeper.up.records import State, write_state
from turnkeeper.up.up import checked, names_provider


def test_up_takes_the_options_that_it_promises():
    line = "up --port 9000 --data d --state s.json --web 2 --relay 3 --worker 4"
    options = cli.parser().parse_args(line.split())
    assert (options.port, options.data, options.state) == (9000, Path("d"), Path("s.json"))
    assert (options.web, options.relay, options.worker) == (2, 3, 4)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "up --web 0",
        "up --port 70000",
        "keys revoke not-a-uuid",
        "users",
        "users erase",
        "users erase ada --wait -1",
    ],
)
def test_wrong_use_ends_with_2(line: str, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


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


def test_a_service_on_the_command_line_wins_over_the_one_that_runs_here(tmp_path):
    write_state(tmp_path / "state.json", State("http://here", "s", "u", "a", "", "", "", "", 1, {}))
    parse = cli.parser().parse_args
    assert cli.where(parse(["smoke", "--data", str(tmp_path)])) == ("http://here", "u")
    line = ["smoke", "--data", str(tmp_path), "--url", "http://there/", "--key", "k"]
    assert cli.where(parse(line)) == ("http://there", "k")


def test_without_any_service_both_missing_things_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TURNKEEPER_KEY", raising=False)
    with pytest.raises(SettingsError) as refused:
        cli.where(cli.parser().parse_args(["chat", "--data", str(tmp_path)]))
    assert len(refused.value.problems) == 2


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
