"""One suite for every adapter over every transport, against a server that plays bytes.

The server knows nothing of our code: it is asyncio streams and what the protocols' pages say.
"""

import asyncio
import contextlib
import json
import logging
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import psutil
import pytest
import uvloop

from shared.configuration.provider_settings import LimitField, ProviderName, ProviderSettings
from shared.configuration.secret import Secret
from shared.errors import Fault, ProviderError
from shared.money.price_table import PriceTable
from shared.money.usage import Usage
from shared.turn.turns import FinishReason, Role
from worker.providers import build_provider, upstream
from worker.providers.provider import (
    ContentDelta,
    Finish,
    MessageStart,
    Prompt,
    ReasoningDelta,
    RunningUsage,
    text_message,
)

LIMIT_SECONDS = 60
KEY = "sk-test-0123456789abcdef"
PROMPT = Prompt(
    messages=(
        text_message(Role.USER, "one"),
        text_message(Role.ASSISTANT, "two"),
        text_message(Role.USER, "three"),
    ),
    system="be brief",
    max_output_tokens=321,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


# The other side of the wire.


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """One connection, as the server sees it."""

    def __init__(self, reader, writer, upstream_server):
        self.reader, self.writer, self.server = reader, writer, upstream_server

    async def request(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (entry.split(": ", 1) for entry in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        self.server.requests.append(Request(line, headers, body))
        return self.server.requests[-1]

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data):
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self):
        await self.send(b"0\r\n\r\n")

    def reset(self):
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self):
        """Wait until the other side has closed."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self.reader.read(65536):
                pass


@dataclass
class Upstream:
    """A server that passes each connection to `play`."""

    play: Callable[[Peer], Awaitable[None]]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    ssl: object = None
    _tasks: list[asyncio.Task] = field(default_factory=list)

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(
                result, ConnectionError | asyncio.IncompleteReadError | ssl.SSLError
            ):
                raise result

    async def _accept(self, reader, writer):
        self.connections += 1
        self._tasks.append(asyncio.current_task())
        try:
            await self.play(Peer(reader, writer, self))
        finally:
            writer.close()


def plays(*chunks, head=STREAM_HEAD, end=True):
    """Return a play: one answer for each request on a connection, in these HTTP chunks."""

    async def play(peer):
        while True:
            await peer.request()
            await peer.send(head)
            for chunk in chunks:
                await peer.chunk(chunk)
            if not end:
                return
            await peer.end()

    return play


def answers(raw):
    """Return a play: these bytes, then the end of the connection."""

    async def play(peer):
        await peer.request()
        await peer.send(raw)

    return play


# What the two dialects send.


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


class ChatCompletions:
    name = ProviderName.OPENAI_COMPATIBLE
    prefix = "/v1"
    path = "/v1/chat/completions"
    mark = b"data: [DONE]\n\n"

    def event(self, data):
        return f"data: {data}\n\n".encode()

    def _delta(self, fields, reason="null"):
        return self.event(
            f'{{"id":"c1","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{fields},"finish_reason":{reason}}}]}}'
        )

    def start(self):
        return self._delta('{"role":"assistant","content":""}')

    def text(self, text):
        return self.text_json(quoted(text))

    def text_json(self, literal):
        return self._delta(f'{{"content":{literal}}}')

    def think(self, text):
        return self._delta(f'{{"reasoning_content":{quoted(text)}}}')

    def reason(self, reason):
        theirs = {"refusal": "content_filter"}.get(reason, reason)
        return self._delta("{}", quoted(theirs))

    def usage(self, output=5):
        total = 20 + output if isinstance(output, int) else 1
        return self.event(
            f'{{"choices":[],"usage":{{"prompt_tokens":20,"completion_tokens":{output},"total_tokens":{total},'
            '"prompt_tokens_details":{"cached_tokens":8}}}'
        )

    def end(self, reason="stop", output=5):
        return self.reason(reason) + self.usage(output)

    def error(self, kind):
        return self.event(json.dumps({"error": {"message": "the words of the provider", "type": kind}}))

    def tool_call(self):
        return self._delta('{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{}"}}]}')

    expected_usage = Usage(input_tokens=12, cache_read_tokens=8, output_tokens=5)


class Messages:
    name = ProviderName.ANTHROPIC
    prefix = ""
    path = "/v1/messages"
    mark = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def event(self, data):
        kind = re.search(r'"type": ?"(\w+)"', data)
        return f"event: {kind[1] if kind else 'x'}\ndata: {data}\n\n".encode()

    def start(self):
        return (
            self.event(
                '{"type":"message_start","message":{"id":"m","role":"assistant","content":[],"usage":'
                '{"input_tokens":12,"cache_read_input_tokens":8,"cache_creation_input_tokens":3,"output_tokens":1}}}'
            )
            + self.event('{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}')
            + self.event('{"type": "ping"}')
        )

    def text(self, text):
        return self.text_json(quoted(text))

    def text_json(self, literal):
        return self.event(
            f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":{literal}}}}}'
        )

    def think(self, text):
        return self.event(
            f'{{"type":"content_block_delta","index":0,"delta":{{"type":"thinking_delta","thinking":{quoted(text)}}}}}'
        )

    def end(self, reason="stop", output=5):
        theirs = {"stop": "end_turn", "length": "max_tokens"}.get(reason, reason)
        return self.event('{"type":"content_block_stop","index":0}') + self.event(
            f'{{"type":"message_delta","delta":{{"stop_reason":{quoted(theirs)}}},"usage":{{"output_tokens":{output}}}}}'
        )

    def error(self, kind):
        return self.event(
            json.dumps({"type": "error", "error": {"type": kind, "message": "the words of the provider"}})
        )

    def tool_call(self):
        return self.event(
            '{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}'
        )

    expected_usage = Usage(input_tokens=12, cache_read_tokens=8, cache_write_tokens=3, output_tokens=5)


SETTINGS = ProviderSettings(
    name=ProviderName.SCRIPTED,
    base_url="",
    model="model-1",
    api_key=Secret(KEY),
    connect_timeout_seconds=3600,  # far above LIMIT_SECONDS: no connection is closed because of them
    first_token_timeout_seconds=3600,
    idle_timeout_seconds=3600,
    breaker_seconds=10,
    running_usage=False,
    continuation=False,
    stream_options=True,
    limit_field=LimitField.AUTO,
    think_tags=False,
    transport="fast",
    max_line_bytes=64 * 1024,
    max_event_bytes=64 * 1024,
    max_answer_bytes=1024 * 1024,
    max_text_bytes=512 * 1024,
    guards_egress=False,
    allowed_hosts=frozenset(),
    prices=PriceTable("none"),
    declared_price=None,
)


@dataclass
class Side:
    """Our side of the wire: one dialect over one transport."""

    says: ChatCompletions | Messages
    settings: ProviderSettings
    runner: asyncio.Runner

    def run(self, coroutine):
        async def limited():
            async with asyncio.timeout(LIMIT_SECONDS):
                return await coroutine

        return self.runner.run(limited())

    @contextlib.asynccontextmanager
    async def provider(self, server, **changes):
        changes.setdefault("base_url", f"http://127.0.0.1:{server.port}{self.says.prefix}")
        provider = build_provider(replace(self.settings, **changes))
        try:
            yield provider
        finally:
            await provider.aclose()

    def read(self, play, **changes):
        """Return the items and the error, or None, of one stream."""

        async def go():
            async with Upstream(play) as server, self.provider(server, **changes) as provider:
                return (*await read(provider), server)

        return self.run(go())

    def fault(self, play, **changes):
        _, error, _ = self.read(play, **changes)
        assert error is not None, "the stream was taken as an answer"
        return error.fault


async def read(provider, prompt=PROMPT, on_batch=lambda _: None):
    items, error = [], None
    try:
        async with provider.stream(prompt) as batches:
            async for batch in batches:
                assert batch
                items += batch
                on_batch(items)
    except ProviderError as exc:
        error = exc
    return items, error


def text_of(items):
    return "".join(item.text for item in items if isinstance(item, ContentDelta))


def loops(name):
    return uvloop.new_event_loop if name == "uvloop" else asyncio.new_event_loop


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose time a test advances: no machine is too slow for a limit, and no test waits for one."""

    now = 0.0

    def time(self):
        return self.now

    def step(self, seconds):
        self.now += seconds


