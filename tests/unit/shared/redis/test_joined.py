"""A log that was joined is what it was."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.redis.joined import MOST_BYTES, join, part

ENTRIES = st.lists(
    st.tuples(
        st.builds(lambda attempt, seq: f"{attempt}-{seq}".encode(), st.integers(0, 9), st.integers(0, 10**6)),
        st.sampled_from((b"e", b"s")),
        st.text().map(lambda delta: json.dumps({"delta": delta}, ensure_ascii=False).encode()),
    ),
    min_size=1,
)


@given(ENTRIES)
def test_joined_and_parted_a_log_is_what_it_was(entries):
    assert part(join(entries)) == entries


def test_nothing_and_what_is_too_large_are_not_joined():
    assert join([]) is None
    assert join([(b"1-1", b"e", b"x" * MOST_BYTES)]) is None
    assert join([(b"1-1", b"e", b"x" * (MOST_BYTES - 20))]) is not None


@pytest.mark.parametrize(
    "joined",
    [
        b"",
        b"neither",
        zlib.compress(b"1-1 e {}" * 1000)[:-8],
        zlib.compress(b"x" * (MOST_BYTES + 1)),
        zlib.compress(b"no fields"),
    ],
)
def test_what_is_no_joined_log_is_refused(joined):
    with pytest.raises(ValueError):
        part(joined)
