"""PostgreSQL: one pool, and transactions that belong to one organization.

The organization is set inside each transaction and nowhere else, so a pooled connection carries nothing over, and code
that forgets to set it reads nothing (I9).
"""

import logging
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from shared.errors import NotServingError, SettingsError, UnavailableError
from shared.postgres.refusals import refusal_by, refusal_of, sqlstate_of
from shared.postgres.schema import refuse_older_schema

_log = logging.getLogger("turnkeeper.database")

_CONNECT_SECONDS: Final = 3
REQUEST_WAIT_SECONDS: Final = 2.0
"""How long a request waits for a connection before it is answered 503: longer waits only queue up."""
# A host that vanishes sends nothing: no limit of the server ends the wait, and the kernel's own limits are a quarter of
# an hour for what was sent and two hours for what is awaited.
LIVENESS: Final[Mapping[str, int]] = MappingProxyType(
    {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
)
"""libpq's own names: seconds, seconds, probes and milliseconds."""
_RECYCLE_SECONDS: Final = 300
_TRUSTED_SECONDS: Final = 5.0
"""A connection that was used this recently and has nothing to read is alive; any other is asked first."""
_FIRST_PLANS_LAST: Final = 16
"""Uses of a new connection after which its plans are dropped for the first time."""
SESSION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "statement_timeout": "5000",
        "lock_timeout": "3000",
        "idle_in_transaction_session_timeout": "15000",
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "search_path": "pg_catalog",
        "row_security": "on",
        "standard_conforming_strings": "on",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "array_nulls": "on",
        "client_encoding": "UTF8",
        "idle_session_timeout": "0",
        "transform_null_equals": "off",
        "jit": "off",
    }
)
"""All that our statements need of a session: the limits in milliseconds, and otherwise PostgreSQL's defaults but for
`search_path` and `jit`. A role, a database and a server may have other values (`ALTER ROLE ... SET`); what a connection
asks for comes before them.
"""

_FOUND: Final = text("select name, setting from pg_catalog.pg_settings where name = any(:names)")

_ROLE: Final = text(
    """
    select r.rolsuper, r.rolbypassrls,
           exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                   where n.nspname = 'turnkeeper' and pg_has_role(current_user, c.relowner, 'member')) as owns,
           to_regclass('turnkeeper.turns') is not null as migrated
    from pg_roles r where r.rolname = current_user
    """
)


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """A pool's state: its maximum, connections open, connections in use, and waits that were given up."""

    size: int
    opened: int
    in_use: int
    timeouts: int


