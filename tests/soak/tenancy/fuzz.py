"""Two organizations on one pooled connection, and everything that could carry data over between them (I9).

Transactions read and write at random, end with a commit, a rollback or an error, nest savepoints and even change the
organization in between. What each statement may see is known beforehand; in the end the owner reads what was
written.
"""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.postgres.database import Database
from tests.tenants import AsOwner, Table, tables_of

MOST_STEPS = 8
DEEPEST = 3
_SWITCH = text("select set_config('turnkeeper.organization_id', :organization_id, true)")


class GivenUpError(Exception):
    """Ends a transaction or a savepoint from within."""


class Fuzz:
    """Counts what it does, by name, in `done`."""

    def __init__(
        self, database: Database, as_owner: AsOwner, organizations: list[UUID], *, seed: int
    ) -> None:
        self.done: Counter[str] = Counter()
        self._database = database
        self._as_owner = as_owner
        self._organizations = organizations
        self._chance = random.Random(seed)
        self._current: UUID | None = None
        with database.across() as db:
            self._tables = tables_of(db)
        parents = {parent for table in self._tables for parent in table.parents.values()}
        # Ids that an attacker would have to guess.
        self._ids = {
            parent: dict(list(as_owner(f"select organization_id, id from turnkeeper.{parent}")))
            for parent in parents
        }
        self._steps: list[Callable[[Connection, int], None]] = [
            self._read,
            self._read_of_the_other,
            self._update_all,
            self._update_the_others,
            self._delete_all,
            self._delete_the_others,
            self._insert_for_the_other,
            self._move_to_the_other,
            self._point_at_the_other,
            self._mark,
            self._write_own,
            self._break,
            self._switch,
            self._nest,
            self._nest,
        ]

    def run(self, operations: int) -> None:
        """Run `operations` statements, in transactions on one connection."""
        while self.done.total() < operations:
            self._current = self._chance.choice([*self._organizations, None])
            with suppress(GivenUpError, DBAPIError):
                self._transaction(self._current)

    def check_what_was_written(self) -> None:
        """Check, past row-level security, that each organization's rows hold only its own marks."""
        assert self._as_owner("select 1 from turnkeeper.idempotency_keys where fingerprint <> ''")
        foreign = self._as_owner(
            "select 'session' from turnkeeper.sessions where title <> organization_id::text"
            " union all select 'key' from turnkeeper.idempotency_keys"
            " where fingerprint not in ('', convert_to(organization_id::text, 'UTF8'))"
        )
        assert foreign == []

    def _transaction(self, organization: UUID | None) -> None:
        opened = self._database.across() if organization is None else self._database.of(organization)
        with opened as db:
            self._several(db, 0)
            if self._chance.random() < 0.2:
                raise GivenUpError

    def _several(self, db: Connection, depth: int) -> None:
        for _ in range(self._chance.randint(1, MOST_STEPS)):
            step = self._chance.choice(self._steps)
            step(db, depth)
            self.done[step.__name__] += 1

    def _table(self, verb: str) -> Table:
        return self._chance.choice([table for table in self._tables if verb in table.grants])

    def _other(self) -> UUID:
        return self._chance.choice([each for each in self._organizations if each != self._current])

    # Reads

    def _read(self, db: Connection, depth: int) -> None:
        table = self._table("SELECT")
        seen = db.execute(text(f"select distinct {table.own} from turnkeeper.{table.name}")).scalars().all()
        assert seen == ([] if self._current is None else [self._current]), (table.name, seen, self._current)

    def _read_of_the_other(self, db: Connection, depth: int) -> None:
        table = self._table("SELECT")
        statement = f"select count(*) from turnkeeper.{table.name} where {table.own} = :other"
        assert db.execute(text(statement), {"other": self._other()}).scalar_one() == 0, table.name

    def _count(self, db: Connection, table: Table) -> int:
        count: int = db.execute(text(f"select count(*) from turnkeeper.{table.name}")).scalar_one()
        return count

    # Writes that are allowed

    def _mark(self, db: Connection, depth: int) -> None:
        self._write(db, "update turnkeeper.sessions set title = :mark", mark=str(self._current))

    def _write_own(self, db: Connection, depth: int) -> None:
        self._write(
            db,
            "insert into turnkeeper.idempotency_keys (organization_id, key, fingerprint, turn_id)"
            " select organization_id, :key, convert_to(:mark, 'UTF8'), id from turnkeeper.turns",
            key=str(uuid4()),
            mark=str(self._current),
        )
        if self._current is not None:
            db.execute(
                text(
                    "delete from turnkeeper.idempotency_keys where fingerprint <> '' and key < :key and key <> 'k'"
                ),
                {"key": str(uuid4())},
            )

    def _update_all(self, db: Connection, depth: int) -> None:
        table = self._table("UPDATE")
        expected = self._count(db, table)
        changed = self._write(db, f"update turnkeeper.{table.name} set {table.own} = {table.own}")
        assert changed == expected, (table.name, changed, expected)

    def _delete_all(self, db: Connection, depth: int) -> None:
        table = self._table("DELETE")
        expected = self._count(db, table)
        with suppress(GivenUpError), db.begin_nested():
            changed = self._write(db, f"delete from turnkeeper.{table.name}")
            assert changed == expected, (table.name, changed, expected)
            raise GivenUpError  # the rows are needed

    def _write(self, db: Connection, statement: str, **parameters: str) -> int:
        """Run a statement that only an organization may run; return how many rows it wrote."""
        if self._current is None and not statement.startswith("insert"):
            self._refused(db, statement, "no organization is set", **parameters)
            return 0
        return db.execute(text(statement), parameters).rowcount

    # Writes that are not allowed

    def _update_the_others(self, db: Connection, depth: int) -> None:
        self._touch_the_others(db, self._table("UPDATE"), "update turnkeeper.{name} set {own} = {own}")

    def _delete_the_others(self, db: Connection, depth: int) -> None:
        self._touch_the_others(db, self._table("DELETE"), "delete from turnkeeper.{name}")

    def _touch_the_others(self, db: Connection, table: Table, verb: str) -> None:
        statement = verb.format(name=table.name, own=table.own) + f" where {table.own} = :other"
        if self._current is None:
            # The planner chooses whether to evaluate the check or the condition first.
            with suppress(DBAPIError), db.begin_nested():
                assert db.execute(text(statement), {"other": self._other()}).rowcount == 0
            return
        assert db.execute(text(statement), {"other": self._other()}).rowcount == 0, table.name

    def _insert_for_the_other(self, db: Connection, depth: int) -> None:
        table = self._table("INSERT")
        row = "'{}'::jsonb"
        if self._current is not None:
            row = f"(select to_jsonb(mine) from turnkeeper.{table.name} as mine limit 1)"
        self._refused(
            db,
            f"insert into turnkeeper.{table.name} select (jsonb_populate_record(null::turnkeeper.{table.name},"
            f" {row} || jsonb_build_object('{table.own}', cast(:other as text)))).*",
            "violates row-level security|no organization is set",
            other=str(self._other()),
        )

    def _move_to_the_other(self, db: Connection, depth: int) -> None:
        table = self._table("UPDATE")
        self._refused(
            db,
            f"update turnkeeper.{table.name} set {table.own} = :other",
            "violates row-level security|no organization is set",
            other=str(self._other()),
        )

    def _point_at_the_other(self, db: Connection, depth: int) -> None:
        """Refer to an existing row of another organization, as if its id had been guessed."""
        if self._current is None:
            return
        table = self._chance.choice([one for one in self._tables if one.parents and "UPDATE" in one.grants])
        column = self._chance.choice(sorted(table.parents))
        foreign = self._ids[table.parents[column]][self._other()]
        self._refused(
            db,
            f"update turnkeeper.{table.name} set {column} = :foreign",
            "violates foreign key",
            foreign=str(foreign),
        )

    def _refused(self, db: Connection, statement: str, because: str, **parameters: str) -> None:
        with pytest.raises(DBAPIError, match=because), db.begin_nested():
            db.execute(text(statement), parameters)

    # Transactions

    def _break(self, db: Connection, depth: int) -> None:
        if self._chance.random() < 0.3:
            db.execute(text("select 1 / 0"))

    def _switch(self, db: Connection, depth: int) -> None:
        """Switch the organization: the service never does this, but what is visible must follow all the same."""
        if self._chance.random() < 0.3:
            self._current = self._chance.choice(self._organizations)
            db.execute(_SWITCH, {"organization_id": str(self._current)})

    def _nest(self, db: Connection, depth: int) -> None:
        if depth == DEEPEST:
            return
        before = self._current
        try:
            with db.begin_nested() as savepoint:
                self._several(db, depth + 1)
                fate = self._chance.random()
                if fate < 0.25:
                    raise GivenUpError
                if fate < 0.5:
                    savepoint.rollback()
                    self._current = before
        except (GivenUpError, DBAPIError):
            self._current = before  # a rolled back savepoint takes its organization with it
