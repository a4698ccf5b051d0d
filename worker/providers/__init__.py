"""Model providers: one adapter per dialect, all on the same code that sends requests and reads streams."""

import httpx

from shared.configuration.provider_settings import ProviderSettings
from worker.providers.oddities import Oddities
from worker.providers.provider import Provider
from worker.providers.registration import dialect_of
from worker.providers.upstream import UpstreamProvider
from worker.transport.egress import GuardedResolver, Resolver, SystemResolver
from worker.transport.pool import IDLE_SECONDS, MAX_IDLE, UpstreamTransport


def build_provider(
    settings: ProviderSettings, *, resolver: Resolver | None = None, oddities: Oddities | None = None
) -> Provider:
    """Return the provider that `settings` name; it belongs to one event loop, and its caller closes it.

    Args:
        settings: The provider, its address and its time limits.
        resolver: Asked for addresses instead of the operating system; in production the addresses are
            checked.
        oddities: Counts what its answers have that their protocol does not.
    """
    return UpstreamProvider(
        settings, dialect_of(settings), build_transport(settings, resolver=resolver), oddities or Oddities()
    )


def build_transport(
    settings: ProviderSettings, *, resolver: Resolver | None = None
) -> httpx.AsyncBaseTransport:
    """Return what sends requests to the provider, and connects only where a worker may connect to.

    Args:
        settings: The provider and the rules for its addresses.
        resolver: Asked for addresses instead of the operating system.
    """
    resolver = resolver or SystemResolver()
    if settings.guards_egress:
        resolver = GuardedResolver(resolver, settings.allowed_hosts)
    if settings.transport == "httpx":
        from worker.transport.stock import PinnedHttpxTransport

        return PinnedHttpxTransport(resolver, max_idle=MAX_IDLE, idle_seconds=IDLE_SECONDS)
    return UpstreamTransport(resolver=resolver)
