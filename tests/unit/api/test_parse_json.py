import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.requests import DEPTH, parse_json, pointer
from shared.errors import ProblemCode, RefusedError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_json_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_and_never_anything_else(raw):
    code = None
    try:
        parse_json(raw)
    except RefusedError as refused:
        code = refused.code
    assert code in (None, ProblemCode.INVALID_REQUEST)


@given(st.integers(1, 2 * DEPTH), st.sampled_from(["[]", "{}"]))
def test_depth_is_counted_exactly(depth, brackets):
    opening = "[" if brackets == "[]" else '{"a":'
    raw = (opening * depth + "1" + brackets[1] * depth).encode()
    if depth <= DEPTH:
        parse_json(raw)
    else:
        with pytest.raises(RefusedError, match="deeper"):
            parse_json(raw)


@given(VALUES)
def test_a_name_that_stands_twice_is_refused_wherever_it_is(value):
    with pytest.raises(RefusedError):
        parse_json(b'{"outer": [{"a": 1, "a": %b}]}' % json.dumps(value).encode())


def test_a_pointer_is_spelled_as_its_rfc_says():
    assert pointer(()) == ""
    assert pointer(("a/b", 0, "m~n", "")) == "/a~1b/0/m~0n/"
