"""`python -m tests.soak.released VERSION`: write the rows that a database of this release holds.

Part of making a release: `tests/integration/test_released_schemas.py` brings them to every later schema. The whole
service runs, turns of every kind are asked for, and all tables are read while one turn runs and another waits.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql

from tests.browser.running import Service, running_service, wait_until

FOLDER = Path(__file__).parents[1] / "integration" / "released"
OVER = {"completed", "stopped", "failed", "expired"}
BUDGET = {
    "enabled": True,
    "daily_usd": "50",
    "monthly_usd": "500",
    "max_turns_per_session": 40,
    "turns_per_minute_per_user": 60,
    "turns_per_hour": None,
    "max_concurrent_turns": 20,
}
SETTLES_SECONDS = 11.0
"""An organization's limits reach every process within the lifetime of a cached key."""


class Caller:
    """One key's calls."""

    def __init__(self, service: Service, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=service.url, headers=headers, timeout=60, trust_env=False)

    def session(self, **fields: Any) -> str:
        return self.http.post("/v1/sessions", json=fields).raise_for_status().json()["id"]

    def post(self, session: str, content: str, key: str | None = None, **fields: Any) -> str:
        headers = {"Idempotency-Key": key} if key else {}
        path = f"/v1/sessions/{session}/turns"
        answer = self.http.post(path, json={"content": content, **fields}, headers=headers)
        return answer.raise_for_status().json()["id"]

    def turn(self, turn: str) -> dict[str, Any]:
        return self.http.get(f"/v1/turns/{turn}").raise_for_status().json()

    def ask(self, session: str, content: str, key: str | None = None) -> None:
        turn = self.post(session, content, key)
        wait_until(lambda: self.turn(turn)["status"] in OVER, f"the end of {content!r}")


def fill(service: Service) -> None:
    """Ask for turns of every kind; return while one is running and one is waiting behind it."""
    user, ours, admin = (
        Caller(service, key) for key in (service.user_key, service.service_key, service.admin_key)
    )
    admin.http.put("/v1/budget", json=BUDGET).raise_for_status()
    session = user.session(system_prompt="Answer briefly.")
    user.ask(session, "What is a turn?", "once")
    user.ask(session, "And a hold? [[cached=20 reasoning=5]]")
    session = user.session()
    long = user.post(session, "Talk for long. [[tokens=2000 rate=50]]")
    wait_until(lambda: user.turn(long)["last_seq"] > 5, "text to stop")
    user.http.post(f"/v1/turns/{long}/stop", json={"wait_ms": 20_000}).raise_for_status()
    user.ask(session, "Fail now. [[status=400]]")
    user.ask(session, "Break off. [[tokens=30 cut=10]]")
    closed = ours.session(user="ann")
    ours.ask(closed, "I am Ann: naïve, 日本, \U0001f600")
    ours.http.delete(f"/v1/sessions/{closed}").raise_for_status()
    key = admin.http.post("/v1/keys", json={"role": "user", "user": "ben", "name": "old"}).raise_for_status()
    admin.http.delete(f"/v1/keys/{key.json()['id']}").raise_for_status()
    session = user.session()
    admin.http.put("/v1/budget", json={**BUDGET, "turns_per_minute_per_user": 1}).raise_for_status()
    refused = f"/v1/sessions/{session}/turns"
    wait_until(lambda: user.http.post(refused, json={"content": "?"}).status_code == 429, "a refusal")
    admin.http.put("/v1/budget", json=BUDGET).raise_for_status()
    time.sleep(SETTLES_SECONDS)
    runs = user.post(session, "Still running. [[tokens=3000 rate=20]]")
    user.post(session, "Waits behind it.", multitask_strategy="enqueue")
    wait_until(lambda: user.turn(runs)["last_seq"] > 100, "a checkpoint of the turn that runs")


def rows(owner_url: str) -> list[str]:
    """Return all rows as JSON lines, moved a year into the past: no time limit may depend on the day of the test."""
    lines = []
    with psycopg.connect(owner_url) as db:
        names = db.execute("select tablename from pg_tables where schemaname = 'turnkeeper' order by 1")
        year = time.gmtime().tm_year
        for (name,) in names.fetchall():
            query = sql.SQL("select to_jsonb(t) from {} as t").format(sql.Identifier("turnkeeper", name))
            for (row,) in db.execute(query):
                line = json.dumps({"table": name, "row": row}, ensure_ascii=False, separators=(",", ":"))
                lines.append(line.replace(f'"{year}-', f'"{year - 1}-'))
    return lines


def main() -> int:
    """Write the file of a version; an existing one is never replaced."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.released", description=__doc__)
    parser.add_argument("version")
    path = FOLDER / f"{parser.parse_args().version}.jsonl"
    if path.exists():
        sys.stderr.write(f"{path.name} exists: what was released is not written again\n")
        return 1
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder)) as service:
        fill(service)
        path.write_text("".join(f"{line}\n" for line in rows(service.owner_url)))
    sys.stdout.write(f"wrote {path.name}; add the release to RELEASED in test_released_schemas.py\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
