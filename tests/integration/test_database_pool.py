"""The pool against a real PostgreSQL that ends connections."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import event, text
from sqlalchemy.pool import Pool

from shared.errors import ConflictError, NotServingError, UnavailableError
from shared.postgres.accounts import create_organization
from shared.postgres.database import Database, engine_for
from shared.postgres.migrate import migrate
from shared.postgres.statement import Statement
from turnkeeper.commands import ledger

_BACKEND = Statement("select pg_backend_pid() as pid")
_SLOW = Statement("select pg_sleep(6)")
_KILL = "select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity where pid = :pid"


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


@pytest.fixture
def ended_at_once(as_owner):
    """Have the server end each connection of a pool before it is used, a new one too."""

    def end(connection, _record, _proxy):
        if connection.info.parameter_status("application_name") == "turnkeeper":
            as_owner(_KILL, pid=connection.info.backend_pid)

    event.listen(Pool, "checkout", end)
    yield
    event.remove(Pool, "checkout", end)


@pytest.mark.parametrize("how", ["of", "across", "alone"])
def test_connections_that_end_before_they_are_used_are_unavailable(pool, organization, how, request):
    backend_of(pool)
    request.getfixturevalue("ended_at_once")
    with pytest.raises(UnavailableError), pool.of(organization) if how == "of" else getattr(pool, how)():
        pass
    assert pool.usage().in_use == 0


@pytest.fixture
def two(organization, owner_url):
    return organization, create_organization(owner_url, "other")


@pytest.fixture
def read_only(as_owner):
    """Make every connection read-only that is opened meanwhile, as on a server that was told to be; and back."""

    def turn(state):
        name = as_owner("select rolname from pg_roles where rolname like 'turnkeeper_login%'")[0][0]
        as_owner(f'alter role "{name}" {state}')

    yield (
        lambda: turn("set default_transaction_read_only = on"),
        lambda: turn("reset default_transaction_read_only"),
    )
    turn("reset default_transaction_read_only")


def write(database, organization):
    with database.of(organization) as db:
        db.execute(text("update turnkeeper.organizations set monthly_usd = monthly_usd"))


def write_as_the_driver(database, organization):
    with database.of(organization) as db:
        Statement("update turnkeeper.organizations set monthly_usd = monthly_usd").run(db, {})


@pytest.mark.parametrize("how", [write, write_as_the_driver])
def test_after_a_time_of_being_read_only_every_connection_serves_again(
    database_url, organization, read_only, how
):
    begin, end = read_only
    begin()
    database = Database(database_url, pool_size=4)
    with ExitStack() as open_:
        backends = {_BACKEND.one(open_.enter_context(database.across()), {}).pid for _ in range(4)}
    assert len(backends) == 4
    with pytest.raises(NotServingError, match="25006"):
        how(database, organization)
    end()
    with ExitStack() as open_:
        for _ in range(4):
            how(database, organization)
            assert _BACKEND.one(open_.enter_context(database.across()), {}).pid not in backends
    database.dispose()


def test_of_two_transactions_in_each_others_way_one_is_told_to_try_again(pool, database, two):
    update = "update turnkeeper.organizations set monthly_usd = monthly_usd where id = :id"
    met = threading.Barrier(2, timeout=30)

    def lock_both(which, first, second):
        with which.of(first) as db:
            db.execute(text(update), {"id": first})
            met.wait()
            db.execute(
                text("select set_config('turnkeeper.organization_id', :id, true)"), {"id": str(second)}
            )
            db.execute(text(update), {"id": second})

    with ThreadPoolExecutor() as threads:
        doing = [threads.submit(lock_both, pool, *two), threads.submit(lock_both, database, *reversed(two))]
        failures = [error for each in doing if (error := each.exception(30)) is not None]
    assert [type(error) for error in failures] == [ConflictError]


@pytest.fixture
def opened():
    """The sockets' options of every connection that is made meanwhile."""
    found = []

    def note(connection, _record):
        with socket.socket(fileno=socket.dup(connection.fileno())) as live:
            found.append(liveness_of(live))

    event.listen(Pool, "connect", note)
    yield found
    event.remove(Pool, "connect", note)


def liveness_of(live):
    """Whether it is probed, after how many seconds of silence, how often and how many times, and its limit in ms."""
    return (
        live.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(
            live.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        ),
    )


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has the limit in ms")
def test_every_connection_notices_within_seconds_that_the_host_has_vanished(
    pool, database_url, owner_url, monkeypatch, opened
):
    backend_of(pool)
    create_organization(owner_url, "Initech")
    migrate(owner_url, database_url)
    monkeypatch.setenv("DATABASE_OWNER_URL", owner_url)
    assert ledger.check(owner_url, None) == 0
    # The pool, the organization's command, the ledger's two, and of migrating the connection that holds its lock.
    assert opened == [(1, 5, 2, 3, 10_000)] * 5


def test_what_the_url_says_of_a_connection_holds(owner_url):
    joint = "&" if "?" in owner_url else "?"
    engine = engine_for(f"{owner_url}{joint}keepalives_idle=7&tcp_user_timeout=4000")
    with engine.connect() as db:
        said = db.connection.driver_connection.info.get_parameters()
    engine.dispose()
    assert (said["keepalives_idle"], said["tcp_user_timeout"]) == ("7", "4000")
