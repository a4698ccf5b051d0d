"""The measurements: each command's options, and the service on which it is measured."""

import argparse
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import uvloop

from bench import accept, decode, fanout, growth, idle, neighbour, reader, scaling, short, stop, turns
from bench.peers import comparison
from bench.stack import Processes, Stack, running

Commands: TypeAlias = Any
"""What argparse's `add_subparsers` returns; its class has no public name."""
Columns: TypeAlias = list[dict[str, Any]]
"""A column of the table for each run, size or candidate."""
Measure: TypeAlias = Callable[[Stack, argparse.Namespace], Coroutine[Any, Any, dict[str, Any]]]
EACH: Final = (
    "decode",
    "reader",
    "turns",
    "stop",
    "accept",
    "short",
    "crowd",
    "growth",
    "history",
    "idle",
    "fanout",
    "scaling",
    "neighbour",
)
"""What `make bench` runs; `peers` must be requested by name, since it installs what it compares with."""
ROOM_FOR_A_CROWD: Final = {"WORKER_TURNS": "1024"}


def add_all(commands: Commands) -> None:
    """Add each measurement's command line."""
    _add_turns(commands)
    _add_stop(commands)
    _add_accept(commands)
    _add_short(commands)
    _add_decode(commands)
    _add_reader(commands)
    _add_crowd(commands)
    _add_growth(commands)
    _add_history(commands)
    _add_idle(commands)
    _add_fanout(commands)
    _add_scaling(commands)
    _add_neighbour(commands)
    comparison.add(commands.add_parser("peers", help="other ways to carry a stream, on the same provider"))


@contextmanager
def _service(options: argparse.Namespace, environ: Mapping[str, str] | None = None) -> Iterator[Stack]:
    with running(Processes(options.web, options.relay, options.worker), environ) as stack:
        if options.warm:
            uvloop.run(turns.measure(stack, turns.Load(turns=20, tokens=50, rate=0)))
        yield stack


