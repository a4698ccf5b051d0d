"""The README's lines, run word for word as a reader would paste them, and pasted a second time.

The service runs in a folder of its own that looks like a clone after `make run`: its data in `.turnkeeper`,
the environment in `.venv`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import allotted
from tests.e2e.clone import LIMIT_SECONDS, environment, run_shell, running_clone

BETWEEN = "--- next block ---"


START, *LINES = [block for block in allotted(__file__) if block.language == "sh"]


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    with running_clone(START.take()) as folder:
        yield folder


SLEEP = f"""#!{sys.executable}
import json
from pathlib import Path
from tests.e2e.protocol_client import Api

state = json.loads(Path(".turnkeeper/state.json").read_text())
api = Api(state["url"], state["user_key"])
(turn_id,) = filter(None, (each["active_turn_id"] for each in api.expect(200, "GET", "/v1/sessions")["data"]))
api.await_text(turn_id)
"""
"""The two seconds in which an answer begins last as long as that takes, on whatever machine."""


@pytest.fixture(scope="module")
def pasted(clone: Path) -> tuple[list[str], list[str]]:
    """What each block of shell lines printed, in order, all of them pasted twice into one shell."""
    blocks = [block.take() for block in LINES]
    script = f"\nprintf '%s\\n' '{BETWEEN}'\n".join(blocks * 2)
    assert script.count("sleep 2\n") == 2
    sleep = clone / "beside" / "sleep"
    sleep.parent.mkdir()
    sleep.write_text(SLEEP)
    sleep.chmod(0o755)
    # A relay that stands still for seconds answers 503 and when to try again.
    (sleep.parent / ".curlrc").write_text("fail\nretry = 20\n")
    beside = {"PATH": f"{sleep.parent}:{os.environ['PATH']}", "CURL_HOME": str(sleep.parent)}
    said = run_shell(clone, script, **beside).split(f"{BETWEEN}\n")
    return said[: len(blocks)], said[len(blocks) :]


@pytest.fixture(params=[0, 1], ids=["pasted once", "pasted twice"])
def said(pasted: tuple[list[str], list[str]], request: pytest.FixtureRequest) -> list[str]:
    return pasted[request.param]


def events_of(stream: str) -> list[dict]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]


def documents(text: str) -> list:
    """JSON documents that were printed one behind another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_the_turn_that_was_asked_for_is_shown(said: list[str]):
    (turn,) = documents(said[1])
    assert turn["status"] in {"queued", "running", "completed"}
    assert (turn["provider"], turn["attempt"] <= 1) == ("scripted", True)


def test_its_events_are_numbered_without_a_hole_and_prove_the_text(said: list[str]):
    events = events_of(said[2])
    assert events, said[2]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events][0 :: len(events) - 1] == ["turn_queued", "done"]
    text = "".join(event["delta"] for event in events if event["type"] == "content_delta")
    assert events[-1]["status"] == "completed"
    assert events[-1]["content_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_stream_goes_on_behind_the_event_that_was_named(said: list[str]):
    whole, rest = events_of(said[2]), events_of(said[3])
    assert rest[0]["seq"] == 4
    text = "".join(event["delta"] for event in whole if event["type"] == "content_delta")
    known = "".join(e["delta"] for e in whole if e["seq"] <= 3 and e["type"] == "content_delta")
    assert known + "".join(e["delta"] for e in rest if e["type"] == "content_delta") == text
    assert rest[-1] == whole[-1]


def test_a_stopped_turn_is_over_and_not_free(said: list[str]):
    (turn,) = documents(said[4])
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "user")
    assert float(turn["cost_usd"]) > 0


def test_the_conversation_and_its_cost_are_shown(said: list[str]):
    messages, cost = documents(said[5])
    assert [message["role"] for message in messages["data"]] == ["user", "assistant"] * 2
    assert [message["status"] for message in messages["data"]][1::2] == ["complete", "partial"]
    assert messages["data"][3]["content"]
    assert cost > 0


def test_a_second_paste_asks_for_turns_of_its_own(pasted: tuple[list[str], list[str]]):
    (first,), (second,) = (documents(said[1]) for said in pasted)
    assert first["session_id"] != second["session_id"]
    assert first["id"] != second["id"]


@pytest.mark.parametrize("paste", ["first", "second"])
def test_the_websocket_example_prints_an_answer_and_its_cost(clone: Path, paste: str):
    (example,) = (block.take() for block in allotted(__file__) if block.language == "python")
    finished = subprocess.run(
        [sys.executable, "-c", example],
        cwd=clone,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, (paste, finished.stderr)
    *answer, end = finished.stdout.splitlines()
    assert "Stop" in "".join(answer)
    assert re.fullmatch(r"completed, [0-9.]+ USD", end)
