"""Every operation of the API, in the order of its reference."""

from typing import Final

from api import (
    budget,
    events,
    health,
    keys,
    ledger,
    messages,
    operators,
    organization,
    refusals,
    sessions,
    tickets,
    turns,
    usage,
)
from api.operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
    *sessions.OPERATIONS,
    *messages.OPERATIONS,
    *turns.OPERATIONS,
    *events.OPERATIONS,
    *tickets.OPERATIONS,
    *keys.OPERATIONS,
    *budget.OPERATIONS,
    *organization.OPERATIONS,
    *usage.OPERATIONS,
    *ledger.OPERATIONS,
    *refusals.OPERATIONS,
    *operators.OPERATIONS,
    *health.OPERATIONS,
)