@pytest.fixture(params=[ChatCompletions, Messages], ids=["openai", "anthropic"])
def says(request):
    return request.param()


@pytest.fixture(params=["fast", "httpx"])
def transport(request):
    return request.param


@pytest.fixture
def loop_name():
    return "uvloop"


@pytest.fixture
def side(says, transport, loop_name):
    with asyncio.Runner(loop_factory=loops(loop_name)) as runner:
        yield Side(says, replace(SETTINGS, name=says.name, transport=transport), runner)


@pytest.fixture
def stepped_side(says, transport):
    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        yield Side(says, replace(SETTINGS, name=says.name, transport=transport), runner)


# A whole answer.


def test_an_answer_is_a_start_then_deltas_then_one_finish(side):
    says = side.says
    items, error, _ = side.read(
        plays(says.start(), says.think("hm"), says.text("Hel"), says.text("lo"), says.end(), says.mark)
    )
    assert error is None
    assert items[0] == MessageStart()
    assert [item for item in items if isinstance(item, ContentDelta | ReasoningDelta)] == [
        ReasoningDelta("hm"),
        ContentDelta("Hel"),
        ContentDelta("lo"),
    ]
    assert items[-1] == Finish(FinishReason.STOP, says.expected_usage)
    assert sum(isinstance(item, Finish | MessageStart) for item in items) == 2


def test_the_request_says_what_the_prompt_says_and_offers_no_tools(side):
    says = side.says
    _, _, server = side.read(plays(says.start() + says.text("x") + says.end() + says.mark))
    (request,) = server.requests
    body = json.loads(request.body)
    assert request.line == f"POST {says.path} HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["traceparent"] == PROMPT.traceparent
    assert body["model"] == "model-1"
    assert body["max_tokens"] == 321
    assert body["stream"] is True
    assert not {"tools", "functions", "tool_choice"} & body.keys()
    history = [{"role": message.role, "content": message.content} for message in PROMPT.messages]
    if isinstance(says, Messages):
        assert request.headers["x-api-key"] == KEY
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert (body["system"], body["messages"]) == ("be brief", history)
    else:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert body["messages"] == [{"role": "system", "content": "be brief"}, *history]
        assert body["stream_options"] == {"include_usage": True}


