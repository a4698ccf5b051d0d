"""Going on with an answer that broke off, in place of beginning it again.

A text can be continued when it is known to be what readers have, and holds no thinking: no chat template
takes a thought that is half done, and a model that thinks anew may come to another answer.
"""

from dataclasses import replace

from shared.money.usage import estimate_tokens
from shared.turn.turns import Role
from worker.providers.provider import Capabilities, Prompt, text_message
from worker.turn.outcome import Answer


def is_continued(answer: Answer, capabilities: Capabilities) -> bool:
    """Say whether the next attempt goes on with what this one brought; else that is void."""
    return capabilities.continuation and bool(answer.content.strip()) and not answer.reasoning


def continued(prompt: Prompt, text: str) -> Prompt:
    """Return the prompt that asks for the rest of an answer.

    Args:
        prompt: What was asked.
        text: The answer so far; what it may still use of `max_output_tokens` is estimated.
    """
    # Without the space at its end: templates cut that off, and a model's words begin with their space.
    message = text_message(Role.ASSISTANT, text.rstrip())
    left = max(1, prompt.max_output_tokens - estimate_tokens(text))
    return replace(prompt, messages=(*prompt.messages, message), max_output_tokens=left)


class Seam:
    """Joins a text and its continuation, which says the space at the text's end once more."""

    __slots__ = ("_said",)

    def __init__(self, text: str) -> None:
        """Take the text that readers have."""
        self._said = text[len(text.rstrip()) :]

    def join(self, piece: str) -> str:
        """Return what is new in a piece of the continuation."""
        if not self._said:
            return piece
        common = 0
        while common < min(len(piece), len(self._said)) and piece[common] == self._said[common]:
            common += 1
        # Once they differ, nothing of what follows was said before.
        self._said = self._said[common:] if common == len(piece) else ""
        return piece[common:]
