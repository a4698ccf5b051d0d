"""Every command has `--help`, which needs nothing that only the command itself does."""

import subprocess
import sys

import pytest

from tests.command_line import every_command
from turnkeeper import cli

OF_THEIR_OWN = {"worker", "provider"}
"""Their grammar is argparse's, in the module that they run."""
HEAVY = {
    "alembic",
    "celery",
    "flask",
    "httpx",
    "psycopg",
    "pydantic",
    "redis",
    "rich",
    "sqlalchemy",
    "turnkeeper_client",
}
LOOK = f"""
import sys
from turnkeeper.cli import main

code = main(sys.argv[1:])
print(code, *sorted({{name.partition(".")[0] for name in sys.modules}} & {HEAVY}), file=sys.stderr)
"""


def looked_at(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process that says its exit code, and what it loaded of what takes long to load."""
    return subprocess.run(
        [sys.executable, "-c", LOOK, *arguments], capture_output=True, text=True, timeout=60, check=True
    )


def test_no_command_has_gone():
    assert set(every_command()) == {
        *("", "up", "web", "relay", "worker", "provider", "migrate", "prices", "doctor", "smoke", "chat"),
        *("orgs", "orgs create", "orgs list", "orgs stop", "keys", "keys create", "keys list", "keys revoke"),
        *(
            "ledger",
            "ledger check",
            "ledger correct",
            "users",
            "users erase",
            "users export",
            "dump",
            "completion",
        ),
    }


@pytest.mark.parametrize("words", sorted(set(every_command()) - OF_THEIR_OWN))
def test_help_is_everywhere_and_loads_little(words: str):
    done = looked_at(*words.split(), "--help")
    assert done.stderr == "0\n"
    assert done.stdout.startswith(f"Usage: {f'turnkeeper {words}'.strip()} [OPTIONS]")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", sorted(OF_THEIR_OWN))
def test_a_process_with_a_grammar_of_its_own_has_its_own_help(name: str, flag: str, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, flag])
    assert ended.value.code == 0
    assert f"usage: turnkeeper {name} " in capsys.readouterr().out


def test_the_list_has_every_command_in_its_order(capsys):
    assert cli.main(["-h"]) == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.partition("Commands:\n")[2].splitlines()]
    assert listed == [words for words in every_command() if words and " " not in words]
