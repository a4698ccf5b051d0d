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
from api.relay.event_stream import BareEventStream, EventStream
from api.relay.face import Face, FaceKind
from api.relay.frames import CloseCode
from api.relay.occurrences import Occurrences
from api.relay.places import Places, Reader, StreamLimits
from api.relay.questions import Questions
from api.relay.store import StreamStore, TurnState
from api.relay.waits import Wait, Waited, Waits
from shared.errors import UnavailableError
from shared.lasting import lasting_task, lasting_thread

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25
_START_SECONDS: Final = 5.0
_AGE_JITTER: Final = 0.1
"""Spreads the reconnects of streams that were opened together after a restart."""
_GOODBYE_SECONDS: Final = 3.0
"""From the close frames of a shutdown to its end; the peers need a round trip."""
DEFAULT_WAIT_LIMITS: Final = StreamLimits(
    most_sockets=2_000,
    most_sockets_per_key=1_000,
    most_sockets_per_organization=1_000,
    most_sockets_per_user=250,
)


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

    def __init__(
        self,
        redis_url: str,
        store: StreamStore,
        limits: StreamLimits,
        wait_limits: StreamLimits = DEFAULT_WAIT_LIMITS,
    ) -> None:
        """Deliver from the Redis at `redis_url` and the rows of `store`, within the limits; nothing connects yet."""
        self._redis_url = redis_url
        self._store = store
        self._limits = limits
        self._wait_limits = wait_limits
        # Reentrant: a signal handler may interrupt the holder.
        self._lock = threading.RLock()
        self._process: int | None = None
        self._ended: int | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._connections: set[Connection] = set()
        self._places = Places(limits)
        self._wait_places = Places(wait_limits)
        self._waits: Waits | None = None
        self._give_back: Callable[[socket.socket], None] | None = None
        self._delivery: Delivery | None = None
        self._questions: Questions | None = None
        self.occurred = Occurrences()

    def start(self) -> None:
        """Start the loop, unless it runs in this process already.

        Raises:
            UnavailableError: The loop did not start, or is shutting down.
        """
        with self._lock:
            if self._ended == os.getpid():
                raise UnavailableError("the relay has shut down")
            if self._process == os.getpid():
                return
            started = threading.Event()
            self._connections = set()
            self._thread = lasting_thread("relay", partial(self._run, started))
            self._thread.start()
            if not started.wait(_START_SECONDS):
                raise UnavailableError("the relay did not start in time")
            self._process = os.getpid()

    def give_back_to(self, server: Callable[[socket.socket], None]) -> None:
        """Have `server` take over connections whose stream has ended properly, for the client's next request.

        It is called from the loop's thread and must not wait.
        """
        self._give_back = server

    def gives_back(self) -> bool:
        """Return whether there is a server that takes connections back."""
        return self._give_back is not None

    def carry_websocket(self, sock: socket.socket, reader: Reader) -> None:
        """Take over a socket whose websocket handshake is done; without a place for it, say so and close it."""
        has_place = self._places.take_if_free(reader)
        self._adopt(sock, reader, self._converse, self._places if has_place else None)

    def carry_event_stream(
        self,
        sock: socket.socket,
        reader: Reader,
        turn: TurnState,
        *,
        after: int,
        head: bytes = b"",
        is_chunked: bool = False,
        may_continue: bool = False,
        opened: Callable[[EventStream], None] | None = None,
    ) -> None:
        """Take over a socket whose request was read, with a place taken by `take_stream_place`.

        Args:
            sock: The connection.
            reader: Who reads.
            turn: The turn to stream.
            after: The cursor.
            head: Sent before the events.
            is_chunked: Whether the body is sent in chunks.
            may_continue: Whether the connection is given back to the server after the last chunk.
            opened: Called with the stream, in the loop's thread.
        """

        def stream(connection: Connection) -> Face:
            assert self._delivery is not None
            face_of = EventStream if is_chunked else BareEventStream
            face = face_of(
                connection, self._delivery, turn, after=after, head=head, may_continue=may_continue
            )
            if opened is not None:
                opened(face)
            return face

        self._adopt(sock, reader, stream, self._places)

    def carry_wait(self, sock: socket.socket, reader: Reader, waited: Waited) -> None:
        """Take over a socket whose request waits for its turn's end, with a place taken by `take_wait_place`."""

        def wait(connection: Connection) -> Face:
            assert self._waits is not None
            return Wait(connection, self._waits, waited)

        self._adopt(sock, reader, wait, self._wait_places)

    def has_room(self, reader: Reader) -> bool:
        """Return whether one more stream of this reader is within the limits."""
        return self._places.has_room(reader)

    def take_stream_place(self, reader: Reader) -> bool:
        """Take a place for an event stream; False if there is none."""
        return self._places.take_if_free(reader)

    def give_stream_place_back(self, reader: Reader) -> None:
        """Give back a place that was taken for a stream that is not carried after all."""
        self._places.give_back(reader)

    def take_wait_place(self, reader: Reader) -> bool:
        """Take a place for a request that waits; False if there is none."""
        return self._wait_places.take_if_free(reader)

    def give_wait_place_back(self, reader: Reader) -> None:
        """Give back a place that was taken for a wait that is not carried after all."""
        self._wait_places.give_back(reader)

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
            self._ended = os.getpid()  # even if it never began: nobody would end what begins now
            thread, loop, closing = self._thread, self._loop, self._closing
            if self._process != os.getpid() or thread is None or loop is None or closing is None:
                return
            if not loop.is_closed():
                loop.call_soon_threadsafe(closing.set)
        thread.join(timeout_seconds)

    def _adopt(
        self,
        sock: socket.socket,
        reader: Reader,
        face_of: Callable[[Connection], Face],
        places: Places | None,
    ) -> None:
        """Hand `sock` to the loop; with `places` None there is no place for it. On an error all is given back."""
        try:
            self.start()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._open, sock, reader, face_of, places)
        except BaseException as error:
            sock.close()
            if places is not None:
                places.give_back(reader)
            if isinstance(error, RuntimeError):  # the loop is closed
                raise UnavailableError("the relay is shutting down") from error
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
        self._waits = Waits(self._store, self._questions)
        self._waits.start()
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
            await self._waits.stop()
            await self._delivery.stop()
            for connection in list(self._connections):
                connection.drop()
            self._questions.close()

    def _open(
        self,
        sock: socket.socket,
        reader: Reader,
        face_of: Callable[[Connection], Face],
        places: Places | None,
    ) -> None:
        assert self._loop is not None
        assert self._closing is not None
        connection = Connection(
            self._loop,
            sock,
            reader,
            heartbeat_seconds=self._limits.heartbeat_seconds,
            most_age_seconds=self._limits.most_age_seconds * random.uniform(1 - _AGE_JITTER, 1),  # noqa: S311
            on_closing=self._forget,
            on_closed=self._connections.discard,
            on_overflow=self._note_overflow,
            on_given_back=self._give_back or socket.socket.close,
        )
        if places is not None:
            connection.release = partial(places.give_back, reader)
        connection.open(face_of(connection))
        self._connections.add(connection)  # only now that it has a kind: metrics count from another thread
        self.occurred.opened[connection.kind] += 1
        if self._closing.is_set():
            self._part(connection)
        elif places is None:
            self.occurred.refused += 1
            connection.close(CloseCode.TOO_MANY, "too many sockets")

    def _converse(self, connection: Connection) -> Face:
        assert self._delivery is not None
        assert self._questions is not None
        return Conversation(connection, self._delivery, self._store, self._questions)

    def _forget(self, connection: Connection) -> None:
        assert self._delivery is not None
        self._delivery.forget(connection)
        connection.release()

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
        assert self._waits is not None
        for connection in list(self._connections):
            self._part(connection)
        deadline = self._loop.time() + _GOODBYE_SECONDS
        while self._connections and self._loop.time() < deadline:  # noqa: ASYNC110 -- a few rounds, once
            await asyncio.sleep(0.02)

    def _part(self, connection: Connection) -> None:
        """Close a stream because the process ends; a request that waits is answered instead."""
        if connection.kind != FaceKind.WAIT:
            connection.close(CloseCode.RESTART, "restart")
        elif self._waits is not None:
            self._waits.end_all()
