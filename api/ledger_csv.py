"""The ledger as CSV (RFC 4180), safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with `=` for a formula, and a user's name may begin with that.
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Final

from api.money_models import LedgerKind
from api.statements.ledger import LedgerEntry
from shared.money.money import format_usd
from shared.money.usage import COLUMNS as TOKEN_COLUMNS
from shared.turn.events import timestamp

COLUMNS: Final = (
    "id",
    "created_at",
    "day",
    "user",
    "session_id",
    "turn_id",
    "attempt",
    "provider",
    "model",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "price",
    "cost_usd",
    "reported",
    "kind",
    "corrects",
    "reason",
    "corrected_by",
    "corrected_at",
)
_BEGINS_A_FORMULA: Final = frozenset("=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
                                     "\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
_NUMBERS: Final = frozenset({"cost_usd", *TOKEN_COLUMNS})
"""Columns of numbers, which are negative in a correction: a spreadsheet is to add them up."""


def header() -> str:
    """Return the header row."""
    return _written([COLUMNS])


def lines(rows: Iterable[LedgerEntry]) -> str:
    """Return rows of the ledger."""
    return _written(_cells(row) for row in rows)


def safe(cell: str) -> str:
    """Return `cell` in a form that no spreadsheet computes: after an apostrophe if it could be a formula."""
    return f"'{cell}" if cell[:1] in _BEGINS_A_FORMULA else cell


def _cells(row: LedgerEntry) -> Iterable[str]:
    return (
        str(row.id),
        timestamp(row.created_at),
        row.day.isoformat(),
        row.user_name,
        str(row.session_id),
        str(row.turn_id),
        str(row.attempt),
        row.provider,
        row.model,
        str(row.input_tokens),
        str(row.cache_read_tokens),
        str(row.cache_write_tokens),
        str(row.cache_write_1h_tokens),
        str(row.output_tokens),
        str(row.reasoning_tokens),
        row.usage_source,
        json.dumps(row.price, separators=(",", ":")),
        format_usd(row.cost_usd),
        "" if row.reported is None else json.dumps(row.reported, separators=(",", ":")),
        (LedgerKind.CORRECTION if row.is_correction() else LedgerKind.USAGE).value,
        "" if row.corrects is None else str(row.corrects),
        row.reason or "",
        row.corrected_by or "",
        "" if row.corrected_at is None else timestamp(row.corrected_at),
    )


def _written(rows: Iterable[Iterable[str]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows(
        [cell if name in _NUMBERS else safe(cell) for name, cell in zip(COLUMNS, row, strict=True)]
        for row in rows
    )
    return written.getvalue()
