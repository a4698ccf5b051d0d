"""Server-sent events from bytes, however they are cut."""

from itertools import chain, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from turnkeeper_client.errors import ProtocolError
from turnkeeper_client.sse import MOST_BYTES, EventStream

STREAM = (
    'retry: 1000\n\n: keep-alive\n\nid: 1\nevent: x\ndata: {"a": "ü\u2028b"}\n\n'
    "data: one\r\ndata: two\r\n\r\ndata:three\rdata: four\r\rdata\n\ndata: unfinished"
).encode()
EVENTS = ['{"a": "ü\u2028b"}'.encode(), b"one\ntwo", b"three\nfour", b""]


BETWEEN_CR_AND_LF = STREAM.index(b"\r\n") + 1


@given(st.lists(st.integers(0, len(STREAM))))
@example([BETWEEN_CR_AND_LF])
@example([BETWEEN_CR_AND_LF, BETWEEN_CR_AND_LF])
def test_it_does_not_matter_where_the_network_cuts(cuts: list[int]):
    stream, found = EventStream(), []
    places = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(places):
        found += stream.feed(STREAM[start:end])
    assert found == EVENTS


@pytest.mark.parametrize("piece", [b"x" * 2**20, b"data: " + b"x" * 2**20 + b"\n"])
def test_an_event_without_end_is_given_up(piece: bytes):
    stream = EventStream()
    with pytest.raises(ProtocolError):
        list(chain.from_iterable(stream.feed(piece) for _ in range(MOST_BYTES // len(piece) + 2)))
