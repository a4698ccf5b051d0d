"""Results as they are stored (JSON, with what they depend on) and as they are read (a table)."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "results"
PACKAGES: Final = (
    "celery",
    "redis",
    "flask",
    "gunicorn",
    "sqlalchemy",
    "psycopg",
    "uvloop",
    "msgspec",
    "httptools",
    "hiredis",
)

READ_OF_A_SPREAD: Final = ("p50", "p99", "most")


def surroundings() -> dict[str, Any]:
    """Return everything that a figure depends on besides the code."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def keep(
    name: str,
    asked: Mapping[str, Any],
    around: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    folder: Path = FOLDER,
) -> Path:
    """Write a measurement next to the others; return its file."""
    folder.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{stamp}-{name}.json"
    content = {"measurement": name, "asked": asked, "surroundings": around, "runs": runs}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def table(runs: Sequence[Mapping[str, Any]], heads: str | None = None) -> str:
    """Return runs as a Markdown table: a row for each figure, a column for each run.

    Args:
        runs: The results.
        heads: The figure that heads each column if the runs are not repetitions of one another; otherwise they are
            numbered, and the last column is their median.
    """
    flat = [dict(_flat(run)) for run in runs]
    names = [name for name in dict.fromkeys(name for run in flat for name in run) if name != heads]
    is_repeated = heads is None and len(flat) > 1
    head = [
        heads.replace("_", " ") if heads else "figure",
        *(str(run[heads]) if heads else f"run {number + 1}" for number, run in enumerate(runs)),
    ]
    if is_repeated:
        head.append("median")
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name in names:
        values = [run.get(name) for run in flat]
        middle = [_shown(_median(values))] if is_repeated else []
        lines.append("| " + " | ".join([name, *map(_shown, values), *middle]) + " |")
    return "\n".join(lines)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the rows of a run; of a spread only the values that a reader compares, since the file has the rest."""
    rows: list[tuple[str, Any]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            shown = {each: value[each] for each in READ_OF_A_SPREAD} if "p50" in value else value
            rows += _flat(shown, f"{prefix}{name} ")
        elif isinstance(value, int | float | str | None):
            rows.append((prefix + name, value))
    return rows


def _median(values: Sequence[Any]) -> Any:
    numbers = sorted(value for value in values if isinstance(value, int | float))
    return numbers[len(numbers) // 2] if len(numbers) == len(values) else None


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case _:
            return str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        finished = subprocess.run(
            ["git", *arguments], cwd=FOLDER.parent, capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return ""
    return finished.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