def test_a_traceparent_that_is_none_is_left_out_and_breaks_nothing(side):
    says = side.says

    async def go():
        async with Upstream(plays(says.start() + says.text("x") + says.end() + says.mark)) as server:
            async with side.provider(server) as provider:
                _, error = await read(provider, replace(PROMPT, traceparent="00-x\r\nx-api-key: stolen"))
            return error, server.requests[0]

    error, request = side.run(go())
    assert error is None
    assert "traceparent" not in request.headers


def test_what_arrives_together_is_given_out_together(side):
    says = side.says
    whole = says.start() + says.text("a") + says.text("b") + says.text("c") + says.end() + says.mark

    async def go():
        async with (
            Upstream(plays(whole)) as server,
            side.provider(server) as provider,
            provider.stream(PROMPT) as batches,
        ):
            return [list(batch) async for batch in batches]

    batches = side.run(go())
    assert len(batches) == 1
    assert text_of(batches[0]) == "abc"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_framing_does_not_change_an_answer(side, line_end, size):
    says = side.says
    stream = b"\xef\xbb\xbf: hello\nretry: 5\n" + says.start() + says.text("Zürich\u2028\x85 😀")
    stream = (stream + b": ping\n\n" + says.text("!") + says.end() + says.mark).replace(b"\n", line_end)
    items, error, _ = side.read(
        plays(*(stream[start : start + size] for start in range(0, len(stream), size)))
    )
    assert error is None
    assert text_of(items) == "Zürich\u2028\x85 😀!"
    assert items[-1] == Finish(FinishReason.STOP, says.expected_usage)


def test_data_on_several_lines_is_one_event(side):
    says = side.says
    split = says.text("joined").replace(b'{"', b'{\ndata: "', 1)
    items, error, _ = side.read(plays(says.start(), split, says.end(), says.mark))
    assert error is None
    assert text_of(items) == "joined"


def test_text_that_no_database_takes_is_made_safe(side):
    says = side.says
    items, error, _ = side.read(
        plays(
            says.start(),
            says.text_json(r'"a\u0000b"'),
            says.text_json(r'"\ud83d"'),
            says.text_json(r'"\ude00"'),
            says.text_json(r'"\udc00x"'),
            says.text("Q").replace(b"Q", b"\xff"),
            says.text_json(r'"\ud83d"'),
            says.end(),
            says.mark,
        )
    )
    assert error is None
    assert (
        text_of(items) == "ab😀\N{REPLACEMENT CHARACTER}x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    )
    assert all(item.text for item in items if isinstance(item, ContentDelta))


@pytest.mark.parametrize("cut", [1, 2])
def test_a_last_event_without_its_blank_line_still_completes_the_answer(side, cut):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.text("x"), (says.end() + says.mark)[:-cut]))
    assert error is None
    assert items[-1] == Finish(FinishReason.STOP, says.expected_usage)


def test_text_after_the_terminal_mark_is_not_shown(side):
    says = side.says
    for chunks in ([says.mark + says.text("late")], [says.mark, says.text("late"), b"garbage"]):
        items, error, _ = side.read(plays(says.start() + says.text("x") + says.end(), *chunks))
        assert error is None
        assert text_of(items) == "x"
        assert isinstance(items[-1], Finish)


def test_a_stream_that_goes_on_after_the_mark_keeps_nobody_waiting(any_loop_side):
    side, says = any_loop_side, any_loop_side.says

    async def go():
        gone = asyncio.Event()

        async def play(peer):
            await peer.request()
            await peer.send(STREAM_HEAD)
            await peer.chunk(says.start() + says.text("x") + says.end() + says.mark)
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.chunk(says.text("late"))
                    await asyncio.sleep(0)
            gone.set()

        async with Upstream(play) as server, side.provider(server) as provider:
            items, error = await read(provider)
            await gone.wait()
        return text_of(items), error

    assert side.run(go()) == ("x", None)


def test_a_connection_that_breaks_after_the_mark_has_given_its_answer(side):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.text("x") + says.end() + says.mark, end=False))
    assert error is None
    assert isinstance(items[-1], Finish)


def test_an_answer_that_ends_with_its_connection_is_whole(side):
    says = side.says
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    items, error, _ = side.read(answers(head + says.start() + says.text("x") + says.end() + says.mark))
    assert error is None
    assert items[-1] == Finish(FinishReason.STOP, says.expected_usage)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", FinishReason.LENGTH), ("stop", FinishReason.STOP), ("a-new-one", FinishReason.UNKNOWN)],
)
def test_a_finish_reason_is_told(side, reason, expected):
    says = side.says
    items, error, _ = side.read(plays(says.start(), says.text("x"), says.end(reason), says.mark))
    assert error is None
    assert items[-1].reason is expected


def test_unknown_events_are_passed_over(side):
    says = side.says
    unknown = says.event('{"type": "brand_new", "delta": 7, "extra": {"deep": [1]}}')
    if isinstance(says, ChatCompletions):
        unknown = says.event('{"object":"brand.new","extra":{"deep":[1]}}')
    items, error, _ = side.read(plays(says.start(), unknown, says.text("x"), says.end(), says.mark))
    assert error is None
    assert text_of(items) == "x"


# V3, V4, V5: streams that break.


