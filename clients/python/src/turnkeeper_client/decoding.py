"""JSON into dataclasses, by their annotations: unknown fields are ignored, missing ones are an error.

Deliberately small: it knows the handful of types that the models use, and any other type is a mistake in the
models.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from turnkeeper_client.errors import ProtocolError

T = TypeVar("T")


def decode(kind: type[T], value: object) -> T:
    """Return `value`, which is parsed JSON, as a `kind`.

    Args:
        kind: A dataclass.
        value: The parsed JSON.

    Raises:
        ProtocolError: It does not fit; the message names the field and never repeats its value.
    """
    return cast("T", _read(kind, value, kind.__name__))


def _read(kind: Any, value: object, where: str) -> object:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in {Union, types.UnionType}:
        return None if value is None else _read(_not_none(kind), value, where)
    if origin is tuple:
        item = get_args(kind)[0]
        return tuple(_read(item, each, where) for each in _expect(value, list, where))
    if origin is not None and issubclass(origin, Mapping):
        return _read_mapping(kind, _expect(value, dict, where), where)
    if is_dataclass(kind):
        return _read_fields(cast("type", kind), _expect(value, dict, where), where)
    return _read_scalar(kind, value, where)


def _read_fields(kind: type, value: dict[str, Any], where: str) -> object:
    found = {}
    for name, hint, is_required in _fields_of(kind):
        if name in value:
            found[name] = _read(hint, value[name], f"{where}.{name}")
        elif is_required:
            raise ProtocolError(f"{where} has no {name!r}")
    return kind(**found)


def _read_mapping(kind: Any, value: dict[str, Any], where: str) -> Mapping[str, object]:
    item = get_args(kind)[1]
    return {name: _read(item, each, f"{where}.{name}") for name, each in value.items()}


def _read_scalar(kind: Any, value: object, where: str) -> object:
    if kind is Decimal or kind is datetime:
        text = _expect(value, str, where)
        try:
            return Decimal(text) if kind is Decimal else datetime.fromisoformat(text)
        except (ValueError, InvalidOperation):
            raise ProtocolError(f"{where} is no {kind.__name__}") from None
    if kind in (bool, int, str):
        # JSON's true is not a number, although Python's is.
        return _expect(value, kind, where)
    raise TypeError(f"{where} has a type that cannot be read: {kind}")


def _expect(value: object, kind: type[T], where: str) -> T:
    if type(value) is not kind:
        raise ProtocolError(f"{where} is no {kind.__name__}")
    return value


def _not_none(kind: Any) -> Any:
    (left,) = (each for each in get_args(kind) if each is not types.NoneType)
    return left


@cache
def _fields_of(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    hints = get_type_hints(kind)
    return tuple(
        (each.name, hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
        if each.init
    )
