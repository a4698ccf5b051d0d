"""The types of events as JSON schemas, made from their classes.

The reference page and both clients' types are written from these, so that a field is declared only once.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from shared.turn.events import NUMBERED, ONLY_ON_STREAMS, Envelope, Event, Gap, Snapshot, StreamEvent

Schema: TypeAlias = Mapping[str, Any]
EventClass: TypeAlias = type[Event] | type[StreamEvent]

SHOWN: Final[tuple[EventClass, ...]] = (*NUMBERED, Gap, Snapshot)
"""The events that a client passes to its caller; the others only keep a connection alive."""
NOT_OF_PLACE: Final = frozenset({"session_id", "ts"})
"""The fields that a client leaves out of an event that replaces others: readers need only its place in the turn."""
REF: Final = "#/components/schemas/"


def components() -> Mapping[str, Schema]:
    """Return the schemas of all events, and of the types in their fields, by the names of their classes."""
    classes = (Envelope, *NUMBERED, *ONLY_ON_STREAMS)
    _, found = msgspec.json.schema_components(classes, ref_template=REF + "{name}")
    return found


def type_of(event: EventClass) -> str:
    """Return an event's `type` on the wire."""
    return str(event.__struct_config__.tag)


def has_envelope(event: EventClass) -> bool:
    """Return whether the envelope's fields precede the type's own."""
    return issubclass(event, Event)


def own_fields(event: EventClass, schemas: Mapping[str, Schema]) -> Iterable[tuple[str, Schema]]:
    """Return the fields that a type adds to `type` and the envelope."""
    fields: Mapping[str, Schema] = schemas[event.__name__]["properties"]
    return ((name, field) for name, field in fields.items() if name != "type")


def required(schema: Schema) -> Schema:
    """Return the schema of a field's value that is not null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def is_nullable(schema: Schema) -> bool:
    """Return whether a field may be null."""
    return {"type": "null"} in schema.get("anyOf", ())


def for_typescript() -> Mapping[str, Schema]:
    """Return the schemas of the events that the JavaScript client passes on, and of their union `TurnEvent`."""
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