@pytest.mark.parametrize(
    ("ending", "with_finish_reason"),
    [("eof", False), *((ending, known) for ending in ("cut chunk", "reset") for known in (False, True))],
)
def test_a_stream_that_ends_without_its_mark_is_truncated_and_its_text_kept(side, ending, with_finish_reason):
    says = side.says
    received = asyncio.Event()

    async def play(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start() + says.text("kept") + (says.end() if with_finish_reason else b""))
        match ending:
            case "eof":
                await peer.end()
            case "cut chunk":
                await peer.send(b"ff\r\ndata: ")
            case "reset":
                await received.wait()  # a reset throws away what the other side has not read yet
                peer.reset()

    async def go():
        async with Upstream(play) as server, side.provider(server) as provider:
            return await read(provider, on_batch=lambda _: received.set())

    items, error = side.run(go())
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert error.sent
    assert text_of(items) == "kept"
    assert not any(isinstance(item, Finish) for item in items)
    if with_finish_reason:
        assert items[-1] == RunningUsage(side.says.expected_usage)


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {not json}\n\n",
        b'data: {"choices": [{"delta"\n\n',
        b"data: nothing\n\n",
        b'data: ["\xff"\n\n',
    ],
)
def test_an_event_that_cannot_be_read_ends_the_stream_and_keeps_what_came_before(side, garbage):
    says = side.says
    items, error, _ = side.read(
        plays(says.start() + says.text("kept") + garbage + says.text("no") + says.end() + says.mark)
    )
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert text_of(items) == "kept"


def test_json_without_bottom_is_refused(side):
    says = side.says
    deep = "[" * 20_000 + "]" * 20_000
    event = says.event(f'{{"type": "content_block_delta", "usage": {deep}, "choices": {deep}}}')
    assert side.fault(plays(says.start() + event)) is Fault.PROVIDER_PROTOCOL


def test_the_connection_is_closed_when_an_event_cannot_be_read(side):
    says = side.says

    async def go():
        gone = asyncio.Event()

        async def play(peer):
            await peer.request()
            await peer.send(STREAM_HEAD)
            await peer.chunk(says.start() + b"data: {\n\n")
            await peer.gone()
            gone.set()

        async with Upstream(play) as server, side.provider(server) as provider:
            _, error = await read(provider)
            await gone.wait()
        return error.fault

    assert side.run(go()) is Fault.PROVIDER_PROTOCOL


def test_a_provider_that_hangs_up_instead_of_answering_is_a_fault(side):
    async def play(peer):
        await peer.request()

    _, error, _ = side.read(play)
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert error.sent


def test_a_provider_that_does_not_speak_http_is_a_fault(side):
    assert side.fault(answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) is Fault.PROVIDER_PROTOCOL


# V6, V7: refusals.


def refusal(status, body=b"{}", headers=b""):
    return answers(
        b"HTTP/1.1 %d Nope\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
        % (status, len(body), headers, body)
    )


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.PROVIDER_REJECTED),
        (401, Fault.PROVIDER_AUTH),
        (402, Fault.PROVIDER_REJECTED),
        (403, Fault.PROVIDER_AUTH),
        (404, Fault.PROVIDER_REJECTED),
        (413, Fault.PROVIDER_REJECTED),
        (422, Fault.PROVIDER_REJECTED),
        (429, Fault.PROVIDER_RATE_LIMITED),
        (500, Fault.PROVIDER_OVERLOADED),
        (502, Fault.PROVIDER_OVERLOADED),
        (503, Fault.PROVIDER_OVERLOADED),
        (529, Fault.PROVIDER_OVERLOADED),
        (201, Fault.PROVIDER_PROTOCOL),
        (204, Fault.PROVIDER_PROTOCOL),
        (304, Fault.PROVIDER_PROTOCOL),
    ],
)
def test_a_refusal_is_named_by_its_status(side, status, fault):
    body = b"" if status in {204, 304} else b"{}"
    assert side.fault(refusal(status, body)) is fault


def test_a_refusal_says_when_to_come_back(side):
    _, error, _ = side.read(refusal(429, headers=b"Retry-After: 7\r\n"))
    assert (error.fault, error.retry_after_ms) == (Fault.PROVIDER_RATE_LIMITED, 7000)
    _, error, _ = side.read(refusal(429))
    assert error.retry_after_ms is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(side, status):
    async def go():
        async with Upstream(plays()) as elsewhere:
            location = b"location: http://127.0.0.1:%d/v1/messages\r\n" % elsewhere.port
            async with (
                Upstream(refusal(status, headers=location)) as server,
                side.provider(server) as provider,
            ):
                _, error = await read(provider)
            return error.fault, elsewhere.connections

    assert side.run(go()) == (Fault.PROVIDER_PROTOCOL, 0)


def test_a_prompt_too_long_for_the_model_is_told_apart(side):
    if isinstance(side.says, Messages):
        said = {
            "type": "invalid_request_error",
            "message": "prompt is too long: 210000 tokens > 200000 maximum",
        }
        body = json.dumps({"type": "error", "error": said}).encode()
    else:
        body = b'{"error":{"message":"no","type":"invalid_request_error","code":"context_length_exceeded"}}'
    assert side.fault(refusal(400, body)) is Fault.CONTEXT_TOO_LONG


