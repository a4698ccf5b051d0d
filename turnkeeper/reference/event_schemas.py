"""The events' types as JSON schemas, made from their classes.

The page and both clients' types are written from these, so that a field is declared once.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from shared.turn.events import NUMBERED, ONLY_ON_STREAMS, Envelope, Event, Gap, Snapshot, StreamEvent

Schema: TypeAlias = Mapping[str, Any]
EventClass: TypeAlias = type[Event] | type[StreamEvent]

SHOWN: Final[tuple[EventClass, ...]] = (*NUMBERED, Gap, Snapshot)
"""What a client gives to its caller; the others only keep a connection going."""
NOT_OF_PLACE: Final = frozenset({"session_id", "ts"})
"""What a client leaves out of an event that replaces others: its reader needs only the place in the turn."""
REF: Final = "#/components/schemas/"


def components() -> Mapping[str, Schema]:
    """Return the schemas of all events, and of what they hold, by the names of their classes."""
    classes = (Envelope, *NUMBERED, *ONLY_ON_STREAMS)
    _, found = msgspec.json.schema_components(classes, ref_template=REF + "{name}")
    return found


def type_of(event: EventClass) -> str:
    """Return what an event's `type` is on the wire."""
    return str(event.__struct_config__.tag)


def has_envelope(event: EventClass) -> bool:
    """Say whether the envelope's fields stand before the type's own."""
    return issubclass(event, Event)


def own_fields(event: EventClass, schemas: Mapping[str, Schema]) -> Iterable[tuple[str, Schema]]:
    """Return what a type adds to `type` and the envelope."""
    fields: Mapping[str, Schema] = schemas[event.__name__]["properties"]
    return ((name, field) for name, field in fields.items() if name != "type")


def required(schema: Schema) -> Schema:
    """Return the schema of a field, or that of what it is when it is not null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def is_nullable(schema: Schema) -> bool:
    """Say whether a field may be null."""
    return {"type": "null"} in schema.get("anyOf", ())


def for_typescript() -> Mapping[str, Schema]:
    """Return the schemas of what the JavaScript client gives its caller, and of all of it as `TurnEvent`."""
    schemas = components()
    envelope = schemas[Envelope.__name__]
    events = {event.__name__: _shown(event, schemas[event.__name__], envelope) for event in SHOWN}
    any_of_them = {
        "description": "Later versions may send other events: a program ignores the types that it does not know.",
        "anyOf": [{"$ref": REF + name} for name in events],
    }
    classes = {event.__name__ for event in (Envelope, *NUMBERED, *ONLY_ON_STREAMS)}
    parts = {name: schema for name, schema in schemas.items() if name not in classes}
    return {**parts, Envelope.__name__: envelope, **events, "TurnEvent": any_of_them}


def _shown(event: EventClass, own: Schema, envelope: Schema) -> Schema:
    if event in NUMBERED:
        return {"description": own["description"], "allOf": [{"$ref": REF + Envelope.__name__}, own]}
    place = envelope["properties"] if has_envelope(event) else {}
    fields = {"type": own["properties"]["type"], **place, **own["properties"]}
    return {
        **own,
        "properties": {name: field for name, field in fields.items() if name not in NOT_OF_PLACE},
        "required": [*own["required"], *place],
    }
