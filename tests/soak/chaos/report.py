"""A run's summary, as a file (JSON) and for people (a table)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.soak.chaos.checker import EXPLAINED

MOST_SHOWN: Final = 20
"""Violations shown in the table; the file has all of them."""


def keep(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write the summary to a file named after the current time and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{summary['measurement']}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.json"
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return path


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary for a person."""
    lines = ["", f"## {summary['measurement']}, {summary['turns']} turns, seed {summary['seed']}", ""]
    for title in ("faults", "clients", "outcomes", "answers", "recovery_seconds"):
        lines += [f"| {title.replace('_', ' ')} | |", "|---|---:|"]
        lines += [f"| {name} | {value} |" for name, value in summary[title].items()] + [""]
    lines += ["| violations | |", "|---|---:|"]
    kinds = summary["violations_by_kind"]
    lines += [f"| {meaning} | {kinds.get(kind, 0)} |" for kind, meaning in EXPLAINED.items()] + [""]
    for each in summary["violations"][:MOST_SHOWN]:
        lines.append(f"- {each['kind']} turn {each['number']} {each['turn_id']}: {each['evidence'][:600]}")
    return "\n".join(lines)
