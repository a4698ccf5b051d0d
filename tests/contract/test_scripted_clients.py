"""The scripted provider as seen by its clients: the official ones, and a bare socket."""

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import anthropic
import httpx
import openai
import pytest
import uvloop

from shared.configuration.provider_settings import ProviderName
from shared.configuration.settings import load_settings
from shared.errors import ContextTold, Fault
from tests.children import search_rest
from turnkeeper.scripted.app import App
from turnkeeper.scripted.connection import Connection
from turnkeeper.scripted.oracle import Oracle
from turnkeeper.scripted.pacer import Pacer
from turnkeeper.scripted.wire import SECRET_MARK
from worker.providers import build_transport
from worker.providers.context_page import told_context
from worker.providers.faults import error_of_response
from worker.providers.registration import error_names_of
from worker.providers.said import Discretion

NAMES = error_names_of(ProviderName.OPENAI_COMPATIBLE)
START_SECONDS = 60
PATIENCE_SECONDS = 60
START = "import sys; from turnkeeper.scripted import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def provider(*options):
    process = subprocess.Popen(
        [sys.executable, "-c", START, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("scripted provider on http://127.0.0.1:"), (line, process.stderr.read())
        yield process, line.split()[-1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            raise
        search_rest(process)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def url():
    with provider() as (_, address):
        yield address


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def openai_client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(url):
    with anthropic.Anthropic(base_url=url, api_key="secret", max_retries=0) as client:
        yield client


def user(content):
    return [{"role": "user", "content": content}]


def eventually(read, wanted):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted(value := read()):
        assert time.monotonic() < deadline, value
    return value


def last_record(http, outcome=None):
    """Return the newest record, once it has ended (with `outcome`)."""
    newest = http.get("/_stats").json()["last_id"]
    return eventually(
        lambda: http.get(f"/_log/{newest}").json(),
        lambda record: record["outcome"] == outcome if outcome else record["outcome"] != "running",
    )


class Raw:
    """A bare socket that has asked a question in the OpenAI dialect."""

    def __init__(self, url, content, path="/v1/chat/completions", **fields):
        host, port = url.removeprefix("http://").split(":")
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        body = json.dumps({"model": "m", "stream": True, "messages": user(content), **fields}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)
        self.read = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def until(self, mark):
        while mark not in self.read:
            chunk = self.sock.recv(65_536)
            assert chunk, self.read
            self.read += chunk
        return self.read

    def to_end(self):
        while chunk := self.sock.recv(65_536):
            self.read += chunk
        return self.read


def test_the_openai_client_reads_a_stream_with_its_usage(openai_client, http):
    stream = openai_client.chat.completions.create(
        model="m",
        messages=user("[[tokens=12 reasoning=3 cached=40]]"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    record = last_record(http)
    assert text == record["text"]
    assert len(text.split()) == 12
    assert usage.completion_tokens == 15 == record["output_tokens"]
    assert usage.completion_tokens_details.reasoning_tokens == 3
    assert usage.prompt_tokens_details.cached_tokens == 40
    assert usage.prompt_tokens == record["input_tokens"] + record["cache_read_tokens"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert record["outcome"] == "completed"


def test_the_openai_client_reads_a_whole_answer(openai_client, http):
    answer = openai_client.chat.completions.create(
        model="scripted:tokens=9", messages=user("hi"), max_completion_tokens=5
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].message.content == last_record(http)["text"]


def test_the_openai_client_reads_a_tool_call(openai_client):
    answer = openai_client.chat.completions.create(model="m", messages=user("[[tokens=1 tool_call=1]]"))
    call = answer.choices[0].message.tool_calls[0]
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "scripted_tool")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
def test_the_openai_client_raises_its_own_errors(openai_client, status, error):
    with pytest.raises(error) as raised:
        openai_client.chat.completions.create(model="m", messages=user(f"[[status={status} retry_after=1]]"))
    assert SECRET_MARK in raised.value.message
    assert raised.value.response.headers["retry-after"] == "1"


def test_the_openai_client_raises_an_error_in_the_stream(openai_client):
    stream = openai_client.chat.completions.create(
        model="m", messages=user("[[tokens=9 error_after=2]]"), stream=True
    )
    with pytest.raises(openai.APIError):
        list(stream)


def test_the_openai_client_lists_the_model(openai_client):
    assert [model.id for model in openai_client.models.list()] == ["scripted"]


def test_the_anthropic_client_reads_a_stream_with_its_usage(anthropic_client, http):
    with anthropic_client.messages.stream(
        model="m",
        max_tokens=100,
        system="Be brief.",
        messages=user("[[tokens=12 reasoning=3 cached=40 cache_write=5 cache_write_1h=2]]"),
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    record = last_record(http)
    assert text == record["text"]
    assert record["system"] == "Be brief."
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == record["reasoning"]
    assert message.usage.output_tokens == 15 == record["output_tokens"]
    assert message.usage.input_tokens == record["input_tokens"]
    assert (message.usage.cache_read_input_tokens, message.usage.cache_creation_input_tokens) == (40, 7)
    assert message.usage.cache_creation.ephemeral_5m_input_tokens == 5
    assert message.stop_reason == "end_turn"


def test_the_anthropic_client_reads_a_whole_answer(anthropic_client, http):
    message = anthropic_client.messages.create(model="m", max_tokens=5, messages=user("[[tokens=9]]"))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)
    assert message.content[0].text == last_record(http)["text"]


def test_the_anthropic_client_assembles_a_tool_call(anthropic_client):
    with anthropic_client.messages.stream(
        model="m", max_tokens=9, messages=user("[[tokens=1 tool_call=1]]")
    ) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.content[-1].input) == ("tool_use", {"question": "why"})


def test_the_anthropic_client_raises_its_own_errors(anthropic_client):
    with pytest.raises(anthropic.RateLimitError) as raised:
        anthropic_client.messages.create(model="m", max_tokens=5, messages=user("[[status=429]]"))
    assert raised.value.body["error"]["type"] == "rate_limit_error"
    with (
        pytest.raises(anthropic.APIStatusError) as raised,
        anthropic_client.messages.stream(
            model="m", max_tokens=50, messages=user("[[tokens=9 error_after=2]]")
        ) as stream,
    ):
        list(stream)
    assert raised.value.body["error"]["type"] == "overloaded_error"


def test_the_anthropic_client_lists_the_model(anthropic_client):
    assert [model.id for model in anthropic_client.models.list()] == ["scripted"]


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        ({"anthropic-version": "2023-06-01", "authorization": "Basic k"}, 401, "authentication_error"),
        ({"x-api-key": "k"}, 400, "invalid_request_error"),
    ],
)
def test_anthropic_headers_are_required(http, headers, status, kind):
    refused = http.post(
        "/v1/messages", headers=headers, json={"model": "m", "max_tokens": 1, "messages": user("hi")}
    )
    assert refused.status_code == status
    assert refused.json()["type"] == "error"
    assert refused.json()["error"]["type"] == kind
    assert last_record(http)["outcome"] == "refused"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/_log/x", 404),
        ("GET", "/_log/999999999", 404),
    ],
)
def test_only_the_exact_paths_are_answered(http, method, path, status):
    assert http.request(method, path, content=b"{}").status_code == status


