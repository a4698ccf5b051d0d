"""`turnkeeper smoke`: runs one turn against a running service and checks what an operator relies on.

It uses only the public API, so it checks the same things on a laptop and in production.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.errors import TurnkeeperError
from shared.money.usage import UsageSource

QUESTION: Final = "In one short paragraph: what is a turn, and how does Stop work?"
CONNECT_LIMIT_SECONDS: Final = 5.0
SILENCE_LIMIT_SECONDS: Final = 65.0
"""The service sends something every 15 s; a provider has 60 s for its first token."""
TURN_LIMIT_SECONDS: Final = 400.0
"""A turn ends within 6 minutes, whatever happens."""
USER: Final = "smoke"
"""The user to name with a key that is bound to none."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and whether it was kept."""

    promise: str
    passed: bool
    detail: str = ""


@dataclass(slots=True)
class Response:
    """What a reader of the stream has in the end."""

    events: list[Event] = field(default_factory=list)
    text: str = ""
    first_text_seconds: float | None = None

    def take(self, event: Event, elapsed_seconds: float) -> None:
        """Add one event, as a client does."""
        self.events.append(event)
        match event.get("type"):
            case "content_delta":
                self.text += str(event.get("delta", ""))
                if self.first_text_seconds is None:
                    self.first_text_seconds = elapsed_seconds
            case "snapshot":
                self.text = str(event.get("content", ""))
            case "message_reset":
                self.text = ""

    def of_type(self, name: str) -> list[Event]:
        """Return the events of one type."""
        return [event for event in self.events if event.get("type") == name]


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of a server-sent stream, without comments."""
    data: list[str] = []
    for line in lines:
        if line:
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
        elif data:
            yield json.loads("\n".join(data))
            data = []


def checks_of(answer: Response) -> Iterator[Check]:
    """Judge a finished stream."""
    numbers = [event["seq"] for event in answer.events if "seq" in event and event.get("type") != "snapshot"]
    whole = numbers == list(range(1, len(numbers) + 1)) and bool(numbers)
    yield Check("events are numbered without a hole", whole, f"{len(numbers)} events")
    started = answer.of_type("turn_started")
    ran_on = f"{started[-1].get('provider')} / {started[-1].get('model')}" if started else "never started"
    yield Check("a worker took the turn", bool(started), ran_on)
    deltas = len(answer.of_type("content_delta"))
    first = answer.first_text_seconds
    yield Check(
        "the answer was streamed",
        deltas > 0,
        f"{deltas} deltas" + (f", first after {first:.2f} s" if first else ""),
    )
    usage = (answer.of_type("message_end") or [{}])[-1].get("usage") or {}
    counted = usage.get("input_tokens", 0) > 0 and usage.get("output_tokens", 0) > 0
    # The figures alone may be our estimate; `done` names their source.
    source = (answer.of_type("done") or [{}])[-1].get("usage_source")
    detail = f"{usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out, {source or 'none'}"
    yield Check("the provider reported usage", counted and source == UsageSource.PROVIDER, detail)
    yield from checks_of_end(answer)


def checks_of_end(answer: Response) -> Iterator[Check]:
    """Judge how a stream ended."""
    ends = answer.of_type("done")
    is_last = len(ends) == 1 and answer.events[-1] is ends[0]
    yield Check("one `done`, and it came last", is_last, f"{len(ends)} `done`")
    done = ends[-1] if ends else {}
    error = done.get("error") or {}
    detail = str(error.get("code") or f"{done.get('finish_reason')}, {done.get('cost_usd')} USD")
    yield Check("the turn was completed", done.get("status") == "completed", detail)
    digest = hashlib.sha256(answer.text.encode()).hexdigest()
    yield Check(
        "the text is whole (SHA-256)", digest == done.get("content_sha256"), f"{len(answer.text)} characters"
    )


def smoke(url: str, key: str, message: str | None = None, *, console: Console | None = None) -> int:
    """Run a turn and print which promises were kept.

    Returns:
        The exit code: 0 if all were.

    Raises:
        TurnkeeperError: The service could not be used at all; the message says where it failed.
    """
    console = console or Console()
    timeout = httpx.Timeout(SILENCE_LIMIT_SECONDS, connect=CONNECT_LIMIT_SECONDS)
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False) as client:
            checks = replay(client, message or QUESTION, time.monotonic)
    except httpx.HTTPError as failed:
        raise TurnkeeperError(
            f"{url} did not answer as a Turnkeeper does: {failed or type(failed).__name__}"
        ) from failed
    console.print(report(url, checks))
    return 0 if all(check.passed for check in checks) else 1


def replay(client: httpx.Client, message: str, clock: Callable[[], float]) -> list[Check]:
    """Make a session, run a turn, read it to its end, compare it with the stored one, and clean up."""
    session_id = make_session(client)
    try:
        answer = ask(client, session_id, message, clock)
        checks = list(checks_of(answer))
        checks += provider_said(client, answer)
        stored = accepted(client.get(f"/v1/sessions/{session_id}/messages")).json()["data"]
        last = stored[-1] if stored else {}
        is_stored = last.get("role") == "assistant" and last.get("content") == answer.text
        checks.append(Check("the stored message is what was streamed", is_stored, f"{len(stored)} messages"))
        return checks
    finally:
        client.delete(f"/v1/sessions/{session_id}")


def provider_said(client: httpx.Client, answer: Response) -> Iterator[Check]:
    """Say what the provider's last error was, if the turn had one and the key is an admin's."""
    turn_id = answer.events[-1].get("turn_id") if answer.events else None
    if turn_id is not None:
        said = accepted(client.get(f"/v1/turns/{turn_id}")).json().get("provider_error")
        if said is not None:
            yield Check("the provider reported no error", passed=False, detail=said)


def make_session(client: httpx.Client) -> str:
    """Make a session; with a key that is bound to no user, name one."""
    response = client.post("/v1/sessions", json={"title": "smoke"})
    if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        response = client.post("/v1/sessions", json={"title": "smoke", "user": USER})
    return str(accepted(response).json()["id"])


def ask(client: httpx.Client, session_id: str, message: str, clock: Callable[[], float]) -> Response:
    """Post a turn and read its events until the stream ends."""
    answer = Response()
    asked_at = clock()
    path = f"/v1/sessions/{session_id}/turns"
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", path, json={"content": message}, headers=headers) as response:
        if response.is_error:
            response.read()
        accepted(response)
        for event in read_events(response.iter_lines()):
            answer.take(event, clock() - asked_at)
            if clock() - asked_at > TURN_LIMIT_SECONDS:
                raise TurnkeeperError(f"the turn did not end within {TURN_LIMIT_SECONDS:g} s")
    return answer


def accepted(response: httpx.Response) -> httpx.Response:
    """Return the response if it is not an error.

    Raises:
        TurnkeeperError: It is an error; the message quotes the problem.
    """
    if not response.is_error:
        return response
    said = response.text[:300]
    raise TurnkeeperError(
        f"{response.request.method} {response.request.url.path} was answered {response.status_code}: {said}"
    )


def report(url: str, checks: Sequence[Check]) -> Table:
    """Return the checks as a table."""
    table = Table(title=f"smoke test of {url}", title_justify="left")
    table.add_column("")
    table.add_column("promise")
    table.add_column("seen")
    for check in checks:
        mark = "[green]ok[/]" if check.passed else "[red]failed[/]"
        table.add_row(mark, check.promise, escape(check.detail))
    return table
