"""Structured logs on standard error: one JSON object per line, or text for a terminal; ids, never content (I10).

An exception's message may quote a row, an argument or a header, so only our own messages are written; for all others a
line has the type, the place and PostgreSQL's code.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Final, TextIO
from uuid import UUID

from shared.errors import TurnkeeperError
from shared.turn.events import timestamp

ID_NAMES: Final = frozenset({"request_id", "session_id", "turn_id", "attempt", "worker_id"})

_ids: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))

_SECRETS: Final = (
    # Keys keep the prefix by which people recognise them; tickets live for a minute and have none.
    (re.compile(r"\b(tsk_[a-z0-9]{8})_[A-Za-z0-9_-]+"), r"\1_***"),
    (re.compile(r"\btkt_[A-Za-z0-9_-]+"), "tkt_***"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{6,}"), "sk-***"),
    (
        re.compile(r"(?i)\b(authorization|x-api-key)\b(\W{1,4})((?:bearer|basic)\s+)?[^\s\"',;}\])]+"),
        r"\1\2***",
    ),
    (re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}"), "Bearer ***"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@"), r"\1***@"),
)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_LONGEST_VALUE: Final = 2000
"""Characters of one value; a longer one is a mistake and would only fill the disk."""
_MOST_FRAMES: Final = 30
_QUIET: Final = (
    "kombu",
    "celery",
    "httpx",
    "httpcore",
    "sqlalchemy",
    "alembic",
    "werkzeug",
    "amqp",
    "asyncio",
)
"""Libraries that log at INFO what we log ourselves, some with URLs."""


class _StandardErrorHandler(logging.StreamHandler[TextIO]):
    """Marks our handler, so that it is found when logging is configured twice."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object.

    Args:
        process: The process's name: `web`, `relay`, `worker` …
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its newline."""
        # ASCII keeps each record on one line, whatever a reader takes for a line's end.
        return json.dumps(self.fields(record))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of the line."""
        line: dict[str, Any] = {
            "ts": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": said_by(record),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        for name, value in {**_ids.get(), **extra}.items():
            if name not in line:
                line[name] = _shown(value)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return line


class TextFormatter(JsonFormatter):
    """Formats a record for a person at a terminal: the same fields, followed by those of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines without the last newline."""
        fields = self.fields(record)
        time, level, process, message = (fields.pop(name) for name in ("ts", "level", "process", "message"))
        fields.pop("logger")
        described = fields.pop("exception", ())
        rest = " ".join(f"{name}={_printable(value)}" for name, value in fields.items())
        lines = [f"{time[11:-1]} {level:<8} {process:<7} {_printable(message)}  {rest}".rstrip()]
        for each in described:
            lines.append(f"    {each['type']}: {_printable(each.get('message', ''))}".rstrip(": "))
            lines += [f"        {frame}" for frame in each["frames"]]
        return "\n".join(lines)


def configure_logging(level: str, process: str, stream: TextIO | None = None, *, form: str = "auto") -> None:
    """Send this process's logs to standard error; safe to repeat.

    Args:
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
        process: The process's name: `web`, `relay`, `worker` …
        stream: Where to write instead of standard error.
        form: `json`, `text`, or `auto`: text if a terminal is attached.
    """
    to = stream or sys.stderr
    handler = _StandardErrorHandler(to)
    is_text = form == "text" or (form == "auto" and to.isatty())
    handler.setFormatter(TextFormatter(process) if is_text else JsonFormatter(process))
    root = logging.getLogger()
    for existing in list(root.handlers):
        if isinstance(existing, _StandardErrorHandler):
            root.removeHandler(existing)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.captureWarnings(capture=True)


def bind_log_ids(**ids: str | UUID) -> Token[Mapping[str, str]]:
    """Put ids on every line logged from here on, until `unbind_log_ids` is called with the first of the tokens."""
    return _ids.set({**_ids.get(), **{name: str(value) for name, value in ids.items()}})


def unbind_log_ids(token: Token[Mapping[str, str]]) -> None:
    """Remove the ids that were bound since `token` was issued."""
    _ids.reset(token)


@contextmanager
def log_ids(**ids: str | UUID) -> Iterator[None]:
    """Put ids such as `request_id` and `turn_id` on every line that is logged inside the block."""
    token = bind_log_ids(**ids)
    try:
        yield
    finally:
        unbind_log_ids(token)


def log_uncaught() -> None:
    """Log uncaught exceptions; Python's own way would print their messages, which may be content (I10)."""
    uncaught = logging.getLogger("turnkeeper.uncaught")

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            uncaught.critical(
                "the process ends by an error that nothing caught", exc_info=(kind, error, trace)
            )

    def of_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
            failed = (told.exc_type, told.exc_value, told.exc_traceback)
            uncaught.critical("a thread ended by an error that nothing caught", exc_info=failed)

    sys.excepthook = of_process
    threading.excepthook = of_thread


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """Return a record's ids: its own and those bound where it was logged."""
    own = {name: value for name, value in vars(record).items() if name in ID_NAMES}
    return {name: str(_shown(value)) for name, value in {**_ids.get(), **own}.items()}


def redact(text: str) -> str:
    """Return `text` without keys, tickets, authorization headers and passwords in URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def describe(error: BaseException) -> list[dict[str, Any]]:
    """Describe an exception and its causes, the outermost first, without messages that are not ours."""
    described: list[dict[str, Any]] = []
    for current in chain_of(error):
        entry: dict[str, Any] = {"type": f"{type(current).__module__}.{type(current).__qualname__}"}
        if isinstance(current, TurnkeeperError):
            entry["message"] = _shown(str(current))
        sqlstate = getattr(current, "sqlstate", None)
        if isinstance(sqlstate, str):
            entry["sqlstate"] = sqlstate
        frames = traceback.extract_tb(current.__traceback__)[-_MOST_FRAMES:]
        entry["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        described.append(entry)
    return described


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, the outermost first, at most thirty."""
    current: BaseException | None = error
    for _ in range(_MOST_FRAMES):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def said_by(record: logging.LogRecord) -> object:
    """Return a record's message as it is logged: shortened, and without secrets of a known shape."""
    return _shown(_message(record))


def _message(record: logging.LogRecord) -> str:
    try:
        if record.name == "asyncio":
            # After its first line it shows the task or the transport, with its exception's message.
            return record.getMessage().partition("\n")[0]
        return record.getMessage()
    except (TypeError, ValueError):
        # A wrong format string must neither lose the line nor print its arguments elsewhere.
        return f"{record.msg} (its arguments do not fit)"


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = redact(str(value))
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def _printable(value: object) -> str:
    """Show a value without characters that would move a terminal's cursor or start a line."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(value)
    )
