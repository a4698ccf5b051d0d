"""Writes the reference pages from what the code itself uses, and checks that they are up to date.

    python -m turnkeeper.reference [--check]

A page that is written by hand goes wrong with the first change; these cannot.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from shared.configuration.environment import Section
from shared.configuration.variables import VARIABLES
from shared.errors import FAULT_TITLES, PROBLEMS, REFUSED_FAULTS, RETRYABLE_FAULTS, Fault, ProblemCode
from shared.metrics.table import METRICS, Metric, Service
from shared.turn.events import NUMBERED, ONLY_ON_STREAMS, Envelope
from shared.turn.turns import TERMINAL, TRANSITIONS, Signal, TurnStatus
from turnkeeper.reference.code_map import with_map
from turnkeeper.reference.event_schemas import (
    REF,
    EventClass,
    Schema,
    components,
    for_typescript,
    is_nullable,
    own_fields,
    required,
    type_of,
)
from turnkeeper.reference.python_events import python_events
from turnkeeper.reference.redis_page import NAMES
from turnkeeper.reference.typescript import declarations

ROOT: Final = Path(__file__).parents[2]
_ARCHITECTURE: Final = "docs/ARCHITECTURE.md"
_NOTE: Final = "<!-- Written by `python -m turnkeeper.reference`; change the code, not this page. -->\n"
_FORMATS: Final = {"date-time": "time (RFC 3339, UTC)", "decimal": "decimal string"}
_PAGES: Final = {"TurnStatus": "[status](states.md)", "Fault": "[code](errors.md)"}
_INTERNAL: Final = (
    "No operator needs these: they bound memory and time inside the service, and their defaults fit together. "
    "They can still be set."
)


def pages() -> Mapping[str, str]:
    """Return every generated page by its path in the repository."""
    document = openapi()
    return {
        ".env.example": env_example(),
        "docs/reference/openapi.json": json.dumps(document, indent=2) + "\n",
        "docs/reference/http.md": http_page(document),
        "docs/reference/settings.md": settings_page(),
        "docs/reference/states.md": states_page(),
        "docs/reference/errors.md": errors_page(),
        "docs/reference/events.md": events_page(),
        "docs/reference/metrics.md": metrics_page(),
        "clients/javascript/src/api.d.ts": declarations(document, for_typescript()),
        "clients/python/src/turnkeeper_client/event_types.py": python_events(),
        "docs/reference/redis-keys.md": redis_page(),
        _ARCHITECTURE: with_map((ROOT / _ARCHITECTURE).read_text(encoding="utf-8"), ROOT),
    }


def stale(root: Path) -> list[str]:
    """Return the pages under `root` that are missing or out of date."""
    return [
        name
        for name, text in pages().items()
        if not (path := root / name).is_file() or path.read_text(encoding="utf-8") != text
    ]


def write(root: Path) -> list[str]:
    """Write every page under `root` and return those that changed."""
    changed = stale(root)
    made = pages()
    for name in changed:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(made[name], encoding="utf-8")
    return changed


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document that the service serves."""
    from api.openapi import openapi_document

    return openapi_document()


def env_example() -> str:
    """Return `.env.example`: every variable, its meaning and its default."""
    parts = [
        "# Every variable that Turnkeeper reads, with its default. An empty variable counts as unset.",
        "# Written by `python -m turnkeeper.reference` from shared/configuration.",
    ]
    for section, variables in groupby(VARIABLES, key=lambda variable: variable.section):
        parts.append(f"\n# --- {section} ---")
        if section is Section.INTERNAL:
            parts.append(f"\n# {_INTERNAL}")
        for variable in variables:
            parts.extend((f"\n# {variable.meaning}", f"#{variable.name}={variable.default}"))
    return "\n".join(parts) + "\n"


def settings_page() -> str:
    """Return the page of environment variables."""
    secrets = ", ".join(f"`{variable.name}`" for variable in VARIABLES if variable.secret)
    parts = [
        "# Settings\n",
        _NOTE,
        (
            "Environment variables, read once when a process starts. An empty variable counts as unset. All problems "
            "of a configuration are reported together, and a process with one does not start."
        ),
        f"\nSecrets, or may hold one; the message about a refused configuration never repeats them: {secrets}.",
    ]
    for section, variables in groupby(VARIABLES, key=lambda variable: variable.section):
        rows = ((f"`{v.name}`", f"`{v.default}`" if v.default else "", v.meaning) for v in variables)
        parts.append(f"\n## {section}\n")
        if section is Section.INTERNAL:
            parts.append(f"{_INTERNAL}\n")
        parts.append(_table(("variable", "default", "meaning"), rows))
    return "\n".join(parts) + "\n"


