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
from shared.errors import Fault
from shared.money.usage import Usage
from shared.oddities import Oddity
from shared.turn.turns import FinishReason
from tests.contract.test_providers import (
    LIMIT_SECONDS,
    PROMPT,
    SETTINGS,
    ChatCompletions,
    SteppedLoop,
    Upstream,
    loops,
    read,
    text_of,
)
from tests.unit.worker.turn.playing import Tape
from worker.providers import build_provider, upstream
from worker.providers.breaker import Breaker
from worker.providers.oddities import Oddities
from worker.providers.provider import Finish, UsageConflict
from worker.providers.registration import dialect_of
from worker.providers.silence import SilenceWatch
from worker.providers.upstream import UpstreamProvider
from worker.turn.attempt import Attempt
from worker.turn.outcome import Completed, Failed, Requeued
from worker.turn.retry import Retries, RetryBudget

FOLDER = Path(__file__).parents[1] / "cases"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NAMES = {"openai": ProviderName.OPENAI_COMPATIBLE, "anthropic": ProviderName.ANTHROPIC}
ASKED = replace(PROMPT, max_output_tokens=4096)  # what a turn asks for that names no limit
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
    one = Attempt(provider, Tape(), ASKED, "m", LIMIT_SECONDS, retries, breaker, attempts=attempts)
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


# What one case cannot show: what is remembered, what keeps a stream alive, and what nobody waits for.


def chat(play, go, **changes):
    """Run `go(provider, server)` against a server that plays, with the settings of chat completions."""

    async def both():
        async with Upstream(play) as server:
            settings = settings_of({"dialect": "openai"}, f"http://127.0.0.1:{server.port}/v1")
            provider = build_provider(replace(settings, **changes))
            try:
                return await go(provider, server)
            finally:
                await provider.aclose()

    return run(both())


HEAD = head_of({})
SAYS = ChatCompletions()
WHOLE = SAYS.start() + SAYS.text("x") + SAYS.end() + SAYS.mark


def refusing(*fields):
    async def play(peer):
        while True:
            request = await peer.request()
            named = next((name for name in fields if name in json.loads(request.body)), None)
            if named is None:
                await peer.send(HEAD)
                await peer.chunk(WHOLE)
                await peer.end()
            else:
                body = json.dumps({"error": {"message": f"Unsupported parameter: '{named}'"}}).encode()
                await peer.send(b"HTTP/1.1 400 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    return play


def test_what_is_refused_of_a_request_is_remembered_by_the_process_and_the_connection_is_kept():
    async def go(provider, server):
        results = [await read(provider) for _ in range(3)]
        return results, [json.loads(request.body).keys() for request in server.requests], server.connections

    results, asked, connections = chat(refusing("stream_options", "max_tokens"), go)
    assert [error for _, error in results] == [None] * 3
    assert len(asked) == 5, "two refusals, then three answers"
    assert all("max_completion_tokens" in fields for fields in asked[2:])
    assert not any({"stream_options", "max_tokens"} & fields for fields in asked[2:])
    assert connections == 1


def test_both_names_of_the_limit_refused_is_a_refusal_after_two_calls():
    async def go(provider, server):
        _, error = await read(provider)
        return error.fault, len(server.requests)

    play = refusing("max_tokens", "max_completion_tokens")
    assert chat(play, go) == (Fault.PROVIDER_REJECTED, 2)


def test_turns_that_are_refused_at_once_all_learn_the_same():
    async def go(provider, server):
        results = await asyncio.gather(*(read(provider) for _ in range(8)))
        _, error = await read(provider)
        return [found for _, found in results] + [error], json.loads(server.requests[-1].body).keys()

    errors, last = chat(refusing("max_tokens"), go)
    assert errors == [None] * 9
    assert "max_completion_tokens" in last


def test_a_request_that_is_asked_again_is_called_sent_once():
    async def go(provider, _):
        sent = []
        async with provider.stream(PROMPT, on_sent=lambda: sent.append(1)) as batches:
            async for _ in batches:
                pass
        return sent

    assert chat(refusing("stream_options"), go) == [1]


def test_settings_say_the_form_of_the_first_request():
    async def go(provider, server):
        await read(provider)
        return json.loads(server.requests[0].body)

    body = chat(refusing(), go, stream_options=False, limit_field=LimitField.MAX_COMPLETION_TOKENS)
    assert body["max_completion_tokens"] == PROMPT.max_output_tokens
    assert not {"stream_options", "max_tokens"} & body.keys()


ALIVE = {
    "reasoning": {"reasoning": "hm"},
    "thinking": {"thinking": "hm"},
    "thinking blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
    "hidden thinking": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
    "parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
}


@pytest.mark.parametrize("sign", ALIVE)
def test_thinking_by_any_name_is_a_sign_of_life(sign):
    event = SAYS.event(json.dumps({"choices": [{"index": 0, "delta": ALIVE[sign]}]}))

    async def go():
        loop, has_heard = asyncio.get_running_loop(), asyncio.Event()

        def heard(watch, *, is_text):
            hear(watch, is_text=is_text)
            hearings.append(is_text)
            has_heard.set()

        patch.setattr(SilenceWatch, "hear", heard)

        async def play(peer):
            await peer.request()
            await peer.send(HEAD)
            for _ in range(6):
                has_heard.clear()
                await peer.chunk(event)
                await has_heard.wait()
                loop.step(0.6)
            await peer.chunk(WHOLE)
            await peer.end()

        async with Upstream(play) as server:
            settings = settings_of({"dialect": "openai"}, f"http://127.0.0.1:{server.port}/v1")
            limits = {"first_token_timeout_seconds": 1, "idle_timeout_seconds": 1}
            provider = build_provider(replace(settings, **limits))
            try:
                return await read(provider)
            finally:
                await provider.aclose()

    hearings, hear = [], SilenceWatch.hear
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=SteppedLoop) as runner:
        _, error = runner.run(go())
    assert error is None
    assert all(hearings)