def test_what_a_provider_says_in_an_error_is_logged_without_secrets_and_never_shown_to_readers(side, caplog):
    said = f"quota of https://user:hunter2@host exceeded for {KEY} Bearer abcdefgh12: you asked 'three'"
    for error in (
        {"message": said},
        {"message": said, "type": said, "code": said},
        {"type": "not_found_error"},
    ):
        with caplog.at_level(logging.WARNING, "turnkeeper.provider"):
            _, fault, _ = side.read(refusal(400, json.dumps({"error": {"param": said, **error}}).encode()))
        assert "quota" not in fault.detail
        assert "quota" not in str(fault)
        assert "quota" in fault.said  # the parameter's name is said as well
    assert [record.provider_status for record in caplog.records] == [400] * 3
    assert [record.provider_error for record in caplog.records] == ["unknown", "unknown", "not_found_error"]
    for record in caplog.records:
        assert "quota" in record.provider_said
        for secret in (KEY, "hunter2", "abcdefgh12", "three"):
            assert secret not in str(vars(record))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"error":{"message":"no such model: x","type":"not_found_error"}}',
            "not_found_error: no such model: x",
        ),
        (
            b'{"detail":[{"loc":["body","top_k"],"msg":"Extra inputs are not permitted","input":"three"}]}',
            "Extra inputs are not permitted",
        ),
        (b'{"object":"error","message":"bad request","code":400}', "400: bad request"),
        (b'{"error":"out of memory"}', "out of memory"),
        (b'{"message":"unknown field"}', "unknown field"),
        (
            b"<html><head><style>p{}</style></head><body><h1>502 Bad Gateway</h1></body></html>",
            "502 Bad Gateway",
        ),
        (b"upstream connect error", "upstream connect error"),
        (b"\xff\xfe\x00", "\ufffd\ufffd"),
        (b"", None),
        (b"{}", None),
        (
            b'{"error":{"metadata":{"raw":"no credits","provider_name":"x"},"message":"Provider returned error"}}',
            "Provider returned error",
        ),
    ],
)
def test_every_form_of_error_says_why(side, body, said):
    _, fault, _ = side.read(refusal(400, body))
    assert fault.said == said


def test_a_refusal_whose_body_never_ends_is_still_told(side, monkeypatch):
    monkeypatch.setattr(upstream, "ERROR_BODY_SECONDS", 0.05)

    async def play(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 503 No\r\ncontent-length: 1000\r\n\r\nsorry")
        await peer.gone()

    assert side.fault(play) is Fault.PROVIDER_OVERLOADED


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"application/json", b'{"error":{"message":"quota"}}'),
        (b"application/json", b'{"choices":[{"message":{"content":"hi"}}]}'),
        (b"text/html", b"<html>"),
        (b"text/event-streams", b"data: [DONE]\n\n"),
        (b"", b"data: [DONE]\n\n"),
    ],
)
def test_a_success_that_is_no_event_stream_is_a_fault(side, content_type, body):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (content_type, len(body))
    assert side.fault(answers(head + body)) is Fault.PROVIDER_PROTOCOL


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate", b"made-up"])
def test_an_encoded_answer_is_refused_unread(side, coding):
    says = side.says
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: " + coding + b"\r\n\r\n")
    items, error, _ = side.read(plays(says.start() + says.text("x") + says.end() + says.mark, head=head))
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert items == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("overloaded_error", Fault.PROVIDER_OVERLOADED),
        ("api_error", Fault.PROVIDER_OVERLOADED),
        ("server_error", Fault.PROVIDER_OVERLOADED),
        ("rate_limit_error", Fault.PROVIDER_RATE_LIMITED),
        ("authentication_error", Fault.PROVIDER_AUTH),
        ("invalid_request_error", Fault.PROVIDER_REJECTED),
        ("never heard of", Fault.PROVIDER_PROTOCOL),
    ],
)
@pytest.mark.parametrize("after_text", [False, True])
def test_an_error_within_the_stream_is_a_fault(side, kind, fault, after_text):
    says = side.says
    before = says.start() + says.text("kept") if after_text else b""
    items, error, _ = side.read(plays(before + says.error(kind) + says.text("no") + says.end() + says.mark))
    assert error.fault is fault
    assert text_of(items) == ("kept" if after_text else "")
    assert "words" not in error.detail


# V11 and answers that are none.


def test_a_tool_call_ends_the_stream(side):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.text("I will") + says.tool_call(), says.mark))
    assert error.fault is Fault.TOOL_CALL_UNSUPPORTED
    assert text_of(items) == "I will"
    reason = "tool_use" if isinstance(says, Messages) else "tool_calls"
    assert side.fault(plays(says.start() + says.end(reason) + says.mark)) is Fault.TOOL_CALL_UNSUPPORTED


def test_an_empty_answer_is_no_success_but_its_usage_is_known(side):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.end(output=0) + says.mark))
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert not any(isinstance(item, Finish) for item in items)
    assert any(isinstance(item, RunningUsage) for item in items)
    assert side.fault(plays(says.mark)) is Fault.PROVIDER_PROTOCOL
    assert side.fault(plays()) is Fault.PROVIDER_PROTOCOL


def test_an_empty_refusal_and_thinking_up_to_the_limit_are_answers(side):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.end("refusal") + says.mark))
    assert error is None
    assert items[-1].reason in {FinishReason.REFUSAL, FinishReason.CONTENT_FILTER}
    items, error, _ = side.read(plays(says.start() + says.think("hm") + says.end("length") + says.mark))
    assert error is None
    assert items[-1].reason is FinishReason.LENGTH
    assert side.fault(plays(says.start() + says.think("hm") + says.end("stop") + says.mark)) is (
        Fault.PROVIDER_PROTOCOL
    )


# V12: usage.


