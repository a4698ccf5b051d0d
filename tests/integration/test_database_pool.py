"""The pool against a real PostgreSQL that ends connections."""

import pytest
from sqlalchemy import text

from shared.database import Database
from shared.errors import UnavailableError
from shared.statement import Statement

_BACKEND = Statement("select pg_backend_pid() as pid")
_SLOW = Statement("select pg_sleep(6)")
_KILL = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where pid = :pid"


@pytest.fixture
def pool(database_url):
    database = Database(database_url, pool_size=1)
    yield database
    database.dispose()


def backend_of(database):
    with database.across() as db:
        row = _BACKEND.one_or_none(db, {})
    assert row is not None
    return row.pid


def test_a_connection_is_kept_from_one_transaction_to_the_next(pool):
    assert backend_of(pool) == backend_of(pool)


def test_a_connection_that_the_server_ended_is_noticed_before_it_is_used(pool, organization, as_owner):
    dead = backend_of(pool)
    as_owner(_KILL, pid=dead)
    with pool.of(organization) as db:
        seen = db.execute(text("select current_setting('turnkeeper.organization_id')")).scalar_one()
    assert seen == str(organization)
    assert backend_of(pool) != dead


def test_a_connection_that_ends_within_a_transaction_is_unavailable_and_not_used_again(
    pool, organization, as_owner
):
    backends = []

    def end_within():
        with pool.of(organization) as db:
            row = _BACKEND.one_or_none(db, {})
            backends.append(row.pid)
            as_owner(_KILL, pid=row.pid)
            _BACKEND.one_or_none(db, {})

    with pytest.raises(UnavailableError):
        end_within()
    assert backend_of(pool) not in backends


def test_a_statement_over_its_time_is_unavailable_and_the_connection_is_kept(pool, organization):
    kept = backend_of(pool)

    def take_too_long():
        with pool.of(organization) as db:
            db.execute(text("set local statement_timeout = 50"))
            _SLOW.run(db, {})

    with pytest.raises(UnavailableError):
        take_too_long()
    assert backend_of(pool) == kept
