"""The containers' health checks: `health.py http 8080` for processes that listen, `health.py worker` for workers.

A worker is recognised by its work: it renews leases and sweeps every few seconds, so its own connections to PostgreSQL
are never silent for long. A check for any worker at all would call a dead one healthy while others live.
"""

# ruff: noqa: INP001 -- a script of the image, not part of a package

import os
import sys
import urllib.error
import urllib.request
from typing import Final

import psycopg

LIMIT_SECONDS: Final = 4
"""Less than the five seconds that docker-compose.yml allows a check."""
DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the environment knows nothing of this container."""
SILENCE_SECONDS: Final = 15
"""Five missed renewals: `/readyz`, too, then reports a missing worker."""
IS_WORKING: Final = """
    select exists (
        select from pg_stat_activity
        where usename = current_user and application_name = 'turnkeeper'
          and client_addr is not distinct from inet_client_addr() and pid <> pg_backend_pid()
          and state_change > clock_timestamp() - make_interval(secs => %s))
"""


def answers(port: int) -> bool:
    """Return whether the process that listens on `port` answers."""
    try:
        with DIRECT.open(f"http://127.0.0.1:{port}/healthz", timeout=LIMIT_SECONDS) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False


def works(database_url: str) -> bool:
    """Return whether a worker at this address has talked to PostgreSQL recently."""
    try:
        with psycopg.connect(
            database_url, connect_timeout=LIMIT_SECONDS, application_name="turnkeeper-health"
        ) as db:
            row = db.execute(IS_WORKING, (SILENCE_SECONDS,)).fetchone()
    except psycopg.OperationalError:
        return False
    return bool(row and row[0])


def main(arguments: list[str]) -> int:
    """Return 0 for healthy, 1 for unhealthy, 2 for a check that does not exist."""
    match arguments:
        case ["http", port] if port.isdigit():
            return 0 if answers(int(port)) else 1
        case ["worker"]:
            return 0 if works(os.environ["DATABASE_URL"]) else 1
        case _:
            sys.stderr.write("usage: health.py http PORT | health.py worker\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
