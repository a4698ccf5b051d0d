"""Keeping real processes alive, and ending them."""

import errno
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from turnkeeper.up.embedded import EmbeddedServerError
from turnkeeper.up.front import hand_over
from turnkeeper.up.journal import Journal
from turnkeeper.up.pid_file import noted_pid
from turnkeeper.up.supervisor import Child, Program, Server, Wakeup, end_all

LIMIT_SECONDS = 60.0
PATIENT = "import signal, time\nprint('up', flush=True)\nsignal.pause()"
STUBBORN = (
    "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
    "print('up', flush=True)\nwhile True: signal.pause()"
)
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    "print(child.pid, flush=True)\nchild.wait()"
)


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.01)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def make_child(script: str, *, grace_seconds: float = LIMIT_SECONDS) -> Child:
        log = tmp_path / f"{len(made)}.log"
        command = (sys.executable, "-c", script)
        child = Child(Program("it", "it", command, dict(os.environ), log, None, grace_seconds))
        made.append(child)
        list(child.keep(time.monotonic()))
        wait_until(lambda: log.read_text() != "" or not child.is_running, "the child to speak")
        return child

    yield make_child
    for child in made:
        child.end(deadline=0.0)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_child_is_started_again_and_it_is_said(make):
    child = make(PATIENT)
    before = child.pids
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: not child.is_running, "the child to die")
    assert list(child.keep(time.monotonic())) == ["it was ended by SIGKILL: started again"]
    assert child.is_running
    assert child.pids != before


def test_a_child_that_dies_at_once_waits_for_its_next_start(make):
    child = make("import sys; sys.exit(3)")
    now = time.monotonic()
    wait_until(lambda: not child.is_running, "the child to die")
    (first,) = child.keep(now)
    assert first == "it ended with code 3: started again"
    assert not child.is_steady(now)
    wait_until(lambda: not child.is_running, "the child to die again")
    (second,) = child.keep(now)
    assert second.startswith("it ended with code 3: started again in 0.5 s")
    assert child.quick_deaths == 2
    assert list(child.keep(now + 0.4)) == []
    assert child.pids == []
    list(child.keep(now + 0.6))
    assert child.pids != []


def test_what_a_dead_child_had_started_ends_with_it(make):
    child = make(PARENT)
    grandchild = int(child.log.read_text())
    os.kill(child.pids[0], signal.SIGKILL)
    wait_until(lambda: not child.is_running, "the child to die")
    list(child.keep(time.monotonic()))
    wait_until(lambda: not is_alive(grandchild), "the grandchild to end")


def test_a_child_ends_when_it_is_asked(make):
    children = [make(PATIENT), make(PATIENT)]
    with Wakeup().listening() as wakeup:
        assert end_all(children, wakeup) == []
    assert not any(child.is_running for child in children)


def test_a_child_that_does_not_end_in_its_grace_is_killed(make):
    child = make(STUBBORN, grace_seconds=0.2)
    with Wakeup().listening() as wakeup:
        assert end_all([child], wakeup) == ["it"]
    assert not child.is_running


def test_a_second_ctrl_c_hurries(make):
    child = make(STUBBORN, grace_seconds=4 * LIMIT_SECONDS)

    def hurry() -> None:
        wait_until(lambda: "asked" in child.log.read_text(), "the child to be asked")
        os.kill(os.getpid(), signal.SIGINT)

    with Wakeup().listening() as wakeup:
        impatient = threading.Thread(target=hurry)
        impatient.start()
        began = time.monotonic()
        assert end_all([child], wakeup) == ["it"]
        impatient.join()
    assert time.monotonic() - began < 2 * LIMIT_SECONDS


def test_signals_are_counted_and_wake_up_and_are_given_back_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with Wakeup().listening() as wakeup:
        os.kill(os.getpid(), signal.SIGTERM)
        wakeup.wait(LIMIT_SECONDS)
        assert wakeup.stops == 1
    assert signal.getsignal(signal.SIGTERM) == before


class Flaky:
    """A server that starts only at the second try."""

    def __init__(self) -> None:
        self.pid = 0
        self.tries = 0

    def start(self) -> str:
        self.tries += 1
        if self.tries < 2:
            raise EmbeddedServerError("the port is in use")
        self.pid = 7
        return "somewhere"

    def stop(self) -> None:
        self.pid = 0


def test_a_server_that_does_not_start_is_tried_again_later():
    flaky = Flaky()
    server = Server("redis", flaky)
    now = time.monotonic()
    assert list(server.keep(now)) == ["redis ended: started again", "redis did not start: the port is in use"]
    assert list(server.keep(now)) == ["redis ended: started again in 0.5 s"]
    assert server.pids == []
    assert list(server.keep(now + 0.6)) == []
    assert server.pids == [7]


@contextmanager
def no_open_files_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_supervisor_without_open_files_goes_on_and_starts_its_processes_once_there_are_some(tmp_path: Path):
    command = (sys.executable, "-c", PATIENT)
    child = Child(Program("it", "it", command, dict(os.environ), tmp_path / "log", None, LIMIT_SECONDS))
    (tmp_path / "pid").write_text("7\n")
    (tmp_path / "lines").write_text("")
    journal = Journal("it", tmp_path / "lines")
    now = time.monotonic()
    one, other = socket.socketpair()
    with one, other, no_open_files_left():
        assert list(child.keep(now)) == [
            f"it could not be started ({os.strerror(errno.EMFILE)}): tried again"
        ]
        assert list(child.keep(now)) == [
            f"it could not be started ({os.strerror(errno.EMFILE)}): tried again in 0.5 s"
        ]
        assert list(journal.news()) == []
        assert noted_pid(tmp_path / "pid") == 0
        assert not hand_over(one, tmp_path / "nobody")
    try:
        assert list(child.keep(now + 1.0)) == []
        assert child.is_running
    finally:
        child.end(deadline=0.0)


class Exhausted(Flaky):
    """A server whose start fails for the system's sake."""

    def start(self) -> str:
        self.tries += 1
        if self.tries < 2:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self.pid = 7
        return "somewhere"


def test_a_server_that_the_system_cannot_start_now_is_tried_again_too():
    exhausted = Exhausted()
    server = Server("redis", exhausted)
    now = time.monotonic()
    assert "redis did not start" in list(server.keep(now))[1]
    list(server.keep(now))
    list(server.keep(now + 0.6))
    assert server.pids == [7]
