"""Writes the events as classes of the Python client, which imports nothing from the service."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from shared.turn.events import NUMBERED, Envelope, Event, StreamEvent
from turnkeeper.reference.event_schemas import (
    NOT_OF_PLACE,
    REF,
    SHOWN,
    EventClass,
    Schema,
    components,
    has_envelope,
    is_nullable,
    required,
    type_of,
)

_HEAD: Final = '''"""What the types of events hold, as the service declares them.

Written by `python -m turnkeeper.reference`; change shared/turn/events.py, not this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from turnkeeper_client.models import Usage
'''
_BASE: Final = "Numbered"
_LEFT_OUT: Final = NOT_OF_PLACE | {"type"}
_MODELS: Final = {"UsageCounts": "Usage"}
_SCALARS: Final = {"string": "str", "integer": "int", "boolean": "bool"}
_FORMATS: Final = {"date-time": "datetime", "decimal": "Decimal"}


def python_events() -> str:
    """Return the source of the module.

    Raises:
        ValueError: A schema uses a keyword that is not known here.
    """
    schemas = components()
    base = _class(_BASE, schemas[Envelope.__name__]["description"], _fields(Envelope, schemas, {"type"}))
    return "".join((_HEAD, base, *(_event(event, schemas) for event in SHOWN), _union(), _types()))


def _event(event: EventClass, schemas: Mapping[str, Schema]) -> str:
    meaning = schemas[event.__name__]["description"]
    if event in NUMBERED:
        return _class(f"{event.__name__}({_BASE})", meaning, _fields(event, schemas, {"type"}))
    place = _fields(Envelope, schemas, _LEFT_OUT) if has_envelope(event) else ()
    return _class(event.__name__, meaning, [*place, *_fields(event, schemas, _LEFT_OUT)])


def _class(head: str, meaning: str, fields: Iterable[str]) -> str:
    body = "".join(fields)
    return f'\n\n@dataclass(frozen=True, slots=True, kw_only=True)\nclass {head}:\n    """{meaning}"""\n' + (
        f"\n{body}" if body else ""
    )


def _fields(
    kind: type[Envelope | Event | StreamEvent], schemas: Mapping[str, Schema], left_out: Iterable[str]
) -> Iterable[str]:
    schema = schemas[kind.__name__]
    names = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
    for name, field in schema["properties"].items():
        if name not in left_out:
            default = "" if name in schema["required"] else f" = {field['default']!r}"
            meaning = f'    """{field["description"]}"""\n' if "description" in field else ""
            yield f"    {names[name]}: {_type(field, schemas)}{default}\n{meaning}"


def _type(schema: Schema, schemas: Mapping[str, Schema]) -> str:
    null = " | None" if is_nullable(schema) else ""
    match required(schema):
        case {"$ref": str(ref)}:
            return _named(ref.removeprefix(REF), schemas) + null
        case {"format": str(known)} if known in _FORMATS:
            return _FORMATS[known] + null
        case {"type": str(scalar)} if scalar in _SCALARS:
            return _SCALARS[scalar] + null
    raise ValueError(f"no Python is known for {schema}")


def _named(name: str, schemas: Mapping[str, Schema]) -> str:
    """Return the name of the client's model; an enum is text, since values may be added."""
    return "str" if "enum" in schemas[name] else _MODELS.get(name, "Mapping[str, Any]")


def _union() -> str:
    first, *others = (event.__name__ for event in SHOWN)
    lines = "".join(f"    | {name}\n" for name in others)
    return f"\n\nKnownEvent: TypeAlias = (\n    {first}\n{lines})\n"


def _types() -> str:
    lines = "".join(f'        "{type_of(event)}": {event.__name__},\n' for event in NUMBERED)
    return (
        f"\nTYPES: Final[Mapping[str, type[{_BASE}]]] = MappingProxyType(\n    {{\n{lines}    }}\n)\n"
        '"""The numbered ones, as the wire names them."""\n'
    )
