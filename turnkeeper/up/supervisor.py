"""Keeps processes alive: starts them, restarts those that die, and ends them all.

Everything happens in one thread, the main one: a child's life is tied to the thread that started it.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from turnkeeper.up.embedded import EmbeddedServerError
from turnkeeper.up.embedded.child import spawn
from turnkeeper.up.pid_file import noted_pid

STEADY_SECONDS: Final = 3.0
"""A process that lived this long has started successfully: its next death counts as the first again."""
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 10.0
KILL_LIMIT_SECONDS: Final = 5.0
"""A killed process is gone at once, unless it is in the middle of disk I/O."""


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start: not at all at first, then 0.5 s, doubling up to 10 s."""

    quick_deaths: int = 0

    def after(self, lived_seconds: float) -> float:
        """Return the delay, in seconds, after a life of `lived_seconds`."""
        if lived_seconds >= STEADY_SECONDS:
            self.quick_deaths = 0
        deaths = self.quick_deaths
        self.quick_deaths = deaths + 1
        return 0.0 if deaths == 0 else min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (deaths - 1))


class Kept(Protocol):
    """Something that is kept alive."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def kind(self) -> str:
        """The name under which its processes are listed."""

    @property
    def pids(self) -> Sequence[int]:
        """The processes that do its work now."""

    def keep(self, now: float) -> Iterator[str]:
        """Start it again if it is dead and due; yield what a person should know."""


@dataclass(frozen=True, slots=True)
class Program:
    """A process to run.

    Attributes:
        name: Its own name, such as `web-1`.
        kind: The name under which it is listed, such as `web`.
        command: The command line.
        environ: Its environment.
        log: The file that receives its output.
        pid_file: Holds the pid of the process that serves, if that is a child of this one.
        grace_seconds: How long it may take to end.
    """

    name: str
    kind: str
    command: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    log: Path
    pid_file: Path | None
    grace_seconds: float


class Child:
    """A program that is kept alive."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._due_at = 0.0
        self._serving = 0
        self._backoff = Backoff()

    @property
    def name(self) -> str:
        """Its name for people."""
        return self._program.name

    @property
    def kind(self) -> str:
        """The name under which its processes are listed."""
        return self._program.kind

    @property
    def log(self) -> Path:
        """The file that receives its output."""
        return self._program.log

    @property
    def pids(self) -> Sequence[int]:
        """The process that serves; none while it starts."""
        if self._process is None:
            return []
        if self._program.pid_file is None:
            return [self._process.pid]
        serving = noted_pid(self._program.pid_file)
        return [serving] if serving else []

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def quick_deaths(self) -> int:
        """How many times in a row it died soon after a start."""
        return self._backoff.quick_deaths

    def is_steady(self, now: float) -> bool:
        """Return whether it serves and has not just died."""
        return bool(self.pids) and (self.quick_deaths == 0 or now - self._started_at >= STEADY_SECONDS)

    def keep(self, now: float) -> Iterator[str]:
        """Start it again if it is dead and due."""
        if self._process is not None and self._process.poll() is not None:
            delay = self._bury(now)
            yield f"{self.name} {ended(self._process.returncode)}: started again" + (
                f" in {delay:g} s (see {self._program.log})" if delay else ""
            )
            self._process = None
        if self._process is None and now >= self._due_at:
            try:
                self._start(now)
            except OSError as failed:  # no open files, processes or memory left, or a full disk
                delay = self._backoff.after(0.0)
                self._due_at = now + delay
                yield f"{self.name} could not be started ({failed.strerror}): tried again" + (
                    f" in {delay:g} s" if delay else ""
                )
        yield from self._notice_successor()

    def _start(self, now: float) -> None:
        if self._program.pid_file is not None:
            self._program.pid_file.unlink(missing_ok=True)
        self._started_at = now
        self._process = spawn(
            self._program.command, log=self._program.log, environ=dict(self._program.environ)
        )

    def _bury(self, now: float) -> float:
        """End what the dead process left behind and return the delay before the next start."""
        self._signal_group(signal.SIGKILL)
        delay = self._backoff.after(now - self._started_at)
        self._due_at = now + delay
        return delay

    def _notice_successor(self) -> Iterator[str]:
        """Report that the serving process was replaced by its own master."""
        serving = self.pids[0] if self.pids else 0
        if serving and serving != self._serving:
            if self._serving and self._program.pid_file is not None:
                yield f"{self.name}'s process {self._serving} ended: {serving} serves now"
            self._serving = serving

    def ask_to_end(self) -> None:
        """Send SIGTERM; its grace period begins."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGTERM)

    def end(self, *, deadline: float) -> bool:
        """Wait until it has ended, and kill it at the deadline; False if that was needed."""
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        ended_by_itself = not self.is_running
        self._signal_group(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_LIMIT_SECONDS)
        return ended_by_itself

    def _signal_group(self, number: signal.Signals) -> None:
        """Signal what is left of the process and its own children: they share a process group."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    @property
    def grace_seconds(self) -> float:
        """How long it may take to end."""
        return self._program.grace_seconds


