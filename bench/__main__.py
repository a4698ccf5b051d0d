"""`python -m bench`: the command line of the measurements."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from bench import accept, reader, report, short, stop, turns
from bench.stack import Processes, Stack, running


def main(argv: Sequence[str]) -> int:
    """Run one measurement, or with no arguments all of them; 1 when a turn was lost or spoiled."""
    if not argv:
        return max(main([name]) for name in ("reader", "turns", "stop", "accept", "short"))
    options = _parser().parse_args(argv)
    asked = {name: value for name, value in vars(options).items() if name != "measure"}
    around = report.surroundings()
    print(
        f"\n## {options.name}\n\n{around['cpu']}, {around['cores']} cores, load {around['load_average_before']}\n"
    )
    runs = list(_runs(options))
    print(report.table(runs))
    print(f"\nkept in {report.keep(options.name, asked, around, runs)}")
    return int(any(run.get("failures") for run in runs))


def _runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.name == "reader":
        return [uvloop.run(options.measure(options)) for _ in range(options.runs)]
    processes = Processes(options.web, options.relay, options.worker)
    with running(processes) as stack:
        if options.warm:
            uvloop.run(turns.measure(stack, turns.Load(turns=20, tokens=50, rate=0)))
        return [uvloop.run(options.measure(stack, options)) for _ in range(options.runs)]


Measure = Callable[[Stack, argparse.Namespace], Coroutine[Any, Any, dict[str, Any]]]


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Measure Turnkeeper.")
    commands = top.add_subparsers(dest="name", required=True, metavar="MEASUREMENT")
    _add_turns(commands.add_parser("turns", help="many streamed turns at once: added delay, CPU per delta"))
    _add_stop(commands.add_parser("stop", help="from the Stop's request to the provider's closed connection"))
    _add_accept(commands.add_parser("accept", help="how fast turns are accepted and read back"))
    _add_short(commands.add_parser("short", help="short turns from end to end"))
    _add_reader(commands.add_parser("reader", help="the load generator's own reader, alone"))
    return top


def _common(parser: argparse.ArgumentParser, measure: Measure, *, web: int = 1) -> None:
    parser.add_argument("--runs", type=int, default=1, help="on the same service, one after the other")
    for kind, count in (("web", web), ("relay", 1), ("worker", 1)):
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"{kind} processes (default: {count})")
    parser.add_argument("--no-warm", dest="warm", action="store_false", help="measure the first requests too")
    parser.set_defaults(measure=measure)


def _add_turns(parser: argparse.ArgumentParser) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        load = turns.Load(options.turns, options.tokens, options.rate, options.sockets, options.ramp)
        return turns.measure(stack, load)

    _common(parser, measure)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer; a delta each")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each; 0 is unpaced")
    parser.add_argument("--sockets", type=int, default=0, help="websockets (default: one for each session)")
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds over which the turns begin")


def _add_stop(parser: argparse.ArgumentParser) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return stop.measure(stack, options.stops, options.background)

    _common(parser, measure, web=2)
    parser.add_argument("--stops", type=int, default=100, help="spread over the four phases")
    parser.add_argument("--background", type=int, default=0, help="turns that stream at the same time")


def _add_accept(parser: argparse.ArgumentParser) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return accept.measure(stack, options.requests, options.concurrency)

    _common(parser, measure)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)


def _add_short(parser: argparse.ArgumentParser) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return short.measure(stack, options.turns, options.tokens, options.concurrency)

    _common(parser, measure)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=32)


def _add_reader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument(
        "--rate", type=float, default=10_000, help="frames a second; 0 is as fast as it reads"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.set_defaults(
        measure=lambda options: reader.measure(options.sockets, options.rate, options.seconds)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
