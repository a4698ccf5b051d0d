"""Bills for a prompt that was written to the provider's connection but never reached the provider.

Once the operating system has taken a prompt, nobody can know whether it was read, so it is billed as an estimate. A
worker that is killed, or that stops the turn, just then leaves such a row. The row is right under exactly four
conditions: its source is the estimate, the attempt's note in Redis says only that the request was written, the
provider has no record of it, and the figures are the estimate of that very prompt without any output.

An attempt whose call was refused (a connection that ends without an answer counts as a refusal) notes that nothing
was used. If its worker dies before it calls again, its row is empty and costs nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any, Final, Self

from tests.monitor import Monitor
from tests.soak.chaos.checker import Stored

NAMED: Final = "prompts billed by estimate that were written and never seen"
MOST_SHARE: Final = 0.005
"""Share of all rows. Workers are hurt some 130 times in a run of 3,000 rows, with some 12 turns each time. Each of
those spends less than 5 ms of more than a second between writing a prompt and its arrival: 8 rows at most, 15 pass."""
_REFUSED: Final = "estimated 0 0 0 0"
"""What an attempt notes once its call was refused."""
_BYTES_PER_TOKEN: Final = 4
_MESSAGE_TOKENS: Final = 4
_NOT_INPUT: Final = (
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)


class CallNotes:
    """What attempts noted of their calls, read from the commands that Redis received.

    Attributes:
        last: The last note of each turn's attempt, without its number: empty when it says no more than that the
            request was written.
    """

    def __init__(self, redis_url: str) -> None:
        self.last: dict[tuple[str, int], str] = {}
        self._monitor = Monitor(redis_url, self.take, only=b":call:")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._monitor)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def take(self, words: Sequence[str]) -> None:
        """Process a command that names a note."""
        if words[0].upper() == "SET":
            turn_id = words[1].rpartition(":")[2]
            attempt, _, told = words[2].partition(" ")
            self.last[turn_id, int(attempt)] = told


def is_unseen_prompt(
    row: Mapping[str, Any], turn: Mapping[str, Any], stored: Stored, notes: Mapping[tuple[str, int], str]
) -> bool:
    """Return whether a row for which the provider has no call is right.

    Args:
        row: The ledger's row.
        turn: Its turn.
        stored: What PostgreSQL holds: the prompt is built again, with other code than the code that sent it.
        notes: The last note of each turn's attempt, `CallNotes.last`.
    """
    if row["usage_source"] != "estimated" or any(row[name] for name in _NOT_INPUT):
        return False
    note = notes.get((str(turn["id"]), row["attempt"]))
    if note == _REFUSED:
        return not row["input_tokens"]
    return note == "" and row["input_tokens"] in _estimates(turn, stored)


def too_many(unseen: int, rows: int) -> bool:
    """Return whether there are more such rows than chance explains; even the shortest run may have one."""
    return unseen > max(1, MOST_SHARE * rows)


def _estimates(turn: Mapping[str, Any], stored: Stored) -> set[int]:
    """Return the estimates of the turn's prompt: by the worker that sends it, and by one that recovers it.

    The first adds what joins messages; the second has only the bytes of all texts together.
    """
    session_id = turn["session_id"]
    system = stored.system_prompts.get(str(session_id)) or ""
    history = sorted(
        (
            message
            for other in stored.turns.values()
            if other["session_id"] == session_id
            for message in stored.messages.get(str(other["id"]), ())
            if message["position"] <= turn["number"] * 2
        ),
        key=lambda message: message["position"],
    )
    spoken = [
        "\n\n".join(message["content"] for message in neighbours)
        for _, neighbours in groupby(history, key=lambda message: message["role"])
    ]
    texts = [text for text in (system, *spoken) if text]
    of_worker = sum(-(-len(text.encode()) // _BYTES_PER_TOKEN) + _MESSAGE_TOKENS for text in texts)
    of_sweeper = sum(len(text.encode()) for text in (system, *(each["content"] for each in history)))
    return {of_worker, of_sweeper // _BYTES_PER_TOKEN}
