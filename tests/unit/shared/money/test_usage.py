"""Token classes are named once; whatever counts them has all of them."""

from dataclasses import fields

from api.statements.messages import ShownMessage
from shared.money.usage import COLUMNS, SHOWN_COLUMNS, Usage


def test_rows_show_the_classes_that_are_on_the_wire():
    assert list(SHOWN_COLUMNS) == list(Usage().as_dict())
    assert [name for name in COLUMNS if name not in SHOWN_COLUMNS] == ["cache_write_1h_tokens"]


def test_a_message_which_may_have_no_tokens_has_each_of_their_classes():
    assert set(SHOWN_COLUMNS) < {field.name for field in fields(ShownMessage)}
