"""Statements whose rows are values, sent by the driver itself.

SQLAlchemy works a textual statement's columns out at each execution, which costs more than PostgreSQL needs to run
it. Here they become the fields of a class as the driver reads them; a single value is left to SQLAlchemy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import psycopg
from psycopg.rows import class_row, namedtuple_row
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from shared.postgres.refusals import refusal_of

R = TypeVar("R")


class Statement(Generic[R]):
    """One statement, for any transaction of SQLAlchemy's.

    Args:
        sql: With its parameters as `:name`.
        row: The class that a row is made into, by the names of the columns; None for one that returns none.
    """

    __slots__ = ("_factory", "_names", "_sql")

    def __init__(self, sql: str, row: type[R] | None = None) -> None:
        self._factory: Any = namedtuple_row if row is None else class_row(row)
        # PostgreSQL's own placeholders: a long statement with the driver's would be parsed at each execution.
        dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        compiled = text(sql).compile(dialect=dialect)
        self._sql = str(compiled).encode()
        self._names: Sequence[str] = compiled.positiontup or ()

    def one_or_none(self, db: Connection, parameters: Mapping[str, Any]) -> R | None:
        """Run it and return its first row, None when it has none.

        Raises:
            UnavailableError: PostgreSQL cannot be reached, did not answer in time or does not serve us now.
            psycopg.Error: The statement is wrong.
        """
        return self._run(db, parameters).fetchone()

    def one(self, db: Connection, parameters: Mapping[str, Any]) -> R:
        """Run it and return its row, of a statement that always has one; raises as `one_or_none`."""
        row = self.one_or_none(db, parameters)
        assert row is not None, "this statement always returns a row"
        return row

    def all(self, db: Connection, parameters: Mapping[str, Any]) -> Sequence[R]:
        """Run it and return its rows; raises as `one_or_none`."""
        return self._run(db, parameters).fetchall()

    def run(self, db: Connection, parameters: Mapping[str, Any]) -> None:
        """Run it and ignore its result; raises as `one_or_none`."""
        self._run(db, parameters)

    def _run(self, db: Connection, parameters: Mapping[str, Any]) -> psycopg.RawCursor[R]:
        raw = cast("psycopg.Connection[Any]", db.connection.driver_connection)
        cursor = psycopg.RawCursor(raw, row_factory=self._factory)
        try:
            return cursor.execute(self._sql, [parameters[name] for name in self._names])
        except psycopg.Error as error:
            if raw.closed:
                db.invalidate(error)  # SQLAlchemy did not see it and would keep the connection
            refusal = refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error
