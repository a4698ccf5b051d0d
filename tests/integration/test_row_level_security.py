"""Row-level security as the application's role meets it (I9)."""

import json

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shared.postgres.database import Database
from tests.refused import refused
from tests.soak.tenancy.fuzz import Fuzz
from tests.tenants import TENANT_TABLES, two_organizations

NO_UPDATE = {"organizations", "ledger", "holds"}
NO_DELETE = {"organizations", "api_keys", "sessions", "turns", "spend", "ledger"}


@pytest.fixture
def two(owner_url, as_owner):
    """Two organizations with a row in every table."""
    return two_organizations(owner_url, as_owner)


def own(table):
    return "id" if table == "organizations" else "organization_id"


def test_every_table_of_an_organization_is_protected_whatever_is_done_to_it(as_owner):
    tables = as_owner(
        "select c.relname, c.relrowsecurity, c.relforcerowsecurity,"
        " exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id') as is_tenant"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'turnkeeper' and c.relkind = 'r'"
    )
    assert {row.relname for row in tables if row.is_tenant} | {"organizations"} == TENANT_TABLES
    for row in tables:
        if row.relname in TENANT_TABLES:
            assert row.relrowsecurity, row.relname
            assert row.relforcerowsecurity, row.relname
    policies = as_owner(
        "select tablename, cmd from pg_policies where schemaname = 'turnkeeper' and 'turnkeeper_app' = any(roles)"
    )
    assert {(row.tablename, row.cmd) for row in policies} == {
        (table, verb) for table in TENANT_TABLES for verb in ("SELECT", "INSERT", "UPDATE", "DELETE")
    }


def test_every_unique_key_and_foreign_key_of_a_tenants_table_begins_with_the_organization(as_owner):
    indexes = as_owner(
        "select c.relname as table, i.relname as index, a.attname as first"
        " from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = x.indkey[0]"
        " where n.nspname = 'turnkeeper' and x.indisunique"
    )
    # Ids of 122 random bits and digests of 256: nobody can choose one to find out about it.
    oracles = {"api_keys_secret", "turns_by_id"}
    for row in indexes:
        if row.table in TENANT_TABLES and row.index not in oracles:
            assert row.first == own(row.table), row.index
    keys = as_owner(
        "select c.conname, c.conrelid::regclass::text as table, a.attname as first"
        " from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]"
        " where c.contype = 'f' and c.connamespace = 'turnkeeper'::regnamespace"
    )
    assert keys
    assert all(row.first == "organization_id" for row in keys)


def test_every_foreign_key_within_an_organization_names_the_organization_on_both_sides(as_owner):
    keys = as_owner(
        "select c.conname, c.confrelid::regclass::text as parent, cardinality(c.conkey) as columns, a.attname as first"
        " from pg_constraint c join pg_attribute a on a.attrelid = c.confrelid and a.attnum = c.confkey[1]"
        " where c.contype = 'f' and c.connamespace = 'turnkeeper'::regnamespace"
    )
    assert keys
    for row in keys:
        if row.parent == "turnkeeper.organizations":
            assert (row.columns, row.first) == (1, "id"), row.conname
        else:
            assert row.columns == 2, row.conname
            assert row.first == "organization_id", row.conname