def states_page() -> str:
    """Return the page of turn statuses, with a diagram of the transition table."""
    rows = ((f"`{source}`", f"`{signal}`", f"`{target}`") for (source, signal), target in TRANSITIONS.items())
    return "\n".join(
        (
            "# Turn states\n",
            _NOTE,
            (
                "One table decides what can happen to a turn. SQL guards, constraints, this page and the tests "
                "are made from it; what is not in it cannot happen.\n"
            ),
            "```mermaid",
            *_diagram(),
            "```\n",
            _table(("status", "signal", "next status"), rows),
            "\nTerminal: " + ", ".join(f"`{status}`" for status in sorted(TERMINAL)) + ".",
            "\n## Signals\n",
            ", ".join(f"`{signal}`" for signal in Signal) + ".\n",
        )
    )


def _diagram() -> Iterable[str]:
    yield "stateDiagram-v2"
    yield f"    [*] --> {TurnStatus.QUEUED}"
    for (source, signal), target in TRANSITIONS.items():
        yield f"    {source} --> {target}: {signal}"
    for status in TurnStatus:
        if status in TERMINAL:
            yield f"    {status} --> [*]"


def errors_page() -> str:
    """Return the page of problem codes and faults."""
    problems = (
        (f"`{code}`", str(PROBLEMS[code].status), PROBLEMS[code].title, _yes(PROBLEMS[code].retryable))
        for code in ProblemCode
    )
    faults = (
        (f"`{fault}`", FAULT_TITLES[fault], _yes(fault in RETRYABLE_FAULTS), _yes(fault in REFUSED_FAULTS))
        for fault in Fault
    )
    return "\n".join(
        (
            "# Errors\n",
            _NOTE,
            "## Refused requests\n",
            (
                "Answered as `application/problem+json` (RFC 9457). Programs branch on `code`. Where waiting helps, "
                "`retry_after_ms` and the `Retry-After` header say how long.\n"
            ),
            _table(("code", "status", "title", "retryable"), problems),
            "\n## Failed turns\n",
            (
                "A turn that fails carries the same object, without `status` and `request_id`, as its `error`. A turn "
                "whose question was refused is left out of later prompts, with what there is of its answer; its "
                "messages are shown with `in_conversation: false`.\n"
            ),
            _table(("code", "title", "retryable", "question refused"), faults),
            "",
        )
    )


def events_page() -> str:
    """Return the page of event types."""
    schemas = components()
    envelope = schemas[Envelope.__name__]["properties"]
    fields = [("envelope", name, field) for name, field in envelope.items()]
    for event in (*NUMBERED, *ONLY_ON_STREAMS):
        fields.extend((f"`{type_of(event)}`", name, field) for name, field in own_fields(event, schemas))
    return "\n".join(
        (
            "# Events\n",
            _NOTE,
            (
                f"One envelope on websocket, SSE and JSON pages: `type`, {_names(envelope)} and the fields of the "
                "type. `seq` starts at 1 and rises by exactly 1 for each event of a turn, across attempts; "
                "`(turn_id, seq)` identifies an event. `snapshot` has the envelope too, with the `seq` of the last "
                "event that it stands for.\n"
            ),
            "## Numbered\n",
            _event_table(NUMBERED, schemas),
            "\n## Only on streams, not numbered\n",
            _event_table(ONLY_ON_STREAMS, schemas),
            "\n## Fields\n",
            _table(
                ("type", "field", "is", "meaning"),
                (
                    (name, f"`{field}`", _kind(schema, schemas), schema.get("description", ""))
                    for name, field, schema in fields
                ),
            ),
            "",
        )
    )


