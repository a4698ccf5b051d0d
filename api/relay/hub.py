"""The relay of one process: one event loop in one thread, to which every stream's socket is handed.

It starts with the first stream. So if a server forks after loading the application, each serving process gets
a loop and the parent does not.
"""

import asyncio
import logging
import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import uvloop

from api.relay.connection import Connection
from api.relay.conversation import Conversation
from api.relay.delivery import Delivery
from api.relay.event_stream import EventStream
from api.relay.face import Face
from api.relay.frames import CloseCode
from api.relay.occurrences import Occurrences
from api.relay.places import Places, Reader, StreamLimits
from api.relay.questions import Questions
from api.relay.store import StreamStore, TurnState
from shared.errors import UnavailableError
from shared.lasting import lasting_task, lasting_thread

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25
_START_SECONDS: Final = 5.0
_AGE_JITTER: Final = 0.1
"""Spreads the reconnects of streams that were opened together after a restart."""
_GOODBYE_SECONDS: Final = 3.0
"""From the close frames of a shutdown to its end; the peers need a round trip."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the relay holds at this moment, for metrics."""

    streams: Counter[int] = field(default_factory=Counter)
    """By the kind of their face."""
    sessions: int = 0
    turns: int = 0
    is_connected: bool = False
    is_running: bool = False


