"""Alembic's entry: runs each migration in a transaction of its own, on the connection of `shared.postgres.migrate`."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table="schema_version",
    version_table_schema="public",
    transaction_per_migration=True,  # what one needs CONCURRENTLY goes into `op.get_context().autocommit_block()`
)
with context.begin_transaction():
    context.run_migrations()
