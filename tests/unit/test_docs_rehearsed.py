"""Lines of the documentation that cannot be run are rehearsed, by programs that only note what they are asked for.

So a line that a shell does not take, and one that names a command, file, unit, service or setting that is not there,
fails here.
"""

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from shared.configuration.variables import VARIABLES
from tests.command_line import parsed
from tests.documents import ROOT, Block, blocks, reasons_of

REHEARSED = [block for block in blocks() if block.language == "sh" and reasons_of(block)]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
KNOWN = {variable.name for variable in VARIABLES}
OF_OTHERS = {"OLLAMA_CONTEXT_LENGTH", "MODEL_LIMIT_SECONDS"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OBJECTS = {
    f"{one['kind'].lower()}/{one['metadata']['name']}"
    for file in (ROOT / "deploy" / "kubernetes").glob("*.yaml")
    for one in yaml.safe_load_all(file.read_text())
    if one and "metadata" in one
}
PROGRAMS = (
    "cp",
    "docker",
    "install",
    "kubectl",
    "llama-server",
    "make",
    "ollama",
    "openssl",
    "pip",
    "python3",
    "systemctl",
    "turnkeeper",
    "useradd",
    "vllm",
)
NOTE = r"""#!/bin/sh
{ printf '%s\037' "${0##*/}" "$@"; printf '\n'; } >> "$NOTES"
"""


@dataclass(frozen=True)
class Rehearsal:
    """A block after its rehearsal: where it ran, and what was asked of which program."""

    folder: Path
    asked: list[list[str]]

    def of(self, program: str) -> list[list[str]]:
        return [arguments for name, *arguments in self.asked if name == program]


def rehearse(block: Block, folder: Path) -> Rehearsal:
    """Run a block where nothing but the stand-ins is found."""
    programs, notes = folder / "programs", folder / "notes"
    here = folder / "here"
    for each in (programs, here / "docs" / "model"):
        each.mkdir(parents=True)
    for program in [*(programs / name for name in PROGRAMS), here / "docs" / "model" / "check.sh"]:
        program.write_text(NOTE)
        program.chmod(0o755)
    (programs / "cat").symlink_to(shutil.which("cat") or "")
    for name in ("deploy", "requirements-image.lock"):
        (here / name).symlink_to(ROOT / name)
    # The one program that a page calls by its place.
    pip = folder / "opt" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.symlink_to(programs / "pip")
    done = subprocess.run(
        [shutil.which("bash") or "", "-eu", "-c", block.text.replace("/opt/turnkeeper/", f"{folder}/opt/")],
        cwd=here,
        env={"PATH": str(programs), "NOTES": str(notes)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Rehearsal(here, [line.split("\037")[:-1] for line in notes.read_text().splitlines()])


def assert_known(arguments: list[str]) -> None:
    """See that the command line of Turnkeeper takes these."""
    if arguments != ["worker"]:  # it has a command line of its own, and needs no arguments
        parsed(arguments)


def assert_of_compose(arguments: list[str]) -> None:
    match arguments:
        case ["compose", "run", "--rm", service, *rest]:
            assert service in COMPOSE["services"]
            assert_known(rest)
        case other:
            assert other == ["compose", "up", "--build", "--detach", "--wait"]


def assert_of_kubernetes(arguments: list[str], folder: Path) -> None:
    for flag, value in pairwise(arguments):
        assert flag not in {"-f", "-k"} or (folder / value).exists(), value
    for word in arguments:
        if literal := re.fullmatch(r"--from-literal=([A-Z_]+)=.+", word):
            assert literal[1] in KNOWN
        if re.fullmatch(r"(job|deployment)/\w+", word):
            assert word in OBJECTS
    if "--" in arguments:
        program, *rest = arguments[arguments.index("--") + 1 :]
        assert program == "turnkeeper"
        assert_known(rest)


def assert_of_pip(arguments: list[str], folder: Path) -> None:
    for flag, value in pairwise(arguments):
        assert flag != "-r" or (folder / value).is_file(), value
    for word in arguments:
        if extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert extra[1] in EXTRAS


@pytest.mark.parametrize("block", REHEARSED, ids=lambda block: block.place)
def test_lines_that_cannot_be_run_name_what_there_is(block: Block, tmp_path: Path):
    rehearsal = rehearse(block, tmp_path)
    assert rehearsal.asked
    for arguments in rehearsal.of("turnkeeper"):
        assert_known(arguments)
    for arguments in rehearsal.of("docker"):
        assert_of_compose(arguments)
    for arguments in rehearsal.of("kubectl"):
        assert_of_kubernetes(arguments, rehearsal.folder)
    for arguments in rehearsal.of("pip"):
        assert_of_pip(arguments, rehearsal.folder)
    for arguments in rehearsal.of("cp"):
        assert len(arguments) > 2
        assert all((rehearsal.folder / source).exists() for source in arguments[:-1])
    for arguments in rehearsal.of("systemctl"):
        units = [word for word in arguments if word.startswith("turnkeeper")]
        assert all((ROOT / "deploy" / "systemd" / unit).exists() for unit in units)
    for [target] in rehearsal.of("make"):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|\s)([A-Z][A-Z_]+)=", block.text, re.MULTILINE))
    assert named <= KNOWN | OF_OTHERS | set(re.findall(r"\$\{([A-Z_]+)", COMPOSE_TEXT))


def test_the_secrets_of_compose_are_in_a_file_of_ones_own_and_none_is_missing(tmp_path: Path):
    (block,) = (block for block in REHEARSED if block.text.startswith("umask"))
    file = rehearse(block, tmp_path).folder / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    required = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE_TEXT))
    assert required <= set(re.findall(r"^([A-Z_]+)=", file.read_text(), re.MULTILINE))
    # What it can be read as is what the shell wrote: nothing that compose would take for a variable of its own.
    assert "$" not in file.read_text()


def test_a_line_that_names_what_there_is_not_fails(tmp_path: Path):
    wrong = Block("p.md", 1, "", "sh", "docker compose run --rm nobody doctor\n")
    with pytest.raises(AssertionError):
        assert_of_compose(rehearse(wrong, tmp_path / "one").of("docker")[0])
    with pytest.raises(AssertionError):
        rehearse(Block("p.md", 1, "", "sh", "no-such-program\n"), tmp_path / "two")
