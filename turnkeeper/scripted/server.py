"""The listening socket and everything that lives as long as it does."""

import asyncio
import socket

from turnkeeper.scripted.app import App
from turnkeeper.scripted.connection import KEEP_ALIVE_SECONDS, Connection
from turnkeeper.scripted.pacer import Pacer

_BACKLOG = 4096
_ACCEPTS_AT_ONCE = 64
_FULL_PAUSE_SECONDS = 0.1


class Server:
    """Accepts connections on an event loop.

    Args:
        loop: Drives everything.
        app: Answers the requests.
        host: The address to listen on.
        port: The port; 0 picks a free one.
        keep_alive_seconds: How long to wait for a request.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: App,
        host: str,
        port: int,
        *,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._loop = loop
        self._app = app
        self._pacer = Pacer(loop)
        self._seconds = keep_alive_seconds
        self._connections: set[Connection] = set()
        self._socket = socket.create_server((host, port), backlog=_BACKLOG)
        self._socket.setblocking(False)
        app.open_connections = lambda: len(self._connections)
        loop.add_reader(self._socket.fileno(), self._accept)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop accepting and reset every connection."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for connection in tuple(self._connections):
            connection.stop()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of descriptors: what waits in the backlog would wake the loop again at once.
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_FULL_PAUSE_SECONDS, self._accept_again)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(
                sock, self._loop, self._pacer, self._app, self._connections.discard, self._seconds
            )
            self._connections.add(connection)

    def _accept_again(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)
