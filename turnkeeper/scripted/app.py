"""Routes requests: the two dialects, and the oracle's own pages under `/_`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from turnkeeper.scripted.anthropic_wire import anthropic_error
from turnkeeper.scripted.ask import Ask, AskError, Dialect, read_ask, roles_alternate
from turnkeeper.scripted.directives import (
    DirectiveError,
    describe,
    directives_from,
    directives_in,
    directives_of_model,
    script_of,
)
from turnkeeper.scripted.http import Request
from turnkeeper.scripted.openai_wire import openai_error
from turnkeeper.scripted.oracle import Oracle, Outcome, Record
from turnkeeper.scripted.performance import Part
from turnkeeper.scripted.play import DEMONSTRATION, JSON, play, response, wire_for
from turnkeeper.scripted.refusing import STATUS, refusal_of
from turnkeeper.scripted.script import ContextWords, Script
from turnkeeper.scripted.steps import Steps
from turnkeeper.scripted.wire import Wire, as_json

_DIALECTS: Final = {"/v1/chat/completions": Dialect.OPENAI, "/v1/messages": Dialect.ANTHROPIC}
_PLAIN: Final = Script()
_LOG_LIMIT: Final = 1000
_MAX_LOG_LIMIT: Final = 10_000
_MAX_PAGE_BYTES: Final = 4 * 2**20
"""A page is built in one go, and no token leaves meanwhile."""
_MODEL: Final = "scripted"
_MODEL_CREATED: Final = 1_767_225_600
_MODEL_CREATED_AT: Final = "2026-01-01T00:00:00Z"
_SHOWN_HEADERS: Final = (
    "traceparent",
    "anthropic-version",
    "accept",
    "accept-encoding",
    "content-type",
    "user-agent",
)


class App:
    """Answers requests; holds the default script and the oracle.

    Args:
        oracle: Where requests are recorded.
        default: The values of the default script.
    """

    def __init__(self, oracle: Oracle, default: Mapping[str, Any] | None = None) -> None:
        self._oracle = oracle
        self._first_default = dict(default or {})
        self._default = dict(self._first_default)
        self.open_connections: Callable[[], int] = lambda: 0

    def answer(self, request: Request) -> Part:
        """Return the response to perform for `request`."""
        dialect = _DIALECTS.get(request.path)
        if dialect is not None and request.method == "POST":
            return self._answer_ask(dialect, request)
        return _part(self._own_page(request), request)

    def ended(self, part: Part, outcome: Outcome) -> None:
        """Note how a performance ended."""
        if part.record is not None:
            self._oracle.close(part.record, outcome)

    def _answer_ask(self, dialect: Dialect, request: Request) -> Part:
        record = self._oracle.open(dialect.value, request.path, _shown_headers(request.headers))
        try:
            _check_headers(dialect, request.headers)
            ask = read_ask(dialect, request.body)
            record.model = ask.model
            asked, named = directives_in(ask.question), directives_of_model(ask.model)
        except HeadersError as error:
            return _refused(dialect, request, record, error.status, str(error))
        except (AskError, DirectiveError) as error:
            return _refused(dialect, request, record, 400, str(error))
        default = self._default if asked or named or self._default else DEMONSTRATION
        script = script_of(asked, named, default)
        settings = _settings(script)
        conversation = script.key or ask.conversation
        number = self._oracle.count(conversation, as_json(settings).decode())
        healed = script.fail_times is not None and number > script.fail_times
        if healed:
            script = script.healed()
        if script.input is not None:
            ask = replace(ask, input_tokens=script.input)
        record.script = settings
        record.conversation = conversation
        record.number_in_conversation = number
        record.healed = healed
        _note(record, ask, script)
        if script.strict_roles and not roles_alternate(ask.roles):
            message = "conversation roles must alternate user/assistant/user/assistant"
            return _refused(dialect, request, record, 400, message)
        refusal = refusal_of(ask, script)
        if refusal is not None:
            return _part(response(STATUS, JSON, refusal), request, record=record)
        wire = wire_for(ask, script, record.id)
        steps = play(ask, script, wire, directed=bool(asked or named))
        return _part(steps, request, script, record, wire)

    def _own_page(self, request: Request) -> Steps:
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["v1", "models"]:
                return _models(request, self._told(ContextWords.VLLM))
            case "GET", ["props"] if (told := self._told(ContextWords.LLAMA_CPP)) is not None:
                return _json({"default_generation_settings": {"n_ctx": told}, "total_slots": 1})
            case "GET", ["_log"]:
                return self._log(request)
            case "GET", ["_log", number] if number.isdecimal():
                record = self._oracle.find(int(number))
                return _json(record.shown()) if record is not None else _missing(request)
            case "DELETE", ["_log"]:
                self._oracle.clear()
                return response(204, JSON, b"")
            case "GET", ["_stats"]:
                return _json({**self._oracle.totals(), "open_connections": self.open_connections()})
            case "GET", ["_script"]:
                return _json(self._default)
            case "PUT", ["_script"]:
                return self._set_default(request.body)
            case "DELETE", ["_script"]:
                self._default = dict(self._first_default)
                return _json(self._default)
            case "GET", ["_directives"]:
                names = ("group", "name", "kind", "default", "meaning")
                return _json([dict(zip(names, row, strict=True)) for row in describe()])
            case "GET", ["healthz"]:
                return _json({"status": "ok"})
            case _:
                return _missing(request)

    def _told(self, words: ContextWords) -> int | None:
        """Return the context that the default script has in a server's words."""
        context: int | None = self._default.get("context")
        return context if self._default.get("context_words") is words else None

    def _set_default(self, body: bytes) -> Steps:
        try:
            self._default = directives_from(body.decode())
        except (DirectiveError, UnicodeDecodeError) as error:
            return response(400, JSON, openai_error(400, str(error)))
        return _json(self._default)

    def _log(self, request: Request) -> Steps:
        """Return a page of the log, as `{"data", "last_id"}` or, with `format=lines`, as one record per line."""
        try:
            after = int(request.query.get("after", "0"))
            limit = min(int(request.query.get("limit", _LOG_LIMIT)), _MAX_LOG_LIMIT)
        except ValueError:
            return response(400, JSON, openai_error(400, "after and limit are integers"))
        with_text = request.query.get("text", "1") != "0"
        lines: list[bytes] = []
        size, last_id = 0, after
        for record in self._oracle.after(after):
            if len(lines) >= limit or size >= _MAX_PAGE_BYTES:
                break
            last_id = record.id
            if _wanted(record, request.query):
                lines.append(as_json(record.shown(with_text=with_text)))
                size += len(lines[-1])
        if request.query.get("format") == "lines":
            return response(200, "application/x-ndjson", b"".join(line + b"\n" for line in lines))
        return response(200, JSON, b'{"data":[%b],"last_id":%d}' % (b",".join(lines), last_id))


