"""What the worker's SQL is put together from."""

import ast
import re
from pathlib import Path

import pytest

import worker
from shared.turn.turns import TurnStatus

MODULES = sorted(Path(worker.__file__).parent.rglob("*.py"))
SPELLED = re.compile("|".join(f"'{status.value}'" for status in TurnStatus))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_statement_spells_a_turns_status(module):
    """A new status must reach every statement by the table in `shared.turn.turns`."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [found for text in texts for found in SPELLED.findall(text)]
