"""Anthropic's Messages dialect; its terminal mark is `message_stop`.

Usage is cumulative: `message_start` has the input's figures, `message_delta` the output's.
"""

import logging
from types import MappingProxyType
from typing import Any, Final, assert_never

import msgspec

from shared.configuration.provider_settings import ProviderName, ProviderSettings
from shared.errors import Fault, ProviderError
from shared.money.usage import Usage
from shared.turn.parts import Parts, Reasoning, Text
from shared.turn.turns import FinishReason
from worker.providers.decoding import JsonDecoder
from worker.providers.dialect import Declaration
from worker.providers.faults import ErrorNames, error_in_stream, error_names
from worker.providers.provider import Capabilities, Prompt
from worker.providers.reading import MOST_TOKENS, Reading, token_count, unreadable

_log = logging.getLogger("turnkeeper.provider")

API_VERSION: Final = "2023-06-01"

_FINISH_REASONS: Final = MappingProxyType(
    {
        "end_turn": FinishReason.STOP,
        "stop_sequence": FinishReason.STOP,
        "max_tokens": FinishReason.LENGTH,
        "model_context_window_exceeded": FinishReason.LENGTH,
        "refusal": FinishReason.REFUSAL,
    }
)
_TOOL_REASONS: Final = frozenset({"tool_use", "pause_turn"})
_KNOWN_EVENTS: Final = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)


_ERROR_NAMES: Final = error_names(
    {
        Fault.PROVIDER_AUTH: "authentication_error permission_error",
        Fault.PROVIDER_RATE_LIMITED: "rate_limit_error",
        Fault.PROVIDER_OVERLOADED: "overloaded_error api_error timeout_error",
        Fault.PROVIDER_REJECTED: "invalid_request_error not_found_error request_too_large billing_error",
    },
    # There is no code for it.
    "prompt is too long",
    "exceed context limit",
)


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Message(msgspec.Struct, gc=False):
    usage: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: Any = None  # read figure by figure: a wrong one must not cost the answer
    error: Any = None


class _EventType(msgspec.Struct, gc=False):
    type: str = ""


_decode: Final = JsonDecoder(_Event)
_decode_type: Final = JsonDecoder(_EventType)


class Anthropic:
    """Builds the requests and reads the answers."""

    def __init__(self, settings: ProviderSettings, names: ErrorNames = _ERROR_NAMES) -> None:
        self.url = f"{settings.base_url}/v1/messages"
        self.headers = {"x-api-key": settings.api_key.reveal(), "anthropic-version": API_VERSION}
        self.capabilities = Capabilities()
        self.error_names = names
        self._model = settings.model

    def body(self, prompt: Prompt) -> bytes:
        """Encode a request."""
        request: dict[str, Any] = {
            "model": self._model,
            "max_tokens": prompt.max_output_tokens,
            "messages": [
                {"role": message.role.value, "content": _content(message.parts)}
                for message in prompt.messages
            ],
            "stream": True,
        }
        if prompt.system is not None:
            request["system"] = prompt.system
        return msgspec.json.encode(request)

    def reader(self, reading: Reading) -> "EventReader":
        """Return a reader of one answer."""
        return EventReader(reading, self.error_names)


DECLARATION: Final = Declaration(
    ProviderName.ANTHROPIC,
    make=Anthropic,
    error_names=_ERROR_NAMES,
    trace_name="anthropic",
    is_context_known=True,  # 200,000 tokens and more
)


