"""Records which process of a role serves, for whoever supervises it."""

from pathlib import Path


def note_pid(pid_file: Path, pid: int) -> None:
    """Record which process serves, in one step: a reader sees the old pid or the new one."""
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(f"{pid}\n")
    fresh.replace(pid_file)


def forget_pid(pid_file: Path, pid: int) -> None:
    """Remove the pid of a process that ended, unless its successor has written its own."""
    if noted_pid(pid_file) == pid:
        pid_file.unlink(missing_ok=True)


def noted_pid(pid_file: Path) -> int:
    """Return the pid of the process that serves; 0 if none does, or it cannot be read now."""
    try:
        return int(pid_file.read_text())
    except (OSError, ValueError):
        return 0
