"""What of a log record is reported."""

import io
import json
import logging
import socket
import sys
import threading
import time

import pytest

from shared.error_reports import ErrorReports, begin_error_reports, event_of
from shared.errors import SettingsError, UnavailableError
from shared.logs import JsonFormatter, configure_logging, log_ids, log_uncaught
from shared.settings import load_settings

DIARY = "my dear diary"
SERVERS = {
    "DATABASE_URL": "postgresql://app@127.0.0.1/tk",
    "REDIS_URL": "redis://127.0.0.1",
    "ANTHROPIC_API_KEY": "sk-ant-test",
}


def failed() -> UnavailableError:
    content = DIARY
    try:
        try:
            raise ValueError(f"a row holds {content}")
        except ValueError as exc:
            raise UnavailableError("the database cannot be reached") from exc
    except UnavailableError as error:
        return error


def record(name="turnkeeper.test", message="it failed for %s", arguments=("you",), error=None, **extra):
    made = logging.LogRecord(
        name,
        logging.ERROR,
        __file__,
        1,
        message,
        arguments,
        (type(error), error, error.__traceback__) if error else None,
    )
    vars(made).update(extra)
    return made


def test_an_error_is_reported_by_our_words_its_types_and_its_places():
    with log_ids(request_id="r1"):
        event = event_of(record(error=failed(), turn_id="t1", detail=DIARY), "web")
    assert event["logentry"] == {"message": "it failed for %s", "formatted": "it failed for you"}
    assert event["tags"] == {"process": "web", "request_id": "r1", "turn_id": "t1"}
    cause, ours = event["exception"]["values"]
    assert (cause["type"], cause["value"]) == ("ValueError", "")
    assert (ours["type"], ours["value"]) == ("UnavailableError", "the database cannot be reached")
    assert ours["stacktrace"]["frames"][-1]["function"] == "failed"
    assert DIARY not in json.dumps(event)


def test_the_words_of_a_library_are_not_reported():
    event = event_of(record("werkzeug", f"could not read {DIARY}", ()), "web")
    assert event["logentry"]["formatted"] == "an error in werkzeug"
    assert DIARY not in json.dumps(event)


def test_of_a_flood_of_errors_an_event_a_second_is_reported_and_none_of_the_reporter():
    class Client:
        events = 0

        def capture_event(self, event):
            self.events += 1
            raise RuntimeError(DIARY)  # and what goes wrong reaches nobody

    client = Client()
    reports = ErrorReports(client, "web")
    reports.handle(record("urllib3.connectionpool"))
    reports.handle(record("sentry_sdk.errors"))
    assert client.events == 0
    for _ in range(500):
        reports.handle(record())
    assert client.events == 60


def test_a_sentry_that_does_not_answer_holds_up_neither_who_logs_nor_the_end_of_the_process(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    ends = []
    monkeypatch.setattr(
        "shared.error_reports.atexit.register",
        lambda end, *given, **named: ends.append(lambda: end(*given, **named)),
    )
    threads = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:  # connects, and nobody ever reads
        dsn = f"http://public@127.0.0.1:{deaf.getsockname()[1]}/1"
        begin_error_reports(load_settings({**SERVERS, "SENTRY_DSN": dsn}), "web")
        began = time.monotonic()
        for _ in range(100):
            logging.getLogger("turnkeeper.test").error("it failed", exc_info=failed())
        for end in ends:
            end()
        # A request has five seconds there; a hundred in line would have taken minutes.
        assert time.monotonic() - began < 60
    # Refused by now, the rest is given up with a warning for each try: not into the log of another test.
    for left in set(threading.enumerate()) - threads:
        left.join(60)
        assert not left.is_alive(), left


def test_what_nothing_caught_is_a_line_of_the_log_without_foreign_words(monkeypatch):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    stream = io.StringIO()
    try:
        configure_logging("INFO", "worker", stream)
        log_uncaught()
        thread = threading.Thread(target=lambda: (_ for _ in ()).throw(failed()))
        thread.start()
        thread.join()
        error = failed()
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    lines = [line for line in lines if line["logger"] == "turnkeeper.uncaught"]
    assert [line["level"] for line in lines] == ["critical", "critical"]
    assert all(line["exception"][0]["type"] == "shared.errors.UnavailableError" for line in lines)
    assert DIARY not in stream.getvalue()


def test_what_asyncio_shows_of_a_failed_task_is_left_out():
    message = f"Task exception was never retrieved\nfuture: <Task finished exception=ValueError('{DIARY}')>"
    line = json.loads(JsonFormatter("worker").format(record("asyncio", message, ())))
    assert line["message"] == "Task exception was never retrieved"


def test_a_dsn_needs_the_package_and_is_not_repeated(monkeypatch):
    dsn = "https://public@sentry.example.com/1"
    settings = load_settings({**SERVERS, "SENTRY_DSN": dsn})
    assert settings.sentry_dsn.reveal() == dsn
    assert "public" not in repr(settings)
    for wrong in (
        "sentry.example.com/1",
        "https://sentry.example.com/1",
        "https://public@sentry.example.com/x",
    ):
        with pytest.raises(SettingsError, match="must be a DSN") as refused:
            load_settings({**SERVERS, "SENTRY_DSN": wrong})
        assert "sentry.example.com" not in str(refused.value)
    monkeypatch.setattr("shared.environment.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'turnkeeper\[sentry\]'"):
        load_settings({**SERVERS, "SENTRY_DSN": dsn})
