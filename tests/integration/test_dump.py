"""`turnkeeper dump`: a file that PostgreSQL's own program restores from."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Api
from turnkeeper import cli
from turnkeeper.commands import dump as command
from turnkeeper.commands.dump import candidates, login, version_of
from turnkeeper.up.embedded.programs import packaged_programs


@pytest.fixture
def dumped(owner_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_OWNER_URL", owner_url)
    return tmp_path / "turnkeeper.dump"


def test_everything_is_in_it_and_only_its_owner_may_read_it(
    dumped: Path, api: Api, keys, owner_url: str, capsys
):
    session_id = api.session(keys.alice)
    assert cli.main(["dump", str(dumped)]) == 0
    said = capsys.readouterr().out
    assert str(dumped) in said
    assert dumped.stat().st_mode & 0o777 == 0o600
    restore = Path(said.split()[-1])
    shown = subprocess.run(
        [restore, "--data-only", "--table=sessions", "--file=-", dumped],
        capture_output=True,
        text=True,
        check=True,
    )
    assert session_id in shown.stdout
    assert [path.name for path in dumped.parent.iterdir()] == [dumped.name]


def test_a_file_that_exists_is_kept(dumped: Path, capsys):
    dumped.write_text("precious")
    assert cli.main(["dump", str(dumped)]) == 2
    assert "exists" in capsys.readouterr().err
    assert dumped.read_text() == "precious"


def test_a_login_that_policies_bind_leaves_no_file(dumped: Path, database_url: str, monkeypatch, capfd):
    monkeypatch.setenv("DATABASE_OWNER_URL", database_url)
    assert cli.main(["dump", str(dumped)]) == 1
    assert "nothing was written" in capfd.readouterr().err
    assert list(dumped.parent.iterdir()) == []


def test_a_program_that_is_too_old_is_passed_over(tmp_path: Path, dumped: Path, capsys, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    (old / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    (old / "pg_dump").chmod(0o755)
    environ = {"PATH": f"{old}:{os.environ['PATH']}"}
    assert next(version_of(program) for program in candidates(environ)) == 9
    assert packaged_programs() / "pg_dump" in list(candidates(environ))
    monkeypatch.setattr(command, "candidates", lambda _: iter([old / "pg_dump"]))
    assert cli.main(["dump", str(dumped)]) == 2
    assert "is of 9 version" in capsys.readouterr().err
    assert not dumped.exists()


def test_a_password_is_on_no_command_line():
    url = "postgresql+psycopg://own%40er:p%2Fw@db.example:5433/turns?sslmode=require&connect_timeout=3"
    assert login(url) == {
        "PGHOST": "db.example",
        "PGPORT": "5433",
        "PGUSER": "own@er",
        "PGPASSWORD": "p/w",
        "PGDATABASE": "turns",
        "PGSSLMODE": "require",
    }
