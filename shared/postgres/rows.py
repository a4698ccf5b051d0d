"""Rows as values: a frozen class names the columns, and what a statement returns is made into it.

A class whose fields are columns is written once; its statement lists them with `columns`, so that neither can name one
that the other does not have.
"""

from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import CursorResult

R = TypeVar("R")


def columns(kind: type[Any], of: str = "", *, without: frozenset[str] = frozenset()) -> str:
    """Return a class's fields as a list of columns for SQL.

    Args:
        kind: A dataclass.
        of: The table's alias; empty for names alone.
        without: Fields that the statement fills in another way.
    """
    prefix = f"{of}." if of else ""
    return ", ".join(f"{prefix}{field.name}" for field in fields(kind) if field.name not in without)


def one(kind: type[R], result: CursorResult[Any]) -> R:
    """Return the only row.

    Raises:
        sqlalchemy.exc.NoResultFound: There is none.
        sqlalchemy.exc.MultipleResultsFound: There are several.
    """
    return kind(**result.mappings().one())


def one_or_none(kind: type[R], result: CursorResult[Any]) -> R | None:
    """Return the only row; None when there is none.

    Raises:
        sqlalchemy.exc.MultipleResultsFound: There are several.
    """
    row = result.mappings().one_or_none()
    return None if row is None else kind(**row)


def every(kind: type[R], result: CursorResult[Any]) -> list[R]:
    """Return all rows, in the statement's order."""
    return [kind(**row) for row in result.mappings()]
