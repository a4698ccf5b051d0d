"""A role, a database and a URL may have other parameters of a session: what our statements need holds all the same."""

import logging
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from shared.postgres.database import SESSION, Database, session_differences
from turnkeeper.doctor.findings import Level
from turnkeeper.doctor.postgres import check_postgres

CONTRARY = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "TimeZone": "Asia/Kolkata",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "search_path": "nowhere",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "row_security": "off",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "client_encoding": "LATIN1",
    "idle_session_timeout": "1",
    "transform_null_equals": "on",
    "jit": "on",
}


@pytest.fixture(params=["role", "database"])
def contrary(request, as_owner):
    """Every parameter is set to another value, for the service's role or for the database."""
    (login,) = as_owner("select rolname from pg_roles where rolname like 'turnkeeper_login%'")[0]
    (database,) = as_owner("select current_database()")[0]
    whose = f'role "{login}"' if request.param == "role" else f'database "{database}"'
    for name, value in CONTRARY.items():
        as_owner(f"alter {whose} set {name} = '{value}'")
    yield
    as_owner(f"alter {whose} reset all")


def test_every_parameter_is_tried_with_another_value():
    assert set(CONTRARY) == set(SESSION)
    assert all(CONTRARY[name] != value for name, value in SESSION.items())


def test_a_turn_is_accepted_and_read_whatever_the_role_asks_for(keys, contrary, api):
    session_id = api.session(keys.alice)
    turn_id = api.turn(keys.alice, session_id)
    shown = api.get(f"/v1/turns/{turn_id}", keys.alice).json
    assert shown["queued_at"].endswith("Z")
    assert api.get("/v1/usage?group_by=day", keys.admin).status_code == 200


def test_what_a_connection_needs_comes_before_what_its_role_has(database_url, contrary):
    database = Database(database_url)
    with database.across() as db:
        assert session_differences(db) == {}
    database.dispose()


def test_what_a_url_asks_for_is_meant_and_said(database_url, caplog):
    database = Database(f"{database_url}?options=-c%20timezone%3DAsia/Kolkata%20-c%20lock_timeout%3D2000")
    with database.across() as db:
        assert db.execute(text("show statement_timeout")).scalar_one() == "5s"
        assert session_differences(db) == {"TimeZone": "Asia/Kolkata", "lock_timeout": "2000"}
    with caplog.at_level(logging.WARNING, "turnkeeper.database"):
        database.tell_session()
    assert [record.args[:2] for record in caplog.records] == [
        ("lock_timeout", "2000"),
        ("TimeZone", "Asia/Kolkata"),
    ]
    database.dispose()


@pytest.mark.parametrize(
    ("options", "level", "says"),
    [
        ("?options=-c%20synchronous_commit%3Don", Level.OK, "as the statements need it"),
        (
            "?options=-c%20intervalstyle%3Diso_8601",
            Level.WARNING,
            "IntervalStyle is 'iso_8601' instead of 'postgres'",
        ),
        ("?options=-c%20synchronous_commit%3Doff", Level.WARNING, "may be lost"),
    ],
)
def test_the_doctor_names_what_is_otherwise(database_url, options, level, says):
    found = {
        finding.name: finding
        for finding in check_postgres(f"{database_url}{options}", lambda: datetime.now(UTC))
    }
    assert found["postgres.session"].level == level
    assert says in found["postgres.session"].says
