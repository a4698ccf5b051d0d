"""`turnkeeper prices`: prints the prices billed for each model today, and their sources."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.configuration.provider_settings import load_priced_model
from shared.money.price_table import Price
from shared.money.prices import PricedModel, price_of
from shared.money.usage import Usage

_RATES: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


def prices(environ: Mapping[str, str], console: Console, *, as_json: bool) -> int:
    """Print the prices in force today (UTC), the configured model's first.

    Args:
        environ: The environment; it needs no keys and no servers.
        console: Where to print.
        as_json: Print one JSON object instead of a table.

    Raises:
        SettingsError: A price cannot be read; the message names every problem.
    """
    priced, warnings = load_priced_model(environ)
    found = report(priced, warnings, datetime.now(UTC))
    if as_json:
        console.out(json.dumps(found, indent=2), highlight=False)
        return 0
    for table in _tables(found):
        console.print(table)
    console.print(Text(f"Source: {found['source']}" + (f", {found['as_of']}" if found["as_of"] else "")))
    for warning in warnings:
        console.print(Text(warning[0].upper() + warning[1:], style="yellow"))
    return 0


def report(priced: PricedModel, warnings: tuple[str, ...], at: datetime) -> dict[str, Any]:
    """Return the prices in force as plain values.

    Args:
        priced: The configured model and the table.
        warnings: The warnings about its price at startup.
        at: The day.
    """
    used = price_of(priced, Usage(), at)
    rows = [_row(priced.name, priced.model, used, None)] if not _is_listed(priced, at) else []
    for provider in sorted({entry.provider for entry in priced.prices.entries}):
        for model, entry in sorted(priced.prices.holding(provider, at.date()).items()):
            rows.append(_row(provider, model, entry.price, entry.valid_from))
            if entry.long_prompt is not None:
                rows.append(
                    {
                        **_row(provider, model, entry.long_prompt.price, entry.valid_from),
                        "above_prompt_tokens": entry.long_prompt.above_tokens,
                    }
                )
    return {
        "source": priced.prices.source,
        "as_of": _day(priced.prices.as_of),
        "provider": str(priced.name),
        "model": priced.model,
        "price": used.as_dict(),
        "cost_tracking": not used.is_free(),
        "warnings": list(warnings),
        "prices": rows,
    }


def _is_listed(priced: PricedModel, at: datetime) -> bool:
    return priced.declared_price is None and priced.model in priced.prices.holding(priced.name, at.date())


def _row(provider: str, model: str, price: Price, valid_from: date | None) -> dict[str, Any]:
    return {
        "provider": str(provider),
        "model": model,
        "valid_from": _day(valid_from),
        "above_prompt_tokens": None,
        **price.as_dict(),
    }


def _tables(found: Mapping[str, Any]) -> Iterable[Table]:
    """Return a table for each provider, narrow enough for 80 columns."""
    for provider, rows in groupby(found["prices"], key=lambda row: row["provider"]):
        table = Table(title=f"{provider}, US dollars for a million tokens", box=SIMPLE, pad_edge=False)
        table.add_column("model", no_wrap=True)
        table.add_column("from", no_wrap=True)
        for name in _RATES:
            table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
        for row in rows:
            is_used = (provider, row["model"]) == (found["provider"], found["model"])
            rates = (row[f"{name}_per_m_usd"] for name in _RATES)
            # Text from operators must not be read as markup.
            cells = (_named(row), row["valid_from"] or "", *rates)
            table.add_row(*(Text(cell) for cell in cells), style="bold" if is_used else "")
        yield table


def _named(row: Mapping[str, Any]) -> str:
    if row["above_prompt_tokens"] is not None:
        return f"  prompts over {row['above_prompt_tokens']:,}"
    return (row["model"] or "MCP_LLM_MODEL is not set") + (" (assumed)" if row["assumed"] else "")


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
