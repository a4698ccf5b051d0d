"""The worker's classes of rows match PostgreSQL: which columns there are, and which may be null."""

import types
import typing
from dataclasses import fields

import pytest

from shared.money.usage import COLUMNS
from worker.recovery.leases import _COUNTS
from worker.recovery.left_behind import LeftBehindTurn
from worker.turn.claim import ClaimedTurn
from worker.turn.moved import ExpiredTurn, SettledTurn


def names_of(kind):
    return [field.name for field in fields(kind)]


def nullable_in(kind):
    hints = typing.get_type_hints(kind)
    return {name for name, hint in hints.items() if types.NoneType in typing.get_args(hint)}


@pytest.fixture
def nullable(as_owner):
    """Returns a table's columns, and whether each may be null."""

    def read(table):
        rows = as_owner(
            "select column_name, is_nullable = 'YES' as may_be_null from information_schema.columns"
            " where table_schema = 'turnkeeper' and table_name = :table",
            table=table,
        )
        return {row.column_name: row.may_be_null for row in rows}

    return read


@pytest.fixture
def arguments(as_owner):
    """Returns the names of a function's arguments, or of the columns that it returns."""

    def read(function, mode):
        rows = as_owner(
            "select a.name from pg_proc as p,"
            " unnest(p.proargnames, p.proargmodes) with ordinality as a (name, mode, at)"
            " where p.pronamespace = 'turnkeeper'::regnamespace and p.proname = :function"
            " and coalesce(a.mode, 'i') = :mode order by a.at",
            function=function,
            mode=mode,
        )
        return [row.name for row in rows]

    return read


def test_a_claimed_turn_has_the_columns_that_a_claim_reads(arguments):
    assert names_of(ClaimedTurn) == arguments("read_claimed", "t") + arguments("money_of_claim", "t")


def test_a_checkpoint_is_saved_with_every_class_of_tokens(arguments):
    assert set(_COUNTS) == set(COLUMNS)
    assert set(_COUNTS.values()) <= set(arguments("save_checkpoints", "i"))


@pytest.mark.parametrize(
    ("kind", "of_elsewhere"),
    [
        # What is computed, and what the statement takes from the checkpoint.
        (ClaimedTurn, set()),
        (SettledTurn, set()),
        (ExpiredTurn, set()),
        (LeftBehindTurn, {*COLUMNS, "usage_source"}),
    ],
)
def test_a_column_of_a_turn_may_be_none_where_it_may_be_null(nullable, kind, of_elsewhere):
    of_turn = nullable("turns")
    shared = set(names_of(kind)) & set(of_turn) - of_elsewhere
    assert {name for name in shared if of_turn[name]} == nullable_in(kind) & shared


def test_what_is_left_of_a_turn_without_a_checkpoint_is_none(nullable):
    of_checkpoint = {"checkpoint_attempt", "checkpoint_seq", "called", "content", "reasoning", "usage_source"}
    of_checkpoint |= {"reported"}
    assert {*of_checkpoint, *COLUMNS, "stop_reason", "title", "hold_price"} == nullable_in(LeftBehindTurn)
