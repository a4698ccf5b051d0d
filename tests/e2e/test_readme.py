"""The README's lines, run word for word as a reader would paste them.

The service runs in a folder of its own that looks like a clone after `make run`: its data in `.turnkeeper`,
the environment in `.venv`.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_SECONDS = 60.0
LIMIT_SECONDS = 60.0
BETWEEN = "--- next block ---"


def section(title: str) -> str:
    """The README's section of that title."""
    text = (ROOT / "README.md").read_text()
    return re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL).group(1)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section("Try it"), re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    """This process's environment without a configuration of its own."""
    ours = ("MCP_", "ANTHROPIC_", "DATABASE_", "REDIS_", "SCRIPTED_", "TURNKEEPER_", "ENVIRONMENT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "DRAIN_SECONDS": "3", "no_proxy": "127.0.0.1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    """A folder in which the service runs, with nothing left of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="turnkeeper-readme-") as name:
        folder = Path(name)
        # Not the interpreter itself: through a link it would not find its packages.
        (folder / ".venv" / "bin").mkdir(parents=True)
        python = folder / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        with running_in(folder):
            yield folder


@contextlib.contextmanager
def running_in(folder: Path) -> Iterator[None]:
    state = folder / "state.json"
    command = [
        *(sys.executable, "-m", "turnkeeper", "up"),
        *("--data", str(folder / ".turnkeeper"), "--state", str(state), "--port", str(free_port())),
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    family = []
    try:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not state.exists():
            said = (folder / "output").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_SECONDS)
        left = psutil.wait_procs(family, timeout=LIMIT_SECONDS)[1]
    assert left == []


@pytest.fixture(scope="module")
def said(clone: Path) -> list[str]:
    """What each block of shell lines printed, all of them run in one shell, in order."""
    script = f"\nprintf '%s\\n' '{BETWEEN}'\n".join(blocks("sh"))
    finished = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=clone,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    return finished.stdout.split(f"{BETWEEN}\n")


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


def test_the_websocket_example_prints_an_answer_and_its_cost(clone: Path):
    (example,) = blocks("python")
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
    assert finished.returncode == 0, finished.stderr
    *answer, end = finished.stdout.splitlines()
    assert "Stop" in "".join(answer)
    assert re.fullmatch(r"completed, [0-9.]+ USD", end)
