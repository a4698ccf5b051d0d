"""JSON as providers send it, with what models do to its text."""

import json
from typing import Any, Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a typed decoder raises for an event that is not an ordinary one; such events are decoded by `decode_any`."""


def decode_any(data: bytes) -> Any:
    """Decode `data`, whatever it is.

    msgspec refuses invalid UTF-8 and lone surrogates, which models do emit. Those events, and no others, take the
    slow path through `json`.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
