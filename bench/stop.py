"""How long a Stop takes: from its request until the provider sees its connection closed, in every phase.

The Stop is posted to another web process than the one that accepted the turn, and the time of the close is
the provider's own, on the same monotonic clock.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import psutil

from bench.figures import figures
from bench.http import Connection
from bench.stack import Stack, make_sessions
from bench.stream import Stream

SCRIPTS: Final[Mapping[str, str]] = {
    "queued": "tokens=5",
    "connecting": "hang_headers=1",
    "before_first_token": "first=60 tokens=5",
    "streaming": "tokens=100000 rate=50",
}
"""What the provider does when the Stop arrives, by the phase that this prolongs."""
REACHED: Final[Mapping[str, str]] = {
    "connecting": "received_ns",
    "before_first_token": "first_byte_ns",
    "streaming": "first_token_ns",
}
"""The field in the provider's record that shows that the phase has begun."""
LONG: Final = "[[tokens=100000 rate=50]] background"
LIMIT_SECONDS: Final = 20.0


@dataclass(slots=True)
class Desk:
    """What the stops share: two connections to different processes, and the websocket's messages."""

    stack: Stack
    posting: Connection
    stopping: Connection
    stream: Stream | None = None
    done: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)
    caught_up: int = 0

    def told(self, message: Mapping[str, Any], received_ns: int) -> None:
        """Take a frame that is not text."""
        match message["type"]:
            case "done":
                self.done[message["turn_id"]] = (dict(message), received_ns)
            case "caught_up":
                self.caught_up += 1


async def measure(stack: Stack, stops: int, background: int) -> dict[str, Any]:
    """Stop `stops` turns, with phases alternating; return the distribution of each phase in milliseconds."""
    desk = Desk(stack, stack.connection(), stack.connection())
    desk.stream = Stream(desk.told)
    await desk.stream.connect(stack.url, stack.key)
    running = [await _post(desk, session, LONG) for session in await make_sessions(stack, background, "back")]
    sessions = await make_sessions(stack, stops)
    closed: dict[str, list[float]] = {phase: [] for phase in SCRIPTS}
    told: dict[str, list[float]] = {phase: [] for phase in SCRIPTS}
    answered: list[float] = []
    failures: list[str] = []
    for number, session in enumerate(sessions):
        phase = list(SCRIPTS)[number % len(SCRIPTS)]
        try:
            to_closed, to_done, to_answer = await _stop_once(desk, session, phase)
        except (AssertionError, TimeoutError) as missed:
            failures.append(f"{phase}: {missed!r}")
            continue
        closed[phase] += to_closed
        told[phase].append(to_done)
        answered.append(to_answer)
    rss = stack.meter().memory_mib()
    for turn in running:
        await desk.posting.call("POST", f"/v1/turns/{turn}/stop", {})
    desk.stream.close()
    together = [one for each in closed.values() for one in each]
    return {
        "stops": stops,
        "failures": len(failures),
        "what_failed": failures[:10],
        "provider_closed_ms": figures(together),
        **{f"provider_closed_ms_{phase}": figures(each) for phase, each in closed.items() if each},
        **{f"done_ms_{phase}": figures(each) for phase, each in told.items()},
        "answer_ms": figures(answered),
        "memory_mib": rss,
    }


async def _stop_once(desk: Desk, session: str, phase: str) -> tuple[list[float], float, float]:
    """Stop one turn; return the milliseconds to the close (none if queued), to `done` and to the response."""
    assert desk.stream is not None
    seen = desk.caught_up
    desk.stream.send({"op": "subscribe", "session_id": session})
    await _until(lambda: desk.caught_up > seen, "the subscription")
    marker = uuid4().hex
    if phase == "queued":
        await _use_another_process(desk)
        with _paused(desk.stack):
            turn = await _post(desk, session, f"[[{SCRIPTS[phase]}]] {marker}")
            answer = await desk.stopping.call("POST", f"/v1/turns/{turn}/stop", {})
            await _until(lambda: turn in desk.done, "done")
    else:
        turn = await _post(desk, session, f"[[{SCRIPTS[phase]}]] {marker}")
        await _until(lambda: _record(desk, marker).get(REACHED[phase]), phase)
        await _use_another_process(desk)
        answer = await desk.stopping.call("POST", f"/v1/turns/{turn}/stop", {})
        await _until(lambda: turn in desk.done, "done")
    assert answer.status in {200, 202}, answer
    done, done_ns = desk.done[turn]
    assert done["status"] == "stopped", done
    closed: list[float] = []
    if phase == "queued":
        assert not _record(desk, marker), "a turn that was stopped in the queue reached the provider"
        assert float(done["cost_usd"]) == 0, "a turn that no provider saw has a cost"
    else:
        await _until(lambda: _record(desk, marker).get("finished_ns"), "the provider's end")
        record = _record(desk, marker)
        assert record["outcome"] == "client_disconnected", record["outcome"]
        closed.append((record["disconnected_ns"] - answer.sent_ns) / 1e6)
        assert float(done["cost_usd"]) > 0, "a stopped turn was free"
    desk.stream.send({"op": "unsubscribe", "session_id": session})
    return closed, (done_ns - answer.sent_ns) / 1e6, answer.seconds * 1000


async def _post(desk: Desk, session: str, content: str) -> str:
    answer = await desk.posting.expect(202, "POST", f"/v1/sessions/{session}/turns", {"content": content})
    return str(answer.body["id"])


def _record(desk: Desk, marker: str) -> dict[str, Any]:
    """Return the provider's record of the request that contains `marker`; empty until there is one."""
    records = desk.stack.provider(f"/_log?text=0&contains={marker}")["data"]
    return dict(records[-1]) if records else {}


@contextmanager
def _paused(stack: Stack) -> Iterator[None]:
    """Pause the workers, far more briefly than a lease lasts, so that posted turns stay queued."""
    for pid in stack.pids["worker"]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stack.pids["worker"]:
            os.kill(pid, signal.SIGCONT)


async def _use_another_process(desk: Desk) -> None:
    """Reopen the stopping connection until it leads to another web process than the posting one."""
    if desk.stack.processes.web < 2:
        return
    for _ in range(20):
        await desk.posting.expect(200, "GET", "/healthz")
        await desk.stopping.expect(200, "GET", "/healthz")
        ours, other = (_server(desk.stack, each.local_port) for each in (desk.posting, desk.stopping))
        if ours and other and ours != other:
            return
        desk.stopping.close()
    raise AssertionError("no connection to another web process")


def _server(stack: Stack, port: int | None) -> int | None:
    """Return the web process at the other end of our port."""
    for pid in stack.pids["web"]:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            if any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp")):
                return process.pid
    return None


async def _until(is_true: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not is_true():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"waited too long for {what}")
        await asyncio.sleep(0.005)
