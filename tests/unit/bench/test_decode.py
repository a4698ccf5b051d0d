"""Each form of event that the benchmark reads gives text each time."""

from bench import decode


def test_every_form_of_event_is_read_and_has_a_row():
    rows = decode.measure(events=5, rounds=1)
    assert [row["event"] for row in rows] == list(decode.FORMS)
    assert all(row["us_per_event"] > 0 for row in rows)
