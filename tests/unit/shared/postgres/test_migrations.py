"""Migrations expand: what a release removes, renames or demands, the release before it still uses during a deploy."""

import re
from pathlib import Path

import pytest

from shared.postgres.migrate import SCRIPTS

ROOT = Path(__file__).parents[4]
FIRST = "0001"
MIGRATIONS = sorted(
    path
    for path in (SCRIPTS / "versions").iterdir()
    if path.suffix in {".py", ".sql"} and FIRST not in path.name
)
COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/|^\s*#[^\n]*", re.MULTILINE | re.DOTALL)
CONTRACTS = re.compile(r'^contracts = "([^"]+)"$', re.MULTILINE)
FORBIDDEN = {
    "drops what may be in use": r"\bdrop\s+(?!index\b|default\b|not\s+null\b)\w+|\bop\.drop_(?!index\b)\w+",
    "renames": r"\brename\b|\bop\.rename_\w+|\bnew_(?:column|table)_name\b",
    "changes a column's type": r"\balter\s+(?:column\s+)?\w+\s+(?:set\s+data\s+)?type\b|\btype_=",
    "demands a value": r"\bset\s+not\s+null\b|\bnullable=False\b",
    "takes a default away": r"\bdrop\s+default\b",
    "removes rows": r"\btruncate\b|\bdelete\s+from\b",
    "takes rights away": r"\brevoke\b",
    "forbids what was allowed": r"\badd\s+(?:constraint|check|unique|primary|foreign)\b|\bcreate\s+unique\s+index\b",
}
"""What a release before may stumble over, by how it is written: the words of SQL, or Alembic's operations."""
ADDED = re.compile(r"\badd\s+column\b(?P<rest>[^;,)\"]*)", re.IGNORECASE)


OWN_FUNCTION = re.compile(
    r"\brevoke\s+all\s+on\s+function\s+(?P<name>[\w.]+)\s*\([^)]*\)\s+from\s+public\b", re.IGNORECASE
)
OWN_GRANT = re.compile(
    r"\bgrant\s+create\s+on\s+schema\s+turnkeeper\s+to\s+turnkeeper_across\b(?P<between>.*?)"
    r"\brevoke\s+create\s+on\s+schema\s+turnkeeper\s+from\s+turnkeeper_across\b",
    re.IGNORECASE | re.DOTALL,
)
FUNCTION_BODY = re.compile(
    r"(?P<head>\bcreate\s+(?:or\s+replace\s+)?function\b[^$]*)\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
    re.IGNORECASE | re.DOTALL,
)
"""What a function does, it does when it is called; replacing one removes nothing."""


WIDENED = re.compile(
    r"\bdrop\s+constraint\s+(?P<name>\w+)\s*,\s*add\s+constraint\s+(?P=name)\s+"
    r"(?:check\s*\([^;]*?\bor\b[^;]*?\)|check\s*\(\w+\s+in\s*\([^)]*\)\)|unique\s*\([^)]*\))(?=\s*[,;])",
    re.IGNORECASE,
)
"""One statement that puts another rule in a rule's place, which admits more: a word or a case more, or rows that differ
in a column more. What it admitted before, `tests/integration/test_released_schemas.py` migrates.
"""


def without_its_own(plain: str) -> str:
    """Leave out the rights that a migration takes back from what it made itself, which no release before has used.

    A function that works across organizations must be nobody's but the application's, and is handed to its owner while
    that one may create in the schema.
    """

    def left_out(found: re.Match[str]) -> str:
        is_new = re.search(rf"\bcreate\s+function\s+{re.escape(found['name'])}\s*\(", plain, re.IGNORECASE)
        return "" if is_new else found[0]

    return OWN_FUNCTION.sub(left_out, OWN_GRANT.sub(lambda found: found["between"], plain))


def complaints(text: str) -> list[str]:
    """Return what a release before may stumble over; nothing where the migration says since when nobody does."""
    plain = WIDENED.sub("", without_its_own(FUNCTION_BODY.sub(r"\g<head>", COMMENTS.sub("", text))))
    found = [what for what, pattern in FORBIDDEN.items() if re.search(pattern, plain, re.IGNORECASE)]
    for column in ADDED.finditer(plain):
        is_demanded = re.search(r"\bnot\s+null\b", column["rest"], re.IGNORECASE)
        if is_demanded and not re.search(r"\bdefault\b|\bgenerated\b", column["rest"], re.IGNORECASE):
            found.append("adds a column that old statements give no value")
    return found


