import base64
import json
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursors import DayCursor, IdCursor, NameCursor, NumberCursor, TimeCursor
from shared.errors import ProblemCode, RefusedError

KINDS = (TimeCursor, NumberCursor, IdCursor, NameCursor, DayCursor)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_position_by_activity_survives_its_cursor(moment, identifier):
    assert TimeCursor.decode(TimeCursor(moment, identifier).encode()) == TimeCursor(moment, identifier)


@given(st.integers(0, 2**63 - 1), st.uuids())
def test_a_position_by_number_or_id_survives_its_cursor(number, identifier):
    assert NumberCursor.decode(NumberCursor(number).encode()) == NumberCursor(number)
    assert IdCursor.decode(IdCursor(identifier).encode()) == IdCursor(identifier)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200), st.dates())
def test_a_position_by_name_or_day_survives_its_cursor(name, day):
    assert NameCursor.decode(NameCursor(name).encode()) == NameCursor(name)
    assert DayCursor.decode(DayCursor(day).encode()) == DayCursor(day)


@pytest.mark.parametrize("name", ["\0", "a\ud800"])
def test_a_name_that_no_column_holds_is_refused(name):
    text = base64.urlsafe_b64encode(json.dumps([name]).encode()).decode().rstrip("=")
    with pytest.raises(RefusedError):
        NameCursor.decode(text)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=300))
def test_any_text_is_a_cursor_or_is_refused(kind, text):
    code = None
    try:
        kind.decode(text)
    except RefusedError as refused:
        code = refused.code
    assert code in (None, ProblemCode.VALIDATION_FAILED)


@given(st.integers(0, 100), st.uuids())
def test_a_cursor_of_another_list_is_refused(number, identifier):
    with pytest.raises(RefusedError):
        IdCursor.decode(NumberCursor(number).encode())
    with pytest.raises(RefusedError):
        NumberCursor.decode(IdCursor(identifier).encode())


def test_a_number_that_no_column_holds_is_refused():
    for number in (-1, 2**63, True):
        with pytest.raises(RefusedError):
            NumberCursor.decode(NumberCursor(number).encode())


def test_a_moment_without_a_timezone_is_refused():
    from datetime import datetime
    from uuid import uuid4

    with pytest.raises(RefusedError):
        TimeCursor.decode(TimeCursor(datetime(2026, 1, 1), uuid4()).encode())  # noqa: DTZ001
