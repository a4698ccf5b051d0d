"""V13: no name leads a provider's connection to an internal address, by either transport and either dialect.

What the test machine can connect to is loopback only, so where a connection must succeed 127.0.0.2 stands
for an address of the public internet; what is refused is refused by the real rule.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

import httpx
import pytest
import uvloop

from shared.configuration.addresses import refusal_of_address
from shared.configuration.settings import load_settings
from shared.errors import Fault, ProviderError
from shared.turn.turns import Role
from worker.providers import build_provider
from worker.providers.provider import Prompt, text_message
from worker.transport.egress import MOST_ADDRESSES, GuardedResolver, SystemResolver, first_connection, trust
from worker.transport.pool import UpstreamTransport
from worker.transport.stock import PinnedHttpxTransport

LIMIT_SECONDS = 60
KEY = "sk-test-0123456789abcdef"
NAME = "models.example"
PUBLIC, INTERNAL = "127.0.0.2", "127.0.0.1"
"""A port that is free at the second, which others use as well, is free at the first."""
PROMPT = Prompt(messages=(text_message(Role.USER, "hello"),), system=None, max_output_tokens=10)
SERVERS = {
    "DATABASE_URL": "postgresql://app@h/tk",
    "REDIS_URL": "redis://h",
    "PROVIDER_CONNECT_TIMEOUT_SECONDS": str(LIMIT_SECONDS),
}
PRODUCTION = {**SERVERS, "ENVIRONMENT": "production", "ALLOWED_ORIGINS": "https://chat.example.com"}
DIALECTS = {
    "anthropic": {"ANTHROPIC_API_KEY": KEY},
    "openai-compatible": {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": KEY,
    },
}
URLS = {"anthropic": "ANTHROPIC_BASE_URL", "openai-compatible": "MCP_LLM_BASE_URL"}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


class Answers:
    """A resolver that returns one answer after the other, and the last one for ever."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    async def resolve(self, host, port):
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def only_public(address):
    return None if address == PUBLIC else "not the public one"


@contextlib.asynccontextmanager
async def listening(host, port=0, reply=OK):
    """Answer every request with `reply`; gives the port and the connections that came."""
    connections, tasks = [], []

    async def accept(reader, writer):
        tasks.append(asyncio.current_task())
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(reply)
                await writer.drain()

    server = await asyncio.start_server(accept, host, port)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for writer in connections:
            writer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def run():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        def limited(coroutine):
            async def go():
                async with asyncio.timeout(LIMIT_SECONDS):
                    return await coroutine

            return runner.run(go())

        yield limited


@pytest.fixture(params=["fast", "httpx"])
def transport(request):
    return request.param


@pytest.fixture
def make_client(transport):
    def make(resolver, **kwargs):
        if transport == "fast":
            made = UpstreamTransport(resolver=resolver)
        else:
            made = PinnedHttpxTransport(resolver, max_idle=4, idle_seconds=30)
        return httpx.AsyncClient(transport=made, trust_env=False, timeout=LIMIT_SECONDS, **kwargs)

    return make


@pytest.fixture(params=list(DIALECTS))
def settings(request, transport):
    environ = {**PRODUCTION, **DIALECTS[request.param], "PROVIDER_TRANSPORT": transport}

    def make(url=f"https://{NAME}/v1", **more):
        return load_settings({**environ, URLS[request.param]: url, **more}).provider

    return make


async def error_of(provider):
    try:
        async with provider.stream(PROMPT) as batches:
            async for _ in batches:
                pass
    except ProviderError as error:
        return error
    finally:
        await provider.aclose()


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["0.0.0.0"],
    ],
    ids=" ".join,
)
def test_a_name_that_leads_inside_is_not_connected_to_in_production(run, settings, addresses, caplog):
    async def go():
        async with listening("127.0.0.1") as (port, connections):
            url = f"https://{NAME}:{port}/v1"
            error = await error_of(build_provider(settings(url), resolver=Answers(addresses)))
            return error, connections

    with caplog.at_level(logging.WARNING):
        error, connections = run(go())
    assert (error.fault, error.sent) == (Fault.PROVIDER_UNREACHABLE, False)
    assert not connections
    (record,) = [record for record in caplog.records if record.name == "turnkeeper.egress"]
    assert (record.host, record.reason) == (
        NAME,
        next(filter(None, map(refusal_of_address, addresses))),
    )
    assert KEY not in caplog.text + str(vars(record))
    assert not any(address in str(error) for address in addresses)


