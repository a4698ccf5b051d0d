"""CPU seconds and memory of each group of processes, from the operating system's counters."""

import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads groups of processes; children count with their parents, and the load generator is `client`.

    Args:
        pids: The processes of each group.
    """

    pids: Mapping[str, Sequence[int]]

    def cpu_seconds(self) -> dict[str, float]:
        """Return what each group has used since it was started."""
        used = {
            group: sum(_cpu_seconds(process) for process in _family(pids))
            for group, pids in self.pids.items()
        }
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {**used, "client": own.ru_utime + own.ru_stime}

    def memory_mib(self) -> dict[str, float]:
        """Return what each group holds; each process counts its share of shared pages."""
        groups = {**self.pids, "client": [os.getpid()]}
        return {
            group: round(sum(_memory_bytes(process) for process in _family(pids)) / 2**20, 1)
            for group, pids in groups.items()
        }


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the CPU seconds between two readings, by group."""
    return {group: round(seconds - before.get(group, 0.0), 3) for group, seconds in after.items()}


def _family(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        try:
            process = psutil.Process(pid)
            yield process
            yield from process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    # The parent keeps the figures of a PostgreSQL back end that ended between two readings.
    return float(
        times.user
        + times.system
        + getattr(times, "children_user", 0.0)
        + getattr(times, "children_system", 0.0)
    )


def _memory_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except AttributeError:  # not every system has it
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
