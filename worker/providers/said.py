"""What a provider says in an error, made fit for the log and for an admin's eyes.

Without it nobody can see why a provider does not work; with all of it, keys and questions would stand in logs (I10). So
it is cut, secrets are masked, and whatever repeats the prompt is masked as well: providers quote what they refuse.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.observing.logs import redact
from shared.text import clean
from worker.providers.provider import Prompt

MAX_SAID: Final = 500
"""Characters that are kept: enough for the sentence that every server says first."""
_EXAMINED: Final = 2000
"""Characters of a body or a sentence that are looked at."""
_WINDOW: Final = 16
_STEP: Final = 8
"""Any repetition of `_WINDOW + _STEP - 1` characters or more contains a whole window; much shorter ones are in every
English sentence, and a long prompt would mask them all. A short text that is quoted is masked by its quotation marks.
"""
_SECRET_LENGTH: Final = 8
"""A shorter secret is a word, as the key of a server that wants none."""
_MASK: Final = "***"
_FIELDS: Final = ("message", "msg", "detail", "error", "description", "reason", "title")
_NAMES: Final = ("type", "code", "status", "param")
_QUOTED: Final = re.compile(r"'([^'\n]{1,200})'|\"([^\"\n]{1,200})\"|`([^`\n]{1,200})`")
_MARKUP: Final = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]{0,500}>")

Hush: TypeAlias = Callable[[object], str]


@dataclass(frozen=True, slots=True)
class Discretion:
    """Knows what may not be repeated of one request; called with an error, it returns what may.

    Args:
        secrets: Values that are masked wherever they stand, as the provider's key.
        prompt: What was sent.
    """

    secrets: tuple[str, ...] = ()
    prompt: Prompt | None = None

    def __call__(self, error: object) -> str:
        """Return what `error` says, in one line of at most `MAX_SAID` characters; empty if it says nothing.

        Args:
            error: An error object, or the beginning of a body that contains none.
        """
        sent = [" ".join(text.split()) for text in self._sent()]
        said = said_in(error, is_quoted=lambda name: any(name in text for text in sent))
        shown = (each if each.isprintable() else " " for each in _MARKUP.sub(" ", said))
        text = " ".join("".join(shown).split())
        for secret in self.secrets:
            if len(secret) >= _SECRET_LENGTH:
                text = text.replace(secret, _MASK)
        # Cut first, with what a mask may shorten left over: the search is on the loop that all streams share.
        text = redact(_without_repetition(text[: 2 * MAX_SAID], sent))
        return text if len(text) <= MAX_SAID else text[: MAX_SAID - 1] + "…"

    def _sent(self) -> Sequence[str]:
        if self.prompt is None:
            return ()
        texts = [message.content for message in self.prompt.messages]
        return texts if self.prompt.system is None else [self.prompt.system, *texts]


def said_in(error: object, is_quoted: Callable[[str], bool] = lambda _: False) -> str:
    """Return an error's names and its sentence, as the server wrote them.

    Args:
        error: An error object in any server's form, a text, or the bytes of a body.
        is_quoted: Whether a name repeats the prompt: it is then left out.
    """
    match error:
        case bytes():
            return clean(error[:_EXAMINED].decode(errors="replace"))
        case str():
            return clean(error[:_EXAMINED])
        case dict():
            names = [str(error[name])[:100] for name in _NAMES if isinstance(error.get(name), str | int)]
            names = [name for name in names if not is_quoted(name)]
            said = " ".join(_sentences(error, is_quoted))
            return clean(
                f"{' '.join(dict.fromkeys(names))}: {said}" if names and said else said or " ".join(names)
            )
        case list():
            return " ".join(said_in(each, is_quoted) for each in error[:5])
        case _:
            return ""


def _sentences(error: dict[object, object], is_quoted: Callable[[str], bool]) -> Iterator[str]:
    for field in _FIELDS:
        value = error.get(field)
        if isinstance(value, str):
            yield value[:_EXAMINED]
            return
        if isinstance(value, dict | list) and value:
            # Pydantic's lists (FastAPI, vLLM) say where and why; their `input` is the prompt, and is not looked at.
            yield said_in(value, is_quoted)
            return
    inner = error.get("metadata")
    if isinstance(inner, dict):
        yield json.dumps({key: value for key, value in inner.items() if isinstance(value, str | int)})[
            :_EXAMINED
        ]


def _without_repetition(text: str, sent: Sequence[str]) -> str:
    """Return `text` with everything masked that also stands in what was sent."""
    spans = [*_quoted(text, sent), *_runs(text, sent)]
    if not spans:
        return text
    pieces: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if first > end or not pieces:
            pieces += [text[end:first], _MASK]
        end = max(end, last)
    return "".join([*pieces, text[end:]])


def _quoted(text: str, haystacks: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where a quotation is, of any length, that the prompt contains."""
    for found in _QUOTED.finditer(text):
        group = found.lastindex or 0
        if any(found.group(group) in each for each in haystacks):
            yield found.span(group)


def _runs(text: str, haystacks: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where a run of characters is that the prompt contains, extended to whole words."""
    for start in range(0, len(text) - _WINDOW + 1, _STEP):
        window = text[start : start + _WINDOW]
        for each in haystacks:
            at = each.find(window)
            if at >= 0:
                first, last = start, start + _WINDOW
                while first > 0 and (
                    text[first - 1].isalnum() or _goes_on(text, first - 1, each, at - start)
                ):
                    first -= 1
                while last < len(text) and (text[last].isalnum() or _goes_on(text, last, each, at - start)):
                    last += 1
                yield first, last


def _goes_on(text: str, at: int, other: str, shift: int) -> bool:
    place = at + shift
    return 0 <= place < len(other) and other[place] == text[at]
