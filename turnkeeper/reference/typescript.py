"""Writes the schemas of an OpenAPI document as TypeScript, for the JavaScript client.

It knows only the keywords that our own document uses and refuses all others, so that no type is silently too
wide.
"""

import json
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_SCALARS: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
_REF: Final = "#/components/schemas/"
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_NOTE: Final = "// Written by `python -m turnkeeper.reference`; change the code, not this file.\n"


def declarations(document: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]] = _NONE) -> str:
    """Return every schema as an exported type.

    Args:
        document: The OpenAPI document.
        more: Schemas that it does not have, which follow; where it has one of that name, its own counts.

    Raises:
        ValueError: A schema uses a keyword that is not known here.
    """
    schemas: Mapping[str, Mapping[str, Any]] = document["components"]["schemas"]
    all_schemas = {**schemas, **{name: more[name] for name in more if name not in schemas}}
    return _NOTE + "".join(_declaration(name, schema) for name, schema in all_schemas.items())


def _declaration(name: str, schema: Mapping[str, Any]) -> str:
    doc = _comment(schema.get("description", ""), "")
    match schema:
        case {"properties": _}:
            return f"\n{doc}export interface {name} {_object(schema, '')}\n"
        case {"allOf": [{"$ref": str(ref)}, {"properties": _} as own]}:
            return f"\n{doc}export interface {name} extends {ref.removeprefix(_REF)} {_object(own, '')}\n"
    return f"\n{doc}export type {name} = {_type(schema, '')};\n"


def _object(schema: Mapping[str, Any], indent: str) -> str:
    required = set(schema.get("required", ()))
    inner = f"{indent}  "
    lines = []
    for name, field in schema["properties"].items():
        mark = "" if name in required else "?"
        lines.append(
            f"{_comment(field.get('description', ''), inner)}{inner}{name}{mark}: {_type(field, inner)};\n"
        )
    if schema.get("additionalProperties") is True:
        lines.append(f"{inner}[name: string]: unknown;\n")
    return "{\n" + "".join(lines) + indent + "}"


def _type(schema: Mapping[str, Any], indent: str) -> str:
    match schema:
        case {"$ref": str(ref)}:
            return ref.removeprefix(_REF)
        case {"anyOf": list(choices)}:
            return " | ".join(_type(choice, indent) for choice in choices)
        case {"enum": list(values)}:
            return " | ".join(map(json.dumps, values))
        case {"type": "array", "items": items}:
            return f"Array<{_type(items, indent)}>"
        case {"type": "object", "properties": _}:
            return _object(schema, indent)
        case {"type": "object"}:
            values = schema.get("additionalProperties", True)
            return f"Record<string, {'unknown' if values is True else _type(values, indent)}>"
        case {"type": str(scalar)} if scalar in _SCALARS:
            return _SCALARS[scalar]
    raise ValueError(f"no TypeScript is known for {json.dumps(schema)}")


def _comment(words: str, indent: str) -> str:
    if not words:
        return ""
    lines = textwrap.wrap(words, 108 - len(indent))
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "".join([f"{indent}/**\n", *(f"{indent} * {line}\n" for line in lines), f"{indent} */\n"])
