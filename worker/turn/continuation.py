"""Continues an answer that broke off, instead of starting it again.

A text can be continued if readers are known to have exactly that text and it holds no thinking: no chat template
accepts half a thought, and a model that thinks again may reach another answer.
"""

from dataclasses import replace

from shared.money.usage import estimate_tokens
from shared.turn.turns import Role
from worker.providers.provider import Capabilities, Prompt, text_message
from worker.turn.outcome import Answer


def is_continued(answer: Answer, capabilities: Capabilities) -> bool:
    """Return whether the next attempt continues this one's text; otherwise the text is void."""
    return capabilities.continuation and bool(answer.content.strip()) and not answer.reasoning


def continued(prompt: Prompt, text: str) -> Prompt:
    """Return the prompt that asks for the rest of an answer.

    Args:
        prompt: What was asked.
        text: The answer so far; its share of `max_output_tokens` is estimated and subtracted.
    """
    # Without trailing space: templates cut it off, and a model's words begin with their space.
    message = text_message(Role.ASSISTANT, text.rstrip())
    left = max(1, prompt.max_output_tokens - estimate_tokens(text))
    return replace(prompt, messages=(*prompt.messages, message), max_output_tokens=left)


class Seam:
    """Joins a text and its continuation, which repeats the space at the text's end."""

    __slots__ = ("_said",)

    def __init__(self, text: str) -> None:
        self._said = text[len(text.rstrip()) :]

    def join(self, piece: str) -> str:
        """Return what is new in a piece of the continuation."""
        if not self._said:
            return piece
        common = 0
        while common < min(len(piece), len(self._said)) and piece[common] == self._said[common]:
            common += 1
        # Once they differ, everything that follows is new.
        self._said = self._said[common:] if common == len(piece) else ""
        return piece[common:]
