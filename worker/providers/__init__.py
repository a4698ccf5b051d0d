"""Model providers: one adapter for each dialect, over one way of asking and reading."""

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from shared.provider_settings import ProviderName, ProviderSettings
from worker.egress import GuardedResolver, Resolver, SystemResolver
from worker.provider import Provider
from worker.providers.anthropic import Anthropic
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.upstream import Dialect, UpstreamProvider
from worker.transport import IDLE_SECONDS, MAX_IDLE, UpstreamTransport


def build_provider(
    settings: ProviderSettings, *, client: httpx.AsyncClient | None = None, resolver: Resolver | None = None
) -> Provider:
    """Return the provider that `settings` name; it belongs to one event loop, and its caller closes it.

    Args:
        settings: Which, where and how long.
        client: Sends the requests instead of one made from `settings`; closed with the provider.
        resolver: Asked for addresses in place of the operating system; in production they are checked.
    """
    dialect: Dialect
    match settings.name:
        case ProviderName.ANTHROPIC:
            dialect = Anthropic(settings)
        case ProviderName.OPENAI_COMPATIBLE | ProviderName.SCRIPTED:
            dialect = OpenAICompatible(settings)
    return UpstreamProvider(settings, dialect, client or _client(settings, resolver))


def _client(settings: ProviderSettings, resolver: Resolver | None) -> httpx.AsyncClient:
    resolver = resolver or SystemResolver()
    if settings.guards_egress:
        resolver = GuardedResolver(resolver, settings.allowed_hosts)
    transport: httpx.AsyncBaseTransport
    if settings.transport == "httpx":
        from worker.stock_transport import PinnedHttpxTransport

        transport = PinnedHttpxTransport(resolver, max_idle=MAX_IDLE, idle_seconds=IDLE_SECONDS)
    else:
        transport = UpstreamTransport(resolver=resolver)
    # `trust_env` would take proxies and netrc from the environment, and one answer's cookies would go
    # with every other organization's questions. # I9
    cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, cookies=cookies)
