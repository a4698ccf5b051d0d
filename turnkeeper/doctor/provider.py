"""The provider: whether a worker here may and can connect to it, and whether its model's context is known.

Nothing is generated, so nothing is billed.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import httpx

from shared.configuration.environment import Reader
from shared.configuration.provider_settings import ProviderSettings, read_provider
from shared.configuration.settings import CONTEXT_TOKENS, ENVIRONMENT
from turnkeeper.doctor.findings import Finding, Level, fine, judged, reason, warning, wrong
from worker.providers import build_transport
from worker.providers.context_page import told_context
from worker.providers.registration import DIALECTS
from worker.transport.egress import GuardedResolver, Resolver, SystemResolver, first_connection, trust

PLACEHOLDER: Final = "only-the-worker-has-it"
"""The key that docker-compose.yml and the Kubernetes example give to processes that call no provider."""
_SLOW_SECONDS: Final = 1.0


def check_provider(environ: Mapping[str, str], resolver: Resolver | None = None) -> Iterator[Finding]:
    """Check the key, the host and the connection.

    Args:
        environ: The environment; settings other than the provider's may be wrong.
        resolver: Asked for addresses instead of the operating system.
    """
    read = Reader(environ)
    settings, _ = read_provider(read, production=Reader(environ).value(ENVIRONMENT))
    if read.problems or not settings.base_url:
        yield wrong("provider", "its settings are refused", "see the lines named `settings`")
        return
    yield _key(settings)
    connection = asyncio.run(_connection(settings, resolver or SystemResolver()))
    yield connection
    yield _context(read, settings, resolver, is_up=connection.level is not Level.WRONG)


def _key(settings: ProviderSettings) -> Finding:
    if settings.api_key.reveal() == PLACEHOLDER:
        return warning(
            "provider.key", "a placeholder: this is no worker's environment", "run this where a worker runs"
        )
    return fine("provider.key", f"set; {settings.name} with the model {settings.model!r}")


def _context(read: Reader, settings: ProviderSettings, resolver: Resolver | None, *, is_up: bool) -> Finding:
    """Say what is known of the context, after asking the server as a worker does when it starts."""
    name, tokens = "provider.context", read.value(CONTEXT_TOKENS)
    if read.is_set(CONTEXT_TOKENS):
        return fine(name, f"CONTEXT_TOKENS is {tokens:,}")
    if DIALECTS[settings.name].is_context_known:
        return fine(name, f"the default of CONTEXT_TOKENS, {tokens:,}, fits the models of {settings.name}")
    told = None
    if is_up and settings.api_key.reveal() != PLACEHOLDER:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            told = asyncio.run(told_context(settings, build_transport(settings, resolver=resolver)))
    if told is None:
        return warning(
            name,
            f"CONTEXT_TOKENS is not set, and the server does not tell the context of {settings.model!r}: prompts may "
            f"have {tokens:,} tokens",
            "set CONTEXT_TOKENS to the length of the model's context",
        )
    if told > tokens:
        return fine(
            name, f"the server tells {told:,} tokens; {tokens:,} are used until CONTEXT_TOKENS says more"
        )
    return fine(name, f"the server tells {told:,} tokens, which are used")


async def _connection(settings: ProviderSettings, resolver: Resolver) -> Finding:
    """Connect as the worker's transports do: resolve, check, and connect to the address that was checked."""
    name = "provider"
    parts = urlsplit(settings.base_url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    if settings.guards_egress:
        resolver = GuardedResolver(resolver, settings.allowed_hosts)

    async def connect(address: str) -> None:
        # Without a request: a connection costs nothing.
        _, writer = await asyncio.open_connection(
            address, port, ssl=trust() if is_tls else None, server_hostname=host if is_tls else None
        )
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

    where = f"{host}:{port}"
    began = perf_counter()
    try:
        await first_connection(resolver, host, port, settings.connect_timeout_seconds, connect)
    except PermissionError:
        return wrong(
            name,
            f"{where} leads to an internal address, where no worker connects to in production",
            f"if that is meant, list {where} in MCP_LLM_ALLOWED_HOSTS",
        )
    except TimeoutError:
        return wrong(
            name,
            f"{where} did not answer within {settings.connect_timeout_seconds:g} s",
            "check host, port, firewall and network",
        )
    except ssl.SSLCertVerificationError as failure:
        return wrong(
            name,
            f"the certificate of {where} is not trusted: {failure.verify_message}",
            "name its authority in SSL_CERT_FILE, or mend the certificate",
        )
    except OSError as failure:
        return wrong(
            name,
            f"{where} cannot be reached: {reason(failure)}",
            "check host, port, firewall and whether it runs",
        )
    took = perf_counter() - began
    kind = "TLS" if is_tls else "TCP"
    return judged(
        name,
        f"{where} takes connections ({kind}, {took * 1000:.0f} ms)",
        Level.OK if took < _SLOW_SECONDS else Level.WARNING,
        "every turn waits for this: look at the network and the name server",
    )
