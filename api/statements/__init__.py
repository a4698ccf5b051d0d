"""The api's SQL: each function is one statement or one transaction's worth, run inside `Database.of`."""
