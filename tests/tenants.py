"""Two organizations with a row in every table, and what PostgreSQL's catalogue says about the tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from shared.postgres.accounts import create_organization

AsOwner = Callable[..., list[Any]]

TENANT_TABLES = {
    "organizations",
    "api_keys",
    "sessions",
    "turns",
    "messages",
    "checkpoints",
    "ledger",
    "spend",
    "holds",
    "idempotency_keys",
    "refusals",
}
"""Written out by hand: the catalogue reveals a table that is forgotten here."""

_ROWS = """
insert into turnkeeper.api_keys (organization_id, id, role, prefix, secret_sha256)
values (:o, :s, 'admin', 'p', cast(cast(:s as text) as bytea));

insert into turnkeeper.sessions (organization_id, id, user_name, max_turns) values (:o, :s, 'ada', 5);

insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,
    user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq)
values (:o, :t, :s, 1, 'ada', 'queued', 'restart', :m, :a, 10, 10, 1);

insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content, status)
values (:o, :m, :s, :t, 2, 'user', 'secret', 'complete');

insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)
values (:o, :t, 1, 1, true, 'secret', '');

insert into turnkeeper.ledger (organization_id, id, turn_id, session_id, user_name, attempt, provider, model,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_source, price, cost_usd)
values (:o, :m, :t, :s, 'ada', 1, 'p', 'm', 1, 0, 0, 1, 0, 'provider', '{}', 1);

insert into turnkeeper.spend (organization_id, period, starts_on) values (:o, 'day', '2026-01-01');

insert into turnkeeper.holds (organization_id, turn_id, attempt, day, month, amount_usd)
values (:o, :t, 1, '2026-01-02', '2026-01-01', 1);

insert into turnkeeper.idempotency_keys (organization_id, key, fingerprint, turn_id) values (:o, 'k', '', :t);

insert into turnkeeper.refusals (organization_id, day, user_name, code, refused, last_at)
values (:o, '2026-01-02', 'ada', 'rate_limited', 1, now())
"""


def two_organizations(owner_url: str, as_owner: AsOwner) -> list[UUID]:
    """Create two organizations with a row in every table."""
    both = [create_organization(owner_url, name) for name in ("Acme", "Globex")]
    for organization in both:
        names = {"o": organization, "s": uuid4(), "t": uuid4(), "m": uuid4(), "a": uuid4()}
        for statement in _ROWS.split(";"):
            as_owner(statement, **{name: value for name, value in names.items() if f":{name}" in statement})
    return both


@dataclass(frozen=True)
class Table:
    """A table of organizations' rows, and what the application may do with it."""

    name: str
    grants: frozenset[str]
    parents: Mapping[str, str]
    """The columns that refer to a row of the same organization, each with the table that it refers to."""

    @property
    def own(self) -> str:
        """The column that says which organization a row belongs to."""
        return "id" if self.name == "organizations" else "organization_id"


def tables_of(db: Connection) -> list[Table]:
    """Return every table in the schema that holds organizations' rows, as the connection's role sees it."""
    found = db.execute(
        text(
            "select c.relname as name, array(select verb from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE'])"
            " as verb where has_table_privilege(c.oid, verb)) as grants"
            " from pg_class c where c.relnamespace = 'turnkeeper'::regnamespace and c.relkind in ('r', 'p')"
            " and (c.relname = 'organizations' or exists (select from pg_attribute a"
            "   where a.attrelid = c.oid and a.attname = 'organization_id')) order by c.relname"
        )
    ).all()
    parents = db.execute(
        text(
            "select t.relname as name, a.attname as column, p.relname as parent"
            " from pg_constraint c join pg_class t on t.oid = c.conrelid join pg_class p on p.oid = c.confrelid"
            " join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[2]"
            " where c.contype = 'f' and c.connamespace = 'turnkeeper'::regnamespace and cardinality(c.conkey) = 2"
        )
    ).all()
    return [
        Table(
            row.name,
            frozenset(row.grants),
            {parent.column: parent.parent for parent in parents if parent.name == row.name},
        )
        for row in found
    ]
