"""An option whose value is missing is refused: it never takes the next option for its value."""

import pytest

from turnkeeper import cli


@pytest.mark.parametrize(
    "words",
    [
        "keys create --name --role=admin",
        "keys create --org --name x",
        "keys create --name --org=acme",
        "up --data --web=2",
        "up --state --host=0.0.0.0",
        "orgs list --data --help",
        "web --bind --processes=2",
        "doctor --limit --json",
        "smoke --url --key=k",
        "keys create --name",
    ],
)
def test_the_next_option_is_not_taken_for_a_value(words, capsys):
    assert cli.main(words.split()) == 2
    refused = capsys.readouterr().err
    option = next(word for word in words.split() if word.startswith("--"))
    assert f"Option '{option}' requires an argument." in refused


def test_a_value_may_begin_with_a_dash_where_it_is_written_with_the_option(capsys):
    assert cli.main(["up", "--port=-1"]) == 2
    assert "-1 is not in the range" in capsys.readouterr().err
    assert cli.main(["up", "--port", "-1"]) == 2  # a negative number is a value
    assert "-1 is not in the range" in capsys.readouterr().err


def test_a_number_that_is_none_is_named_so(capsys):
    assert cli.main(["up", "--port", "x"]) == 2
    assert "'x' is not a valid whole number" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["1", "bash", "bash_complete"])
def test_a_completion_variable_that_was_left_set_changes_nothing(left, monkeypatch, capsys):
    monkeypatch.setenv("_TURNKEEPER_COMPLETE", left)
    monkeypatch.delenv("COMP_WORDS", raising=False)
    assert cli.main(["--help"]) == 0
    assert "Durable LLM chat turns" in capsys.readouterr().out