def test_a_bad_directive_is_answered_with_its_name(http):
    for content, model in (("[[tokenz=1]]", "m"), ("hi", "scripted:tokenz=1")):
        refused = http.post("/v1/chat/completions", json={"model": model, "messages": user(content)})
        assert refused.status_code == 400
        assert "tokenz" in refused.json()["error"]["message"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_during_silence_is_noticed_although_nothing_is_sent(url, http, reset):
    with Raw(url, "[[tokens=9 hang=3]]") as raw:
        raw.until(b"content")
        eventually(lambda: last_running(http)["content_tokens"], lambda count: count == 3)
        if reset:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        left = time.monotonic_ns()
        raw.sock.close()
        record = last_record(http, "client_disconnected")
    assert left <= record["disconnected_ns"]
    assert record["content_tokens"] == 3


def last_running(http):
    return http.get(f"/_log/{http.get('/_stats').json()['last_id']}").json()


def test_a_client_that_leaves_before_the_headers_is_noticed(url, http):
    with Raw(url, "[[hang_headers=1]]"):
        eventually(lambda: http.get("/_stats").json()["running"], lambda running: running == 1)
    record = last_record(http, "client_disconnected")
    assert (record["status"], record["content_tokens"]) == (None, 0)


def test_nothing_is_generated_after_the_client_left(url, http):
    with Raw(url, "[[tokens=100000 rate=2000]]") as raw:
        raw.until(b"content")
    record = last_record(http, "client_disconnected")
    assert 0 < record["content_tokens"] < 100_000
    assert record["last_token_ns"] <= record["disconnected_ns"]
    assert http.get(f"/_log/{record['id']}").json()["content_tokens"] == record["content_tokens"]


def test_a_cut_is_a_reset_after_the_bytes_that_were_sent(url, http):
    with Raw(url, "[[tokens=9 cut=4]]") as raw:
        with pytest.raises(ConnectionResetError):
            raw.to_end()
        assert raw.read.count(b'"content":') == 1 + 4
    assert last_record(http)["outcome"] == "cut"


def test_a_body_can_end_well_without_its_mark(url, http):
    with Raw(url, "[[tokens=9 eof=4]]") as raw:
        read = raw.to_end()
    assert read.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in read
    assert last_record(http)["outcome"] == "eof"


def test_a_connection_can_close_inside_the_body(url, http):
    with Raw(url, "[[tokens=9 fin=4]]") as raw:
        assert not raw.to_end().endswith(b"0\r\n\r\n")
    assert last_record(http)["outcome"] == "fin"


@pytest.mark.parametrize(("script", "sign"), [("comments=0.01", b": keep-alive"), ("pings=0.01", b": ping")])
def test_a_silent_stream_shows_signs_of_life_when_directed(url, script, sign):
    with Raw(url, f"[[tokens=9 hang=2 {script}]]") as raw:
        while raw.read.count(sign) < 3:
            raw.read += raw.sock.recv(65_536)


def test_a_dripped_stream_arrives_byte_by_byte_and_whole(url, http):
    with Raw(url, "[[tokens=3 drip=1 http_chunk=1]]") as raw:
        read = raw.until(b"0\r\n\r\n")
    body = re.sub(rb"1\r\n(.)\r\n", rb"\1", read.partition(b"\r\n\r\n")[2], flags=re.DOTALL)
    assert b"data: [DONE]\n\n" in body
    assert last_record(http)["bytes_sent"] == len(read)


def test_a_dripped_stream_is_sent_in_as_many_writes_as_it_has_bytes():
    """Over a socket that keeps writes apart, however late they are read."""
    body = json.dumps({"model": "m", "stream": True, "messages": user("[[tokens=3 drip=1]]")}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def writes():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
        Connection(theirs, loop, Pacer(loop), App(Oracle()), lambda _: None)
        await loop.sock_sendall(ours, request)
        read = []
        while not b"".join(read).endswith(b"0\r\n\r\n"):
            read.append(await loop.sock_recv(ours, 65_536))
        ours.close()
        return read

    read = asyncio.run(asyncio.wait_for(writes(), PATIENCE_SECONDS))
    assert {len(each) for each in read} == {1}
    assert b"data: [DONE]\n\n" in b"".join(read)


def test_an_encoded_body_can_be_unpacked(url):
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={"model": "m", "stream": True, "messages": user("[[tokens=3 gzip=1]]")},
    ) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed).endswith(b"data: [DONE]\n\n")