class Startable(Protocol):
    """A server that starts and stops itself."""

    @property
    def pid(self) -> int:
        """Its process; 0 if it is not running."""

    def start(self) -> str:
        """Start it, at the same address as before if it has run."""

    def stop(self) -> None:
        """Stop it."""


class Server:
    """An embedded server that is kept alive."""

    def __init__(self, kind: str, server: Startable) -> None:
        self._kind = kind
        self._server = server
        self._started_at = time.monotonic()
        self._due_at: float | None = None
        self._backoff = Backoff()

    @property
    def name(self) -> str:
        """Its name for people."""
        return self._kind

    @property
    def kind(self) -> str:
        """The name under which its process is listed."""
        return self._kind

    @property
    def pids(self) -> Sequence[int]:
        """Its process; none while it is dead."""
        pid = self._server.pid
        return [pid] if pid else []

    def keep(self, now: float) -> Iterator[str]:
        """Start it again, in this thread, if it is dead and due."""
        if self._server.pid:
            return
        if self._due_at is None:
            delay = self._backoff.after(now - self._started_at)
            self._due_at = now + delay
            yield f"{self.name} ended: started again" + (f" in {delay:g} s" if delay else "")
        if now < self._due_at:
            return
        self._due_at = None
        self._started_at = now
        try:
            self._server.stop()
            self._server.start()
        except (EmbeddedServerError, OSError) as failed:
            yield f"{self.name} did not start: {failed}"


class Wakeup:
    """Waits for signals: a death is noticed at once, and nothing runs inside a handler."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self.stops = 0

    @contextmanager
    def listening(self) -> Iterator["Wakeup"]:
        """Count the signals that mean "stop"; these and dying children end a wait."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._count) for number in numbers}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        old = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._reader)
            os.close(self._writer)

    def _count(self, _: int, __: FrameType | None) -> None:
        self.stops += 1

    def wait(self, limit_seconds: float) -> None:
        """Wait for a signal, at most `limit_seconds`."""
        select.select([self._reader], [], [], limit_seconds)
        with suppress(BlockingIOError):
            os.read(self._reader, 512)


def ended(code: int) -> str:
    """Describe how a process ended."""
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def end_all(children: Sequence[Child], wakeup: Wakeup, *, hurry: bool = False) -> list[str]:
    """End children together within their grace periods; with `hurry`, or after another "stop" signal, at once.

    Returns:
        The names of those that had to be killed.
    """
    patience = wakeup.stops
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + max((child.grace_seconds for child in children), default=0.0)
    while any(child.is_running for child in children) and time.monotonic() < deadline:
        if hurry or wakeup.stops > patience:
            break
        wakeup.wait(0.1)
    return [child.name for child in children if not child.end(deadline=time.monotonic())]
