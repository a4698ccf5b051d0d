"""Every operation that there is, called by somebody whom it does not concern (I9).

The list is the one that routes, so an operation that is added tomorrow is called by a stranger today.
"""

import re
from typing import Any

import pytest
from pydantic import BaseModel

from api.operation import Operation
from api.routes import OPERATIONS
from shared.postgres.accounts import KeyRole
from tests.tenants import TENANT_TABLES

IDS = re.compile(r"{(\w+_id)}")
WANTED = {"q": "secret", "user": "alice"}
"""Values of query parameters that would find Alice's things."""


def names_ids(operation: Operation) -> bool:
    in_body = operation.body is not None and any(name.endswith("_id") for name in operation.body.model_fields)
    return bool(IDS.search(operation.path)) or in_body


OF_ONE = [operation for operation in OPERATIONS if operation.roles and names_ids(operation)]
OF_MANY = [operation for operation in OPERATIONS if operation.roles and not names_ids(operation)]


def value_of(schema: dict[str, Any]) -> Any:
    """The simplest value that a field takes."""
    if "anyOf" in schema:
        return value_of(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "string"):
        case "boolean":
            return True
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "object":
            return {}
        case _:
            return "1"


def body_of(model: type[BaseModel], ids: dict[str, str]) -> dict[str, Any]:
    schema = model.model_json_schema()
    simplest = {}
    for name in schema.get("required", ()):
        described = schema["properties"][name]
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].rpartition("/")[2]]
        simplest[name] = value_of(described)
    return {**simplest, **{name: ids[name] for name in model.model_fields if name in ids}}


def call(api, operation: Operation, key: str, ids: dict[str, str], **headers: str):
    path = IDS.sub(lambda found: ids[found[1]], operation.path)
    options: dict[str, Any] = {"headers": headers}
    if operation.body is not None:
        options["json"] = body_of(operation.body, ids)
    if operation.query is not None:
        options["query_string"] = {
            name: value for name, value in WANTED.items() if name in operation.query.model_fields
        }
    return api.call(operation.method, path, key, **options)


@pytest.fixture
def alices(api, keys) -> dict[str, str]:
    session = api.session(keys.alice, title="secret plans")
    turn = api.turn(keys.alice, session, "secret words")
    (key,) = [key["id"] for key in api.get("/v1/keys", keys.admin).json["data"] if key["user"] == "alice"]
    return {"session_id": session, "turn_id": turn, "key_id": key}


@pytest.fixture
def everything(as_owner):
    """Reads all rows, without when a key was last used."""

    def read() -> dict[str, list[Any]]:
        return {
            table: sorted(
                str(row[0])
                for row in as_owner(f"select to_jsonb(t) - 'last_used_at' from turnkeeper.{table} t")
            )
            for table in TENANT_TABLES
        }

    return read


def test_the_operations_are_those_of_the_openapi_page(api):
    paths = api.get("/openapi.json").json["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    assert len(OF_ONE) > 10
    assert OF_MANY


@pytest.mark.parametrize("operation", OF_ONE, ids=lambda operation: operation.name)
def test_a_stranger_who_knows_the_ids_is_told_that_there_is_no_such_thing(
    api, keys, strangers, alices, everything, operation: Operation
):
    before = everything()
    accepts = ["*/*", "text/event-stream"] if operation.streams else ["*/*"]
    for role, key in (
        (KeyRole.USER, strangers.alice),
        (KeyRole.SERVICE, strangers.service),
        (KeyRole.ADMIN, strangers.admin),
        (KeyRole.USER, keys.bob),
    ):
        for accept in accepts:
            answer = call(api, operation, key, alices, Accept=accept)
            expected = (404, "not_found") if role in operation.roles else (403, "forbidden")
            assert (answer.status_code, answer.json["code"]) == expected, (role, accept)
    assert everything() == before


@pytest.mark.parametrize("operation", OF_ONE, ids=lambda operation: operation.name)
def test_the_owner_of_the_same_ids_is_let_through(api, keys, alices, operation: Operation):
    """Else the test above would pass for an operation that knows nobody."""
    key = keys.alice if KeyRole.USER in operation.roles else keys.admin
    assert call(api, operation, key, alices).status_code not in {401, 403, 404, 422}


@pytest.mark.parametrize("operation", OF_MANY, ids=lambda operation: operation.name)
def test_an_operation_without_ids_shows_a_stranger_nothing(
    api, keys, strangers, alices, operation: Operation
):
    for key in (strangers.alice, strangers.service, strangers.admin, keys.bob):
        answer = call(api, operation, key, {})
        assert answer.status_code < 500
        for hidden in (*alices.values(), "secret plans", "secret words"):
            assert hidden not in answer.text