def test_a_bomb_is_small_on_the_wire(http):
    with http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "m", "stream": True, "messages": user("[[gzip=bomb]]")},
    ) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(packed) < 2**20
    assert len(gzip.decompress(packed)) > 60 * 2**20


@pytest.mark.parametrize(
    ("script", "status", "content_type", "outcome"),
    [
        ("html=1", 200, "text/html; charset=utf-8", "refused"),
        ("json=1", 200, "application/json", "refused"),
        ("redirect=http://127.0.0.1:9/", 302, "text/plain", "refused"),
        ("status=529", 529, "application/json", "refused"),
    ],
)
def test_something_else_than_an_answer_can_come(http, script, status, content_type, outcome):
    answer = http.post(
        "/v1/chat/completions", json={"model": "m", "stream": True, "messages": user(f"[[{script}]]")}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    assert last_record(http)["outcome"] == outcome


def test_a_fault_strikes_as_often_as_directed_and_then_no_more(http):
    question = {"model": "m", "messages": user("again [[tokens=2 status=500 fail_times=2 key=f1]]")}
    assert [http.post("/v1/chat/completions", json=question).status_code for _ in range(3)] == [500, 500, 200]
    assert last_record(http)["number_in_conversation"] == 3


def test_a_paced_stream_is_never_early_and_makes_up_for_a_delay():
    gap = 1 / 200
    with (
        provider() as (process, address),
        httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as http,
        Raw(address, "[[tokens=4000 rate=200 first=0.05 progress=1]]") as raw,
    ):
        raw.until(b"content")
        eventually(lambda: last_running(http)["content_tokens"], lambda count: count > 0)
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(20 * gap)  # for time itself, in which nothing can be sent
        process.send_signal(signal.SIGCONT)
        gone_on_at = time.monotonic_ns()
        eventually(lambda: last_running(http)["last_token_ns"], lambda at: at > gone_on_at)
        raw.sock.close()
        record = last_record(http, "client_disconnected")
    moments = [at for at, _ in record["progress"]]
    due = [record["first_byte_at"] + 0.05 + number * gap for number in range(len(moments))]
    rounding = 1e-5
    assert all(at >= due_at - rounding for at, due_at in zip(moments, due, strict=True))
    # Without it each gap would be a whole one, and the delay be there to the end.
    assert min(after - before for before, after in pairwise(moments)) < gap / 2


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_pause_is_cut_short_by_a_busy_loop(new_loop):
    """A round for each moment shows a timer that is early by part of a millisecond."""
    answers = 20
    body = json.dumps({"model": "m", "stream": True, "messages": user("[[tokens=1 first=0.05]]")}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    oracle = Oracle()

    async def answered():
        loop = asyncio.get_running_loop()
        ends = [socket.socketpair() for _ in range(answers)]
        for ours, theirs in ends:
            theirs.setblocking(False)
            Connection(theirs, loop, Pacer(loop), App(oracle), lambda _: None)
            ours.sendall(request)
            await asyncio.sleep(0.0007)
        while sum(record.first_token_ns is not None for record in oracle.after(0)) < answers:  # noqa: ASYNC110
            await asyncio.sleep(0)  # rounds are what is tested
        for ours, _ in ends:
            ours.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(answered(), PATIENCE_SECONDS))
    waited = [record.first_token_ns - record.first_byte_ns for record in oracle.after(0)]
    assert len(waited) == answers
    assert min(waited) >= 50_000_000


def test_a_stamp_is_the_time_of_sending(url):
    started = time.monotonic_ns()
    with Raw(url, "[[tokens=5 rate=100 stamp=1]]") as raw:
        read = raw.until(b"[DONE]").decode()
        ended = time.monotonic_ns()
    stamps = [int(stamp) for stamp in re.findall("⟦(\\d+)⟧", read)]
    assert len(stamps) == 5
    assert stamps == sorted(stamps)
    assert started < stamps[0] <= stamps[-1] < ended


def test_the_record_says_what_had_been_written_when(url, http):
    with Raw(url, "[[reasoning=2 tokens=3 rate=100 progress=1]]") as raw:
        raw.until(b"[DONE]")
    record = last_record(http)
    moments = [moment for moment, _ in record["progress"]]
    assert [tokens for _, tokens in record["progress"]][:5] == [1, 2, 3, 4, 5]
    assert moments == sorted(moments)
    assert record["first_token_at"] <= moments[0]
    with Raw(url, "[[tokens=3 rate=100]]") as raw:
        raw.until(b"[DONE]")
    assert last_record(http)["progress"] == []


def test_a_slow_reader_is_waited_for(url, http):
    # 200,000 deltas are some 30 MB, more than the two sockets' buffers hold.
    with Raw(url, "[[tokens=200000]]") as raw:
        raw.until(b"content")
        stuck = eventually(
            lambda: (last_running(http)["content_tokens"], last_running(http)["content_tokens"]),
            lambda counts: counts[0] == counts[1] > 0,
        )
        assert stuck[0] < 200_000
        ending = b""
        while b"[DONE]" not in ending:
            chunk = raw.sock.recv(2**20)
            assert chunk
            ending = ending[-16:] + chunk
    assert last_record(http)["content_tokens"] == 200_000


def test_a_connection_serves_one_request_after_another(url, http):
    before = http.get("/_stats").json()["requests"]
    with Raw(url, "[[tokens=1]]") as raw:
        raw.until(b"0\r\n\r\n")
        for _ in range(3):
            again = json.dumps({"model": "m", "messages": user("[[tokens=1]]")}).encode()
            raw.read = b""
            raw.sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(again) + again
            )
            assert b"chat.completion" in raw.until(b"total_tokens")
    assert http.get("/_stats").json()["requests"] == before + 4