def test_an_answer_whose_reason_and_usage_are_known_waits_for_nothing_after_its_mark(monkeypatch):
    monkeypatch.setattr(upstream, "END_SECONDS", 3600.0)

    async def play(peer):
        await peer.request()
        await peer.send(HEAD)
        await peer.chunk(WHOLE)
        await peer.gone()

    async def go(provider, _):
        return await read(provider)

    items, error = chat(play, go)
    assert error is None
    assert isinstance(items[-1], Finish)


@pytest.mark.parametrize("name", ["mark-without-reason-closed", "usage-after-mark", "mark-without-reason"])
def test_an_end_that_is_waited_for_comes_with_the_response_and_not_with_the_limit(name, monkeypatch):
    monkeypatch.setattr(upstream, "END_SECONDS", 3600.0)
    check(CASES[name], run(over_http(CASES[name], "fast", in_one=False)))


def test_a_flood_after_the_mark_is_bounded_and_costs_no_answer(monkeypatch):
    monkeypatch.setattr(upstream, "END_SECONDS", 0.1)

    async def play(peer):
        await peer.request()
        await peer.send(HEAD)
        await peer.chunk(SAYS.start() + SAYS.text("x") + SAYS.mark)
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.chunk(SAYS.text("late") * 100)

    async def go(provider, _):
        return await read(provider)

    items, error = chat(play, go, max_answer_bytes=200_000)
    assert error is None
    assert items[-1] == Finish(FinishReason.UNKNOWN, None)
    assert text_of(items) == "x"


def test_a_contradiction_is_told_with_the_figures_that_are_in_it():
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 400}
    event = SAYS.event(json.dumps({"choices": [], "usage": usage}))

    async def play(peer):
        await peer.request()
        await peer.send(HEAD)
        await peer.chunk(SAYS.start() + SAYS.text("x") + SAYS.reason("stop") + event + SAYS.mark)
        await peer.end()

    async def go(provider, _):
        return await read(provider)

    items, _ = chat(play, go)
    conflict = UsageConflict(prompt_tokens=20, completion_tokens=5, reasoning_tokens=0, total_tokens=400)
    assert items[-1] == Finish(FinishReason.STOP, Usage(input_tokens=20, output_tokens=5), conflict)
