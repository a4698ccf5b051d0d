"""Every case of `tests/cases`, through the whole reading path: transport, dialect, round and attempt.

Each is played over HTTP as it is written and all in one, and through a transport that gives out single bytes.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from shared.configuration.provider_settings import LimitField, ProviderName
from shared.oddities import Oddity
from tests.contract.test_providers import LIMIT_SECONDS, PROMPT, SETTINGS, Upstream, loops
from tests.unit.worker.turn.playing import Tape
from worker.providers import build_provider, upstream
from worker.providers.breaker import Breaker
from worker.providers.oddities import Oddities
from worker.providers.registration import dialect_of
from worker.providers.upstream import UpstreamProvider
from worker.turn.attempt import Attempt
from worker.turn.outcome import Completed, Failed, Requeued
from worker.turn.retry import Retries, RetryBudget

FOLDER = Path(__file__).parents[1] / "cases"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NAMES = {"openai": ProviderName.OPENAI_COMPATIBLE, "anthropic": ProviderName.ANTHROPIC}
TYPE = "text/event-stream; charset=utf-8"
KINDS = {"expect", "stream", "head", "refuse", "first", "always", "end", "settings", "recovery", "step"}


class AtOnce(Retries):
    """The rule of a process, without its waits: what is asked again is asked at once."""

    def wait_before(self, fault, **known):
        return None if super().wait_before(fault, **known) is None else 0.0


@dataclass
class Ended:
    """How an attempt ended, and how often the provider was called."""

    outcome: object
    oddities: Oddities
    calls: int


def pieces(case):
    for piece in case["stream"]:
        text = (
            piece
            if isinstance(piece, str)
            else piece["before"] + piece["repeat"] * piece["times"] + piece["after"]
        )
        yield text.encode()


def settings_of(case, base_url):
    changes = dict(case.get("settings", {}))
    if "limit_field" in changes:
        changes["limit_field"] = LimitField(changes["limit_field"])
    return replace(
        SETTINGS,
        name=NAMES[case["dialect"]],
        base_url=base_url,
        max_line_bytes=1024 * 1024,
        max_event_bytes=1024 * 1024,
        max_answer_bytes=64 * 1024 * 1024,
        max_text_bytes=4 * 1024 * 1024,
        **changes,
    )


def answer_of(case, calls, body):
    """Return the status, headers and body of an answer that is not the stream; None for the stream."""
    refusal = case.get("refuse")
    other = case.get("always") or (case.get("first") if calls == 1 else None)
    if refusal and refusal["field"] in json.loads(body):
        other = refusal
    if other is None:
        return None
    return other["status"], other.get("headers", {}), json.dumps(other["body"]).encode()


async def attempt(case, provider, oddities):
    retries = AtOnce(lambda: 0.0, RetryBudget(lambda: 0.0))
    breaker = Breaker(lambda: 0.0, 0.0)
    attempts = None if case.get("recovery") == "fail" else 1
    one = Attempt(provider, Tape(), PROMPT, "m", LIMIT_SECONDS, retries, breaker, attempts=attempts)
    try:
        return await one.run()
    finally:
        await provider.aclose()


def head_of(case):
    given = {"content-type": TYPE, **case.get("head", {})}
    if case.get("end") != "close":
        given["transfer-encoding"] = "chunked"
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()


def server_of(case, *, in_one):
    """Return a server that plays a case."""

    async def play(peer):
        while True:
            try:
                request = await peer.request()
            except asyncio.IncompleteReadError:
                return
            other = answer_of(case, len(peer.server.requests), request.body)
            if other is not None:
                status, headers, body = other
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                await peer.send(
                    f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body
                )
                continue
            with contextlib.suppress(ConnectionError):  # the other side need not read to the end
                await stream(peer, case, in_one=in_one)
            if case.get("end", "clean") != "clean":
                return

    return Upstream(play)


async def stream(peer, case, *, in_one):
    await peer.send(head_of(case))
    parts = list(pieces(case))
    write = peer.send if case.get("end") == "close" else peer.chunk
    for part in [b"".join(parts)] if in_one else parts:
        if part:
            await write(part)
            await asyncio.sleep(0)
    match case.get("end", "clean"):
        case "clean":
            await peer.end()
        case "broken":
            await peer.send(b"ff\r\ndata: ")
        case "open":
            await peer.gone()


async def over_http(case, transport, *, in_one):
    oddities = Oddities()
    async with server_of(case, in_one=in_one) as server:
        prefix = "/v1" if case["dialect"] == "openai" else ""
        settings = settings_of(case, f"http://127.0.0.1:{server.port}{prefix}")
        provider = build_provider(replace(settings, transport=transport), oddities=oddities)
        return Ended(await attempt(case, provider, oddities), oddities, len(server.requests))


class Bytes(httpx.AsyncBaseTransport):
    """A transport that plays a case in pieces of one size."""

    def __init__(self, case):
        self.case, self.calls = case, 0

    async def handle_async_request(self, request):
        self.calls += 1
        other = answer_of(self.case, self.calls, request.content)
        if other is not None:
            status, headers, body = other
            return httpx.Response(status, headers=headers, stream=Pieces([body], "clean"))
        body, step = b"".join(pieces(self.case)), self.case.get("step", 1)
        parts = [body[at : at + step] for at in range(0, len(body), step)]
        headers = {"content-type": TYPE, **self.case.get("head", {})}
        return httpx.Response(200, headers=headers, stream=Pieces(parts, self.case.get("end", "clean")))


class Pieces(httpx.AsyncByteStream):
    def __init__(self, parts, end):
        self.parts, self.end = parts, end

    async def __aiter__(self):
        for part in self.parts:
            yield part
        if self.end == "broken":
            raise httpx.RemoteProtocolError("broken")
        if self.end == "open":
            await asyncio.Event().wait()


async def in_bytes(case):
    oddities, transport = Oddities(), Bytes(case)
    settings = settings_of(case, "http://provider.test/v1")
    provider = UpstreamProvider(settings, dialect_of(settings), transport, oddities)
    return Ended(await attempt(case, provider, oddities), oddities, transport.calls)


def check(case, ended):
    want, outcome = dict(case["expect"]), ended.outcome
    got = {"calls": ended.calls, "text": outcome.answer.content, "reasoning": outcome.answer.reasoning}
    got["characters"] = len(outcome.answer.content)
    got["usage"] = outcome.answer.usage.as_dict()
    got["usage_source"] = outcome.answer.usage_source.value
    match outcome:
        case Completed(_, reason):
            got |= {"status": "completed", "finish_reason": reason.value}
        case Failed():
            got |= {"status": "failed", "error_code": outcome.fault.value}
        case Requeued():
            got["status"] = "begun again"
    if "usage" in want:
        got["usage"] = {name: got["usage"][name] for name in want["usage"]}
    if "oddities" in want:
        got["oddities"] = [name for name in want["oddities"] if ended.oddities.counts[Oddity(name)]]
    assert {name: got.get(name) for name in want} == want, case["why"]


@pytest.fixture(autouse=True)
def _ends_soon(monkeypatch):
    monkeypatch.setattr(upstream, "END_SECONDS", 0.3)


def run(coroutine):
    with asyncio.Runner(loop_factory=loops("uvloop")) as runner:

        async def limited():
            async with asyncio.timeout(LIMIT_SECONDS):
                return await coroutine

        return runner.run(limited())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("in_one", [False, True], ids=["as written", "in one"])
def test_what_a_provider_sends_is_read_as_it_is_meant(name, in_one):
    check(CASES[name], run(over_http(CASES[name], "fast", in_one=in_one)))


@pytest.mark.parametrize("name", CASES)
def test_the_stock_transport_reads_the_same(name):
    check(CASES[name], run(over_http(CASES[name], "httpx", in_one=False)))


@pytest.mark.parametrize("name", CASES)
def test_single_bytes_read_the_same(name):
    check(CASES[name], run(in_bytes(CASES[name])))


def test_every_case_says_what_it_is_and_nothing_that_is_not_played():
    for name, case in CASES.items():
        assert case.keys() <= KINDS | {"dialect", "title", "why"}, name
        assert case["title"]
        assert case["why"]
        assert case["expect"]["status"] in {"completed", "failed"}, name
