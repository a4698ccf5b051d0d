import io
import json
import logging
from uuid import UUID

import pytest

from shared.errors import UnavailableError
from shared.observing.logs import JsonFormatter, configure_logging, log_ids, redact

KEY = "tsk_abcd1234_" + "s" * 43
TICKET = "tkt_" + "t" * 43


@pytest.fixture
def lines():
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    configure_logging("INFO", "web", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_a_line_is_one_json_object_with_its_ids(lines):
    turn_id = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    with log_ids(request_id="r1"):
        logging.getLogger("turnkeeper.test").info("accepted %s", "it", extra={"turn_id": turn_id, "count": 3})
    (line,) = lines()
    assert line["message"] == "accepted it"
    assert line["level"] == "info"
    assert line["process"] == "web"
    assert (line["request_id"], line["turn_id"], line["count"]) == ("r1", str(turn_id), 3)


def test_a_line_break_in_a_value_stays_inside_its_line(lines):
    logging.getLogger("turnkeeper.test").info("a\r\nb\u2028c")
    (line,) = lines()
    assert line["message"] == "a\r\nb\u2028c"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("form", "stream", "is_text"),
    [
        ("auto", Terminal(), True),
        ("auto", io.StringIO(), False),
        ("json", Terminal(), False),
        ("text", io.StringIO(), True),
    ],
)
def test_a_person_at_a_terminal_reads_text_and_a_program_json(lines, form, stream, is_text):
    configure_logging("INFO", "web", stream, form=form)
    with log_ids(request_id="r1"):
        logging.getLogger("turnkeeper.test").warning("it failed\x1b[2J\nagain", extra={"key": KEY})
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert "s" * 43 not in line
    assert (not line.startswith("{")) is is_text
    if is_text:
        assert line.endswith(r" warning  web     it failed\x1b[2J\nagain  request_id=r1 key=tsk_abcd1234_***")


def test_on_a_terminal_an_exceptions_places_stand_below_its_line(lines):
    stream = Terminal()
    configure_logging("INFO", "web", stream)
    try:
        raise ValueError("my dear diary")
    except ValueError:
        logging.getLogger("turnkeeper.test").exception("failed")
    line, kind, *frames = stream.getvalue().splitlines()
    assert line.endswith("failed")
    assert kind == "    builtins.ValueError"
    assert frames
    assert "diary" not in stream.getvalue()


def test_configuring_twice_writes_each_line_once(lines):
    stream = io.StringIO()
    configure_logging("INFO", "web", stream)
    logging.getLogger("turnkeeper.test").info("once")
    assert len(stream.getvalue().splitlines()) == 1
    assert lines() == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY}.", "key tsk_abcd1234_***."),
        (f"ticket.{TICKET}", "ticket.tkt_***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'authorization': 'Bearer abcdef', 'x': 1}", "{'authorization': '***', 'x': 1}"),
        ("x-api-key=abcdef", "x-api-key=***"),
        ("sk-proj-abcdef123", "sk-***"),
        ("redis://:secret@127.0.0.1:6379/0", "redis://***@127.0.0.1:6379/0"),
        ("postgresql://me:se:cret@db/x", "postgresql://***@db/x"),
        ("https://example.com/a@b", "https://example.com/a@b"),
    ],
)
def test_secrets_are_redacted(text, shown):
    assert redact(text) == shown


def test_secrets_in_messages_and_extras_are_redacted(lines):
    logging.getLogger("turnkeeper.test").warning("refused %s", KEY, extra={"url": "redis://u:pw@h/0"})
    (line,) = lines()
    assert "s" * 43 not in line["message"]
    assert line["url"] == "redis://***@h/0"


def test_an_exception_is_logged_without_foreign_words(lines):
    try:
        try:
            raise ValueError("row contains (my dear diary)")
        except ValueError as exc:
            raise UnavailableError("the database cannot be reached") from exc
    except UnavailableError:
        logging.getLogger("turnkeeper.test").exception("failed")
    (line,) = lines()
    ours, cause = line["exception"]
    assert ours["message"] == "the database cannot be reached"
    assert cause["type"] == "builtins.ValueError"
    assert "message" not in cause
    assert "diary" not in json.dumps(line)
    assert any("test_logs" in frame for frame in cause["frames"])


def test_a_message_whose_arguments_do_not_fit_is_still_a_line():
    record = logging.makeLogRecord({"msg": "%d turns", "args": ("many",)})
    assert json.loads(JsonFormatter("web").format(record))["message"].startswith("%d turns")
