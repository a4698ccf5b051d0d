"""`python -m tests.soak.api`: a long run of the fuzz that each change runs for a moment."""

import argparse
import sys
from collections.abc import Sequence

from api.app import create_app
from shared.configuration.settings import load_settings
from shared.postgres.accounts import create_key, create_organization
from shared.postgres.migrate import migrate
from tests.soak.api.fuzz import Fuzz
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

EXAMPLES = 50


def main(argv: Sequence[str]) -> int:
    """Fuzz; raises on a response that the OpenAPI page does not describe."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.api", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with temporary_postgres() as postgres, temporary_redis() as redis:
        migrate(postgres.owner_url, postgres.app_url)
        organization = create_organization(postgres.owner_url, "Acme")
        keys = [create_key(postgres.owner_url, organization, role) for role in ("admin", "service")]
        keys.append(create_key(postgres.owner_url, organization, "user", user="alice"))
        app = create_app(
            "web",
            load_settings(
                {
                    "DATABASE_URL": postgres.app_url,
                    "REDIS_URL": redis.url,
                    "MCP_LLM_PROVIDER": "scripted",
                    "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
                    # No worker answers turns here, which must not be taken for a full queue.
                    "QUEUE_TIMEOUT_SECONDS": "90000",
                    "QUEUE_FULL_SECONDS": "80000",
                }
            ),
        )
        fuzz = Fuzz(app, keys, start=options.seed * 1_000_000)
        fuzz.run_for(options.minutes * 60, EXAMPLES)
        app.extensions["turnkeeper"].close()
    for (operation, status), count in sorted(fuzz.answers.items()):
        print(f"{count:>8,} {status} {operation}")  # noqa: T201
    print(f"{fuzz.answers.total():>8,} answers, all as described")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
