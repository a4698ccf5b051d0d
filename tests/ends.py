"""A turn's last event, for tests that do not check its cost."""

from shared.money.usage import Usage
from shared.turn.events import Done
from shared.turn.turns import TurnStatus


def done(status: TurnStatus = TurnStatus.COMPLETED, **fields) -> Done:
    """Return the end of a turn that cost nothing."""
    nothing = dict.fromkeys(("finish_reason", "stop_reason", "usage_source", "error"))
    text = {"usage": Usage().as_dict(), "cost_usd": "0.000000", "content_sha256": ""}
    return Done(status=status, **{**nothing, **text, **fields})
