"""What messages are made of."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turn.parts import (
    Reasoning,
    Text,
    decode_parts,
    encode_parts,
    join_parts,
    parts_of,
    reasoning_of,
    text_of,
)

WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
PARTS = st.lists(st.builds(Text, WORDS) | st.builds(Reasoning, WORDS), max_size=5).map(tuple)


def test_the_json_of_a_part_names_its_type_first():
    encoded = encode_parts((Reasoning("hm"), Text("hello")))
    assert encoded == b'[{"type":"reasoning","text":"hm"},{"type":"text","text":"hello"}]'


@given(PARTS)
def test_what_is_encoded_is_read_back(parts):
    assert decode_parts(encode_parts(parts)) == parts
    assert decode_parts(json.dumps(json.loads(encode_parts(parts)))) == parts


def test_a_member_that_is_not_known_is_ignored_and_a_type_that_is_not_known_is_refused():
    assert decode_parts(b'[{"type":"text","text":"a","round":2}]') == (Text("a"),)
    with pytest.raises(msgspec.DecodeError):
        decode_parts(b'[{"type":"later","text":"a"}]')


@given(WORDS, WORDS)
def test_a_message_that_is_known_by_its_text_gives_the_same_text_back(content, reasoning):
    parts = parts_of(content, reasoning)
    assert (text_of(parts), reasoning_of(parts)) == (content, reasoning)
    assert all(part.text for part in parts)


def test_two_messages_that_are_joined_keep_all_parts_and_a_blank_line_between_texts_that_meet():
    assert join_parts(parts_of("a"), parts_of("b")) == (Text("a\n\nb"),)
    assert join_parts((Text("a"),), (Reasoning("hm"), Text("b"))) == (Text("a"), Reasoning("hm"), Text("b"))
    assert join_parts((), parts_of("b")) == (Text("b"),)