class Database:
    """A pool of connections to PostgreSQL.

    Args:
        url: `postgresql://…`; the driver is psycopg.
        pool_size: Most connections at once.
        prepare: Whether statements are prepared on the server after their first uses.
        pool_wait_seconds: Longest wait for a free connection.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 4,
        prepare: bool = True,
        pool_wait_seconds: float = REQUEST_WAIT_SECONDS,
    ) -> None:
        self._trust = _Trust()
        self._engine = _engine(
            url, self._trust, pool_size=pool_size, prepare=prepare, pool_wait_seconds=pool_wait_seconds
        )
        self._pool_size = pool_size
        self._timeouts = 0

    @contextmanager
    def of(self, organization_id: UUID) -> Iterator[Connection]:
        """Open a transaction that sees and writes one organization's rows.

        Raises:
            UnavailableError: PostgreSQL cannot be reached, is shutting down or has no connection free.
        """
        with self.across() as db:
            _begin_for(db, organization_id)
            yield db

    @contextmanager
    def across(self) -> Iterator[Connection]:
        """Open a transaction without an organization, for the functions that work across organizations.

        Raises:
            UnavailableError: As for `of`.
        """
        with self._told_apart(), self._connect() as db, self._distrusting(db), db.begin():
            yield db

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Open a connection on which each `Statement` is a transaction of its own, without an organization.

        Raises:
            UnavailableError: As for `of`.
        """
        with self._told_apart(), self._connect() as db, self._distrusting(db):
            raw: Any = db.connection.driver_connection
            raw.autocommit = True
            try:
                yield db
            finally:
                if not raw.closed:
                    raw.autocommit = False

    def _connect(self) -> Connection:
        """Take a connection from the pool.

        Raises:
            UnavailableError: What it opened in place of a dead one was dead as well, and it gave up.
        """
        try:
            return self._engine.connect()
        except InvalidRequestError as exc:  # its only word for this, and none of the driver's errors
            raise UnavailableError("the database connection was lost") from exc

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Tell a database that is down from a statement that is wrong."""
        try:
            yield
        except PoolTimeoutError as exc:
            self._timeouts += 1
            raise UnavailableError("no database connection became free in time") from exc
        except (DBAPIError, psycopg.Error) as exc:
            if (refusal := refusal_of(exc)) is not None:
                raise refusal from exc
            if isinstance(exc, DBAPIError) and exc.connection_invalidated:
                raise UnavailableError("the database connection was lost") from exc
            raise

    @contextmanager
    def _distrusting(self, db: Connection) -> Iterator[None]:
        """Drop the connection if the server says that it does not serve us, and all that were opened before.

        They lead to the same server, or are in the same state. Each would otherwise fail one request, and one that was
        opened while the server was read-only stays read-only.
        """
        try:
            yield
        except (UnavailableError, DBAPIError, psycopg.Error) as exc:
            refusal = exc if isinstance(exc, UnavailableError) else refusal_of(exc)
            if isinstance(refusal, NotServingError) and not db.invalidated:
                self._trust.since = monotonic()
                db.invalidate()
            raise

    def refuse_powerful_role(self) -> None:
        """Refuse to run as a role that is exempt from row-level security.

        Raises:
            SettingsError: The role is a superuser, bypasses row-level security or owns the tables, or
                the schema is missing.
            UnavailableError: PostgreSQL cannot be reached.
        """
        with self.across() as db:
            row = db.execute(_ROLE).one()
        problems = [
            f"DATABASE_URL's role {fact}: name a plain role, `turnkeeper migrate` makes one"
            for wrong, fact in (
                (row.rolsuper, "is a superuser"),
                (row.rolbypassrls, "bypasses row-level security"),
                (row.owns and not row.rolsuper, "owns the tables"),
            )
            if wrong
        ]
        if not row.migrated:
            problems.append("the database has no tables yet: run `turnkeeper migrate`")
        if problems:
            raise SettingsError(problems)

    def refuse_older_schema(self) -> None:
        """Refuse to run before this release's migrations have; raises as `schema.refuse_older_schema`."""
        with self.across() as db:
            refuse_older_schema(db)

    def tell_session(self) -> None:
        """Log each parameter of a session that is not as our statements need it.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        with self.across() as db:
            differences = session_differences(db)
        for name, found in differences.items():
            _log.warning(
                "a session has %s = %r instead of %r: set it in the pooler's connect_query, or in DATABASE_URL",
                name,
                found,
                SESSION[name],
            )

    def usage(self) -> PoolUsage:
        """Return the pool's current state."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        in_use = pool.checkedout()
        return PoolUsage(self._pool_size, in_use + pool.checkedin(), in_use, self._timeouts)

    def dispose(self) -> None:
        """Close all connections that are not in use."""
        self._engine.dispose()


def engine_for(url: str, *, connect: Mapping[str, Any] | None = None, **options: Any) -> Engine:
    """Describe connections that notice a vanished host; nothing connects before they are used.

    Args:
        url: `postgresql://…`; connection parameters in its query are honoured.
        connect: More of libpq's parameters.
        options: SQLAlchemy's own, for the engine.
    """
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    asked = {**LIVENESS, **(connect or {})}
    if "options" in asked and "options" in parsed.query:
        # The URL's come last: what an operator writes there is meant.
        theirs = parsed.query["options"]
        asked["options"] = f"{asked['options']} {theirs if isinstance(theirs, str) else ' '.join(theirs)}"
        parsed = parsed.difference_update_query(["options"])
    return create_engine(
        parsed,
        connect_args={key: value for key, value in asked.items() if key not in parsed.query},
        **options,
    )


