"""`python -m tests.soak.chaos`: a chaos run from its command line to its verdict."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.soak.chaos.nemesis import Fault
from tests.soak.chaos.report import keep, table
from tests.soak.chaos.run import Run, execute
from tests.soak.chaos.service import Size


def main(argv: Sequence[str]) -> int:
    """Run chaos; return 0 if no promise was broken, 1 if one was, 2 for wrong use."""
    options = _parser().parse_args(argv)
    kinds = frozenset(fault for fault in Fault if not options.faults or options.faults in fault.value)
    if not kinds:
        print(f"no fault is called so: {', '.join(Fault)}", file=sys.stderr)  # noqa: T201
        return 2
    run = Run(
        turns=options.turns,
        seed=options.seed,
        users=options.users,
        every_seconds=options.every,
        size=Size(options.web, options.relay, options.worker),
        kinds=kinds,
        settings=dict(pair.split("=", 1) for pair in options.set),
        folder=options.keep_data,
    )
    summary = execute(run)
    print(table(summary))  # noqa: T201
    if options.results:
        print(f"\nkept in {keep(summary, options.results)}")  # noqa: T201
    return int(bool(summary["violations"] or summary["first_turn_after_refusal_seconds"]["late"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.chaos", description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="fixes the turns and the faults' schedule")
    parser.add_argument("--users", type=int, default=40, help="turns at once, at most")
    parser.add_argument("--every", type=float, default=3.0, help="mean seconds between two faults")
    parser.add_argument("--faults", default="", help="only those whose name contains this, such as SIGKILL")
    for kind, count in (("web", 2), ("relay", 2), ("worker", 3)):
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"{kind} processes (default: {count})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service"
    )
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="where the summary goes")
    parser.add_argument("--keep-data", type=Path, help="run in this new folder and keep data and logs")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
