"""Overhears everything that Redis is told, whoever tells it: `MONITOR` on a connection of its own."""

import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import redis

_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_SECONDS: Final = 60.0
"""For what Redis answers at once."""
_AGAIN_SECONDS: Final = 0.5
_SILENT_SECONDS: Final = 3600.0
"""Longer than any test listens while Redis is told nothing."""


class Monitor:
    """Hears all commands but AUTH, which Redis does not show, from one thread for as long as the context lasts.

    One whose connection is killed listens again; a Redis that ends is heard until then.

    Args:
        url: Which Redis.
        take: Called with the words of each command, as Redis shows them.
        only: Bytes that a line must hold to be split at all; empty for all of them.
    """

    def __init__(self, url: str, take: Callable[[list[str]], None], only: bytes = b"") -> None:
        self._url = url
        self._take = take
        self._only = only
        self._end = f"end-{uuid.uuid4().hex}"
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._listen()
        self._thread = threading.Thread(target=self._hear_all, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Return when all that was sent before has been heard; raise what `take` raised."""
        give_up_at = time.monotonic() + _SECONDS
        # One that is gone is heard no more, and the thread knows.
        with suppress(redis.RedisError), redis.Redis.from_url(self._url, socket_timeout=_SECONDS) as client:
            # Said again to a thread that was between two connections.
            while self._thread.is_alive() and time.monotonic() < give_up_at:
                client.echo(self._end)
                self._thread.join(_AGAIN_SECONDS)
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _listen(self) -> None:
        parts = urlsplit(self._url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_SECONDS)
        self._lines = self._socket.makefile("rb")
        login = f"AUTH {unquote(parts.password)}\r\n" if parts.password else ""
        self._socket.sendall(f"{login}MONITOR\r\n".encode())
        for _ in range(2 if login else 1):
            if self._lines.readline() != b"+OK\r\n":
                raise ConnectionError("Redis lets nobody listen")
        self._socket.settimeout(_SILENT_SECONDS)

    def _hear_all(self) -> None:
        try:
            while not self._hear():
                self._close()
                self._listen()
        except OSError:
            pass  # it is gone
        except Exception as error:  # noqa: BLE001 -- raised where the context is left
            self._error = error
        finally:
            self._close()

    def _hear(self) -> bool:
        """Take what is said; False when the connection was lost."""
        end = self._end.encode()
        with suppress(ConnectionError):
            for line in self._lines:
                if end in line:
                    return True
                if self._only in line:
                    self._take([word.decode(errors="replace") for word in _WORD.findall(line)])
        return False

    def _close(self) -> None:
        self._lines.close()
        self._socket.close()
