"""Thinking that a model writes into its answer, between `<think>` and `</think>`.

No standard says that these words are thinking, and a text may hold them: this is a switch, off by default. Servers with
a parser for the model's thinking (vLLM's `--reasoning-parser`, llama.cpp's `--reasoning-format`) do it better, because
they see tokens and not words.
"""

from collections.abc import Iterator
from typing import Final

from worker.providers.reading import KNOWS_NOTHING, Reading
from worker.providers.said import Hush

_NAMES: Final = ("think", "thinking", "thought")
_OPENING: Final = tuple(f"<{name}>" for name in _NAMES)


class TagSplitter:
    """Splits an answer in pieces of any size into text and thinking.

    What may be the beginning of a tag waits for the next piece. Blanks before the first tag and between the thinking
    and the text are dropped. A tag that is never closed makes the rest thinking.
    """

    __slots__ = ("_closing", "_has_thought", "_pending", "_starts")

    def __init__(self) -> None:
        self._pending = ""
        self._closing = ""
        self._starts = True
        self._has_thought = False

    def feed(self, piece: str) -> Iterator[tuple[bool, str]]:
        """Yield pieces, each with whether it is thinking; none is empty."""
        rest, self._pending = self._pending + piece, ""
        while rest:
            tags = (self._closing,) if self._closing else _OPENING
            at, tag = _earliest(rest, tags)
            if tag:
                yield from self._give(rest[:at])
                rest = rest[at + len(tag) :]
                self._turn(tag)
                continue
            kept = _possible_tag(rest, tags)
            if self._starts and not self._closing and not rest[: len(rest) - kept].strip():
                kept = len(rest)  # blanks at the start: a tag may follow
            self._pending = rest[len(rest) - kept :]
            yield from self._give(rest[: len(rest) - kept])
            return

    def flush(self) -> Iterator[tuple[bool, str]]:
        """Yield what waits at the end of the answer."""
        rest, self._pending = self._pending, ""
        yield from self._give(rest)

    def _turn(self, tag: str) -> None:
        self._has_thought = True
        self._closing = "" if self._closing else f"</{tag[1:]}"

    def _give(self, text: str) -> Iterator[tuple[bool, str]]:
        if self._closing:
            if text:
                yield True, text
            return
        if self._starts:
            if self._has_thought or not text.strip():
                text = text.lstrip()
            if not text:
                return
            self._starts = False
        if text:
            yield False, text


class TaggedReading(Reading):
    """A `Reading` of a model that writes its thinking into its answer."""

    __slots__ = ("_tags",)

    def __init__(self, max_text_bytes: int, *, continues: bool = False, hush: Hush = KNOWS_NOTHING) -> None:
        super().__init__(max_text_bytes, continues=continues, hush=hush)
        self._tags = TagSplitter()

    def say(self, piece: str) -> None:
        """Add a piece of the answer, which may hold thinking."""
        for is_thinking, text in self._tags.feed(piece):
            self._add(text, is_thinking=is_thinking)

    def close(self) -> None:
        """Add what still waited for the rest of a tag."""
        for is_thinking, text in self._tags.flush():
            self._add(text, is_thinking=is_thinking)
        super().close()

    def _add(self, text: str, *, is_thinking: bool) -> None:
        if is_thinking:
            self.think(text)
        else:
            super().say(text)


def _earliest(text: str, tags: tuple[str, ...]) -> tuple[int, str]:
    """Return where the first of the tags stands, and the tag; an empty one if there is none."""
    found = [(at, tag) for tag in tags if (at := text.find(tag)) >= 0]
    return min(found, default=(0, ""))


def _possible_tag(text: str, tags: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a tag."""
    longest = max(len(tag) for tag in tags) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in tags):
            return length
    return 0
