"""Which migrations a database has: a process may start before its own release's, and runs on the schema before it.

What a release does with its own migration, it does once the database has that. Asking costs one statement, until then.
"""

from typing import Final
from weakref import WeakSet

from sqlalchemy import Connection, Engine, text

_MONEY: Final = text("select to_regprocedure('turnkeeper.barred_turns(integer, boolean)') is not null")
_with_money: Final["WeakSet[Engine]"] = WeakSet()


def has_money(db: Connection) -> bool:
    """Return whether the database has migration 0005: disputed figures, corrections, and prices of holds."""
    if db.engine in _with_money:
        return True
    found = bool(db.execute(_MONEY).scalar_one())
    if found:
        _with_money.add(db.engine)
    return found
