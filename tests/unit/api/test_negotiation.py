"""What an `Accept` asks for (RFC 9110 section 12.5.1)."""

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from api.negotiation import CSV, EVENT_STREAM, prefers


def request(*lines):
    return Request(EnvironBuilder(headers=[("Accept", ", ".join(lines))] if lines else []).get_environ())


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ((), False),
        (("",), False),
        (("*/*",), False),
        (("text/*",), False),
        (("application/json",), False),
        (("text/event-stream",), True),
        (("Text/Event-Stream",), True),
        (("TEXT/EVENT-STREAM; Q=0.5",), True),
        (("text/event-stream;charset=utf-8",), True),
        (("text/event-stream ; charset=UTF-8 ; q=1",), True),
        (('text/event-stream;charset="utf-8"',), True),
        (("text/event-stream;charset=iso-8859-1",), False),
        (("text/event-stream;q=0",), False),
        (("text/event-stream;q=0.000",), False),
        (("text/event-stream;q=0, */*",), False),
        (("text/event-stream;q=0.001",), True),
        (("application/json, text/event-stream",), True),
        (("text/event-stream, application/json",), True),
        (("application/json", "text/event-stream"), True),
        (("application/json, text/event-stream;q=0.9",), False),
        (("application/json;q=0.9, text/event-stream",), True),
        (("text/event-stream, */*;q=0.1",), True),
        (("text/event-stream;q=0.1, */*",), False),
        (("text/event-streams",), False),
        (("xtext/event-stream",), False),
        (('text/html;title="a, text/event-stream"',), False),
        (('text/html;title="a; \\", q=0", text/event-stream',), True),
        (("text/event-stream;q=nonsense",), False),
        (("text/event-stream;q=2",), False),
        (("text/event-stream;q=1.0;q=0",), True),
        ((",,;;,text/event-stream,",), True),
    ],
)
def test_an_event_stream_is_sent_to_whoever_names_it(accept, is_stream):
    assert prefers(request(*accept), EVENT_STREAM, wins_ties=True) is is_stream


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("text/csv", True),
        ("TEXT/CSV", True),
        ("text/csv;header=present", True),
        ("text/csv;header=absent", False),
        ("text/csv, application/json", False),
        ("text/csv, application/json;q=0.9", True),
        ("text/csv;q=0", False),
        ("text/csv, */*;q=0.1", True),
        ("text/csv, application/*;q=0.5, application/json;q=1", False),
    ],
)
def test_a_table_is_sent_to_whoever_prefers_it_to_json(accept, is_csv):
    assert prefers(request(accept), CSV, wins_ties=False) is is_csv


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=200))
def test_nothing_that_a_client_can_send_is_an_error(accept):
    prefers(request(accept), EVENT_STREAM, wins_ties=True)


def test_a_very_long_header_takes_no_time():
    assert prefers(request('"' * 8000 + ",;" * 4000), EVENT_STREAM, wins_ties=True) is False
