"""What turns cost, as an admin reads it from a service that ran them."""

import csv
import io
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from tests.e2e.conftest import Service
from tests.e2e.protocol_client import Api

CLASSES = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def test_usage_ledger_and_table_say_what_the_turns_said(stack: Service, api: Api):
    user = f"costs-{uuid4()}"
    session = api.session(user=user)
    turns = [api.ask("[[tokens=40]] one", session), api.ask("[[tokens=3]] two", session)]
    long = api.turn(session, "[[tokens=100000 rate=50]] three")
    api.await_text(long)
    turns.append(api.stopped(long))
    assert turns[-1]["status"] == "stopped"
    expected = {turn["id"]: (turn["usage"], turn["usage_source"], turn["cost_usd"]) for turn in turns}

    admin = stack.api("admin")
    rows = admin.expect(200, "GET", "/v1/ledger", params={"user": user})["data"]
    assert {row["turn_id"]: (row["usage"], row["usage_source"], row["cost_usd"]) for row in rows} == expected
    assert admin.expect(200, "GET", "/v1/ledger", params={"session_id": session})["data"] == rows

    answer = admin.call("GET", "/v1/ledger", params={"user": user}, headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.headers["Transfer-Encoding"]) == (200, "chunked")
    table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert [{name: int(row[name]) for name in CLASSES} for row in table] == [row["usage"] for row in rows]

    by_user = admin.expect(200, "GET", "/v1/usage", params={"group_by": "user", "limit": 100})["data"]
    (used,) = (row for row in by_user if row["group"] == user)
    assert Decimal(used["cost_usd"]) == sum(Decimal(turn["cost_usd"]) for turn in turns) > 0
    assert (used["attempts"], used["turns"]) == (3, 3)
    assert used["usage"] == api.expect(200, "GET", f"/v1/sessions/{session}")["usage"]

    budget = admin.expect(200, "GET", "/v1/budget")
    # Unless a month began in between.
    last_day = datetime.fromisoformat(budget["month"]["resets_at"]) - timedelta(days=1)
    is_of_this_month = turns[0]["queued_at"].startswith(f"{last_day:%Y-%m}")
    assert Decimal(budget["month"]["spent_usd"]) >= Decimal(used["cost_usd"]) or not is_of_this_month