@pytest.mark.parametrize(
    "output", ["-5", "1e12", '"many"', "null", "10000000000", "true", "0", "[1]", "{}", '""']
)
def test_a_usage_that_cannot_be_right_is_none_at_all(side, output):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.text("x") + says.end(output=output) + says.mark))
    assert error is None
    assert items[-1] == Finish(FinishReason.STOP, None)
    for item in items:
        if isinstance(item, RunningUsage):
            assert all(0 <= count <= 10**9 for count in item.usage.as_dict().values())


def test_a_usage_that_comes_twice_counts_once_and_never_falls(side):
    says = side.says
    items, error, _ = side.read(
        plays(
            says.start() + says.text("x"),
            says.end(output=9),
            says.end(output=4),
            says.end(output=9),
            says.mark,
        )
    )
    assert error is None
    assert items[-1].usage == replace(says.expected_usage, output_tokens=9)
    running = [item.usage for item in items if isinstance(item, RunningUsage)]
    assert running == sorted(running, key=lambda usage: usage.output_tokens)
    assert len(running) == len(set(running))


def test_an_answer_without_usage_says_so_and_one_without_a_reason_too(side):
    says = side.says
    items, error, _ = side.read(plays(says.start() + says.text("x") + says.mark))
    assert error is None
    assert items[-1] == Finish(FinishReason.UNKNOWN, None)


# V8, V9: limits.


@pytest.mark.parametrize("whole", [True, False])
def test_a_line_over_the_limit_is_given_up(side, whole):
    says = side.says

    async def play(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start() + says.text("kept"))
        if whole:
            await peer.chunk(says.text("x" * 70_000))
        else:
            await peer.chunk(b"data: ")
            while True:
                await peer.chunk(b"x" * 60_000)

    items, error, _ = side.read(play)
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert text_of(items) == "kept"


def test_an_event_of_many_lines_over_the_limit_is_given_up(side):
    says = side.says
    many = b"data: " + b" " * 30_000 + b"\n"
    assert side.fault(plays(says.start(), many * 3 + b"\n", says.mark)) is Fault.PROVIDER_PROTOCOL


