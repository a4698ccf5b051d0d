"""PostgreSQL: engines and transactions, statements, the schema, organizations and keys."""
