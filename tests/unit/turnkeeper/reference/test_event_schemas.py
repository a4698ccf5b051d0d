"""What the reference writes of events: the page, the JavaScript client's types and the Python client's classes."""

import dataclasses
import typing

from turnkeeper_client import events as client

from shared.turn.events import NUMBERED, ONLY_ON_STREAMS, Done
from turnkeeper.reference import pages as reference
from turnkeeper.reference.event_schemas import SHOWN, components, for_typescript, own_fields, type_of
from turnkeeper.reference.typescript import declarations


def test_the_page_names_every_type_and_each_of_its_fields():
    page = reference.events_page()
    schemas = components()
    for event in (*NUMBERED, *ONLY_ON_STREAMS):
        assert f"\n| `{type_of(event)}` | " in page
        for name, _ in own_fields(event, schemas):
            assert f"\n| `{type_of(event)}` | `{name}` | " in page


def test_what_a_field_may_hold_is_told_with_its_meaning():
    page = reference.events_page()
    assert "| `done` | `status` | [status](states.md) |  |" in page
    assert "| `done` | `error` | object of `code`, `detail`," in page
    assert "`type` or null | Null unless the turn failed. |" in page
    assert "| `stop_requested` | `stop_reason` | one of `budget`," in page


def test_an_event_with_an_envelope_extends_it_in_typescript():
    found = declarations({"components": {"schemas": {}}}, for_typescript())
    assert '\nexport interface TurnQueued extends Envelope {\n  type: "turn_queued";\n}\n' in found
    assert '\nexport interface Gap {\n  type: "gap";\n  turn_id: string;\n' in found
    assert "export type TurnEvent = TurnQueued | TurnStarted |" in found
    assert "Ping" not in found


def test_a_type_that_the_openapi_document_has_as_well_is_the_same_there():
    schemas = reference.openapi()["components"]["schemas"]
    for name, schema in components().items():
        if name in schemas:
            assert set(schema.get("enum", ())) == set(schemas[name].get("enum", ())), name
            assert set(schema.get("properties", ())) == set(schemas[name].get("properties", ())), name
            assert set(schema.get("required", ())) == set(schemas[name].get("required", ())), name


def test_the_python_client_has_a_class_for_each_event_that_it_gives_to_its_caller():
    assert {event.__name__ for event in SHOWN} == {
        kind.__name__ for kind in typing.get_args(client.Event) if kind is not client.UnknownEvent
    }
    own = [name for name, _ in own_fields(Done, components())]
    assert [field.name for field in dataclasses.fields(client.Done)][-len(own) :] == own
    assert [field.name for field in dataclasses.fields(client.Gap)] == ["turn_id", "first", "last"]
