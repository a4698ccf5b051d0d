"""The api's SQL: each function runs one statement, or those of one transaction, inside `Database.of`."""
