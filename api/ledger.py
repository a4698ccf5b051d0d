"""The ledger: what each attempt cost, for an admin, as JSON pages or as CSV."""

from collections.abc import Iterator
from typing import Final

from flask import Response, request

from api import ledger_csv, queries, resources
from api.cursors import TimeCursor
from api.money_models import LedgerList
from api.negotiation import CSV, prefers
from api.operation import ADMINS, Call, Operation, Reply
from api.statements.ledger import LedgerFilter, ledger_rows
from api.usage import refuse_reversed
from shared.errors import ProblemCode

_ROWS_OF_A_PART: Final = 1_000
"""Some 400 kB, and a few milliseconds of PostgreSQL's time."""


def list_ledger(call: Call, query: queries.LedgerPage) -> Reply | Response:
    """List what attempts cost, newest first; with `Accept: text/csv` all of it as a table."""
    refuse_reversed(query)
    meant = LedgerFilter(
        user=query.user,
        session_id=query.session_id,
        turn_id=query.turn_id,
        model=query.model,
        usage_source=query.usage_source,
        first_day=query.first_day,
        last_day=query.last_day,
    )
    if prefers(request, CSV, wins_ties=False):
        headers = {
            "Content-Type": "text/csv; charset=utf-8; header=present",
            "Content-Disposition": 'attachment; filename="ledger.csv"',
        }
        return call.services.downloads.send(_parts(call, meant), headers)
    before = None if query.cursor is None else TimeCursor.decode(query.cursor)
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        rows = ledger_rows(db, organization_id, meant, before=before, most=query.limit + 1)
    shown, last = resources.page(rows, query.limit)
    cursor = None if last is None else TimeCursor(last.created_at, last.id).encode()
    return Reply(200, LedgerList(data=[resources.ledger_row(row) for row in shown], next_cursor=cursor))


def _parts(call: Call, meant: LedgerFilter) -> Iterator[str]:
    """Yield the table part by part, each read in its own transaction."""
    organization_id = call.caller.organization_id
    part, before = ledger_csv.header(), None
    while True:
        with call.services.database.of(organization_id) as db:
            rows = ledger_rows(db, organization_id, meant, before=before, most=_ROWS_OF_A_PART)
        yield part + ledger_csv.lines(rows)
        if len(rows) < _ROWS_OF_A_PART:
            return
        part, before = "", TimeCursor(rows[-1].created_at, rows[-1].id)


_TAG: Final = "Money"
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/ledger",
        _TAG,
        {200: LedgerList},
        list_ledger,
        (ProblemCode.RATE_LIMITED,),  # downloads are bounded
        query=queries.LedgerPage,
        roles=ADMINS,
        sends={200: ("Content-Disposition",)},
        tables=True,
    ),
)
