"""`turnkeeper chat`: a small chat on the terminal, over the websocket.

Ctrl-C stops the turn, not the program. A lost connection is resumed from the cursor, so that no text is lost
or shown twice.
"""

import signal
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from types import FrameType
from typing import Final

from rich.console import Console
from turnkeeper_client import (
    Client,
    ContentDelta,
    Done,
    Event,
    MessageReset,
    ReasoningDelta,
    Session,
    Snapshot,
    ValidationFailedError,
)
from turnkeeper_client import TurnkeeperError as ClientError

from shared.errors import SettingsError, TurnkeeperError
from turnkeeper.commands.smoke import USER

PATIENT_PRESSES: Final = 3
"""How often Ctrl-C only stops the answer; the next one ends the program."""


def chat(url: str, key: str, *, console: Console | None = None) -> int:
    """Chat until the end of input (Ctrl-D) or `/quit`; return the exit code.

    Raises:
        TurnkeeperError: The service refused something or could not be reached.
        SettingsError: The address or the key cannot be valid.
    """
    console = console or Console(highlight=False)
    try:
        client = Client(url, key, trust_env=False)
    except ValueError as wrong:
        raise SettingsError([str(wrong)]) from wrong
    try:
        with client:
            session = opened(client)
            console.print("Ctrl-C stops an answer, Ctrl-D ends.", style="dim")
            while (message := asked(console)) is not None:
                if message:
                    converse(client, session.id, message, console)
    except ClientError as failed:
        raise TurnkeeperError(str(failed)) from failed
    return 0


def opened(client: Client) -> Session:
    """Open a session; with a key that is bound to no user, name one."""
    try:
        return client.create_session()
    except ValidationFailedError:
        return client.create_session(user=USER)


def asked(console: Console) -> str | None:
    """Return the user's input; None at its end, empty if the line was cancelled."""
    try:
        line = console.input("[bold cyan]you>[/] ").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        console.print()
        return ""
    return None if line == "/quit" else line


def converse(client: Client, session_id: str, message: str, console: Console) -> None:
    """Post one message and show its answer to the end."""
    turn = client.create_turn(session_id, message)
    with interrupts_to(stopper(client, turn.id, console)), client.stream_turn(turn) as stream:
        for event in stream:
            show(event, console)


@contextmanager
def interrupts_to(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `stop` in a thread, so that the stream continues to its `done`; one too many ends the program."""
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


def stopper(client: Client, turn_id: str, console: Console) -> Callable[[], None]:
    """Return the function that Ctrl-C calls."""

    def stop() -> None:
        console.print(" ⏹", style="yellow", end="")
        with suppress(ClientError):  # the user can press it again
            client.stop_turn(turn_id)

    return stop


def show(event: Event, console: Console) -> None:
    """Print one event in readable form."""
    match event:
        case ContentDelta(delta=text):
            console.print(printable(text), end="", markup=False, soft_wrap=True)
        case ReasoningDelta(delta=text):
            console.print(printable(text), end="", style="dim", markup=False, soft_wrap=True)
        case Snapshot(content=text):
            console.print("\n" + printable(text), end="", markup=False, soft_wrap=True)
        case MessageReset():
            console.print("\n(begun anew)", style="yellow")
        case Done():
            console.print("\n" + closing_line(event), style="dim")


def closing_line(done: Done) -> str:
    """Sum up how a turn ended."""
    reason = (done.error or {}).get("title") or done.stop_reason or done.finish_reason
    return f"{done.status} ({printable(str(reason))}) · {done.usage.output_tokens} tokens · {done.cost_usd:f} USD"


def printable(text: str) -> str:
    """Drop control characters: a model must not steer a terminal."""
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")