def test_requests_sent_ahead_are_answered_in_order(url):
    bodies = [
        json.dumps({"model": "m", "messages": user(f'[[text="answer {number}"]]')}).encode()
        for number in range(5)
    ]
    sent = b"".join(
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    )
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as sock:
        sock.sendall(sent)
        read = b""
        while b"answer 4" not in read:
            read += sock.recv(65_536)
    assert re.findall(rb"answer (\d)", read) == [b"0", b"1", b"2", b"3", b"4"]


def test_an_idle_connection_is_closed_after_its_limit():
    with provider("--keep-alive-seconds", "0.1") as (process, address):
        # Asleep until the question is there: the limit is on waiting for it as well.
        process.send_signal(signal.SIGSTOP)
        with Raw(address, "[[tokens=1]]") as raw:
            process.send_signal(signal.SIGCONT)
            assert raw.to_end().endswith(b"0\r\n\r\n")


def test_roles_that_do_not_take_turns_can_be_refused(http):
    messages = user("first") + user("second [[tokens=1 strict_roles=1]]")
    refused = http.post("/v1/chat/completions", json={"model": "m", "messages": messages})
    assert (refused.status_code, "alternate" in refused.text) == (400, True)


def test_a_request_without_directives_is_answered_in_prose_at_a_readers_pace(url, http):
    with Raw(url, "How do I configure a real provider?") as raw:
        raw.until(b"scripted")
    record = last_record(http, "client_disconnected")
    assert record["script"] == {"first": 0.3, "rate": 40.0}
    assert record["first_token_ns"] - record["first_byte_ns"] >= 300_000_000


