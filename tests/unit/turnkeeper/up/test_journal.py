"""What the terminal shows of the children's logs, and how large a log grows."""

import json

import pytest

from turnkeeper.up import journal
from turnkeeper.up.journal import Journal, warning_of


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "message": message}) + "\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "web-1.log"
    path.write_text(line("error", "from the run before"))
    return path


def append(path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_warnings_are_shown_and_the_rest_stays_in_the_file(log):
    followed = Journal("web-1", log)
    append(log, line("info", "quiet") + line("warning", "look here") + "Traceback, not JSON\n")
    assert list(followed.news()) == ["web-1: warning: look here"]
    assert list(followed.news()) == []


def test_half_a_line_waits_for_its_other_half(log):
    followed = Journal("web-1", log)
    whole = line("error", "split")
    append(log, whole[:10])
    assert list(followed.news()) == []
    append(log, whole[10:])
    assert list(followed.news()) == ["web-1: error: split"]


def test_a_flood_is_shown_in_part(log):
    followed = Journal("web-1", log)
    append(log, line("error", "again") * 500)
    assert len(list(followed.news())) == journal.SHOWN_PER_PERIOD


def test_a_log_that_is_too_large_is_cut_and_followed_further(log, monkeypatch):
    monkeypatch.setattr(journal, "LIMIT_BYTES", 1000)
    followed = Journal("web-1", log)
    append(log, line("info", "x" * 2000))
    assert list(followed.news()) == []
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size > 2000
    append(log, line("error", "after the cut"))
    assert list(followed.news()) == ["web-1: error: after the cut"]


def test_a_log_that_is_not_there_yet_has_no_news(tmp_path):
    assert list(Journal("web-1", tmp_path / "none.log").news()) == []


@pytest.mark.parametrize("strange", ["", "[1]", "null", '"error"', "{", '{"level": 3}', '{"level": "info"}'])
def test_what_is_no_warning_of_ours_is_not_shown(strange: str):
    assert warning_of(strange) is None
