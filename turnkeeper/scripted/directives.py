"""The script of an answer: what a request, a model's name or an operator can direct the provider to do.

`script.Script` is the table of directives. One is written

- in the last user message, as `[[key=value key="a value"]]` anywhere, or as a first or last line
  `@script {"key": value}`; if there are several, only the last counts, since a repaired history may repeat
  those of earlier messages,
- in the model's name, as `scripted:key=value,key=value`,
- as a default, with `--script` or `PUT /_script`.

For each key, the first of these that sets it wins.
"""

import dataclasses
import json
import re
import shlex
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, get_args, get_type_hints

from turnkeeper.scripted.script import Script

MODEL_PREFIX: Final = "scripted:"


class DirectiveError(ValueError):
    """A directive that does not exist, or a value that it cannot have."""


_HINTS: Final = get_type_hints(Script)
_FIELDS: Final = {field.name: field for field in dataclasses.fields(Script)}
_COMPACT: Final = re.compile(r"\[\[\s*(\w+\s*=.*?)\]\]", re.DOTALL)
_AT_SCRIPT: Final = re.compile(r"\A@script[ \t]+([^\r\n]*)|^@script[ \t]+([^\r\n]*)\s*\Z", re.MULTILINE)


def directives_in(text: str) -> dict[str, Any]:
    """Return the values that a user's message sets.

    Args:
        text: The message; everything that is not a directive is ignored.

    Raises:
        DirectiveError: A directive is unknown, malformed or out of bounds.
    """
    lines = list(_AT_SCRIPT.finditer(text)) if "@script" in text else []
    found = [(match.start(), _read_json, match[match.lastindex or 1]) for match in lines]
    if "[[" in text:
        outside = _AT_SCRIPT.sub(lambda match: " " * len(match[0]), text) if lines else text
        found += [(match.start(), _read_compact, match[1]) for match in _COMPACT.finditer(outside)]
    if not found:
        return {}
    _, read, written = max(found, key=lambda place: place[0])
    return read(written)


def directives_of_model(model: str) -> dict[str, Any]:
    """Return the values that a model's name sets.

    Raises:
        DirectiveError: As for `directives_in`.
    """
    if not model.startswith(MODEL_PREFIX):
        return {}
    pairs = (pair for pair in model[len(MODEL_PREFIX) :].split(",") if pair.strip())
    return _read_pairs(pairs)


def directives_from(setting: str) -> dict[str, Any]:
    """Return the values of a default script: a JSON object, or `key=value` words.

    Raises:
        DirectiveError: As for `directives_in`.
    """
    return _read_json(setting) if setting.lstrip().startswith("{") else _read_compact(setting)


def script_of(*layers: Mapping[str, Any]) -> Script:
    """Merge layers of values; the first layer that sets a key wins."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged.update(layer)
    return Script(**merged)


def describe() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield each directive's group, name, kind, default and meaning."""
    for name, field in _FIELDS.items():
        default = "" if field.default is None else str(field.default)
        yield field.metadata["group"].value, name, _kind_of(name), default, field.metadata["meaning"]


def _kind_of(name: str) -> str:
    kind = _plain_type(name)
    if issubclass(kind, StrEnum):
        return "|".join(kind)
    return {int: "integer", float: "number", bool: "0|1", str: "text"}[kind]


def _plain_type(name: str) -> type:
    hint = _HINTS[name]
    if isinstance(hint, types.UnionType):
        hint = next(member for member in get_args(hint) if member is not types.NoneType)
    assert isinstance(hint, type)
    return hint


def _read_compact(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text.replace("“", '"').replace("”", '"'))
    except ValueError as error:
        raise DirectiveError(f"cannot read {text!r}: {error}") from error
    return _read_pairs(words)


def _read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise DirectiveError(f"{pair!r} is not key=value")
        values[name.strip()] = _checked(name.strip(), value)
    return values


def _read_json(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DirectiveError(f"the script is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DirectiveError("the script is not a JSON object")
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: Any) -> Any:
    if name not in _FIELDS:
        raise DirectiveError(f"there is no directive {name!r}")
    if value is None:
        return _FIELDS[name].default
    try:
        converted = _converted(_plain_type(name), value)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DirectiveError(f"{name}={value!r} is not {_kind_of(name)}") from error
    least, most = _FIELDS[name].metadata["least"], _FIELDS[name].metadata["most"]
    # Written so that NaN, which compares with nothing, is also refused.
    if (least is not None and not converted >= least) or (most is not None and not converted <= most):
        raise DirectiveError(f"{name}={value!r} is not from {least} to {'any' if most is None else most}")
    return converted


def _converted(kind: Any, value: Any) -> Any:
    if kind is bool:
        return {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    if issubclass(kind, StrEnum):
        return kind(str(int(value)) if isinstance(value, bool) else str(value))
    if kind is str and not isinstance(value, str):
        raise TypeError(value)
    return kind(value)