def test_the_record_knows_the_key_only_by_its_hash(http):
    http.post(
        "/v1/chat/completions",
        headers={"authorization": "Bearer sk-very-secret", "traceparent": "00-abc-def-01"},
        json={"model": "m", "messages": user("[[tokens=1]] needle-7")},
    )
    page = http.get("/_log", params={"contains": "needle-7"})
    assert "sk-very-secret" not in page.text
    (record,) = page.json()["data"]
    assert record["headers"]["authorization"] is True
    assert record["headers"]["traceparent"] == "00-abc-def-01"
    assert len(record["headers"]["key_sha256"]) == 16
    assert record["messages"][0]["content"].endswith("needle-7")
    lines = http.get("/_log", params={"format": "lines", "trace": "00-abc", "text": "0"}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [record["id"]]


def test_the_log_is_read_in_pages_and_cleared():
    with provider() as (_, address), httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as http:
        for _ in range(5):
            http.post("/v1/chat/completions", json={"model": "m", "messages": user("[[tokens=1]]")})
        first = http.get("/_log", params={"limit": 2}).json()
        rest = http.get("/_log", params={"after": first["last_id"]}).json()
        assert [record["id"] for record in first["data"] + rest["data"]] == [1, 2, 3, 4, 5]
        assert http.delete("/_log").status_code == 204
        assert http.get("/_log").json()["data"] == []


def test_the_default_script_can_be_set_while_it_runs():
    with (
        provider("--script", "tokens=2", "--no-text") as (_, address),
        httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as http,
    ):

        def tokens(content):
            answer = http.post("/v1/chat/completions", json={"model": "m", "messages": user(content)})
            return answer.json()["usage"]["completion_tokens"]

        assert tokens("hi") == 2
        assert http.put("/_script", content=b"tokens=4").json() == {"tokens": 4}
        assert (tokens("hi"), tokens("[[tokens=3]]")) == (4, 3)
        assert http.put("/_script", content=b"nonsense=4").status_code == 400
        assert http.delete("/_script").json() == {"tokens": 2}
        assert tokens("hi") == 2
        assert http.get("/_log/1").json()["text"] == ""
        assert {row["name"] for row in http.get("/_directives").json()} >= {"tokens", "cut"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_provider_with_streams_open(number):
    with provider() as (process, address), Raw(address, "[[tokens=9 hang=3]]") as raw:
        raw.until(b"content")
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 0  # the stream itself would never end
        assert process.stderr.read() == ""


def test_a_signal_that_comes_with_the_address_is_not_lost():
    for _ in range(5):
        with provider() as (process, _):
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0


def test_the_port_is_written_once_it_is_listened_on(tmp_path):
    place = tmp_path / "port"
    with provider("--port-file", os.fspath(place)) as (_, address):
        assert address.endswith(f":{place.read_text().strip()}")
        assert list(tmp_path.iterdir()) == [place]


def test_a_taken_port_and_a_bad_script_are_refused_in_words(url):
    port = url.rpartition(":")[2]
    for options, status, words in ((["--port", port], 1, "cannot listen"), (["--script", "x=1"], 2, "'x'")):
        ended = subprocess.run(
            [sys.executable, "-c", START, *options],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert ended.returncode == status
        assert words in ended.stderr


def test_help_lists_every_directive():
    ended = subprocess.run(
        [sys.executable, "-c", START, "--help"],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=True,
    )
    assert "split_surrogates=0|1" in ended.stdout
    assert "usage=full|none|duplicate" in ended.stdout


CONTEXTS = [("openai", 40), ("vllm", 40), ("llama.cpp", 40), ("silent", 40)]


@pytest.mark.parametrize(("words", "context"), CONTEXTS)
def test_a_prompt_over_the_context_is_refused_in_a_servers_words_and_one_below_it_is_answered(
    openai_client, http, words, context
):
    script = f"[[context={context} context_words={words} text=fine]]"
    whole = openai_client.chat.completions.create(
        model="scripted", max_tokens=10, messages=user(f"{script} Hi")
    )
    assert whole.choices[0].message.content == "fine"
    long = user(f"{script} {'word ' * 50}")
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(model="scripted", max_tokens=10, messages=long)
    error = error_of_response(
        400, httpx.Headers(), refused.value.response.content, datetime.now(UTC), NAMES, Discretion()
    )
    counted = last_record(http)["input_tokens"]
    expected = ContextTold() if words == "silent" else ContextTold(context, counted)
    assert (error.fault, error.told) == (Fault.CONTEXT_TOO_LONG, expected)


@pytest.mark.parametrize(
    ("words", "limit"), [("openai", 40), ("vllm", 40), ("llama.cpp", None), ("anthropic", 40)]
)
def test_the_answers_limit_counts_towards_the_context_where_the_server_adds_it(openai_client, words, limit):
    asked = user(f"[[context=40 context_words={words} text=fine]] Hi")
    if limit is None:
        assert openai_client.chat.completions.create(model="scripted", max_tokens=1000, messages=asked)
    else:
        with pytest.raises(openai.BadRequestError):
            openai_client.chat.completions.create(model="scripted", max_tokens=limit, messages=asked)


def test_anthropics_words_are_the_default_of_its_dialect(anthropic_client):
    asked = user(f"[[context=40]] {'word ' * 50}")
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 40 maximum"):
        anthropic_client.messages.create(model="scripted", max_tokens=10, messages=asked)


def test_a_content_filter_refuses_a_text_wherever_it_stands_in_the_prompt(openai_client, http):
    http.put("/_script", content="refuses=poison text=fine").raise_for_status()
    try:
        with pytest.raises(openai.BadRequestError) as refused:
            openai_client.chat.completions.create(
                model="scripted",
                messages=[*user("some poison"), {"role": "assistant", "content": "ok"}, *user("Hi")],
            )
        assert refused.value.body["code"] == "content_filter"
        assert openai_client.chat.completions.create(model="scripted", messages=user("Hi"))
    finally:
        http.delete("/_script").raise_for_status()


@pytest.mark.parametrize("transport", ["fast", "httpx"])
@pytest.mark.parametrize(("words", "told"), [("vllm", 4096), ("llama.cpp", 4096), ("openai", None)])
def test_the_context_is_told_as_the_server_tells_it(http, url, transport, words, told):
    settings = load_settings(
        {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": "secret",
            "PROVIDER_TRANSPORT": transport,
            "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
            "REDIS_URL": "redis://127.0.0.1",
        }
    ).provider
    http.put("/_script", content=f"context=4096 context_words={words}").raise_for_status()
    try:
        assert asyncio.run(told_context(settings, build_transport(settings))) == told
    finally:
        http.delete("/_script").raise_for_status()


def test_a_worker_asks_no_internal_address_in_production(url):
    environ = {
        "ENVIRONMENT": "production",
        "ALLOWED_ORIGINS": "https://chat.example.com",
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": "https://models.example/v1",
        "MCP_LLM_MODEL": "scripted",
        "MCP_LLM_API_KEY": "secret",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
        "REDIS_URL": "redis://127.0.0.1",
    }
    settings = replace(load_settings(environ).provider, base_url=f"{url}/v1")
    with pytest.raises(httpx.TransportError):
        asyncio.run(told_context(settings, build_transport(settings)))
