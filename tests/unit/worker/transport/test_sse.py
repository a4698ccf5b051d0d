"""The event-stream decoder, held against a slow reading of the standard, one character at a time."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.transport.sse import SseDecoder, SseLimitError

LIMIT = 1000


def by_the_book(stream):
    """Read a whole stream as section 9.2.6 says it, word by word."""
    lines, line, position = [], b"", 0
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    while position < len(stream):
        byte = stream[position : position + 1]
        if byte == b"\r" and stream[position + 1 : position + 2] == b"\n":
            position += 1
        if byte in {b"\r", b"\n"}:
            lines.append(line)
            line = b""
        else:
            line += byte
        position += 1
    events, data, name = [], b"", ""
    for line in lines:
        if line == b"":
            if data:
                events.append((name, data[:-1]))
            data, name = b"", ""
            continue
        if line.startswith(b":"):
            continue
        field, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return events


def decode(chunks, max_line_bytes=LIMIT, max_event_bytes=LIMIT):
    """Return all events, and whether a limit ended the stream."""
    decoder = SseDecoder(max_line_bytes, max_event_bytes)
    events = []
    try:
        for chunk in chunks:
            events.extend(decoder.feed(chunk))
    except SseLimitError:
        return events, True
    return events, False


def cut(stream, places):
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


line_ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
contents = st.one_of(
    st.sampled_from(
        [
            b"",
            b"data: x",
            b"data:",
            b"data",
            b"data:  two spaces",
            b"database: no",
            b"event: error",
            b"event",
            b": comment",
            b":",
            b"id: 1",
            b"retry: 5",
            b"data: \xe2\x80\xa8\xc2\x85\x0b\x0c\x1c\x1d\x1e",
            b"data: \xff\xfe",
            b"event: \xff",
            b"\xef\xbb\xbfdata: a mark within",
            b" data: indented",
            b"DATA: loud",
        ]
    ),
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
)
streams = st.builds(
    lambda mark, lines, rest: mark + b"".join(content + end for content, end in lines) + rest,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(contents, line_ends), max_size=14),
    contents,
)
places = st.lists(st.integers(0, 10_000), max_size=10)


@given(streams, places)
@example(b"data: a\r\n\r\ndata: b\r\r", [8, 9, 10, 11])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
def test_every_chunking_gives_the_events_that_the_standard_says(stream, where):
    assert decode(cut(stream, where)) == (by_the_book(stream), False)


@given(streams)
def test_single_bytes_give_the_same_events(stream):
    assert decode(stream[i : i + 1] for i in range(len(stream)))[0] == by_the_book(stream)


@given(st.lists(contents, max_size=12), line_ends, line_ends, places)
def test_every_line_end_gives_the_same_events(lines, one, other, where):
    def spelled(end):
        return b"".join(line + end for line in lines)

    assert decode(cut(spelled(one), where)) == decode([spelled(other)])


@given(streams, places, st.integers(1, 40), st.integers(1, 40))
def test_a_limit_ends_every_chunking_after_the_same_events(stream, where, line_bytes, event_bytes):
    while stream.startswith(b"\xef\xbb\xbf"):  # whose three bytes count only in an unfinished line
        stream = stream[3:]
    together = decode([stream], line_bytes, event_bytes)
    apart = decode(cut(stream, where), line_bytes, event_bytes)
    assert apart == together


@given(streams, places)
def test_the_end_of_the_stream_gives_the_event_that_it_cut_off(stream, where):
    decoder = SseDecoder(LIMIT, LIMIT)
    events = [event for chunk in cut(stream, where) for event in decoder.feed(chunk)]
    events += decoder.finish()
    assert events == by_the_book(stream + (b"\n\n" if not stream.endswith(b"\r") else b"\r\r"))


def test_a_line_at_the_limit_passes_and_one_above_does_not():
    assert decode([b"data: 7890\n\n"], max_line_bytes=10) == ([("", b"7890")], False)
    assert decode([b"data: 78901\n\n"], max_line_bytes=10) == ([], True)
    assert decode([b"data: 78", b"901"], max_line_bytes=10) == ([], True)
    assert decode([b": 34567890X\n"], max_line_bytes=10) == ([], True)


def test_an_event_of_many_lines_is_bounded_also_when_they_are_empty():
    assert decode([b"data: 1\n" * 5 + b"\n"], max_event_bytes=10) == ([("", b"1\n1\n1\n1\n1")], False)
    assert decode([b"data: 1\n" * 6 + b"\n"], max_event_bytes=10) == ([], True)
    assert decode([b"data\n" * 11 + b"\n"], max_event_bytes=10) == ([], True)


def test_events_before_a_line_that_is_too_long_are_given_out():
    events, is_over = decode([b"data: a\n\ndata: " + b"x" * 50 + b"\n\n"], max_line_bytes=20)
    assert (events, is_over) == ([("", b"a")], True)


def test_a_long_line_in_small_pieces_is_joined_without_copying_it_each_time():
    pieces = 20_000
    decoder = SseDecoder(10**7, 10**7)
    events = [event for _ in range(pieces) for event in decoder.feed(b"data: " if _ == 0 else b"y" * 50)]
    events += decoder.feed(b"\n\n")
    assert events == [("", b"y" * 50 * (pieces - 1))]


@pytest.mark.parametrize("chunk", [b"", b"\n", b"\r\n", b"\xef\xbb\xbf", b": nothing\n\n", b"event: x\n\n"])
def test_what_holds_no_data_is_no_event(chunk):
    decoder = SseDecoder(LIMIT, LIMIT)
    assert [*decoder.feed(chunk), *decoder.finish()] == []
