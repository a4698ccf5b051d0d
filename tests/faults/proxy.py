"""A TCP proxy that fails on request: it cuts, holds, refuses, slows and traps, for some of its clients or all.

Clients are distinguished by the process that owns their port, so a partition can separate the workers from a
server while the relays still reach it. A trap springs at a moment that is named by what is sent, such as the
commit of one statement. So the code under test needs no failpoints: they are on the wire.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self

import psutil

CHUNK_BYTES = 1 << 16
KERNEL_BYTES = 1 << 18
"""What the proxy's sockets buffer each way: beyond that, the server notices a client that does not read."""
CALL_SECONDS = 60.0
TRAP_SECONDS = 60.0
STREAMS = (b"GET /v1/stream", b"/events")
"""Part of the request of an event stream of either kind."""
Pids = Callable[[], Iterable[int]]
"""Returns the processes that a fault affects; called for each new connection, since they may be replaced."""


class Moment(Enum):
    """When a trap springs."""

    BEFORE = auto()
    """The request was sent and has not arrived."""
    AFTER = auto()
    """The server has answered and the client has not received it."""


@dataclass(eq=False)
class Trap:
    """Holds a connection at one request: the next that contains `then`, on a link that has sent `after` before.

    With `cuts` the connection is cut as soon as it is held.
    """

    then: bytes
    after: bytes
    moment: Moment
    pids: Pids | None
    times: int
    cuts: bool
    sprung: int = 0
    ports: dict[int, bool] = field(default_factory=dict)
    marked: set[int] = field(default_factory=set)
    held: list["Link"] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def spring(self, link: "Link") -> None:
        with self._changed:
            self.held.append(link)
            self.sprung += 1
            self._changed.notify_all()

    def await_sprung(self, times: int = 1) -> "Trap":
        """Wait until it has sprung `times` times."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.sprung >= times, TRAP_SECONDS)
        assert in_time, f"nobody sent {self.then!r} after {self.after!r}"
        return self


@dataclass(eq=False)
class Link:
    """One client's connection and the one made to the server for it."""

    port: int
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    open: asyncio.Event = field(default_factory=asyncio.Event)
    seen: bytes = b""
    awaits_reply: Trap | None = None
    is_cut: bool = False
    is_stream: bool = False
    """Whether an event stream has begun on it."""

    def cut(self) -> None:
        """Drop both sides at once, without sending the rest."""
        self.is_cut = True
        self.open.set()
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Listens on a free port of 127.0.0.1 and forwards to `port`, until it is told to fail."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task] = set()
        self._held: list[Pids | None] = []
        self._refused: list[Pids | None] = []
        self._traps: list[Trap] = []
        self._delay_seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    # The faults

    @contextmanager
    def holding(self, pids: Pids | None = None) -> Iterator[None]:
        """Forward nothing either way, like a network that swallows packets; afterwards all of it arrives."""
        self._run(self._hold(pids))
        try:
            yield
        finally:
            self._run(self._release(pids))

    @contextmanager
    def refusing(self, pids: Pids | None = None) -> Iterator[None]:
        """Cut every connection, and every new one at once."""
        self._refused.append(pids)
        self.cut(pids)
        try:
            yield
        finally:
            self._refused.remove(pids)

    @contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        """Delay everything that a client sends by `seconds`."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    @contextmanager
    def trap(
        self,
        then: bytes,
        moment: Moment,
        *,
        after: bytes = b"",
        pids: Pids | None = None,
        times: int = 1,
        cuts: bool = False,
    ) -> Iterator[Trap]:
        """Hold a connection at a request; in the end it is cut, and a request that was held never arrives.

        Args:
            then: Part of the request.
            moment: Whether the server has received it.
            after: Was sent on that connection before: names the statement that a commit ends.
            pids: The processes whose connections are held.
            times: How often the trap springs.
            cuts: Whether to cut the connection at once, so that the client knows that the outcome is unknown.
        """
        trap = Trap(then, after, moment, pids, times, cuts)
        self._traps.append(trap)
        try:
            yield trap
        finally:
            self._traps.remove(trap)
            self._run(self._cut_links(trap.held))

    def let_go(self, trap: Trap) -> None:
        """Let the data that a trap holds arrive after all."""
        self._run(self._let_go(trap))

    def cut(self, pids: Pids | None = None) -> int:
        """Cut the connections of some processes, or all; return how many."""
        return self._run(self._cut(pids))

    def streams(self) -> int:
        """Return the number of connections on which an event stream has begun."""
        return sum(link.is_stream for link in list(self._links))

    # The machinery

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512)
        return self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut_links(list(self._links))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self, pids: Pids | None) -> int:
        links = self._chosen(pids)
        await self._cut_links(links)
        return len(links)

    async def _cut_links(self, links: list[Link]) -> None:
        for link in links:
            link.cut()

    async def _let_go(self, trap: Trap) -> None:
        for link in trap.held:
            link.open.set()

    async def _hold(self, pids: Pids | None) -> None:
        self._held.append(pids)
        for link in self._chosen(pids):
            link.open.clear()

    async def _release(self, pids: Pids | None) -> None:
        self._held.remove(pids)
        for link in self._links:
            if not is_meant(self._held, link.port):
                link.open.set()

    def _chosen(self, pids: Pids | None) -> list[Link]:
        ports = None if pids is None else ports_of(pids())
        return [link for link in self._links if ports is None or link.port in ports]

    async def _accept(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        port = client.get_extra_info("peername")[1]
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if is_meant(self._refused, port):
            client.transport.abort()
            return
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            client.transport.abort()
            return
        for writer, option in ((client, socket.SO_SNDBUF), (server, socket.SO_RCVBUF)):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, KERNEL_BYTES)
        link = Link(port, client, server)
        if not is_meant(self._held, port):
            link.open.set()
        self._links.add(link)
        try:
            await asyncio.gather(
                self._forward(link, from_client, server, is_request=True),
                self._forward(link, from_server, client, is_request=False),
            )
        finally:
            link.cut()
            self._links.discard(link)

    async def _forward(
        self, link: Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        with suppress(OSError):
            while (data := await source.read(CHUNK_BYTES)) and not link.is_cut:
                if is_request:
                    if self._delay_seconds:
                        await asyncio.sleep(self._delay_seconds)
                    self._look(link, data)
                else:
                    link.is_stream = link.is_stream or any(each in link.seen for each in STREAMS)
                    if link.awaits_reply is not None:
                        self._spring(link, link.awaits_reply)
                await link.open.wait()
                if link.is_cut:
                    break
                target.write(data)
                await target.drain()
        link.cut()

    def _look(self, link: Link, data: bytes) -> None:
        """Check whether a trap is set for this request."""
        for trap in self._traps:
            if trap.sprung >= trap.times or link.awaits_reply is not None:
                continue
            if link.port not in trap.ports:
                trap.ports[link.port] = is_meant([trap.pids], link.port)
            if not trap.ports[link.port]:
                continue
            # The text to find may span two reads.
            sent = link.seen[-max(len(trap.then), len(trap.after)) :] + data
            if trap.after in sent:
                trap.marked.add(link.port)
            if link.port in trap.marked and trap.then in sent:
                if trap.moment is Moment.BEFORE:
                    self._spring(link, trap)
                else:
                    link.awaits_reply = trap
        link.seen = (link.seen + data)[-1024:]

    def _spring(self, link: Link, trap: Trap) -> None:
        link.awaits_reply = None
        if trap.sprung >= trap.times:
            return
        link.open.clear()
        if trap.cuts:
            link.cut()
        trap.spring(link)


def is_meant(faults: list[Pids | None], port: int) -> bool:
    """Return whether one of the faults affects the process that owns `port`."""
    return any(pids is None or port in ports_of(pids()) for pids in faults)


def ports_of(pids: Iterable[int]) -> set[int]:
    """Return the local ports of the connections of some processes and their children."""
    ports = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    ports |= {link.laddr.port for link in each.net_connections("tcp") if link.laddr}
    return ports
