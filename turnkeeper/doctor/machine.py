"""Checks that need no server: the settings, the prices, the ports and the page's files."""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Final

import api
from shared import open_files
from shared.configuration.provider_settings import load_priced_model
from shared.configuration.settings import load_settings
from shared.errors import SettingsError
from turnkeeper import direct
from turnkeeper.doctor.clock import Clock
from turnkeeper.doctor.findings import Finding, Level, fine, judged, warning, wrong

PAGE: Final = Path(api.__file__).parent / "page"
_REFERENCE: Final = re.compile(
    r"""(?:href|src)="(?:/?page/)?([\w.-]+)"|(?:from|import|await import\()\s*"\./([\w./-]+)\""""
)
_STALE: Final = timedelta(days=180)
_ANSWER_SECONDS: Final = 2.0
_MOST_ANSWER_BYTES: Final = 4096


def check_settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Load the settings as a process does."""
    try:
        settings = load_settings(environ)
    except SettingsError as refused:
        for problem in refused.problems:
            yield wrong("settings", problem, "correct it: no process starts with it")
        return
    yield fine("settings", f"{'production' if settings.production else 'development'}, all of them are right")
    for said in settings.warnings:
        yield warning("settings", said, "set it, if that is not meant")
    if settings.production and settings.database_owner_url:
        yield warning(
            "settings",
            "DATABASE_OWNER_URL is set: a process that has it can pass every policy",
            "give it to `turnkeeper migrate`, `orgs`, `keys` and `users` alone",
        )


def check_open_files(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Compare the limit of open files, which processes started from here inherit, with what the settings promise."""
    try:
        settings = load_settings(environ)
    except SettingsError:
        return
    most = open_files.reachable()
    promised = (
        ("MAX_SOCKETS", settings.max_sockets, most // open_files.STREAMS),
        ("WORKER_TURNS", settings.worker_turns, most // open_files.TURNS),
    )
    cut = [
        (name, f"{name} is {asked}, {possible} is possible")
        for name, asked, possible in promised
        if asked > possible
    ]
    says = "; ".join([f"a process may have {most}", *(said for _, said in cut)])
    yield judged(
        "open files",
        says,
        # A default is the most that anybody needs; what somebody has set, they count on.
        Level.WARNING if any(environ.get(name, "").strip() for name, _ in cut) else Level.OK,
        "raise the hard limit (`ulimit -Hn`, LimitNOFILE, ulimits), or set less",
    )


def check_prices(environ: Mapping[str, str], now: Clock) -> Iterator[Finding]:
    """Check how the configured model is billed; errors in its price are reported with the settings."""
    try:
        priced, warnings = load_priced_model(environ)
    except SettingsError as refused:
        for problem in refused.problems:
            yield wrong("prices", problem, "correct the file, and see `turnkeeper prices`")
        return
    if warnings:
        yield warning("prices", f"none is known for {priced.model!r}", "see `turnkeeper prices`")
        return
    as_of = priced.prices.as_of
    if priced.declared_price is not None or priced.name == "scripted":
        yield fine("prices", f"{priced.model!r} has a price of its own")
    elif as_of is None:
        yield warning(
            "prices", "the file does not say of when it is", "add `as_of`, so that old ones are noticed"
        )
    else:
        age = now().date() - as_of
        yield judged(
            "prices",
            f"{priced.model!r} has a price, as of {as_of}",
            Level.OK if age < _STALE else Level.WARNING,
            "compare them with the provider's page, and correct `as_of`",
        )


def check_ports(ports: Sequence[int], host: str = "127.0.0.1") -> Iterator[Finding]:
    """Check that each port is free or taken by one of our processes."""
    for port in ports:
        name = f"port {port}"
        if _is_free(host, port):
            yield fine(name, "free")
        elif _is_ours(host, port):
            yield fine(name, "a process of ours answers")
        else:
            yield wrong(name, "something else listens there", "end it, or name another port with `--bind`")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _is_ours(host: str, port: int) -> bool:
    try:
        with direct.get(f"http://{host}:{port}/healthz", _ANSWER_SECONDS) as answer:
            said = json.loads(answer.read(_MOST_ANSWER_BYTES))
            return said == {"status": "ok"} and bool(answer.headers["X-Request-Id"])
    except (OSError, ValueError, http.client.HTTPException):
        return False


def check_page(folder: Path = PAGE) -> Iterator[Finding]:
    """Follow the chat's and the administration's pages from their first files to every file that they load."""
    waiting, seen, missing = ["index.html", "administration.html"], set[str](), []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            missing.append(name)
            continue
        beside = PurePosixPath(name).parent
        waiting += [of_page or str(beside / of_file) for of_page, of_file in _REFERENCE.findall(text)]
    if missing:
        yield wrong("page", f"missing: {', '.join(sorted(missing))}", "install the package again")
    else:
        yield fine("page", f"all of its {len(seen)} files are there")
