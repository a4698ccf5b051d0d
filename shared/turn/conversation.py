"""Which turns belong to the conversation that a model is shown: all but those that the provider refused.

Nothing marks them in the database: it follows from the error that a turn ended with, by the table `REFUSED_FAULTS`. So
turns that an earlier release stored are judged by the same rule.
"""

from typing import Final

from shared.errors import REFUSED_FAULTS

REFUSED_CODES: Final = "array[" + ", ".join(f"'{fault.value}'" for fault in sorted(REFUSED_FAULTS)) + "]"
"""The codes of these errors, as an array in SQL."""


def is_in_conversation(turn: str) -> str:
    """Return SQL for whether a turn's messages are part of later prompts.

    Args:
        turn: The alias of `turnkeeper.turns`. A turn that is not over belongs to the conversation.
    """
    return f"coalesce({turn}.error ->> 'code' <> all ({REFUSED_CODES}), true)"
