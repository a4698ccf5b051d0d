"""SQL allows what the tables in `shared.turn.turns` allow, and what was written down by hand."""

import re

import pytest

from shared.money.usage import UsageSource
from shared.postgres.accounts import KeyRole
from shared.turn.turns import (
    ACTIVE,
    TERMINAL,
    FinishReason,
    MessageStatus,
    Recovery,
    SessionStatus,
    StopReason,
    TurnStatus,
)

# By hand as well: a check that is only derived from the table that it checks proves nothing.
ENDED = {"completed", "stopped", "failed", "expired"}
UNFINISHED = {"queued", "running", "stopping"}


@pytest.fixture
def checks(as_owner):
    rows = as_owner(
        "select c.conrelid::regclass::text as table, c.conname, pg_get_constraintdef(c.oid) as definition"
        " from pg_constraint c where c.contype = 'c' and c.connamespace = 'turnkeeper'::regnamespace"
    )
    return [(row.table.removeprefix("turnkeeper."), row.conname, row.definition) for row in rows]


def values(checks, table, column):
    """Return the values that the one CHECK on a column alone allows."""
    found = [
        set(re.findall(r"'([^']*)'::text", definition))
        for of_table, _, definition in checks
        if of_table == table and re.match(rf"CHECK \(\({column} = ANY \(ARRAY\[", definition)
    ]
    assert len(found) == 1, (table, column)
    return found[0]


@pytest.mark.parametrize(
    ("table", "column", "names"),
    [
        ("turns", "status", TurnStatus),
        ("turns", "recovery", Recovery),
        ("turns", "finish_reason", FinishReason),
        ("turns", "stop_reason", StopReason),
        ("turns", "usage_source", UsageSource),
        ("ledger", "usage_source", UsageSource),
        ("sessions", "status", SessionStatus),
        ("messages", "status", MessageStatus),
        ("api_keys", "role", KeyRole),
    ],
)
def test_a_column_takes_exactly_the_names_of_its_enumeration(checks, table, column, names):
    assert values(checks, table, column) == {name.value for name in names}


def test_the_statuses_that_end_a_turn_are_those_that_a_person_would_name(checks):
    assert {status.value for status in TERMINAL} == ENDED
    assert {status.value for status in ACTIVE} == UNFINISHED
    (definition,) = [text for _, name, text in checks if name == "turns_terminal_is_finished"]
    assert set(re.findall(r"'([^']*)'::text", definition)) == ENDED


def test_the_partial_indexes_name_the_statuses_that_they_should(as_owner):
    rows = as_owner(
        "select indexname, indexdef from pg_indexes where schemaname = 'turnkeeper' and tablename = 'turns'"
    )
    of = {row.indexname: set(re.findall(r"'([^']*)'::text", row.indexdef)) for row in rows}
    assert of["turns_one_running"] == {"running", "stopping"}
    assert of["turns_active"] == UNFINISHED
    assert of["turns_queued"] == {"queued"}
    assert of["turns_leased"] == {"running", "stopping"}


def test_a_row_that_contradicts_itself_is_refused(api, keys, as_owner):
    from sqlalchemy.exc import IntegrityError

    api.turn(keys.alice, api.session(keys.alice))
    for change in (
        "status = 'done'",
        "status = 'completed'",  # without finished_at
        "finished_at = now()",  # without a terminal status
        "status = 'stopping'",  # without saying why
        "status = 'failed', finished_at = now()",  # without an error
        "error = '{}'",  # without having failed
        "stop_reason = 'boredom'",
        "reasoning_tokens = 5",  # more than all output
        "cost_usd = -1",
    ):
        with pytest.raises(IntegrityError):
            as_owner(f"update turnkeeper.turns set {change}")
