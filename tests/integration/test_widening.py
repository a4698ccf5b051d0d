"""A CHECK is only ever widened: what a release before may write stays allowed."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shared.postgres.database import engine_for
from shared.postgres.widening import widen_check

CONSTRAINT = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'widened_kind_check'"


@pytest.fixture
def connection(owner_url):
    engine = engine_for(owner_url)
    with engine.connect() as opened, opened.begin() as transaction:
        opened.execute(
            text("create table turnkeeper.widened (kind text check (kind in ('a', 'b')), other text)")
        )
        opened.execute(text("insert into turnkeeper.widened values ('a'), (null)"))
        yield opened
        transaction.rollback()
    engine.dispose()


def test_a_wider_check_takes_the_new_name_and_every_old_one(connection):
    widen_check(connection, "widened", "kind", ["a", "b", "c"])
    connection.execute(text("insert into turnkeeper.widened values ('b'), ('c')"))
    with pytest.raises(IntegrityError), connection.begin_nested():
        connection.execute(text("insert into turnkeeper.widened values ('d')"))
    assert "NOT VALID" not in connection.execute(text(CONSTRAINT)).scalar_one()


def test_a_check_that_would_lose_a_name_is_not_replaced(connection):
    with pytest.raises(ValueError, match="may not lose any"):
        widen_check(connection, "widened", "kind", ["b", "c"])
    assert "'a'" in connection.execute(text(CONSTRAINT)).scalar_one()


def test_a_column_without_a_check_has_none_to_widen(connection):
    with pytest.raises(ValueError, match="widened_other_check"):
        widen_check(connection, "widened", "other", ["a"])
