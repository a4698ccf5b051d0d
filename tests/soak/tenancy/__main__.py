"""`python -m tests.soak.tenancy`: a long run of the fuzz that each change runs for a moment."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from shared.postgres.database import Database
from shared.postgres.migrate import migrate
from tests.soak.tenancy.fuzz import Fuzz
from tests.tenants import two_organizations
from turnkeeper.up.embedded import temporary_postgres


def main(argv: Sequence[str]) -> int:
    """Fuzz; raises AssertionError if anything is seen or written that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.tenancy", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    began = time.monotonic()
    with temporary_postgres() as server:
        migrate(server.owner_url, server.app_url)
        owner = create_engine(make_url(server.owner_url).set(drivername="postgresql+psycopg"))

        def as_owner(statement: str, **parameters: Any) -> list[Any]:
            with owner.begin() as db:
                found = db.execute(text(statement), parameters)
                return list(found) if found.returns_rows else []

        database = Database(server.app_url, pool_size=1)
        organizations = two_organizations(server.owner_url, as_owner)
        fuzz = Fuzz(database, as_owner, organizations, seed=options.seed)
        fuzz.run(options.operations)
        fuzz.check_what_was_written()
        database.dispose()
        owner.dispose()
    for name, count in fuzz.done.most_common():
        print(f"{count:>10,} {name.removeprefix('_').replace('_', ' ')}")  # noqa: T201
    print(f"{fuzz.done.total():>10,} in {time.monotonic() - began:.0f} s; nothing crossed")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