def test_the_application_may_select_insert_update_and_delete_and_nothing_else(as_owner):
    granted = as_owner(
        "select c.relname, c.relkind, a.privilege_type, pg_get_userbyid(c.relowner) as owner"
        " from pg_class c, lateral aclexplode(c.relacl) a"
        " where c.relnamespace = 'turnkeeper'::regnamespace"
        " and pg_get_userbyid(a.grantee) in ('turnkeeper_app', 'turnkeeper_across')"
    )
    assert granted
    assert {row.privilege_type for row in granted} <= {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert not {row.owner for row in granted} & {"turnkeeper_app", "turnkeeper_across"}
    for_everyone = as_owner(
        "select c.relname from pg_class c, lateral aclexplode(c.relacl) a"
        " where c.relnamespace = 'turnkeeper'::regnamespace and a.grantee = 0"
    )
    assert for_everyone == []


def test_of_an_organization_the_application_may_change_its_limits_and_nothing_else(as_owner):
    granted = as_owner(
        "select a.attrelid::regclass::text as table, a.attname, p.privilege_type from pg_attribute a"
        " join pg_class c on c.oid = a.attrelid, lateral aclexplode(a.attacl) p"
        " where c.relnamespace = 'turnkeeper'::regnamespace"
    )
    assert {(row.table, row.privilege_type) for row in granted} == {("turnkeeper.organizations", "UPDATE")}
    assert {row.attname for row in granted} == {
        "ai_enabled",
        "daily_usd",
        "monthly_usd",
        "max_turns_per_session",
        "turns_per_minute_per_user",
        "turns_per_hour",
        "max_concurrent_turns",
    }


def test_no_view_looks_past_row_level_security(as_owner):
    """A view reads as its owner unless declared otherwise, a materialized view always."""
    views = as_owner(
        "select c.relname, c.relkind, c.reloptions from pg_class c"
        " where c.relnamespace = 'turnkeeper'::regnamespace and c.relkind in ('v', 'm')"
    )
    assert all(row.relkind == "v" and "security_invoker=true" in (row.reloptions or []) for row in views)


def test_every_table_has_a_row_of_each_organization_in_these_tests(as_owner, two):
    for table in TENANT_TABLES:
        seen = as_owner(f"select distinct {own(table)} from turnkeeper.{table}")
        assert {row[0] for row in seen} == set(two), table


def test_nothing_is_seen_without_an_organization(database, two):
    with database.across() as db:
        for table in TENANT_TABLES:
            assert db.execute(text(f"select count(*) from turnkeeper.{table}")).scalar_one() == 0, table


def test_only_the_organizations_own_rows_are_seen(database, two):
    for organization in two:
        with database.of(organization) as db:
            for table in TENANT_TABLES:
                found = (
                    db.execute(text(f"select distinct {own(table)} from turnkeeper.{table}")).scalars().all()
                )
                assert found == [organization], table


def test_writing_without_an_organization_raises(database, two):
    for table in sorted(TENANT_TABLES - NO_UPDATE):
        column = "role" if table in {"api_keys", "messages"} else own(table)
        with (
            refused(r"no organization|permission denied"),
            database.across() as db,
        ):
            db.execute(text(f"update turnkeeper.{table} set {column} = {column}"))


def test_no_row_of_another_organization_is_updated_or_deleted(database, two, as_owner):
    mine, theirs = two
    for table in sorted(TENANT_TABLES - NO_UPDATE):
        with database.of(mine) as db:
            changed = db.execute(
                text(
                    f"update turnkeeper.{table} set {own(table)} = {own(table)} where {own(table)} = :theirs"
                ),
                {"theirs": theirs},
            )
            assert changed.rowcount == 0, table
    for table in sorted(TENANT_TABLES - NO_DELETE):
        with database.of(mine) as db:
            gone = db.execute(
                text(f"delete from turnkeeper.{table} where {own(table)} = :theirs"), {"theirs": theirs}
            )
            assert gone.rowcount == 0, table
        assert as_owner(f"select 1 from turnkeeper.{table} where {own(table)} = :theirs", theirs=theirs)


def test_no_row_is_moved_or_written_into_another_organization(database, two):
    mine, theirs = two
    for table in sorted(TENANT_TABLES - NO_UPDATE):
        with (
            refused(r"row-level security|permission denied"),
            database.of(mine) as db,
        ):
            db.execute(text(f"update turnkeeper.{table} set {own(table)} = :theirs"), {"theirs": theirs})
    with refused("row-level security"), database.of(mine) as db:
        db.execute(
            text(
                "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns)"
                " values (:theirs, gen_random_uuid(), 'eve', 5)"
            ),
            {"theirs": theirs},
        )


def test_a_row_cannot_point_at_another_organizations_parent(database, two, as_owner):
    mine, theirs = two
    ((their_session,),) = as_owner("select id from turnkeeper.sessions where organization_id = :o", o=theirs)
    with pytest.raises(IntegrityError), database.of(mine) as db:
        db.execute(
            text(
                "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
                " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq) values (:mine,"
                " gen_random_uuid(), :session, 9, 'eve', 'queued', 'restart', gen_random_uuid(), gen_random_uuid(),"
                " 10, 10, 1)"
            ),
            {"mine": mine, "session": their_session},
        )


def test_the_application_cannot_truncate_or_rewrite_the_ledger(database, two):
    for statement in (
        *(f"truncate turnkeeper.{table}" for table in TENANT_TABLES),
        "update turnkeeper.ledger set cost_usd = 0",
        "delete from turnkeeper.ledger",
        "update turnkeeper.organizations set weight = 2",
        "alter table turnkeeper.sessions disable row level security",
        "set role turnkeeper_across",
        "set session authorization postgres",
    ):
        with (
            refused(r"permission denied|must be owner"),
            database.of(two[0]) as db,
        ):
            db.execute(text(statement))


def test_functions_across_organizations_have_a_fixed_path_and_are_not_for_everyone(as_owner):
    functions = as_owner(
        "select p.proname, p.proconfig, pg_get_userbyid(p.proowner) as owner, p.proacl::text as acl"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'turnkeeper' and p.prosecdef"
    )
    assert functions
    for row in functions:
        assert row.owner == "turnkeeper_across", row.proname
        assert any(setting.startswith("search_path=pg_catalog") for setting in row.proconfig), row.proname
        assert "{=X" not in row.acl, row.proname
        assert ",=X" not in row.acl, row.proname
    ((can_login, is_super, bypasses),) = as_owner(
        "select rolcanlogin, rolsuper, rolbypassrls from pg_roles where rolname = 'turnkeeper_across'"
    )
    assert (can_login, is_super, bypasses) == (False, False, False)


def test_a_pooled_connection_carries_no_organization_over(database_url, as_owner, two):
    """Random commits, rollbacks, errors, savepoints and switches on one connection: no foreign row, ever."""
    database = Database(database_url, pool_size=1)
    fuzz = Fuzz(database, as_owner, two, seed=7)
    fuzz.run(4_000)
    fuzz.check_what_was_written()
    assert min(fuzz.done.values()) > 50, fuzz.done
    database.dispose()


def test_an_errors_text_does_not_repeat_what_was_written(database, two):  # I10
    with pytest.raises(IntegrityError) as caught, database.of(two[0]) as db:
        db.execute(
            text(
                "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns, metadata)"
                " values (:o, gen_random_uuid(), :user, -1, cast(:metadata as jsonb))"
            ),
            {"o": two[0], "user": "ada", "metadata": json.dumps({"diary": "dear"})},
        )
    assert "parameters hidden" in str(caught.value)