def _add(commands: Commands, name: str, words: str, *, web: int = 1) -> argparse.ArgumentParser:
    """Add a command that runs on its own service."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words)
    for kind, count in (("web", web), ("relay", 1), ("worker", 1)):
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"{kind} processes (default: {count})")
    parser.add_argument("--no-warm", dest="warm", action="store_false", help="measure the first requests too")
    parser.set_defaults(heads=None)
    return parser


def _repeated(parser: argparse.ArgumentParser, measure: Measure) -> None:
    """Let a command repeat one measurement on the same service."""
    parser.add_argument("--runs", type=int, default=1, help="on the same service, one after the other")

    def runs(options: argparse.Namespace) -> Columns:
        with _service(options) as stack:
            return [uvloop.run(measure(stack, options)) for _ in range(options.runs)]

    parser.set_defaults(measure=runs)


def _add_turns(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        load = turns.Load(options.turns, options.tokens, options.rate, options.sockets, options.ramp)
        return turns.measure(stack, load)

    parser = _add(commands, "turns", "many streamed turns at once: added delay, CPU per delta")
    _repeated(parser, measure)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer; a delta each")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each; 0 is unpaced")
    parser.add_argument("--sockets", type=int, default=0, help="websockets (default: one for each session)")
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds over which the turns begin")


def _add_stop(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return stop.measure(stack, options.stops, options.background)

    parser = _add(commands, "stop", "from the Stop's request to the provider's closed connection", web=2)
    _repeated(parser, measure)
    parser.add_argument("--stops", type=int, default=100, help="spread over the four phases")
    parser.add_argument("--background", type=int, default=0, help="turns that stream at the same time")


def _add_accept(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return accept.measure(stack, options.requests, options.concurrency)

    parser = _add(commands, "accept", "how fast turns are accepted and read back")
    _repeated(parser, measure)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)


def _add_short(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return short.measure(stack, options.turns, options.tokens, options.concurrency)

    parser = _add(commands, "short", "short turns from end to end")
    _repeated(parser, measure)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=32)


def _add_decode(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        return decode.measure(options.events, options.rounds)

    parser = commands.add_parser("decode", help="a provider's events, read from bytes to pieces of text")
    parser.add_argument("--events", type=int, default=20_000, help="of each form, in each round")
    parser.add_argument("--rounds", type=int, default=15, help="of which the median counts")
    parser.set_defaults(measure=measure, heads="event")


def _add_neighbour(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return neighbour.measure(stack, options.turns, options.tokens, options.hostile)

    parser = _add(commands, "neighbour", "short turns beside another organization's flood", web=2)
    _repeated(parser, measure)
    parser.add_argument("--turns", type=int, default=40, help="alone, and as many beside the flood")
    parser.add_argument("--tokens", type=int, default=5)
    parser.add_argument("--hostile", type=int, default=100, help="turns at once of the other organization")


def _add_reader(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        return [
            uvloop.run(reader.measure(options.sockets, options.rate, options.seconds))
            for _ in range(options.runs)
        ]

    parser = commands.add_parser("reader", help="the load generator's own reader, alone")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument(
        "--rate", type=float, default=10_000, help="frames a second; 0 is as fast as it reads"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.set_defaults(measure=measure, heads=None)


def _add_crowd(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        columns = []
        for count in options.turns:
            # A separate service for each: the first crowd's rows and logs must not count in the second's figures.
            with _service(options, ROOM_FOR_A_CROWD) as stack:
                load = turns.Load(count, options.tokens, options.rate, first_seconds=options.first)
                run = uvloop.run(turns.measure(stack, load))
                columns.append({"turns": count, **run})
        return columns

    parser = _add(commands, "crowd", "500 and 1,000 turns at once, all deltas counted")
    parser.add_argument("--turns", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument(
        "--first",
        type=float,
        default=20.0,
        help="seconds to the first token, so that all of them run at once",
    )
    parser.set_defaults(measure=measure, heads="turns")


def _add_growth(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        with _service(options, ROOM_FOR_A_CROWD) as stack:
            return uvloop.run(growth.turns(stack, options.least, options.most, options.rate, options.seconds))

    parser = _add(commands, "growth", "CPU per delta as turns and sockets double")
    parser.add_argument("--least", type=int, default=10, help="turns to begin with, a websocket each")
    parser.add_argument("--most", type=int, default=640, help="turns to end with, unless it saturates before")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each number of turns is looked at")
    parser.set_defaults(measure=measure, heads="turns")


def _add_history(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        with _service(options) as stack:
            return uvloop.run(
                growth.history(stack, options.messages, options.step, options.sessions, options.tokens)
            )

    parser = _add(commands, "history", "time and CPU of a turn as its session grows")
    parser.add_argument("--messages", type=int, default=500, help="that each session grows to")
    parser.add_argument("--step", type=int, default=50, help="messages of a column")
    parser.add_argument("--sessions", type=int, default=8, help="that grow side by side")
    parser.add_argument("--tokens", type=int, default=20, help="of each answer")
    parser.set_defaults(measure=measure, heads="messages")


def _add_idle(commands: Commands) -> None:
    def measure(stack: Stack, options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
        return idle.measure(stack, options.sockets, options.seconds)

    parser = _add(commands, "idle", "memory of an open websocket on which nothing happens")
    _repeated(parser, measure)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="that they are left alone; pings go each 15 s"
    )


def _add_fanout(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        audience = fanout.Audience(options.sockets, options.rate, options.tokens)
        with _service(options) as stack:
            return [
                uvloop.run(fanout.measure(stack, audience, is_hindered=is_hindered))
                for _ in range(options.rounds)
                for is_hindered in (False, True)
            ]

    parser = _add(commands, "fanout", "one turn watched by many, with and without bad readers among them")
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second, each to every socket")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of both arms, in turn")
    parser.set_defaults(measure=measure, heads="bad_readers")


def _add_scaling(commands: Commands) -> None:
    def measure(options: argparse.Namespace) -> Columns:
        load = turns.Load(options.turns, options.tokens, options.rate, ramp_seconds=options.ramp)
        with _service(options) as stack:
            cost = uvloop.run(
                scaling.costs(stack, options.streaming, options.rate, options.seconds, options.short)
            )
        columns = [{"processes": f"{options.worker} worker, {options.relay} relay", **cost}]
        doubled = argparse.Namespace(**vars(options))
        doubled.worker, doubled.relay = 2 * options.worker, 2 * options.relay
        with _service(doubled) as stack:
            tried = uvloop.run(scaling.trial(stack, load, cost, 2))
        return [*columns, {"processes": f"{doubled.worker} workers, {doubled.relay} relays", **tried}]

    parser = _add(commands, "scaling", "the capacity formula: predicted from one of each, measured with two")
    parser.add_argument("--streaming", type=int, default=40, help="turns from which a delta's cost is taken")
    parser.add_argument("--seconds", type=float, default=10.0, help="that they are looked at")
    parser.add_argument("--short", type=int, default=600, help="turns of one delta, for a turn's own cost")
    parser.add_argument("--turns", type=int, default=300, help="of the load that is predicted")
    parser.add_argument("--tokens", type=int, default=200, help="of each of its answers")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each")
    parser.add_argument("--ramp", type=float, default=15.0, help="seconds over which its turns begin")
    parser.set_defaults(measure=measure, heads="processes")
