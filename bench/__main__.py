"""`python -m bench`: the command line of the measurements."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import report
from bench.measurements import EACH, add_all
from bench.stack import allow_descriptors

NOT_ASKED: Final = frozenset({"measure", "heads", "results", "limit"})
"""Options that say nothing about the measurement."""


def main(argv: Sequence[str]) -> int:
    """Run one measurement, or with no arguments all of them; return 1 if a turn was lost or spoiled."""
    if not argv:
        return max([main([name]) for name in EACH])
    options = _parser().parse_args(argv)
    # Both exit through the code that ends what was started.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _leave)
    signal.alarm(options.limit)
    allow_descriptors()
    around = report.surroundings()
    print(
        f"\n## {options.name}\n\n{around['cpu']}, {around['cores']} cores, load {around['load_average_before']}\n"
    )
    runs = options.measure(options)
    signal.alarm(0)
    print(report.table(runs, options.heads))
    asked = {name: value for name, value in vars(options).items() if name not in NOT_ASKED}
    print(f"\nkept in {report.keep(options.name, asked, around, runs, options.results)}")
    return int(any(run.get("failures") or "did_not_finish" in run for run in runs))


def _leave(number: int, _: object) -> None:
    sys.exit(f"python -m bench: ended by {signal.Signals(number).name}, with no result")


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Measure Turnkeeper.")
    top.add_argument("--results", type=Path, default=report.FOLDER, help="folder that the result is kept in")
    top.add_argument("--limit", type=int, default=900, help="seconds after which it gives up (default: 900)")
    add_all(top.add_subparsers(dest="name", required=True, metavar="MEASUREMENT"))
    return top


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
