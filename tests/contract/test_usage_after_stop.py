"""The bill of a stopped turn, compared with the scripted provider's own record of what it sent."""

import asyncio
import re
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from random import Random
from time import monotonic
from urllib.parse import urlsplit

import httpx
import pytest

from shared.configuration.settings import load_settings
from shared.money.usage import UsageSource
from shared.turn.events import MessageStart, StopRequested
from shared.turn.turns import Role, StopReason
from tests.children import search_rest
from worker.providers import build_provider
from worker.providers.breaker import Breaker
from worker.providers.provider import Prompt, text_message
from worker.turn.attempt import Attempt
from worker.turn.outcome import Stopped
from worker.turn.retry import Retries, RetryBudget

LIMIT_SECONDS = 60
SENT = 8
DELTA = b'"content":'
"""In each delta of the OpenAI dialect."""
START = "import sys; from turnkeeper.scripted import main; sys.exit(main(sys.argv[1:]))"
CACHED, WRITTEN, WRITTEN_FOR_AN_HOUR = 5, 3, 2


@pytest.fixture(scope="module")
def url():
    process = subprocess.Popen(
        [sys.executable, "-c", START], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(LIMIT_SECONDS)
        search_rest(process)
        process.stdout.close()


class Gate:
    """Stands before the provider and lets the first delta of its one answer through; `open` lets the others."""

    def __init__(self, url):
        self._provider = (urlsplit(url).hostname, urlsplit(url).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT_SECONDS)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_open, self._all_sent = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(2 * LIMIT_SECONDS)
        assert not self._thread.is_alive()

    def open(self):
        """Return when all has been sent to the other side."""
        self._is_open.set()
        assert self._all_sent.wait(LIMIT_SECONDS)

    def _serve(self):
        with self._listener, self._listener.accept()[0] as client:
            client.settimeout(LIMIT_SECONDS)
            with socket.create_connection(self._provider, timeout=LIMIT_SECONDS) as server:
                server.sendall(request_from(client))
                answer = b""
                while answer.count(DELTA) < 1 + SENT or not answer.endswith(b"\n\n\r\n"):
                    answer += server.recv(65_536)
                # The first one is empty: it tells the role.
                head, role, first, *others = answer.split(DELTA)
                client.sendall(DELTA.join((head, role, first)))
                assert self._is_open.wait(LIMIT_SECONDS)
                client.sendall(DELTA + DELTA.join(others))
                self._all_sent.set()
                with suppress(ConnectionError):  # it need not have read all
                    while client.recv(65_536):
                        pass


def request_from(client):
    """Read one request, whose length is in its head."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(65_536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += client.recv(65_536)
    return head + b"\r\n\r\n" + body


class Counting:
    """A channel that says when as many deltas were shown as the provider sends before it falls silent."""

    def __init__(self):
        self.deltas = 0
        self.first_shown, self.all_shown = asyncio.Event(), asyncio.Event()

    def delta(self, text, *, reasoning):
        self.deltas += 1
        self.first_shown.set()
        if self.deltas == SENT:
            self.all_shown.set()

    def note_call(self, *_told):
        pass

    def event(self, event):
        assert isinstance(event, MessageStart | StopRequested)


def stopped(url, marker, script, *, gate=None, **environ):
    """Stop an answer in mid-stream; return what it is billed and the provider's record of it.

    With a gate most of it has arrived and is not read: the loop is held up until the gate has let all through.
    """
    servers = {"DATABASE_URL": "postgresql://app@h/tk", "REDIS_URL": "redis://h"}
    provider_settings = load_settings({**servers, **environ}).provider
    question = text_message(Role.USER, f"[[tokens=50 hang={SENT} {script}]] {marker}")

    async def go():
        provider = build_provider(provider_settings)
        channel = Counting()
        retries = Retries(Random().random, RetryBudget(monotonic))
        breaker = Breaker(monotonic, provider_settings.breaker_seconds)
        attempt = Attempt(provider, channel, Prompt((question,), None, 500), "m", 60.0, retries, breaker)
        try:
            running = asyncio.create_task(attempt.run())
            if gate is not None:
                await channel.first_shown.wait()
                gate.open()
                assert channel.deltas < SENT
            else:
                await channel.all_shown.wait()
            attempt.stop(StopReason.USER)
            return await running
        finally:
            await provider.aclose()

    outcome = asyncio.run(asyncio.wait_for(go(), LIMIT_SECONDS))
    assert isinstance(outcome, Stopped)
    asked = httpx.get(f"{url}/_log", params={"contains": marker}, timeout=LIMIT_SECONDS, trust_env=False)
    (record,) = asked.json()["data"]
    assert record["output_tokens"] == SENT
    return outcome.answer.usage, outcome.answer.usage_source, record


def compatible(url, **more):
    return {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": f"{url}/v1",
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": "k",
        **more,
    }


@pytest.mark.parametrize("thinking", [0, 3])
def test_running_usage_bills_a_stopped_turn_to_the_token(url, thinking):
    script = f"cached={CACHED} reasoning={thinking}"
    environ = compatible(url, MCP_LLM_RUNNING_USAGE="true")
    usage, source, record = stopped(url, f"running-{thinking}", script, **environ)
    assert source is UsageSource.PARTIAL
    assert (usage.input_tokens, usage.cache_read_tokens) == (record["input_tokens"], CACHED)
    assert (usage.output_tokens, usage.reasoning_tokens) == (SENT, thinking)


def test_without_running_usage_the_estimate_says_so_and_is_not_below_what_was_sent(url):
    usage, source, _ = stopped(url, "estimated", "", **compatible(url))
    assert source is UsageSource.ESTIMATED
    assert usage.output_tokens >= SENT
    assert usage.input_tokens > 0


def test_running_usage_that_an_endpoint_does_not_send_is_estimated(url):
    environ = compatible(url, MCP_LLM_RUNNING_USAGE="true")
    usage, source, _ = stopped(url, "ignored", "usage=none", **environ)
    assert source is UsageSource.ESTIMATED
    assert usage.output_tokens >= SENT


def test_anthropic_tells_the_prompt_exactly_and_the_output_is_not_below_what_was_sent(url):
    script = f"cached={CACHED} cache_write={WRITTEN} cache_write_1h={WRITTEN_FOR_AN_HOUR}"
    environ = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": url}
    usage, source, record = stopped(url, "anthropic", script, **environ)
    assert source is UsageSource.PARTIAL
    assert (usage.input_tokens, usage.cache_read_tokens) == (record["input_tokens"], CACHED)
    assert usage.cache_write_tokens == WRITTEN + WRITTEN_FOR_AN_HOUR
    assert usage.cache_write_1h_tokens == WRITTEN_FOR_AN_HOUR
    assert usage.output_tokens >= SENT


def test_what_has_arrived_by_the_stop_is_billed_although_nobody_had_read_it(url):
    with Gate(url) as gate:
        usage, _, _ = stopped(url, "unread", "", gate=gate, **compatible(gate.url))
    assert usage.output_tokens >= SENT
