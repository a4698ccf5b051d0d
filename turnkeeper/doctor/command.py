"""The command: which checks there are, and how their findings are printed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from turnkeeper.doctor import PROCFILE
from turnkeeper.doctor.findings import Check, Finding, Level, examine
from turnkeeper.owner import environment
from turnkeeper.up.records import State

_PORTS: Final = (8080, 8081)
_COLORS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.WRONG: "bold red"}


def doctor(
    state: State | None,
    processes: Mapping[str, int | None],
    ports: Sequence[int] | None,
    *,
    limit_seconds: float,
    as_json: bool,
) -> int:
    """Run every check and print the findings; return 1 if something is wrong.

    Args:
        state: The `up` that runs.
        processes: How many of each kind there are to be; None for those of the `up`, or of the Procfile.
        ports: What must be free or ours; None for that of the `up`, or the usual two.
        limit_seconds: For all checks.
        as_json: Print one JSON object instead of lines.
    """
    checks = all_checks(as_run_here(environment(), state), state, processes, ports)
    found, is_late = examine(checks, limit_seconds)
    worst = max(found, key=lambda finding: list(Level).index(finding.level)).level
    if as_json:
        print(json.dumps({"status": worst, "checks": [asdict(finding) for finding in found]}, indent=2))
    else:
        show(found)
    code = 1 if worst is Level.WRONG else 0
    if is_late:
        # A thread may hang on a name server that does not answer, and the interpreter would wait for it at
        # exit.
        sys.stdout.flush()
        os._exit(code)
    return code


def as_run_here(environ: Mapping[str, str], state: State | None) -> dict[str, str]:
    """Return the processes' environment; that of a running `up` includes the servers that it started."""
    if state is None:
        return dict(environ)
    from turnkeeper.up.up import names_provider

    servers = {"DATABASE_URL": state.database_url, "REDIS_URL": state.redis_url}
    if not names_provider(environ) and state.provider_url:
        servers |= {"MCP_LLM_PROVIDER": "scripted", "SCRIPTED_BASE_URL": state.provider_url}
    given = {name: value for name, value in environ.items() if value.strip()}
    return {**servers, **given}


def all_checks(
    environ: Mapping[str, str],
    state: State | None,
    asked: Mapping[str, int | None],
    ports: Sequence[int] | None,
) -> Mapping[str, Check]:
    """Return every check; a server that is not configured is one of the settings' problems."""
    from shared.configuration.environment import Reader
    from shared.configuration.settings import log_shares, read_settings
    from turnkeeper.doctor.connections import check_connections, connections_of
    from turnkeeper.doctor.machine import (
        check_open_files,
        check_page,
        check_ports,
        check_prices,
        check_settings,
    )
    from turnkeeper.doctor.postgres import check_postgres
    from turnkeeper.doctor.provider import check_provider
    from turnkeeper.doctor.redis import check_redis

    settings = read_settings(Reader(environ))  # what is wrong with them, `check_settings` says
    running = {kind: len(pids) for kind, pids in state.pids.items()} if state else {}
    processes = {kind: asked[kind] or running.get(kind) or count for kind, count in PROCFILE.items()}
    wanted = connections_of(**processes, pool_size=settings.database_pool_size)
    checks: dict[str, Check] = {"settings": lambda: check_settings(environ)}
    if settings.database_url:
        checks["postgres"] = lambda: check_postgres(settings.database_url, now)
        checks["postgres.connections"] = lambda: check_connections(
            settings.database_url,
            wanted,
            prepares=settings.database_prepare,
            owner_url=settings.database_owner_url,
        )
    if settings.redis_url:
        checks["redis"] = lambda: check_redis(settings.redis_url, now, log_shares(settings))
    checks |= {
        "provider": lambda: check_provider(environ),
        "prices": lambda: check_prices(environ, now),
        "ports": lambda: check_ports(ports_of(state) if ports is None else ports),
        "page": check_page,
        "open files": lambda: check_open_files(environ),
    }
    return checks


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def ports_of(state: State | None) -> Sequence[int]:
    """Return the ports on which the service listens."""
    return _PORTS if state is None else (int(state.url.rpartition(":")[2]),)


def show(found: Sequence[Finding]) -> None:
    """Print a line for each finding, and below it the remedy."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in found)
    for finding in found:
        level = (f"{finding.level:<8}", _COLORS[finding.level])
        console.print(Text.assemble(level, f" {finding.name:<{width}}  {finding.says}"))
        if finding.remedy:
            console.print(Text(f"{'':<9}{'':<{width}}  → {finding.remedy}"))
    counts = {level: sum(finding.level is level for finding in found) for level in Level}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()))