class Hub:
    """Streams of one process. Its public methods may be called from any thread."""

    def __init__(self, redis_url: str, store: StreamStore, limits: StreamLimits) -> None:
        self._redis_url = redis_url
        self._store = store
        self._limits = limits
        # Reentrant: a signal handler may interrupt the holder.
        self._lock = threading.RLock()
        self._process: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._connections: set[Connection] = set()
        self._places = Places(limits)
        self._delivery: Delivery | None = None
        self._questions: Questions | None = None
        self.occurred = Occurrences()

    def start(self) -> None:
        """Start the loop, unless it runs in this process already.

        Raises:
            UnavailableError: The loop did not start, or is shutting down.
        """
        with self._lock:
            if self._process == os.getpid():
                return
            started = threading.Event()
            self._connections, self._places = set(), Places(self._limits)
            self._thread = lasting_thread("relay", partial(self._run, started))
            self._thread.start()
            if not started.wait(_START_SECONDS):
                raise UnavailableError("the relay did not start in time")
            self._process = os.getpid()

    def carry_websocket(self, sock: socket.socket, reader: Reader) -> None:
        """Take over a socket whose websocket handshake is done."""
        self._adopt(sock, reader, self._converse)

    def carry_event_stream(
        self, sock: socket.socket, reader: Reader, turn: TurnState, *, after: int, head: bytes = b""
    ) -> None:
        """Take over a socket whose request was read; `head` is sent before the events."""

        def stream(connection: Connection) -> Face:
            assert self._delivery is not None
            return EventStream(connection, self._delivery, turn, after=after, head=head)

        self._adopt(sock, reader, stream)

    def has_room(self, reader: Reader) -> bool:
        """Return whether one more stream of this reader is within the limits."""
        return len(self._connections) < self._limits.most_sockets and self._places.has_room(reader)

    def counts(self) -> Counts:
        """Return the present counts; all are zero before the first stream."""
        delivery = self._delivery
        if delivery is None or self._process != os.getpid():
            return Counts()
        sessions, turns = delivery.count()
        streams = Counter(connection.kind for connection in list(self._connections))
        return Counts(streams, sessions, turns, delivery.is_connected(), is_running=True)

    def call_soon(self, call: Callable[[], None]) -> bool:
        """Have the loop call `call`; False if the loop is not running."""
        loop = self._loop
        if loop is None or self._process != os.getpid():
            return False
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:  # it is closed
            return False
        return True

    def shutdown(self, timeout_seconds: float = _GOODBYE_SECONDS + 2.0) -> None:
        """Close every stream, websockets with code 1012, and end the loop; may be called twice."""
        with self._lock:
            thread, loop, closing = self._thread, self._loop, self._closing
            if self._process != os.getpid() or thread is None or loop is None or closing is None:
                return
            if not loop.is_closed():
                loop.call_soon_threadsafe(closing.set)
        thread.join(timeout_seconds)

    def _adopt(self, sock: socket.socket, reader: Reader, face_of: Callable[[Connection], Face]) -> None:
        try:
            self.start()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._open, sock, reader, face_of)
        except RuntimeError as error:  # the loop is closed
            sock.close()
            raise UnavailableError("the relay is shutting down") from error
        except BaseException:
            sock.close()
            raise

    # Everything below runs in the loop's thread

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._questions = Questions()
        self._delivery = Delivery(self._redis_url, self._store, self._questions, self.occurred)
        self._delivery.start()
        checking = lasting_task("callers", self._loop.create_task(self._check_callers()))
        started.set()
        try:
            while not self._closing.is_set():
                self._tick()
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._closing.wait()
                except TimeoutError:
                    continue
            await self._say_goodbye()
        finally:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
            await self._delivery.stop()
            for connection in list(self._connections):
                connection.drop()
            self._questions.close()

    def _open(self, sock: socket.socket, reader: Reader, face_of: Callable[[Connection], Face]) -> None:
        assert self._loop is not None
        assert self._closing is not None
        has_room = self.has_room(reader)
        connection = Connection(
            self._loop,
            sock,
            reader,
            heartbeat_seconds=self._limits.heartbeat_seconds,
            most_age_seconds=self._limits.most_age_seconds * random.uniform(1 - _AGE_JITTER, 1),  # noqa: S311
            on_closing=self._forget,
            on_closed=self._connections.discard,
            on_overflow=self._note_overflow,
        )
        self._places.take(reader)
        connection.open(face_of(connection))
        self._connections.add(connection)  # only now that it has a kind: metrics count from another thread
        self.occurred.opened[connection.kind] += 1
        if self._closing.is_set():
            connection.close(CloseCode.RESTART, "restart")
        elif not has_room:
            connection.close(CloseCode.TOO_MANY, "too many sockets")

    def _converse(self, connection: Connection) -> Face:
        assert self._delivery is not None
        assert self._questions is not None
        return Conversation(connection, self._delivery, self._store, self._questions)

    def _forget(self, connection: Connection) -> None:
        assert self._delivery is not None
        self._delivery.forget(connection)
        self._places.give_back(connection.reader)

    def _note_overflow(self) -> None:
        self.occurred.overflows += 1

    def _tick(self) -> None:
        assert self._loop is not None
        assert self._delivery is not None
        now = self._loop.time()
        self._delivery.check(now)
        for connection in list(self._connections):
            if not connection.is_open():
                continue
            if now >= connection.ends_at:
                connection.close(CloseCode.RESTART, "reconnect")
            elif now >= connection.beat_at:
                connection.beat(now)

    async def _check_callers(self) -> None:
        """Close the streams of revoked keys (I9), and of sessions that do not exist any more."""
        assert self._questions is not None
        assert self._delivery is not None
        while True:
            await asyncio.sleep(self._limits.recheck_seconds)
            for caller in self._places.callers():
                try:
                    is_valid = await self._questions.ask(self._store.caller_is_valid, caller)
                except UnavailableError:
                    continue  # while the database is down, no reader is shut out
                if not is_valid:
                    for connection in [one for one in self._connections if one.caller == caller]:
                        connection.close(CloseCode.UNAUTHORIZED, "key is not valid any more")
            await self._delivery.check_sessions()

    async def _say_goodbye(self) -> None:
        assert self._loop is not None
        for connection in list(self._connections):
            connection.close(CloseCode.RESTART, "restart")
        deadline = self._loop.time() + _GOODBYE_SECONDS
        while self._connections and self._loop.time() < deadline:  # noqa: ASYNC110 -- a few rounds, once
            await asyncio.sleep(0.02)
