"""The systemd units: systemd reads them where it is there; what they must say is read here."""

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from shared.configuration.variables import VARIABLES
from tests.command_line import parsed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
SETTINGS = {variable.name: variable for variable in VARIABLES}
PROGRAM = "/opt/turnkeeper/bin/turnkeeper"
LASTING = ("web", "relay", "worker")
MOST_EXPOSURE = 20
"""In tenths; systemd itself calls up to 2.9 ok."""


def unit(name: str) -> dict[str, list[str]]:
    """A unit's lines by their names; a name may stand there several times."""
    found = defaultdict(list)
    for line in (FOLDER / name).read_text().splitlines():
        if line and line[0] not in "[#":
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def service(kind: str) -> dict[str, list[str]]:
    return unit(f"turnkeeper-{kind}.service" if kind == "migrate" else f"turnkeeper-{kind}@.service")


def command(kind: str) -> list[str]:
    (line,) = service(kind)["ExecStart"]
    program, *arguments = line.replace("%i", "8080").split()
    assert program == PROGRAM
    return arguments


def test_there_is_a_unit_for_every_process():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {"turnkeeper.target", "turnkeeper-migrate.service"} | {
        f"turnkeeper-{kind}@.service" for kind in LASTING
    }
    for kind in (*LASTING, "migrate"):
        assert command(kind)[0] == kind
        if kind != "worker":
            parsed(command(kind))


@pytest.mark.parametrize("kind", LASTING)
def test_a_process_has_longer_to_end_than_it_needs_and_is_started_again(kind: str):
    found = service(kind)
    grace = int(SETTINGS["DRAIN_SECONDS"].default) if kind == "worker" else parsed(command(kind)).grace
    assert int(found["TimeoutStopSec"][0]) >= grace + 15
    assert found["KillMode"] == ["mixed"]
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]


def test_only_workers_have_the_providers_key_and_only_migrations_the_owners_login():
    files = {
        kind: {Path(name).stem for name in service(kind)["EnvironmentFile"]} for kind in (*LASTING, "migrate")
    }
    assert files == {
        "web": {"settings"},
        "relay": {"settings"},
        "worker": {"settings", "provider"},
        "migrate": {"settings", "owner"},
    }
    for kind in ("web", "relay"):
        (line,) = service(kind)["Environment"]
        pairs = dict(pair.split("=") for pair in line.split())
        assert pairs.keys() <= SETTINGS.keys()
        assert set(pairs.values()) == {"only-the-worker-has-it"}


def test_the_target_starts_two_of_each_on_the_ports_that_nginx_knows():
    wanted = [name for line in unit("turnkeeper.target")["Wants"] for name in line.split()]
    page = (ROOT / "docs" / "howto" / "run-behind-nginx.md").read_text()
    for kind, upstream in (("web", "web_processes"), ("relay", "relay_processes")):
        ports = [re.search(r"@(\d+)", name)[1] for name in wanted if name.startswith(f"turnkeeper-{kind}@")]
        (servers,) = re.findall(rf"upstream {upstream} +\{{(.*)\}}", page)
        assert re.findall(r"127\.0\.0\.1:(\d+)", servers) == ports
    assert sum(name.startswith("turnkeeper-worker@") for name in wanted) == 2


@pytest.mark.parametrize("kind", LASTING)
def test_a_unit_that_ends_leaves_the_others_their_metrics(kind: str):
    # They share pages in /dev/shm, as one user. `RemoveIPC` would remove those of all of them with the first that ends.
    assert "RemoveIPC" not in service(kind)
    assert service(kind)["User"] == ["turnkeeper"]


@pytest.fixture
def here(tmp_path: Path) -> list[Path]:
    """The units with a program that is there."""
    program = Path(sys.prefix) / "bin" / "turnkeeper"
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, str(program)))
    return sorted(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_understands_every_line(here: list[Path]):
    if not (Path(sys.prefix) / "bin" / "turnkeeper").exists():
        pytest.skip("the command is not installed in this environment")
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, here)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("kind", LASTING)
def test_systemd_calls_little_of_the_machine_exposed(here: list[Path], kind: str):
    (path,) = [path for path in here if path.name == f"turnkeeper-{kind}@.service"]
    looked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert looked.returncode == 0, looked.stdout[-200:] + looked.stderr
