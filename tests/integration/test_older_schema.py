"""A process that is started before its release's migrations."""

import os
import subprocess
import sys

import pytest

from api.app import create_app
from shared.errors import SettingsError
from shared.postgres.database import Database
from shared.postgres.migrate import head_revision
from shared.postgres.schema import newest_revision


@pytest.fixture
def at(as_owner):
    """Let the database say that it has other migrations."""

    def set_revision(number: str) -> None:
        as_owner("update public.schema_version set version_num = :number", number=number)

    yield set_revision
    set_revision(head_revision())


def test_the_names_of_the_files_say_what_the_chain_says():
    assert newest_revision() == head_revision()


@pytest.mark.parametrize("role", ["web", "relay"])
def test_it_is_refused_with_the_command_that_is_missing(at, settings, role):
    at("0002")
    with pytest.raises(
        SettingsError, match=r"schema is 0002 and this release needs .* `turnkeeper migrate` first"
    ):
        create_app(role, settings)


def test_a_worker_ends_with_2_and_says_why(at, environment):
    at("0002")
    ended = subprocess.run(
        [sys.executable, "-m", "turnkeeper", "worker"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "run `turnkeeper migrate` first" in ended.stderr


def test_a_newer_schema_has_all_that_is_needed(at, database_url):
    at("9999")
    database = Database(database_url)
    database.refuse_older_schema()
    database.dispose()
