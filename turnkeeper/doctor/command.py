"""The command: which checks there are, and how what they found is shown."""

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
    """Run every check and say what was found; 1 when something is wrong.

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
        # A name server that does not answer holds a thread, which the interpreter would wait for at its end.
        sys.stdout.flush()
        os._exit(code)
    return code


def as_run_here(environ: Mapping[str, str], state: State | None) -> dict[str, str]:
    """Return the environment that the processes have: of a running `up` with the servers that it started."""
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
    """Return every check; a server that nobody named is one of the settings' problems."""
    from shared.configuration.environment import Reader
    from turnkeeper.doctor.connections import check_connections, connections_of
    from turnkeeper.doctor.machine import check_page, check_ports, check_prices, check_settings
    from turnkeeper.doctor.postgres import check_postgres
    from turnkeeper.doctor.provider import check_provider
    from turnkeeper.doctor.redis import check_redis

    read = Reader(environ)
    database_url, redis_url = read.text("DATABASE_URL"), read.text("REDIS_URL")
    owner_url = read.text("DATABASE_OWNER_URL")
    running = {kind: len(pids) for kind, pids in state.pids.items()} if state else {}
    processes = {kind: asked[kind] or running.get(kind) or count for kind, count in PROCFILE.items()}
    wanted = connections_of(**processes, pool_size=read.whole("DATABASE_POOL_SIZE", 2))
    checks: dict[str, Check] = {"settings": lambda: check_settings(environ)}
    if database_url:
        checks["postgres"] = lambda: check_postgres(database_url, now)
        checks["postgres.connections"] = lambda: check_connections(
            database_url, wanted, prepares=read.flag("DATABASE_PREPARE"), owner_url=owner_url
        )
    if redis_url:
        checks["redis"] = lambda: check_redis(redis_url, now)
    checks |= {
        "provider": lambda: check_provider(environ),
        "prices": lambda: check_prices(environ, now),
        "ports": lambda: check_ports(ports_of(state) if ports is None else ports),
        "page": check_page,
    }
    return checks


def now() -> datetime:
    """Return our time."""
    return datetime.now(UTC)


def ports_of(state: State | None) -> Sequence[int]:
    """Return where the service listens."""
    return _PORTS if state is None else (int(state.url.rpartition(":")[2]),)


def show(found: Sequence[Finding]) -> None:
    """Print a line for each finding, and below it what to do."""
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
