"""What the commands have in common: their shape, their exit codes, and how options are parsed."""

import argparse
from collections.abc import Callable
from typing import Final, TypeAlias

Command: TypeAlias = Callable[[argparse.Namespace], int]

WRONG_USE: Final = 2
FAILED: Final = 1
INTERRUPTED: Final = 130
MOST_PROCESSES: Final = 32
"""Of one kind in `up`: it is for one machine; more are started one by one."""


def count_of_processes(text: str) -> int:
    """Parse a number of processes."""
    count = int(text)
    if not 1 <= count <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"use 1 to {MOST_PROCESSES}")
    return count


def port_number(text: str) -> int:
    """Parse a TCP port; 0 is any free one."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("use 0 to 65535")
    return port