class HeadersError(ValueError):
    """Headers that the imitated API would refuse."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _check_headers(dialect: Dialect, headers: Mapping[str, str]) -> None:
    if dialect is not Dialect.ANTHROPIC:
        return
    # The official client of 2026 sends its key as a bearer token, earlier ones as x-api-key.
    if not _key(headers):
        raise HeadersError(401, "x-api-key header is required")
    if not headers.get("anthropic-version"):
        raise HeadersError(400, "anthropic-version: header is required")


def _key(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")


def _shown_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the interesting headers; of a key only the beginning of its hash is shown."""
    key = _key(headers)
    shown: dict[str, Any] = {name: headers.get(name) for name in _SHOWN_HEADERS}
    shown["authorization"] = "authorization" in headers
    shown["x-api-key"] = "x-api-key" in headers
    shown["key_sha256"] = hashlib.sha256(key.encode()).hexdigest()[:16] if key else None
    return shown


def _settings(script: Script) -> dict[str, Any]:
    """Return the values that a script sets, which is how it is shown and told from others."""
    return {
        field.name: getattr(script, field.name)
        for field in fields(script)
        if getattr(script, field.name) != field.default
    }


def _note(record: Record, ask: Ask, script: Script) -> None:
    record.messages = ask.messages
    record.system = ask.system
    record.fields = ask.fields
    record.max_tokens = ask.max_tokens
    record.stream = ask.stream
    record.include_usage = ask.include_usage
    record.tools = ask.tools
    record.continues = bool(ask.prefix)
    record.input_tokens = ask.input_tokens
    record.cache_read_tokens = script.cached
    if ask.dialect is Dialect.ANTHROPIC:
        record.cache_write_tokens = script.cache_write + script.cache_write_1h


def _wanted(record: Record, query: Mapping[str, str]) -> bool:
    """Return whether a record passes the filters `conversation`, `outcome`, `trace` and `contains`."""
    conversation, outcome, trace = query.get("conversation"), query.get("outcome"), query.get("trace")
    contains = query.get("contains")
    return (
        (conversation is None or record.conversation == conversation)
        and (outcome is None or record.outcome == outcome)
        and (trace is None or trace in (record.headers["traceparent"] or ""))
        and (contains is None or contains.encode() in record.messages)
    )


def _part(
    steps: Steps,
    request: Request,
    script: Script = _PLAIN,
    record: Record | None = None,
    wire: Wire | None = None,
) -> Part:
    return Part(
        steps=steps,
        script=script,
        record=record,
        wire=wire,
        request_id=f"req_{record.id if record else 0:012d}",
        chunked=request.http11,
        keep=request.keep_alive,
    )


def _refused(dialect: Dialect, request: Request, record: Record, status: int, message: str) -> Part:
    body = _error(dialect)(status, message)
    return _part(response(status, JSON, body), request, record=record)


def _error(dialect: Dialect) -> Callable[[int, str], bytes]:
    return anthropic_error if dialect is Dialect.ANTHROPIC else openai_error


def _json(value: Any) -> Steps:
    return response(200, JSON, as_json(value))


def _missing(request: Request) -> Steps:
    dialect = _DIALECTS.get(request.path)
    if dialect is not None:
        return response(405, JSON, _error(dialect)(405, "method not allowed"), (("allow", "POST"),))
    return response(404, JSON, openai_error(404, f"there is no {request.path}"))


def _models(request: Request, context: int | None) -> Steps:
    if "anthropic-version" in request.headers:
        model = {"id": _MODEL, "type": "model", "display_name": "Scripted", "created_at": _MODEL_CREATED_AT}
        return _json({"data": [model], "has_more": False, "first_id": _MODEL, "last_id": _MODEL})
    listed: dict[str, Any] = {
        "id": _MODEL,
        "object": "model",
        "created": _MODEL_CREATED,
        "owned_by": "turnkeeper",
    }
    if context is not None:
        listed["max_model_len"] = context
    return _json({"object": "list", "data": [listed]})
