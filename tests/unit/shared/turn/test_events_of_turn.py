import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from uuid import UUID

from shared.turn.events_of_turn import accept_events, done_event, queued_stop_events

AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SESSION = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TURN = UUID("01890a5d-ac96-774b-bcce-b302099a8058")


def row(**changes):
    columns = {
        "id": TURN,
        "session_id": SESSION,
        "status": "completed",
        "attempt": 1,
        "finish_reason": "stop",
        "stop_reason": None,
        "input_tokens": 3,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "usage_source": "provider",
        "cost_usd": Decimal("0.00123"),
        "error": None,
        "last_seq": 9,
        "title": None,
        "queued_at": AT,
        "stop_requested_at": None,
        "finished_at": AT,
    }
    return SimpleNamespace(**columns | changes)


def test_a_turn_that_is_accepted_says_that_it_is_queued():
    ((seq, event),) = accept_events(row())
    assert seq == 1
    assert json.loads(event) == {
        "type": "turn_queued",
        "session_id": str(SESSION),
        "turn_id": str(TURN),
        "seq": 1,
        "attempt": 0,
        "ts": "2026-01-31T09:30:00.000Z",
    }


def test_the_turn_that_named_its_session_says_so_second():
    _, (seq, event) = accept_events(row(title="Hello"))
    decoded = json.loads(event)
    assert (seq, decoded["seq"], decoded["type"], decoded["title"]) == (2, 2, "title_updated", "Hello")


def test_done_is_written_from_the_row_and_proves_the_text():
    decoded = json.loads(done_event(row(), "Grüße"))
    assert decoded["type"] == "done"
    assert (decoded["seq"], decoded["attempt"]) == (9, 1)
    assert decoded["usage"]["output_tokens"] == 5
    assert decoded["cost_usd"] == "0.001230"
    assert decoded["error"] is None
    assert decoded["content_sha256"] == hashlib.sha256("Grüße".encode()).hexdigest()


def test_done_of_a_turn_without_text_proves_the_empty_text():
    assert json.loads(done_event(row(), None))["content_sha256"] == hashlib.sha256(b"").hexdigest()


def test_a_turn_stopped_in_the_queue_ends_with_the_stop_and_done():
    stopped = row(status="stopped", stop_reason="user", attempt=0, last_seq=3, stop_requested_at=AT)
    requested, done = (json.loads(event) for event in queued_stop_events(stopped))
    assert (requested["type"], requested["seq"], requested["stop_reason"]) == ("stop_requested", 2, "user")
    assert (done["type"], done["seq"], done["status"]) == ("done", 3, "stopped")
