"""The first organization's keys, and two logins made of one."""

from dataclasses import astuple
from pathlib import Path

import psycopg
import pytest

from shared.errors import SettingsError
from shared.postgres import accounts
from shared.postgres.migrate import migrate
from turnkeeper import cli
from turnkeeper.up.logins import split_roles
from turnkeeper.up.records import KEYS_NAME
from turnkeeper.up.tenant import ensure_keys


def test_keys_are_made_once_and_found_again(owner_url: str, tmp_path: Path):
    made, is_new = ensure_keys(owner_url, tmp_path / KEYS_NAME)
    assert is_new
    assert ensure_keys(owner_url, tmp_path / KEYS_NAME) == (made, False)
    rows = accounts.list_keys(owner_url, made.organization_id)
    assert sorted((row.role, row.user) for row in rows) == [
        ("admin", None),
        ("service", None),
        ("user", "demo"),
    ]
    assert len(set(astuple(made))) == 4


def test_a_revoked_key_is_replaced(owner_url: str, tmp_path: Path):
    made, _ = ensure_keys(owner_url, tmp_path / KEYS_NAME)
    accounts.revoke_key(owner_url, accounts.list_keys(owner_url, made.organization_id)[0].id)
    again, is_new = ensure_keys(owner_url, tmp_path / KEYS_NAME)
    assert is_new
    assert again.organization_id == made.organization_id
    assert again.user_key != made.user_key


def test_keys_of_another_database_do_not_count(owner_url: str, tmp_path: Path):
    made, _ = ensure_keys(owner_url, tmp_path / KEYS_NAME)
    with psycopg.connect(owner_url) as db:
        db.execute("truncate turnkeeper.organizations cascade")
    again, is_new = ensure_keys(owner_url, tmp_path / KEYS_NAME)
    assert is_new
    assert again.organization_id != made.organization_id


def test_an_owners_login_is_not_given_to_the_processes(owner_url: str, tmp_path: Path):
    app_url, owner = split_roles(owner_url, tmp_path)
    assert split_roles(owner_url, tmp_path) == (app_url, owner)
    assert owner == owner_url
    migrate(owner, app_url)
    with psycopg.connect(app_url) as db:
        powers = "select rolsuper or rolbypassrls or rolcreaterole from pg_roles where rolname = current_user"
        assert db.execute(powers).fetchone() == (False,)


def test_a_login_that_cannot_make_roles_needs_the_owners_beside_it(database_url: str, tmp_path: Path):
    with pytest.raises(SettingsError, match="DATABASE_OWNER_URL"):
        split_roles(database_url, tmp_path)


def test_a_database_that_is_away_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_OWNER_URL", "postgresql://owner:secret@127.0.0.1:1/none")
    assert cli.main(["orgs", "list"]) == 1
    said = capsys.readouterr().err
    assert "PostgreSQL, as the owner:" in said
    assert "secret" not in said
    assert "Traceback" not in said
