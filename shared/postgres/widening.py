"""Lets a column take more names than its CHECK has allowed so far, which breaks nothing of the release before."""

import re
from collections.abc import Collection

from sqlalchemy import Connection, text

_LIST = re.compile(r"'([^']*)'::text")


def widen_check(connection: Connection, table: str, column: str, names: Collection[str]) -> None:
    """Replace the CHECK of a column of text by one that allows these names, and all that it allowed before.

    The new one is validated after it was added, so that the table is locked against writing only for a moment.

    Args:
        connection: The migration's.
        table: A table of the schema `turnkeeper`.
        column: Its column; the constraint has PostgreSQL's own name, `TABLE_COLUMN_check`.
        names: Every name that is allowed from now on.

    Raises:
        ValueError: The constraint allows a name that is missing here, or is not there.
    """
    constraint = f"{table}_{column}_check"
    found = connection.execute(
        text(
            "select pg_get_constraintdef(oid) from pg_constraint"
            " where conname = :name and conrelid = cast(:table as regclass)"
        ),
        {"name": constraint, "table": f"turnkeeper.{table}"},
    ).scalar_one_or_none()
    before = set(_LIST.findall(found or ""))
    if not before or not before <= set(names):
        raise ValueError(f"{constraint} allows {sorted(before)}, and may not lose any of them")
    allowed = ", ".join(f"'{name}'" for name in sorted(names))
    connection.execute(
        text(
            f"ALTER TABLE turnkeeper.{table} DROP CONSTRAINT {constraint},"
            f" ADD CONSTRAINT {constraint} CHECK ({column} IN ({allowed})) NOT VALID"
        )
    )
    connection.execute(text(f"ALTER TABLE turnkeeper.{table} VALIDATE CONSTRAINT {constraint}"))
