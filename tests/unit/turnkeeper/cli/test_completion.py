"""Shells complete commands and options."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from turnkeeper import cli

ROOT = Path(__file__).parents[4]
ASK = """
source <(turnkeeper completion bash)
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_turnkeeper_completion turnkeeper
printf '%s\\n' "${COMPREPLY[@]}"
"""


def answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, line: str
) -> str:
    """What the program says to a shell that asks for the last word of a line."""
    words = line.split(" ")
    # bash and zsh say at which word the cursor is, fish says the word.
    at = words[-1] if shell == "fish" else str(len(words) - 1)
    monkeypatch.setenv("COMP_WORDS", " ".join(words[:-1]) if shell == "fish" else line)
    monkeypatch.setenv("COMP_CWORD", at)
    monkeypatch.setenv("_TURNKEEPER_COMPLETE", f"{shell}_complete")
    assert cli.main([]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_completes_commands_and_options(shell: str, monkeypatch, capsys):
    assert "revoke" in answers(monkeypatch, capsys, shell, "turnkeeper keys r")
    said = answers(monkeypatch, capsys, shell, "turnkeeper users erase --o")
    assert "--organization" in said
    assert "--output" not in said
    assert "service" in answers(monkeypatch, capsys, shell, "turnkeeper keys create --role s")
    assert "dir" in answers(monkeypatch, capsys, shell, "turnkeeper up --data ")


@pytest.mark.parametrize("line", ["turnkeeper doctor --ports 1 2 --js", "turnkeeper doctor --js"])
def test_options_are_completed_behind_any_number_of_ports(line: str, monkeypatch, capsys):
    assert answers(monkeypatch, capsys, "bash", line) == "plain,--json\n"


def test_words_of_another_grammar_are_not_completed(monkeypatch, capsys):
    assert answers(monkeypatch, capsys, "bash", "turnkeeper worker --c").strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_what_the_variable_asks_for(shell: str, monkeypatch, capsys):
    assert cli.main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    monkeypatch.setenv("_TURNKEEPER_COMPLETE", f"{shell}_source")
    assert cli.main([]) == 0
    assert capsys.readouterr().out == printed
    assert f"_TURNKEEPER_COMPLETE={shell}_complete" in printed


def test_a_shell_that_is_not_known_gets_nothing(monkeypatch, capsys):
    monkeypatch.setenv("_TURNKEEPER_COMPLETE", "tcsh_source")
    assert cli.main(["keys", "list"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["turnkeeper", "d"], ["doctor", "dump"]),
        (["turnkeeper", "keys", ""], ["create", "list", "revoke"]),
        (["turnkeeper", "users", "export", "--ou"], ["--output"]),
    ],
)
def test_bash_itself_completes(words: list[str], completed: list[str], tmp_path: Path):
    program = tmp_path / "turnkeeper"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m turnkeeper "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash") or "", "-c", ASK, "bash", *words],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == completed
