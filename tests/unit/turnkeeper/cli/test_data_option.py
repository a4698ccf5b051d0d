"""`--data` and `TURNKEEPER_DATA` say on which folder the `up` runs that a command asks."""

from pathlib import Path

import pytest

from shared.errors import SettingsError
from tests.command_line import commands_with, parsed
from turnkeeper import cli
from turnkeeper.cli.service import where
from turnkeeper.commands.users import servers
from turnkeeper.owner import owner_url
from turnkeeper.up.records import DATA_FOLDER, Folder, State, write_state

ASKING = {
    "migrate": "migrate",
    "orgs create": "orgs create acme",
    "orgs list": "orgs list",
    "orgs stop": "orgs stop acme",
    "keys create": "keys create",
    "keys list": "keys list",
    "keys revoke": "keys revoke 0197a3c2-0000-7000-8000-000000000000",
    "doctor": "doctor",
    "ledger check": "ledger check",
    "dump": "dump file",
    "ledger correct": "ledger correct 0197a3c2-0000-7000-8000-000000000000 --usd=0 --reason=wrong --by=ops",
    "users erase": "users erase ada",
    "users export": "users export ada",
    "smoke": "smoke",
    "chat": "chat",
}
OWNERS = set(ASKING) - {"doctor", "smoke", "chat"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three below it on which an `up` runs, one of them the usual one; no variable is set."""
    for name in ("DATABASE_OWNER_URL", "DATABASE_URL", "REDIS_URL", "TURNKEEPER_DATA", "TURNKEEPER_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in (DATA_FOLDER.name, "named", "other"):
        folder = tmp_path / name
        folder.mkdir()
        logins = (f"postgresql://app@{name}", f"postgresql://owner@{name}", f"redis://{name}")
        write_state(folder / "state.json", State(f"http://{name}", "s", name, "a", *logins, "", 1, {}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_of(words: str, *more: str) -> Folder:
    data: Folder = parsed([*words.split(), *more]).data
    return data


def test_every_command_that_asks_an_up_has_the_option():
    assert set(commands_with("--data")) == {"up", *ASKING}


@pytest.mark.parametrize("words", ASKING.values(), ids=ASKING)
def test_the_command_line_goes_before_the_environment_and_that_before_the_usual_folder(
    words: str, here: Path, monkeypatch: pytest.MonkeyPatch
):
    assert folder_of(words) == Folder(DATA_FOLDER)
    monkeypatch.setenv("TURNKEEPER_DATA", "")
    assert folder_of(words) == Folder(DATA_FOLDER)
    monkeypatch.setenv("TURNKEEPER_DATA", str(here / "named"))
    assert folder_of(words) == Folder(here / "named")
    assert folder_of(words, "--data", "other") == Folder(Path("other"), is_named=True)


def test_up_takes_the_same_folder(here: Path, monkeypatch: pytest.MonkeyPatch):
    assert parsed(["up"]).data == DATA_FOLDER
    monkeypatch.setenv("TURNKEEPER_DATA", str(here / "named"))
    assert parsed(["up"]).data == here / "named"
    assert parsed(["up", "--data", "other"]).data == Path("other")


def test_what_runs_on_the_folder_is_what_is_meant(here: Path):
    assert owner_url({}, Folder()) == "postgresql://owner@.turnkeeper"
    assert owner_url({}, Folder(Path("named"))) == "postgresql://owner@named"
    assert servers({}, Folder(Path("named"))) == (
        "postgresql://app@named",
        "postgresql://owner@named",
        "redis://named",
    )
    assert where(None, None, Folder(Path("named"))) == ("http://named", "named")


def test_logins_of_the_environment_go_before_a_folder_that_the_command_line_does_not_name(here: Path):
    environ = dict.fromkeys(("DATABASE_OWNER_URL", "DATABASE_URL", "REDIS_URL"), "elsewhere")
    assert owner_url(environ, Folder(Path("named"))) == "elsewhere"
    assert servers(environ, Folder(Path("named"))) == ("elsewhere",) * 3
    # An erasure with `--data` must not reach the database of production.
    assert owner_url(environ, Folder(Path("named"), is_named=True)) == "postgresql://owner@named"
    assert servers(environ, Folder(Path("named"), is_named=True)).owner_url == "postgresql://owner@named"
    for ask in (owner_url, servers):
        with pytest.raises(SettingsError, match="no `turnkeeper up` runs in"):
            ask(environ, Folder(Path("empty"), is_named=True))


def test_logins_of_the_environment_are_all_named_or_none(here: Path):
    with pytest.raises(SettingsError) as refused:
        servers({"DATABASE_OWNER_URL": "elsewhere", "DATABASE_URL": "elsewhere"}, Folder())
    assert refused.value.problems == ("REDIS_URL is required beside DATABASE_OWNER_URL: set it",)


@pytest.mark.parametrize("name", sorted({*OWNERS, "smoke", "chat"}))
def test_where_no_up_runs_the_folder_and_the_remedy_are_named(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    empty = here / "empty"
    assert cli.main([*ASKING[name].split(), "--data", "empty"]) == 2
    said = capsys.readouterr().err
    assert f"no `turnkeeper up` runs in {empty}" in said or f"none does in {empty}" in said
    assert "--data" in said
    monkeypatch.setenv("TURNKEEPER_DATA", "empty")
    assert cli.main(ASKING[name].split()) == 2
    said = capsys.readouterr().err
    assert f"none does in {empty}" in said
    assert "--data or TURNKEEPER_DATA" in said


def test_a_folder_that_cannot_be_read_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "file").touch()
    assert cli.main(["keys", "list", "--data", "file"]) == 2
    said = capsys.readouterr().err
    assert f"{here / 'file'} cannot be read (Not a directory)" in said
    assert "Traceback" not in said
