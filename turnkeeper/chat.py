"""`turnkeeper chat`: a small chat on the terminal, over the websocket.

Ctrl-C stops the turn, not the program. A lost connection is opened again with the cursor, so no text is lost
or shown twice.
"""

import json
import signal
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from turnkeeper.smoke import CONNECT_LIMIT_SECONDS, accepted, make_session

SUBPROTOCOL: Final = Subprotocol("turnkeeper.v1")
SILENCE_LIMIT_SECONDS: Final = 40.0
"""The service pings every 15 s: after two missed ones the connection is dead."""
RECONNECT_DELAY_SECONDS: Final = 0.5
GIVE_UP_SECONDS: Final = 60.0
"""Without a connection for this long."""
PATIENT_PRESSES: Final = 3
"""Of Ctrl-C in one answer; the next means it."""
FRAME_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A snapshot holds a whole answer."""

Event = Mapping[str, Any]


def chat(url: str, key: str, *, console: Console | None = None) -> int:
    """Chat until the end of input (Ctrl-D) or `/quit`; return the exit code."""
    console = console or Console(highlight=False)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(
        base_url=url, headers=headers, timeout=CONNECT_LIMIT_SECONDS, trust_env=False
    ) as client:
        session_id = make_session(client)
        console.print("Ctrl-C stops an answer, Ctrl-D ends.", style="dim")
        while (message := asked(console)) is not None:
            if message:
                converse(client, url, key, session_id, message, console)
    return 0


def asked(console: Console) -> str | None:
    """Return what the user says; None at the end, empty when a line was given up."""
    try:
        line = console.input("[bold cyan]you>[/] ").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        console.print()
        return ""
    return None if line == "/quit" else line


def converse(
    client: httpx.Client, url: str, key: str, session_id: str, message: str, console: Console
) -> None:
    """Post one message and show its answer to the end."""
    turn = accepted(client.post(f"/v1/sessions/{session_id}/turns", json={"content": message})).json()
    stop = stopper(client, turn["id"], console)
    with interrupts_to(stop):
        for event in follow(lambda: opened(url, key), session_id, turn["id"]):
            show(event, console)


@contextmanager
def interrupts_to(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `stop` in a thread: the stream goes on to its `done`. One too many ends the program."""
    presses = count(1)

    def press(_: int, __: FrameType | None) -> None:
        if next(presses) > PATIENT_PRESSES:
            raise KeyboardInterrupt
        threading.Thread(target=stop, name="stop", daemon=True).start()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stopper(client: httpx.Client, turn_id: str, console: Console) -> Callable[[], None]:
    """Return what Ctrl-C does."""

    def stop() -> None:
        console.print(" ⏹", style="yellow", end="")
        with suppress(httpx.HTTPError):  # the user may press again
            client.post(f"/v1/turns/{turn_id}/stop", json={})

    return stop


def opened(url: str, key: str) -> ClientConnection:
    """Open a stream."""
    parts = urlsplit(url)
    secure = "wss" if parts.scheme == "https" else "ws"
    return connect(
        f"{secure}://{parts.netloc}{parts.path}/v1/stream",
        additional_headers={"Authorization": f"Bearer {key}"},
        subprotocols=[SUBPROTOCOL],
        open_timeout=CONNECT_LIMIT_SECONDS,
        close_timeout=1,
        max_size=FRAME_LIMIT_BYTES,
        compression=None,
        proxy=None,
    )


def follow(open_stream: Callable[[], ClientConnection], session_id: str, turn_id: str) -> Iterator[Event]:
    """Yield a turn's events once and in order until `done`, over as many connections as it takes.

    Raises:
        ConnectionError: None could be opened for a minute.
    """
    cursor = 0
    lost_at: float | None = None
    while True:
        try:
            with open_stream() as stream:
                for event in subscribed(stream, session_id, turn_id, cursor):
                    lost_at = None
                    cursor = max(cursor, event.get("seq", cursor))
                    yield event
                    if event["type"] == "done":
                        return
        except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as lost:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > GIVE_UP_SECONDS:
                raise ConnectionError("the connection was lost and could not be opened again") from lost
            time.sleep(RECONNECT_DELAY_SECONDS)


def subscribed(stream: ClientConnection, session_id: str, turn_id: str, after: int) -> Iterator[Event]:
    """Subscribe and yield one turn's events past `after`; return at a hole, so that it is read again."""
    frame = {"op": "subscribe", "session_id": session_id, "turn_id": turn_id, "after": after}
    stream.send(json.dumps(frame))
    cursor = after
    while True:
        event = json.loads(stream.recv(timeout=SILENCE_LIMIT_SECONDS))
        if event.get("turn_id") != turn_id or event["type"] in {"subscribed", "caught_up", "gap"}:
            continue
        seq = event.get("seq", 0)
        if seq <= cursor:
            continue
        if seq != cursor + 1 and event["type"] != "snapshot":
            return
        cursor = seq
        yield event


def show(event: Event, console: Console) -> None:
    """Print one event as a person reads it."""
    match event["type"]:
        case "content_delta":
            console.print(printable(event["delta"]), end="", markup=False, soft_wrap=True)
        case "reasoning_delta":
            console.print(printable(event["delta"]), end="", style="dim", markup=False, soft_wrap=True)
        case "snapshot":
            console.print("\n" + printable(event["content"]), end="", markup=False, soft_wrap=True)
        case "message_reset":
            console.print("\n(begun anew)", style="yellow")
        case "done":
            console.print("\n" + closing_line(event), style="dim")


def closing_line(done: Event) -> str:
    """Sum up how a turn ended."""
    error = done.get("error") or {}
    usage = done.get("usage") or {}
    reason = error.get("title") or done.get("stop_reason") or done.get("finish_reason")
    tokens = usage.get("output_tokens", 0)
    return f"{done['status']} ({printable(str(reason))}) · {tokens} tokens · {done.get('cost_usd', '0')} USD"


def printable(text: str) -> str:
    """Drop control characters: a model must not steer a terminal."""
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")