def _event_table(events: Iterable[EventClass], schemas: Mapping[str, Schema]) -> str:
    return _table(
        ("type", "fields", "when"),
        (
            (
                f"`{type_of(event)}`",
                _names(dict(own_fields(event, schemas))),
                schemas[event.__name__]["description"],
            )
            for event in events
        ),
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _kind(schema: Schema, schemas: Mapping[str, Schema]) -> str:
    """Return in words what a field holds."""
    null = " or null" if is_nullable(schema) else ""
    found = required(schema)
    name = found.get("$ref", "").removeprefix(REF)
    if name in _PAGES:
        return _PAGES[name] + null
    found = schemas.get(name, found)
    match found:
        case {"enum": list(values)}:
            return f"one of {_names(values)}{null}"
        case {"properties": properties}:
            return f"object of {_names(properties)}{null}"
        case {"format": str(known)} if known in _FORMATS:
            return _FORMATS[known] + null
    return f"{found['type']}{null}"


def redis_page() -> str:
    """Return the page of keys and channels in Redis."""
    rows = ((f"`{name.pattern}`", name.kind, name.holds, name.lives, name.without) for name in NAMES)
    return "\n".join(
        (
            "# Redis\n",
            _NOTE,
            (
                "All that is kept there, by name. Nothing of it is missed for long: the last column says what happens "
                "without. The braces are hash tags, so that what belongs together lies together in a cluster. No name "
                "holds a secret, a user or content.\n"
            ),
            _table(("name", "type", "is", "lives", "without it"), rows),
            "",
        )
    )


def metrics_page() -> str:
    """Return the page of metrics."""
    parts = [
        "# Metrics\n",
        _NOTE,
        (
            "What `GET /metrics` answers at `METRICS_PORT` (web), the port after it (relay) and the next (worker), "
            "each for all processes of the service on its host. [How to switch it on](../howto/monitor.md). Every "
            "series of a service is there from the start; a label has the values below and no others, never an id, "
            "a user, a model or content."
        ),
    ]
    for title, are_of_servers in (("Counted by processes", False), ("Known by the servers", True)):
        rows = (_metric_row(metric) for metric in METRICS if metric.is_of_servers is are_of_servers)
        parts.append(f"\n## {title}\n")
        if are_of_servers:
            parts.append(
                "Read from PostgreSQL and Redis at a scrape, at most every 5 seconds. Every service tells the same, "
                "so take the `max`. A server that does not answer within a second leaves its figures out.\n"
            )
        parts.append(_table(("name", "type", "services", "labels", "meaning"), rows))
    parts.append("\n## Buckets\n")
    parts.append(
        _table(
            ("name", "upper bounds"),
            ((f"`{m.name}`", ", ".join(f"{bound:g}" for bound in m.buckets)) for m in METRICS if m.buckets),
        )
    )
    return "\n".join(parts) + "\n"


def _metric_row(metric: Metric) -> tuple[str, ...]:
    services = (
        "all"
        if metric.services == set(Service)
        else ", ".join(each for each in Service if each in metric.services)
    )
    values = {
        name: sorted({series[n] for series in metric.series if series[n]})
        for n, name in enumerate(metric.labels)
    }
    labels = "; ".join(
        f"`{name}`: {', '.join(f'`{value}`' for value in found)}" for name, found in values.items()
    )
    return f"`{metric.name}`", metric.kind.value, services, labels, metric.help


def http_page(document: Mapping[str, Any]) -> str:
    """Return the page of HTTP operations, from the OpenAPI document."""
    parts = [
        "# HTTP API\n",
        _NOTE,
        document["info"]["description"],
        "\nThe whole of it: [openapi.json](openapi.json).",
    ]
    for tag in document["tags"]:
        parts.append(f"\n## {tag['name']}")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(method.upper(), path, operation, document))
    return "\n".join(parts) + "\n"


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    lines = [f"\n### `{method} {path}`\n", operation["summary"]]
    if "description" in operation:
        lines.append(operation["description"])
    rows = [
        (f"`{parameter['name']}`", parameter["in"], parameter.get("description", ""))
        for parameter in operation["parameters"]
        if parameter["in"] != "path"
    ]
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        required = set(schema.get("required", ()))
        rows.extend(
            (f"`{name}`", "body, required" if name in required else "body", field.get("description", ""))
            for name, field in schema.get("properties", {}).items()
        )
    if rows:
        lines.append("\n" + _table(("name", "in", "meaning"), rows))
    answers = ((status, answer["description"]) for status, answer in sorted(operation["responses"].items()))
    lines.append("\n" + _table(("status", "answer"), answers))
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in (header, ["---"] * len(header), *rows)
    )
    return "\n".join(lines)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` only list the stale ones.

    Returns:
        0 if all is well, 1 if `--check` found a stale page.
    """
    parser = argparse.ArgumentParser(prog="python -m turnkeeper.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(arguments)
    if not options.check:
        for name in write(options.root):
            print(f"wrote {name}")
        return 0
    found = stale(options.root)
    for name in found:
        print(f"{name} is stale: run `python -m turnkeeper.reference`", file=sys.stderr)
    return 1 if found else 0