def test_an_endless_answer_is_given_up(side):
    says = side.says

    async def text(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start())
        while True:
            await peer.chunk(says.text("x" * 8_000))

    items, error, _ = side.read(text, max_text_bytes=100_000)
    assert error.fault is Fault.PROVIDER_PROTOCOL
    assert 80_000 < len(text_of(items)) <= 100_000

    async def comments(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        while True:
            await peer.chunk(b": " + b"x" * 8_000 + b"\n")

    assert side.fault(comments) is Fault.PROVIDER_PROTOCOL


def test_a_flood_of_events_is_given_up(side, monkeypatch):
    monkeypatch.setattr(upstream, "MAX_EVENTS", 50)
    says = side.says
    assert side.fault(plays(says.start(), says.text("x") * 60, says.mark)) is Fault.PROVIDER_PROTOCOL


def test_headers_over_the_limit_are_refused(side):
    async def play(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await peer.send(b"x" * 60_000)

    assert side.fault(play) is Fault.PROVIDER_PROTOCOL


# V1, V2, V14: time.


async def blackhole():
    """Return a port that takes no connection: its backlog is full, so a SYN is not answered."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            filler.connect(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


def test_a_provider_that_takes_no_connection_is_given_up_in_time(side):
    async def go():
        listener, fillers = await blackhole()
        try:
            server = Upstream(None, port=listener.getsockname()[1])
            async with side.provider(server, connect_timeout_seconds=0.2) as provider:
                return (await read(provider))[1]
        finally:
            for open_socket in (listener, *fillers):
                open_socket.close()

    error = side.run(go())
    assert error.fault is Fault.PROVIDER_TIMEOUT
    assert not error.sent


def test_a_provider_that_is_not_there_is_unreachable_and_was_sent_nothing(side):
    async def go():
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # bound, not listening
            async with side.provider(Upstream(None, port=bound.getsockname()[1])) as provider:
                return (await read(provider))[1]

    error = side.run(go())
    assert error.fault is Fault.PROVIDER_UNREACHABLE
    assert not error.sent


@pytest.mark.parametrize("phase", ["before headers", "after headers", "after the start", "comments", "pings"])
def test_a_provider_that_says_no_first_word_is_given_up_in_time(side, phase):
    says = side.says

    async def play(peer):
        await peer.request()
        if phase == "before headers":
            await peer.gone()
            return
        await peer.send(STREAM_HEAD)
        if phase != "after headers":
            await peer.chunk(says.start())
        while phase in {"comments", "pings"}:
            await peer.chunk(b": \n\n" if phase == "comments" else b'event: ping\ndata: {"type": "ping"}\n\n')
            await asyncio.sleep(0.02)
        await peer.gone()

    _, error, _ = side.read(play, first_token_timeout_seconds=0.3, idle_timeout_seconds=60)
    assert error.fault is Fault.PROVIDER_TIMEOUT
    assert error.sent


@pytest.mark.parametrize("filler", [b"", b": still here\n\n", b'event: ping\ndata: {"type": "ping"}\n\n'])
def test_silence_after_text_is_given_up_in_time_whatever_keeps_the_socket_busy(side, filler):
    says = side.says

    async def play(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start() + says.text("kept"))
        while filler:
            await peer.chunk(filler)
            await asyncio.sleep(0.02)
        await peer.gone()

    items, error, _ = side.read(play, idle_timeout_seconds=0.15, first_token_timeout_seconds=60)
    assert error.fault is Fault.PROVIDER_TIMEOUT
    assert text_of(items) == "kept"


def test_a_slow_answer_outlives_the_idle_limit(stepped_side):
    side, says = stepped_side, stepped_side.says

    async def go():
        taken = asyncio.Event()

        async def play(peer):
            await peer.request()
            await peer.send(STREAM_HEAD)
            await peer.chunk(says.start())
            for _ in range(12):
                taken.clear()
                await peer.chunk(says.text("x"))
                await taken.wait()
                side.runner.get_loop().step(0.6)
            await peer.chunk(says.end() + says.mark)
            await peer.end()

        async with (
            Upstream(play) as server,
            side.provider(server, idle_timeout_seconds=1, first_token_timeout_seconds=60) as provider,
        ):
            return await read(provider, on_batch=lambda _: taken.set())

    items, error = side.run(go())
    assert error is None
    assert text_of(items) == "x" * 12


def test_a_reader_that_is_slow_itself_is_not_taken_for_a_silent_provider(side):
    says = side.says

    async def play(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start() + says.text("a"))
        await peer.chunk(says.text("b") + says.end() + says.mark)
        await peer.end()

    async def go():
        items = []
        async with (
            Upstream(play) as server,
            side.provider(server, idle_timeout_seconds=0.05) as provider,
            provider.stream(PROMPT) as batches,
        ):
            async for batch in batches:
                items += batch
                await asyncio.sleep(0.2)
        return items

    assert text_of(side.run(go())) == "ab"


# V14: TLS.


def secured(folder, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / "leaf.key")
    return context


@pytest.mark.parametrize(
    ("certificate", "host", "fault"),
    [
        ("good", "localhost", None),
        ("good", "127.0.0.1", Fault.PROVIDER_UNREACHABLE),
        ("expired", "localhost", Fault.PROVIDER_UNREACHABLE),
        ("unknown", "localhost", Fault.PROVIDER_UNREACHABLE),
    ],
    ids=["good", "wrong name", "expired", "unknown authority"],
)
def test_a_certificate_must_be_the_providers_own(any_loop_side, certificates, certificate, host, fault):
    side, says = any_loop_side, any_loop_side.says
    play = plays(says.start(), says.text("x"), says.end() + says.mark)

    async def go():
        async with Upstream(play, ssl=secured(certificates, certificate)) as server:
            base_url = f"https://{host}:{server.port}{says.prefix}"
            async with side.provider(server, base_url=base_url) as provider:
                results = [await read(provider), await read(provider)]
            return results, server

    results, server = side.run(go())
    for items, error in results:
        if fault is None:
            assert error is None
            assert text_of(items) == "x"
        else:
            assert (error.fault, error.sent) == (fault, False)
    assert len(server.requests) == (2 if fault is None else 0)
    assert fault is not None or server.connections == 1


def test_a_stop_closes_a_connection_under_tls_at_once(any_loop_side, certificates):
    # I7
    side, says = any_loop_side, any_loop_side.says

    async def go():
        got, gone = asyncio.Event(), asyncio.Event()

        async def play(peer):
            await peer.request()
            await peer.send(STREAM_HEAD)
            await peer.chunk(says.start() + says.text("x"))
            await peer.gone()
            gone.set()

        async with Upstream(play, ssl=secured(certificates, "good")) as server:
            base_url = f"https://localhost:{server.port}{says.prefix}"
            async with side.provider(server, base_url=base_url) as provider:
                task = asyncio.create_task(read(provider, on_batch=lambda _: got.set()))
                await got.wait()
                task.cancel()
                await asyncio.wait([task])
                await gone.wait()
                return task.cancelled()

    assert side.run(go())


# Stop. (I7)


@pytest.fixture(params=["uvloop", "asyncio"])
def any_loop_side(says, transport, request):
    with asyncio.Runner(loop_factory=loops(request.param)) as runner:
        yield Side(says, replace(SETTINGS, name=says.name, transport=transport), runner)


@pytest.mark.parametrize(
    ("phase", "way"),
    [
        ("waiting for headers", "cancelled"),
        ("silent", "cancelled"),
        ("mid-stream", "cancelled"),
        ("mid-stream", "left"),
    ],
)
def test_a_stop_closes_the_connection_at_once_in_every_phase(any_loop_side, phase, way):
    # I7
    side, says = any_loop_side, any_loop_side.says

    async def go():
        sent, got, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def play(peer):
            await peer.request()
            if phase != "waiting for headers":
                await peer.send(STREAM_HEAD)
            if phase == "mid-stream":
                await peer.chunk(says.start() + says.text("x"))
            sent.set()
            await peer.gone()
            gone.set()

        async def read_some():
            async with provider.stream(PROMPT) as batches:
                async for _ in batches:
                    got.set()
                    if way == "left":
                        break

        async with Upstream(play) as server, side.provider(server) as provider:
            task = asyncio.create_task(read_some())
            await (got if phase == "mid-stream" else sent).wait()
            for _ in range(20):
                await asyncio.sleep(0)  # headers that were sent are read
            if way == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            await gone.wait()
            return task.cancelled()

    assert side.run(go()) == (way == "cancelled")


def test_a_stop_while_connecting_leaves_no_connection(any_loop_side):
    # I7
    side = any_loop_side

    async def go():
        listener, fillers = await blackhole()
        port = listener.getsockname()[1]
        others = connecting_to(port)
        try:
            async with side.provider(Upstream(None, port=port)) as provider:
                task = asyncio.create_task(read(provider))
                await until(lambda: connecting_to(port) > others)
                task.cancel()
                await asyncio.wait([task])
                await until(lambda: connecting_to(port) == others)
                return task.cancelled()
        finally:
            for open_socket in (listener, *fillers):
                open_socket.close()

    assert side.run(go())


async def until(is_so):
    while not is_so():  # noqa: ASYNC110 -- the kernel tells nobody
        await asyncio.sleep(0.005)


def connecting_to(port):
    """Count this process's sockets that are still connecting to `port`."""
    return count_of(port, psutil.CONN_SYN_SENT)


def open_to(port):
    """Count this process's connections to `port` whose other end is open."""
    return count_of(port, psutil.CONN_ESTABLISHED)


def count_of(port, status):
    return sum(
        connection.status == status and bool(connection.raddr) and connection.raddr.port == port
        for connection in psutil.Process().net_connections("tcp")
    )


# Sending, and what is kept between answers.


def test_a_request_is_called_sent_once_when_it_is(side):
    says = side.says

    async def go():
        calls = []
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def play(peer):
            await peer.request()
            reached.set()
            await go_on.wait()
            await peer.send(STREAM_HEAD)
            await peer.chunk(says.start() + says.text("x") + says.end() + says.mark)
            await peer.end()

        async def read_all():
            async with provider.stream(PROMPT, on_sent=lambda: calls.append(1)) as batches:
                async for _ in batches:
                    pass

        async with Upstream(play) as server, side.provider(server) as provider:
            task = asyncio.create_task(read_all())
            await reached.wait()
            await until(lambda: calls)
            sent_before_answer = list(calls)
            go_on.set()
            await task
            return sent_before_answer, calls

    assert side.run(go()) == ([1], [1])


def test_a_connection_serves_the_next_answer_when_this_one_was_read_to_its_end(side):
    says = side.says
    play = plays(says.start(), says.text("x"), says.end() + says.mark)

    async def go():
        async with Upstream(play) as server, side.provider(server) as provider:
            for _ in range(3):
                _, error = await read(provider)
                assert error is None
            return server.connections, len(server.requests)

    assert side.run(go()) == (1, 3)


def test_a_kept_connection_that_the_server_closed_is_not_used_again(side):
    says = side.says

    async def play(peer):
        await peer.request()
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start() + says.text("x") + says.end() + says.mark)
        await peer.end()

    async def go():
        async with Upstream(play) as server, side.provider(server) as provider:
            for _ in range(3):
                _, error = await read(provider)
                assert error is None
                # Its end of the connection has arrived, and after that the loop has seen it.
                await until(lambda: not open_to(server.port))
                for _ in range(20):
                    await asyncio.sleep(0)
            return server.connections

    assert side.run(go()) == 3


def test_streams_side_by_side_do_not_touch_each_other(stepped_side):
    side, says = stepped_side, stepped_side.says

    async def play(peer):
        request = await peer.request()
        word = json.loads(request.body)["messages"][-1]["content"]
        await peer.send(STREAM_HEAD)
        await peer.chunk(says.start())
        for _ in range(20):
            await peer.chunk(says.text(word))
        if word == "silent":
            await peer.gone()
        if word == "garbage":
            await peer.chunk(b"data: {\n\n")
        await peer.chunk(says.end() + says.mark)
        await peer.end()

    async def go():
        shown = asyncio.Event()

        def note(items):
            if text_of(items) == "silent" * 20:
                shown.set()

        words = ["silent", "garbage", *(f"w{number}" for number in range(30))]
        async with Upstream(play) as server, side.provider(server, idle_timeout_seconds=1.5) as provider:
            prompts = [replace(PROMPT, messages=(text_message(Role.USER, word),)) for word in words]
            silent, *others = [asyncio.create_task(read(provider, prompt, note)) for prompt in prompts]
            await asyncio.wait(others)
            await shown.wait()
            side.runner.get_loop().step(2)
            return words, [await task for task in (silent, *others)]

    words, results = side.run(go())
    for word, (items, _) in zip(words, results, strict=True):
        assert text_of(items) == word * 20
    assert [error and error.fault for _, error in results[:2]] == [
        Fault.PROVIDER_TIMEOUT,
        Fault.PROVIDER_PROTOCOL,
    ]
    assert all(error is None for _, error in results[2:])


def test_cookies_of_one_answer_do_not_go_with_the_next_question(side):
    # I9
    says = side.says
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nset-cookie: who=them; path=/\r\n\r\n")
    play = plays(says.start() + says.text("x") + says.end() + says.mark, head=head)

    async def go():
        async with Upstream(play) as server, side.provider(server) as provider:
            await read(provider)
            await read(provider)
            return [request.headers for request in server.requests]

    assert not any("cookie" in headers for headers in side.run(go()))


def test_proxies_of_the_environment_are_not_used(side, monkeypatch):
    says = side.says
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    _, error, _ = side.read(plays(says.start() + says.text("x") + says.end() + says.mark))
    assert error is None


def test_a_closed_provider_refuses(side):
    async def go():
        async with Upstream(plays()) as server, side.provider(server) as provider:
            await provider.aclose()
            return (await read(provider))[1]

    error = side.run(go())
    assert error.fault is Fault.PROVIDER_UNREACHABLE
    assert not error.sent
