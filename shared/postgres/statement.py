"""Statements of the hot path, sent by the driver itself.

SQLAlchemy works out a textual statement's columns at each execution, which costs more than PostgreSQL needs
to run it. The statements on a turn's way go through here; all others are left to SQLAlchemy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Row, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from shared.errors import UnavailableError


class Statement:
    """One statement, for any of SQLAlchemy's transactions.

    Args:
        sql: With its parameters as `:name`.
    """

    __slots__ = ("_names", "_sql")

    def __init__(self, sql: str) -> None:
        # PostgreSQL's own placeholders: with the driver's, a long statement would be parsed at each
        # execution.
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = text(sql).compile(dialect=dialect)
        self._sql = str(compiled).encode()
        self._names: Sequence[str] = compiled.positiontup or ()

    def one_or_none(self, db: Connection, parameters: Mapping[str, Any]) -> Row[Any] | None:
        """Run it and return its first row, or None.

        Raises:
            UnavailableError: PostgreSQL cannot be reached or did not answer in time.
            psycopg.Error: PostgreSQL refused it.
        """
        return cast("Row[Any] | None", self._run(db, parameters).fetchone())

    def all(self, db: Connection, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Run it and return its rows; raises as `one_or_none`."""
        return cast("Sequence[Row[Any]]", self._run(db, parameters).fetchall())

    def run(self, db: Connection, parameters: Mapping[str, Any]) -> None:
        """Run it and ignore its result; raises as `one_or_none`."""
        self._run(db, parameters)

    def _run(self, db: Connection, parameters: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        raw = cast("psycopg.Connection[Any]", db.connection.driver_connection)
        # Named tuples: read by attribute, as SQLAlchemy's rows are.
        cursor = psycopg.RawCursor(raw, row_factory=namedtuple_row)
        try:
            return cursor.execute(self._sql, [parameters[name] for name in self._names])
        except psycopg.OperationalError as error:
            if raw.closed:
                db.invalidate(error)  # SQLAlchemy did not see it and would keep the connection
            raise UnavailableError("the database cannot be reached or did not answer in time") from error