class EventReader:
    """Reads the events of one message into a `Reading`."""

    __slots__ = (
        "_cache_read",
        "_cache_write",
        "_cache_write_1h",
        "_error_names",
        "_input",
        "_is_output_final",
        "_output",
        "_reading",
        "_reason",
        "_thinking",
    )

    def __init__(self, reading: Reading, names: ErrorNames = _ERROR_NAMES) -> None:
        self._reading = reading
        self._error_names = names
        self._reason: str | None = None
        # The largest valid figures so far; they are already disjoint.
        self._input = self._cache_read = self._cache_write = self._cache_write_1h = 0
        self._output = self._thinking = 0
        self._is_output_final = False

    def feed(self, name: str, data: bytes) -> None:
        """Read one event.

        Raises:
            ProviderError: It is an error or a tool call, is out of order, or cannot be read.
        """
        if name == "ping":
            return
        event = _read_event(data)
        if event is None:
            return
        kind = event.type or name
        if kind == "content_block_delta" and event.delta is not None and self._reading.is_begun:
            self._add(event.delta)  # first: nearly every event is one
            return
        if kind == "error" or event.error is not None:
            raise error_in_stream(event.error, self._error_names, self._reading.hush)
        if kind == "message_start":
            self._start(event.message)
        elif kind in _KNOWN_EVENTS:
            if not self._reading.is_begun:
                raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's message has no start")
            self._go_on(kind, event)

    def _start(self, message: _Message | None) -> None:
        if self._reading.is_begun:
            raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's message started twice")
        self._reading.begin()
        if message is not None:
            self._count(message.usage)

    def _go_on(self, kind: str, event: _Event) -> None:
        match kind:
            case "content_block_start" if event.content_block is not None:
                self._open(event.content_block)
            case "message_delta":
                self._is_output_final = self._count(event.usage) or self._is_output_final
                if event.delta is not None and event.delta.stop_reason:
                    self._reason = event.delta.stop_reason
                    if self._reason in _TOOL_REASONS:
                        raise _tool_call()
            case "message_stop":
                self._reading.finish(self._finish_reason(), self._final_usage())

    def _open(self, block: _Block) -> None:
        if block.type.endswith("tool_use"):  # a tool of ours, of the provider's or of an MCP server's
            raise _tool_call()
        if block.thinking:
            self._reading.think(block.thinking)
        if block.text:
            self._reading.say(block.text)

    def _add(self, delta: _Delta) -> None:
        match delta.type:
            case "text_delta":
                self._reading.say(delta.text or "")
            case "thinking_delta":
                self._reading.think(delta.thinking or "")
            case "input_json_delta":
                raise _tool_call()

    def _finish_reason(self) -> FinishReason:
        reason = _FINISH_REASONS.get(self._reason or "end_turn")
        if reason is None:
            _log.warning("unknown stop reason", extra={"finish_reason": (self._reason or "")[:40]})
            return FinishReason.STOP
        return reason

    def _count(self, usage: Any) -> bool:
        """Take the plausible figures, and return whether one for the output was among them."""
        if not isinstance(usage, dict):
            return False
        output = token_count(usage.get("output_tokens"))
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            self._thinking = max(self._thinking, token_count(details.get("thinking_tokens")))
        self._output = max(self._output, output)
        self._input = max(self._input, token_count(usage.get("input_tokens")))
        self._cache_read = max(self._cache_read, token_count(usage.get("cache_read_input_tokens")))
        self._count_cache_writes(usage)
        found = self._usage()
        if not found.is_empty():
            self._reading.use(found)
        return output > 0

    def _count_cache_writes(self, usage: dict[str, Any]) -> None:
        """Take the tokens written to caches: the sum, and how many live for five minutes and for an hour."""
        lives = usage.get("cache_creation")
        split = lives if isinstance(lives, dict) else {}
        short = token_count(split.get("ephemeral_5m_input_tokens"))
        long = token_count(split.get("ephemeral_1h_input_tokens"))
        written = max(token_count(usage.get("cache_creation_input_tokens")), min(short + long, MOST_TOKENS))
        self._cache_write = max(self._cache_write, written)
        self._cache_write_1h = max(self._cache_write_1h, long)

    def _usage(self) -> Usage:
        return Usage(
            input_tokens=self._input,
            cache_read_tokens=self._cache_read,
            cache_write_tokens=self._cache_write,
            cache_write_1h_tokens=min(self._cache_write_1h, self._cache_write),
            output_tokens=self._output,
            reasoning_tokens=min(self._thinking, self._output),
        )

    def _final_usage(self) -> Usage | None:
        """Return the figures, unless they are only `message_start`'s: those do not count the answer."""
        has_input = self._input + self._cache_read + self._cache_write > 0
        is_counted = has_input and (self._is_output_final or not self._reading.is_spoken)
        return self._usage() if is_counted else None


def _read_event(data: bytes) -> _Event | None:
    """Decode an event; None if its type is unknown, whatever its shape."""
    try:
        return _decode(data)
    except ValueError as exc:
        try:
            kind = _decode_type(data).type
        except ValueError:
            kind = ""
        if kind and kind not in _KNOWN_EVENTS:
            return None
        raise unreadable() from exc


def _tool_call() -> ProviderError:
    return ProviderError(Fault.TOOL_CALL_UNSUPPORTED, "the model called a tool, and none was offered")


def _content(parts: Parts) -> str:
    """Return a message's content as this dialect takes it."""
    texts = []
    for part in parts:
        match part:
            case Text(text):
                texts.append(text)
            case Reasoning():
                pass  # Anthropic takes thinking back only with the signature that came with it
            case _:
                assert_never(part)
    return "".join(texts)
