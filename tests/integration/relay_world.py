"""The world around a relay in tests: rows, a worker that writes logs with the real scripts, and its service."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import redis
from websockets.sync.client import connect

from shared.redis.log_scripts import APPEND, OPEN, RESTART, Appended
from shared.redis.names import events_channel, log_key
from shared.turn.events import ContentDelta, EventEncoder, MessageStart, TurnQueued, TurnStarted, timestamp
from shared.turn.transcript import Transcript
from tests.ends import done
from tests.marks import leaks_in_files
from tests.ports import free_port

MOST_ENTRIES = 20_000
TTL = 3600
LIMIT_SECONDS = 60.0
"""Time limit for what should take well under a second; the service is not to blame for a loaded machine."""


def eventually(condition):
    """Wait until `condition` holds."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Rows:
    """The database: files that the service reads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.positions = 0

    def session(self):
        session_id = uuid4()
        (self.folder / f"{session_id}.session").touch()
        return session_id

    def write(self, row):
        path = self.folder / f"{row['turn_id']}.turn"
        path.with_suffix(".tmp").write_text(json.dumps(row))
        path.with_suffix(".tmp").rename(path)

    @contextmanager
    def flag(self, name):
        path = self.folder / name
        path.touch()
        try:
            yield
        finally:
            path.unlink()


class Worker:
    """Accepts one turn and runs it: writes row, log and pub/sub as the real service does."""

    def __init__(self, rows, url, session_id=None):
        self.rows = rows
        self.redis = redis.Redis.from_url(url)
        self.session_id = session_id or rows.session()
        self.turn_id = uuid4()
        self.keys = [log_key(self.session_id, self.turn_id), events_channel(self.session_id)]
        self.encoder = EventEncoder(self.session_id, self.turn_id)
        self.attempt = 1
        self.text = Transcript()
        rows.positions += 1
        self.row = {
            "turn_id": str(self.turn_id),
            "session_id": str(self.session_id),
            "position": rows.positions,
            "done": None,
        }

    def encode(self, event, attempt=None):
        attempt = self.attempt if attempt is None else attempt
        encoded = self.encoder.encode(event, self.text.seq + 1, attempt, timestamp(datetime.now(UTC)))
        self.text.apply(encoded)
        return encoded

    def accept(self):
        first = self.encode(TurnQueued(), attempt=0)
        self.save()
        self.redis.eval(OPEN, 2, *self.keys, MOST_ENTRIES, TTL, "0-1", first)
        return self

    def begin(self):
        self.say(TurnStarted("p", "m"))
        self.say(MessageStart(str(uuid4())))
        return self

    def say(self, event):
        encoded = self.encode(event)
        self.append([encoded])

    def deltas(self, count, size=0):
        for _ in range(count):
            self.say(ContentDelta(f"<{self.text.seq}>" + "x" * size))

    def append(self, events):
        first = self.text.seq - len(events) + 1
        arguments = [self.attempt, first, MOST_ENTRIES, 0, *events]
        if self.redis.eval(APPEND, 2, *self.keys, *arguments) == Appended.LOG_GONE:
            snapshot = self.text.snapshot(self.session_id, self.turn_id, timestamp(datetime.now(UTC)))
            self.redis.eval(RESTART, 2, *self.keys, f"{self.attempt}-{self.text.seq}", snapshot, TTL)

    def save(self):
        """Checkpoint the row."""
        text = self.text
        self.row |= {
            "status": text.status,
            "attempt": self.attempt if text.seq > 1 else 0,
            "last_seq": text.seq,
            "text_seq": text.seq,
            "message_id": text.message_id,
            "content": text.content,
            "reasoning": text.reasoning,
        }
        self.rows.write(self.row)

    def settle(self):
        """Commit the end without publishing it."""
        last = self.encode(done())
        self.row["done"] = last.decode()
        self.save()
        return last

    def finish(self):
        self.append([self.settle()])


SERVED = """
import sys
from turnkeeper.up.serve import Service, serve
factory = "tests.integration.relay_app:create_served_app"
serve(Service("relay", sys.argv[1], False, factory, 1, int(sys.argv[2]), 5, None))
"""


class Service:
    """The relay under gunicorn; with `is_ours` as `turnkeeper relay` runs it."""

    def __init__(self, redis_url, folder, threads=4, is_ours=False, **environment):
        self.port = free_port()
        self.rows = Rows(folder)
        command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", str(threads)]
        command += ["-b", f"127.0.0.1:{self.port}", "--graceful-timeout", "5", "--no-control-socket"]
        command += ["-c", "python:tests.integration.relay_app", "tests.integration.relay_app:create_app()"]
        if is_ours:
            command = [sys.executable, "-c", SERVED, f"127.0.0.1:{self.port}", str(threads)]
        variables = os.environ | {"REDIS_URL": redis_url, "STORE_FOLDER": str(folder)} | environment
        self.log = (folder / "server.log").open("wb")
        self.process = subprocess.Popen(command, env=variables, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            eventually(self.is_up)
        except BaseException:
            self.close()
            raise

    def is_up(self):
        try:
            return bool(self.health())
        except OSError:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            return False

    def health(self):
        with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=LIMIT_SECONDS) as answer:
            return json.loads(answer.read())

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(LIMIT_SECONDS)
        self.log.close()
        told = leaks_in_files([Path(self.log.name)], ["good-key"])
        assert not told, told

    def socket(self, *, key="good-key", subprotocols=("turnkeeper.v1",), **options):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"ws://127.0.0.1:{self.port}/v1/stream"
        options.setdefault("additional_headers", headers)
        options.setdefault("close_timeout", 5)
        return connect(url, subprotocols=list(subprotocols) or None, max_size=None, **options)


def send(ws, op, **fields):
    ws.send(json.dumps({"op": op} | {name: value for name, value in fields.items() if value is not None}))


def receive(ws):
    """Return the next frame except pings, which another test checks."""
    while (frame := json.loads(ws.recv(timeout=LIMIT_SECONDS)))["type"] == "ping":
        pass
    return frame


def subscribe(ws, worker, **fields):
    """Subscribe and return the `subscribed` frame."""
    send(ws, "subscribe", session_id=str(worker.session_id), **fields)
    frame = receive(ws)
    assert frame["type"] == "subscribed", frame
    return frame


def read_until(ws, kind):
    frames = [receive(ws)]
    while frames[-1]["type"] != kind:
        frames.append(receive(ws))
    return frames


class Text:
    """The text that a client assembles from a turn's frames by the protocol."""

    def __init__(self, seq=0, content=""):
        self.seq, self.content, self.gaps, self.is_over, self.types = seq, content, 0, False, []

    def take(self, frame):
        kind = frame["type"]
        self.types.append(kind)
        if kind == "gap":
            self.gaps += 1
        elif kind == "snapshot":
            self.seq, self.content = frame["seq"], frame["content"]
        elif "seq" in frame:
            assert frame["seq"] == self.seq + 1, f"{frame} after {self.seq}"
            self.seq += 1
            self.content += frame.get("delta", "")
            self.is_over = kind == "done"

    def read(self, ws):
        while not self.is_over:
            self.take(receive(ws))
        return self
