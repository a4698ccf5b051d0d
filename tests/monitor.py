"""Records every command that Redis receives, whoever sends it: `MONITOR` on a connection of its own."""

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
"""Longer than any test listens while Redis receives nothing."""


class Monitor:
    """Receives all commands except AUTH, which Redis does not show, in one thread for as long as the context lasts.

    If its connection is killed, it listens again; if Redis ends, it has received everything until then.

    Args:
        url: The Redis to listen to.
        take: Called with the words of each command, as Redis shows them.
        only: Bytes that a line must contain to be split at all; empty for all lines.
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
        """Return once everything sent before has been received; raise what `take` raised."""
        give_up_at = time.monotonic() + _SECONDS
        # A Redis that has ended sends nothing more, and the thread knows.
        with suppress(redis.RedisError), redis.Redis.from_url(self._url, socket_timeout=_SECONDS) as client:
            # Sent again for a thread that was between two connections.
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
            pass  # Redis has ended
        except Exception as error:  # noqa: BLE001 -- raised where the context is left
            self._error = error
        finally:
            self._close()

    def _hear(self) -> bool:
        """Take the commands; return False once the connection is lost."""
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
