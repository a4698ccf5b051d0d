"""httpx's own transport with our choice of addresses: the fallback, and the one to compare ours with.

It is imported only when it is asked for: httpcore and what it needs are not small.
"""

from collections.abc import Iterable

import httpcore
import httpx

from worker.transport.egress import Resolver, first_connection, trust


class PinningBackend(httpcore.AsyncNetworkBackend):
    """Makes httpx's own transport connect as ours does: to addresses of a `Resolver`."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's name
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to `host`; TLS on top of it is given the name, not the address.

        Raises:
            httpcore.ConnectTimeout: It took too long.
            httpcore.ConnectError: The host is unknown, not allowed, or does not answer.
        """

        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            try:
                return await self._backend.connect_tcp(address, port, None, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                raise OSError(str(exc)) from exc

        try:
            return await first_connection(self._resolver, host.strip("[]"), port, timeout, connect)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no connection within {timeout} s") from exc
        except OSError as exc:
            raise httpcore.ConnectError(f"no connection: {type(exc).__name__}") from exc

    async def sleep(self, seconds: float) -> None:
        """Wait, for httpcore's own retries; they are off."""
        await self._backend.sleep(seconds)


class PinnedHttpxTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, whose connections go where a `Resolver` says.

    httpx has no argument for a network backend, so its pool is replaced by one that has.

    Args:
        resolver: Returns the addresses that a host may be connected to.
        max_idle: Most unused connections.
        idle_seconds: How long an unused one is kept.
    """

    def __init__(self, resolver: Resolver, *, max_idle: int, idle_seconds: float) -> None:
        context = trust()
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            # The worker bounds turns and thereby connections; a second bound would make turns wait.
            max_connections=None,
            max_keepalive_connections=max_idle,
            keepalive_expiry=idle_seconds,
            network_backend=PinningBackend(resolver),
        )
