"""`turnkeeper provider`: starts the scripted provider and ends it on SIGTERM or SIGINT."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from turnkeeper.scripted.app import App
from turnkeeper.scripted.connection import KEEP_ALIVE_SECONDS
from turnkeeper.scripted.directives import DirectiveError, describe, directives_from
from turnkeeper.scripted.oracle import Oracle
from turnkeeper.scripted.server import Server

_MAX_DESCRIPTORS = 65_536
_LAST_PORT = 65_535


def run(argv: Sequence[str]) -> int:
    """Run the provider until a signal ends it.

    Args:
        argv: The command line, without the program's name.

    Returns:
        0 after a signal, 1 if the address is taken; argparse exits with 2 on a wrong command line.
    """
    options = _parser().parse_args(argv)
    oracle = Oracle(keep_text=not options.no_text)
    app = App(oracle, options.script)
    _allow_descriptors()
    loop = _new_loop()
    try:
        server = Server(loop, app, options.host, options.port, keep_alive_seconds=options.keep_alive_seconds)
    except OSError as error:
        loop.close()
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1

    def announce() -> None:
        # From inside the loop: uvloop loses a signal that arrives between its handler and its first
        # iteration.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, loop.stop)
        if options.port_file is not None:
            _write_port(options.port_file, server.port)
        print(f"scripted provider on http://{options.host}:{server.port}", flush=True)

    loop.call_soon(announce)
    # Records live long and have no cycles: full collections over them would only stall the streams.
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)
    try:
        loop.run_forever()
    finally:
        server.stop()
        loop.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="turnkeeper provider",
        description="An LLM provider that answers from a script, in the OpenAI and the Anthropic dialect.",
        epilog=_directives(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=0, help="port; 0, the default, takes a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is listened on")
    parser.add_argument("--script", type=_script, default={}, help="default script: key=value words, or JSON")
    parser.add_argument("--no-text", action="store_true", help="remember neither messages nor answers")
    parser.add_argument(
        "--keep-alive-seconds",
        type=float,
        default=KEEP_ALIVE_SECONDS,
        help="limit on waiting for a request (default: %(default)s)",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is no port: use 0 to {_LAST_PORT}")
    return port


def _script(text: str) -> dict[str, object]:
    try:
        return directives_from(text)
    except DirectiveError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _directives() -> str:
    """Return the table of directives as text."""
    lines = [
        "A request is directed by [[key=value ...]] in its last user message, by the model's name",
        "scripted:key=value,... or by the default script. Directives:",
    ]
    last_group = ""
    for group, name, kind, default, meaning in describe():
        if group != last_group:
            lines += ["", f"  {group}"]
            last_group = group
        shown = f"{name}={kind}" + (f" ({default})" if default not in {"", "0", "False"} else "")
        lines.append(f"    {shown:<34} {meaning}")
    return "\n".join(lines).replace("%", "%%")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _allow_descriptors() -> None:
    """Raise the limit on open files to the system's maximum: each stream is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _write_port(path: Path, port: int) -> None:
    """Write the port in one step, so that a reader never sees half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(f"{port}\n", encoding="ascii")
    partial.replace(path)