def session_options(session: Mapping[str, str]) -> str:
    """Return parameters of a session as libpq's `options`, in which a space is escaped (its section 34.1.2)."""
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in session.items())


def session_differences(db: Connection) -> Mapping[str, str]:
    """Return the parameters of a connection that are not as `SESSION` asks, as a pooler between may have them."""
    found = {row.name: row.setting for row in db.execute(_FOUND, {"names": list(SESSION)})}
    return {name: found[name] for name, wanted in SESSION.items() if found.get(name, wanted) != wanted}


def _begin_for(db: Connection, organization_id: UUID) -> None:
    """Begin the transaction and bind it to an organization, in one round trip instead of two."""
    raw: Any = db.connection.driver_connection
    bind = f"BEGIN; SELECT set_config('turnkeeper.organization_id', '{UUID(str(organization_id))}', true)"
    result = raw.pgconn.exec_(bind.encode())
    if result.status != ExecStatus.TUPLES_OK:
        refusal = refusal_by(sqlstate_of(result))
        if not isinstance(refusal, NotServingError):  # which drops it as well
            db.invalidate()
        raise refusal or UnavailableError("the database connection was lost")


@dataclass(slots=True)
class _Trust:
    """From when on connections of a pool are trusted, on the monotonic clock."""

    since: float = 0.0


def _engine(url: str, trust: _Trust, *, pool_size: int, prepare: bool, pool_wait_seconds: float) -> Engine:
    engine = engine_for(
        url,
        connect={
            "options": session_options(SESSION),
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "turnkeeper",
        },
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_seconds,
        pool_recycle=_RECYCLE_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,  # an error's text would repeat what a message says (I10)
    )

    @event.listens_for(engine, "connect")
    def _prepared_statements(connection: Any, record: Any) -> None:
        connection.prepare_threshold = 2 if prepare else None
        record.info["opened_at"] = monotonic()

    @event.listens_for(engine, "checkout")
    def _refuse_distrusted(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["opened_at"] <= trust.since:
            raise DisconnectionError  # the pool opens another

    event.listen(engine, "checkin", _remember_use)
    event.listen(engine, "checkout", _refuse_dead)
    event.listen(engine, "checkout", _plan_anew)
    return engine


def _remember_use(_connection: Any, record: Any) -> None:
    record.info["used_at"] = monotonic()


def _refuse_dead(connection: Any, record: Any, _proxy: Any) -> None:
    """Check a connection before it is used again, without a round trip unless it was idle for long.

    Raises:
        DisconnectionError: It is dead; the pool opens another.
    """
    trusted_until = record.info.get("used_at", monotonic()) + _TRUSTED_SECONDS
    if monotonic() < trusted_until and not _has_news(connection):
        return
    # An empty query: the least that a server answers.
    if connection.pgconn.exec_(b"").status != ExecStatus.EMPTY_QUERY:
        raise DisconnectionError


def _plan_anew(connection: Any, record: Any, _proxy: Any) -> None:
    """Drop the plans that PostgreSQL keeps for a connection, each time its number of uses has doubled.

    A plan is made for the tables as they are at that moment. For small ones all indexes look alike, and a plan that
    reads every row of an organization stays until statistics are gathered, a minute later at best: too late for a first
    crowd, and for a database that was restored.

    Raises:
        DisconnectionError: The connection is dead; the pool opens another.
    """
    uses = record.info["uses"] = record.info.get("uses", 0) + 1
    if uses >= record.info.setdefault("plans_last_until", _FIRST_PLANS_LAST):
        record.info["plans_last_until"] = 2 * uses
        if connection.pgconn.exec_(b"DISCARD PLANS").status != ExecStatus.COMMAND_OK:
            raise DisconnectionError


def _has_news(connection: Any) -> bool:
    """Return whether the idle server has sent something: usually that it is closing the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
