"""Runs a command that must not outlive its parent; an exec wrapper, so it costs no process.

The child sets the kernel's parent-death signal itself, after giving up root (a change of user would clear the
signal) and before it becomes the command. A `preexec_fn` would do that in a process with threads, where it
may deadlock. This file is run by its path with `-I -S`, so it may import only the standard library.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PARENT_IS_GONE: Final = 75
"""Exit code if the parent died before the child was tied to it (EX_TEMPFAIL)."""


def become(uid: int, gid: int) -> None:
    """Give up root for good: groups first, then the group, then the user."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def tie(parent: int, death_signal: int) -> None:
    """Request `death_signal` for when the thread that started us ends; does nothing except on Linux."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(PARENT_IS_GONE)


def main(arguments: list[str]) -> None:
    """Become the command: `parent_death.py PARENT_PID SIGNAL UID:GID|- COMMAND...`."""
    parent, death_signal, account, *command = arguments
    if account != "-":
        uid, gid = account.split(":")
        become(int(uid), int(gid))
    tie(int(parent), int(death_signal))
    # Python ignores these two; the command must start with the kernel's defaults.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606  the whole point


if __name__ == "__main__":
    main(sys.argv[1:])
