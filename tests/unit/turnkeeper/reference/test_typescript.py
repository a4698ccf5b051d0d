"""The API's schemas as TypeScript."""

import pytest

from turnkeeper.reference.typescript import declarations


def document(**schemas: dict) -> dict:
    return {"components": {"schemas": schemas}}


def test_a_schema_becomes_a_type_that_says_no_more_and_no_less():
    turn = {
        "type": "object",
        "description": "A turn.",
        "required": ["id", "error"],
        "properties": {
            "id": {"type": "string"},
            "error": {"anyOf": [{"$ref": "#/components/schemas/Why"}, {"type": "null"}]},
            "parts": {"type": "array", "items": {"type": "integer"}, "description": "Numbers."},
            "metadata": {"type": "object", "additionalProperties": True},
        },
    }
    found = declarations(document(Turn=turn, Why={"type": "string", "enum": ["a", "b"]}))
    assert found.endswith(
        """
/** A turn. */
export interface Turn {
  id: string;
  error: Why | null;
  /** Numbers. */
  parts?: Array<number>;
  metadata?: Record<string, unknown>;
}

export type Why = "a" | "b";
"""
    )


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="oneOf"):
        declarations(document(Odd={"oneOf": []}))
