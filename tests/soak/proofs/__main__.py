"""`python -m tests.soak.proofs NAME`: one of the big proofs, from its command line to its verdict."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.soak.chaos.report import keep
from tests.soak.proofs.crowd import Asked
from tests.soak.proofs.deaths import all_workers_die
from tests.soak.proofs.doorbells import flushed, killed_before_ringing
from tests.soak.proofs.failover import fails_over
from tests.soak.proofs.money import money
from tests.soak.proofs.outage import redis_hangs

PROOFS = {
    "doorbells": (killed_before_ringing, 1000),
    "flushes": (flushed, 1000),
    "outage": (redis_hangs, 400),
    "deaths": (all_workers_die, 300),
    "failover": (fails_over, 60),
    "money": (money, 2000),
}
MOST_SHOWN = 20


def main(argv: Sequence[str]) -> int:
    """Run a proof; return 0 if everything held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.proofs", description=__doc__)
    parser.add_argument("name", choices=PROOFS)
    parser.add_argument("--turns", type=int, help="how many (default: as many as the promise names)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the outage lasts")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service"
    )
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="where the summary goes")
    options = parser.parse_args(argv)
    prove, most = PROOFS[options.name]
    settings = dict(pair.split("=", 1) for pair in options.set)
    summary = prove(Asked(options.turns or most, options.seed, options.seconds, settings))
    for title in ("figures", "happened", "clients", "outcomes", "answers"):
        if title not in summary:
            continue
        print(f"\n| {title} | |\n|---|---:|")  # noqa: T201
        for name, value in summary[title].items():
            print(f"| {name} | {value} |")  # noqa: T201
    for each in summary["violations"][:MOST_SHOWN]:
        print(f"- {each['kind']} turn {each['number']} {each['turn_id']}: {each['evidence'][:600]}")  # noqa: T201
    print(f"\n{len(summary['violations'])} violations; kept in {keep(summary, options.results)}")  # noqa: T201
    return int(bool(summary["violations"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