def releases() -> list[str]:
    """Return the versions of the changelog, the newest first."""
    return re.findall(r"^## (\d+\.\d+\.\d+) - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def wrong_with(text: str, released: list[str]) -> list[str]:
    """Return the complaints that stand: a contraction names the last release that used what goes."""
    contracts = CONTRACTS.search(text)
    if contracts is None:
        return complaints(text)
    # Not the newest: during the deploy its processes run beside the new ones.
    return [] if contracts[1] in released[1:] else [f"{contracts[1]} may still run, or was never released"]


def test_migrations_add_and_take_nothing_that_the_release_before_uses():
    released = releases()
    assert {
        path.name: wrong for path in MIGRATIONS if (wrong := wrong_with(path.read_text(), released))
    } == {}


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE turnkeeper.turns ADD COLUMN region text",
        "alter table turnkeeper.turns add column region text not null default '', add column more bigint",
        "alter table turnkeeper.turns alter column region drop not null",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_region ON turnkeeper.turns (region)",
        "DROP INDEX CONCURRENTLY IF EXISTS turnkeeper.by_region",
        "CREATE OR REPLACE FUNCTION turnkeeper.region() RETURNS text LANGUAGE sql AS $$ select '' $$",
        "CREATE OR REPLACE FUNCTION turnkeeper.g() RETURNS void LANGUAGE sql AS $b$ DELETE FROM turnkeeper.holds $b$",
        "CREATE TABLE turnkeeper.regions (id uuid PRIMARY KEY, name text NOT NULL) -- drops nothing",
        "# nothing is renamed\nop.execute('select 1')",
        (
            "alter table turnkeeper.turns drop constraint short,"
            " add constraint short check (reason in ('one', 'another', 'a third'));"
        ),
        (
            "alter table turnkeeper.ledger drop constraint paid, add constraint paid check (usd >= 0 or number > 0),"
            " drop constraint once, add constraint once unique (turn_id, attempt, number);"
        ),
        (
            "CREATE FUNCTION turnkeeper.f(uuid) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ select '' $$;"
            " REVOKE ALL ON FUNCTION turnkeeper.f(uuid) FROM PUBLIC;"
            " GRANT CREATE ON SCHEMA turnkeeper TO turnkeeper_across;"
            " ALTER FUNCTION turnkeeper.f(uuid) OWNER TO turnkeeper_across;"
            " REVOKE CREATE ON SCHEMA turnkeeper FROM turnkeeper_across;"
        ),
    ],
)
def test_what_adds_is_taken(statement: str):
    assert complaints(statement) == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE turnkeeper.turns DROP COLUMN title",
        "alter table turnkeeper.turns drop title",
        "alter table turnkeeper.turns\n  rename column title to name",
        "drop function turnkeeper.claim_next_turn(uuid)",
        "drop table if exists turnkeeper.refusals",
        "alter table turnkeeper.turns alter column attempt type bigint",
        "alter table turnkeeper.turns alter title set not null",
        "alter table turnkeeper.turns add column region text not null",
        "alter table turnkeeper.turns alter column attempt drop default",
        "alter table turnkeeper.turns add constraint short check (length(title) < 50)",
        "alter table turnkeeper.turns drop constraint short;",
        "alter table turnkeeper.turns add constraint short check (reason in ('one', 'another'));",
        "create unique index by_title on turnkeeper.turns (title)",
        "truncate turnkeeper.refusals",
        "delete from turnkeeper.refusals",
        "do $$ begin delete from turnkeeper.refusals; end $$",
        "create function turnkeeper.g() returns void language sql as $$ select 1 $$; drop table turnkeeper.refusals",
        "revoke select on turnkeeper.turns from turnkeeper_app",
        "revoke all on function turnkeeper.claim_turn(uuid) from public",
        (
            "create or replace function turnkeeper.g(uuid) returns text language sql as $$ select '' $$;"
            " revoke all on function turnkeeper.g(uuid) from public"
        ),
        "revoke create on schema turnkeeper from turnkeeper_across",
        "op.drop_column('turns', 'title', schema='turnkeeper')",
        "op.alter_column('turns', 'title', new_column_name='name')",
    ],
)
def test_what_the_release_before_stumbles_over_is_refused(statement: str):
    assert len(complaints(statement)) == 1


def test_a_contraction_names_a_release_that_no_longer_runs():
    drop = 'op.execute("alter table turnkeeper.turns drop column title")\n'
    released = ["0.3.0", "0.2.0", "0.1.0"]
    assert wrong_with(drop, released) == ["drops what may be in use"]
    assert wrong_with(f'contracts = "0.2.0"\n{drop}', released) == []
    for named in ("0.3.0", "0.4.0"):
        assert wrong_with(f'contracts = "{named}"\n{drop}', released) == [
            f"{named} may still run, or was never released"
        ]
