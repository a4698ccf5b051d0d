"""The title that a session gets from its first message."""

from typing import Final

TITLE_CHARACTERS: Final = 80
_ELLIPSIS: Final = "…"


def title_from(content: str) -> str | None:
    """Return a title for a conversation that begins with `content`.

    Whitespace is collapsed. A text longer than 80 characters is cut at a word and ends with `…`. A single
    word longer than that is cut at the limit.

    Returns:
        1 to 80 characters; None if `content` is blank.
    """
    words = " ".join(content.split())
    if len(words) <= TITLE_CHARACTERS:
        return words or None
    room = words[:TITLE_CHARACTERS]  # one more than fits: a word that ends exactly at the limit is whole
    at_word = room[: room.rfind(" ")] if " " in room else room[: TITLE_CHARACTERS - len(_ELLIPSIS)]
    return at_word.rstrip() + _ELLIPSIS