@pytest.mark.parametrize("listed", [NAME, "{name}:{port}"])
def test_a_host_that_is_listed_may_be_internal_and_plain_http_in_production(run, settings, listed):
    async def go():
        async with listening("127.0.0.1") as (port, connections):
            made = settings(
                f"http://{NAME}:{port}/v1", MCP_LLM_ALLOWED_HOSTS=listed.format(name=NAME, port=port)
            )
            error = await error_of(build_provider(made, resolver=Answers(["127.0.0.1"])))
            return error.fault, len(connections)

    fault, connections = run(go())
    assert (fault, connections) == (Fault.PROVIDER_PROTOCOL, 1)  # it answered, though with no event stream


def test_a_host_that_is_listed_with_another_port_is_refused(settings):
    with pytest.raises(Exception, match="must use https"):
        settings(f"http://{NAME}:8000/v1", MCP_LLM_ALLOWED_HOSTS=f"{NAME}:8001")


def test_development_lets_loopback_through(run, settings):
    async def go():
        async with listening("127.0.0.1") as (port, connections):
            made = replace(settings(), guards_egress=False, base_url=f"http://{NAME}:{port}")
            await error_of(build_provider(made, resolver=Answers(["127.0.0.1"])))
            return len(connections)

    assert run(go()) == 1


def test_a_name_that_is_rebound_never_gets_a_connection_inside_not_even_when_the_pool_connects_anew(
    run, make_client
):
    async def go():
        async with (
            listening(INTERNAL) as (port, inside),
            listening(PUBLIC, port, reply=LAST) as (_, outside),
        ):
            resolver = Answers([PUBLIC], [INTERNAL])
            async with make_client(GuardedResolver(resolver, frozenset(), only_public)) as client:
                first = await client.get(f"http://{NAME}:{port}/")
                for _ in range(3):
                    with pytest.raises(httpx.ConnectError):
                        await client.get(f"http://{NAME}:{port}/")
                return first.text, len(outside), len(inside), resolver.asked

    # One lookup for each connection: the address that was checked is the one connected to.
    assert run(go()) == ("ok", 1, 0, 4)


def test_a_kept_connection_stays_where_it_was_checked(run, make_client):
    async def go():
        async with listening(INTERNAL) as (port, inside), listening(PUBLIC, port) as (_, outside):
            resolver = Answers([PUBLIC], [INTERNAL])
            async with make_client(GuardedResolver(resolver, frozenset(), only_public)) as client:
                for _ in range(3):
                    await client.get(f"http://{NAME}:{port}/")
                return len(outside), len(inside), resolver.asked

    assert run(go()) == (1, 0, 1)


def test_a_redirect_inside_is_not_followed(run, make_client):
    async def go():
        async with listening(INTERNAL) as (inner, inside):
            moved = (
                b"HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\nlocation: http://127.0.0.1:%d/\r\n\r\n"
                % inner
            )
            async with listening(PUBLIC, reply=moved) as (port, _):
                guard = GuardedResolver(SystemResolver(), frozenset(), only_public)
                async with make_client(guard) as client:
                    response = await client.get(f"http://{PUBLIC}:{port}/")
                    with pytest.raises(httpx.ConnectError):  # nor would it be let through
                        await client.get(f"http://{PUBLIC}:{port}/", follow_redirects=True)
            return response.status_code, len(inside)

    assert run(go()) == (307, 0)


def test_no_more_addresses_are_tried_than_there_is_time_for(run):
    tried = []

    async def refuse(address):
        tried.append(address)
        raise ConnectionRefusedError

    async def go():
        answers = Answers([f"127.0.1.{number}" for number in range(100)])
        with pytest.raises(ConnectionRefusedError):
            await first_connection(answers, NAME, 1, LIMIT_SECONDS, refuse)

    run(go())
    assert len(tried) == MOST_ADDRESSES


def test_a_name_that_cannot_be_resolved_is_unreachable(run, settings):
    too_long = "a" * 64 + ".example"  # known without asking anybody
    error = run(error_of(build_provider(settings(f"https://{too_long}/v1"))))
    assert error.fault is Fault.PROVIDER_UNREACHABLE


def test_neither_proxies_nor_netrc_of_the_environment_are_used(run, settings, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {NAME} login somebody password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    heads = []

    async def accept(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def go():
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        made = replace(settings(), guards_egress=False, base_url=f"http://{NAME}:{port}")
        await error_of(build_provider(made, resolver=Answers(["127.0.0.1"])))
        server.close()

    run(go())
    assert heads
    assert heads[0].startswith((b"POST /v1/messages ", b"POST /chat/completions "))
    assert b"basic" not in heads[0].lower()


def test_the_keys_of_connections_are_not_written_to_a_file(tmp_path, monkeypatch):
    # I10
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    assert trust().keylog_filename is None
    assert not log.exists()


def test_certificates_are_checked_with_their_names():
    context = trust()
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
