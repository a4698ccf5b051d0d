"""No statement spells a status: `TRANSITIONS` and `SessionStatus` say them, so that a new one reaches all of SQL."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.turn.turns import ACTIVE, TERMINAL, SessionStatus, TurnStatus, in_sql
from tests.documents import ROOT

HOUSES = ("api", "worker", "shared", "turnkeeper")
MIGRATIONS = ROOT / "shared" / "migrations"
"""They are what they were when they ran, whatever becomes of the names."""
SPELLED = re.compile("'(" + "|".join(sorted({*TurnStatus, *SessionStatus})) + ")'")
LOOKS_LIKE_SQL = re.compile(r"\b(select|insert|update|delete|where|case|status)\b")


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string with its line; an f-string as one, with `{}` where it is filled in. Docstrings are no strings."""
    passed_over: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as docstring):
                passed_over.add(docstring)
            case ast.JoinedStr(values=parts):
                passed_over.update(part for part in parts if isinstance(part, ast.Constant))
                pieces = (part.value if isinstance(part, ast.Constant) else "{}" for part in parts)
                yield node.lineno, "".join(pieces)
            case ast.Constant(value=str() as text) if node not in passed_over:
                yield node.lineno, text


def spelled(source: str) -> Iterator[tuple[int, str]]:
    """The statuses that a module's SQL spells, each with its line."""
    for line, text in strings(ast.parse(source)):
        if LOOKS_LIKE_SQL.search(text):
            for found in SPELLED.finditer(text):
                yield line + text.count("\n", 0, found.start()), found[1]


def modules(house: str) -> list[Path]:
    return [path for path in (ROOT / house).rglob("*.py") if MIGRATIONS not in path.parents]


@pytest.mark.parametrize("house", HOUSES)
def test_no_statement_spells_a_status(house):
    found = [
        f"{path.relative_to(ROOT)}:{line}: '{status}'"
        for path in modules(house)
        for line, status in spelled(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("text('''\n select 1\n from turns where status = 'queued' ''')", [(3, "queued")]),
        ("text(f'''select {NAMES} from sessions\n where status <> 'closed' ''')", [(2, "closed")]),
        ("CONDITION = \"t.status in ('running', 'stopping')\"", [(1, "running"), (1, "stopping")]),
        ("""text(f"select 1 where status = '{TurnStatus.QUEUED.value}'")""", []),
        ("""text(f"select 1 where status in ({in_sql(ACTIVE)})")""", []),
        ('''"""Select where the status is 'queued'."""''', []),
        ("""raise ValueError("the turn is not 'queued'")""", []),
    ],
)
def test_a_spelled_status_is_found_with_its_line(source, found):
    assert list(spelled(source)) == found


def test_sets_of_statuses_are_spelled_in_the_order_of_a_turns_life():
    # By hand: PostgreSQL takes a partial index for a condition that reads like the index's own.
    assert in_sql(ACTIVE) == "'queued', 'running', 'stopping'"
    assert in_sql(TERMINAL) == "'completed', 'stopped', 'failed', 'expired'"
