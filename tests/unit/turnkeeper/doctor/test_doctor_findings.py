"""Checks run side by side, and none stops another."""

import threading
from collections.abc import Iterator

from shared.errors import UnavailableError
from turnkeeper.doctor import findings
from turnkeeper.doctor.findings import Finding, Level, examine, fine, looked_at, reason


def sound() -> Iterator[Finding]:
    yield fine("sound", "as it should be")


def breaking() -> Iterator[Finding]:
    yield fine("breaking", "so far")
    raise KeyError("with a secret in it")


def test_a_check_that_breaks_stops_no_other_and_keeps_what_it_found():
    found, is_late = examine({"breaking": breaking, "sound": sound}, 60)
    assert [(each.name, each.level) for each in found] == [
        ("breaking", Level.OK),
        ("breaking", Level.WRONG),
        ("sound", Level.OK),
    ]
    assert "secret" not in found[1].says
    assert is_late is False


def test_a_check_that_hangs_is_given_up_and_keeps_what_it_found(monkeypatch):
    hangs, let_go = threading.Event(), threading.Event()

    def hanging() -> Iterator[Finding]:
        yield fine("hanging", "so far")
        hangs.set()
        let_go.wait(60)
        yield fine("hanging", "too late")

    moments = iter([0.0, 60.0, 0.0])  # it began; the time of the first is over; that of the second is not

    def clock() -> float:
        moment = next(moments)
        assert moment == 0.0 or hangs.wait(60)
        return moment

    monkeypatch.setattr(findings, "monotonic", clock)
    found, is_late = examine({"hanging": hanging, "sound": sound}, 60)
    let_go.set()
    assert is_late is True
    assert [each.says for each in found] == ["so far", "no answer within 60 s", "as it should be"]


def test_a_question_without_an_answer_is_a_finding():
    def ask() -> Finding:
        raise UnavailableError("the database cannot be reached") from OSError("no route")

    found = looked_at("name", ask)
    assert (found.level, found.says) == (Level.WRONG, "could not be looked at: no route")


def test_a_reason_is_one_line_that_fits_a_terminal():
    assert reason(OSError("first\nsecond")) == "first"
    assert len(reason(OSError("x" * 1000))) == 200
    assert reason(OSError("")) == "OSError"
