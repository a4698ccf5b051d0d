"""JSON decoded by type: only the fields that an adapter needs are read, the rest is skipped."""

import json
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class JsonDecoder(Generic[T]):
    """Decodes the events of one dialect.

    msgspec refuses invalid UTF-8 and lone surrogates, which models do emit. Those events, and no others, take
    the slow path through `json`.
    """

    __slots__ = ("_decode", "_wanted")

    def __init__(self, wanted: type[T]) -> None:
        self._wanted = wanted
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(wanted).decode

    def __call__(self, data: bytes) -> T:
        """Decode `data`.

        Raises:
            ValueError: It is not JSON, is nested too deeply, or does not have the wanted type.
        """
        try:
            return self._decode(data)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc
        try:
            return msgspec.convert(json.loads(data.decode("utf-8", "replace")), self._wanted)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc
