"""Anthropic's Messages dialect; its terminal mark is `message_stop`.

Usage is cumulative: `message_start` has the input's figures, `message_delta` the output's.
"""

from typing import Any, Final, Literal, assert_never

import msgspec

from shared.configuration.provider_settings import ProviderName, ProviderSettings
from shared.errors import Fault, ProviderError
from shared.money.usage import Usage
from shared.oddities import Oddity
from shared.turn.parts import Parts, Reasoning, Text
from shared.turn.turns import FinishReason
from worker.providers.content import PartKind, is_call, pieces_of
from worker.providers.decoding import UNDECODABLE, decode_any
from worker.providers.dialect import Declaration
from worker.providers.ends import Cut, End, end_of, is_whitewashed
from worker.providers.faults import NO_ERRORS, ErrorNames, error_in_stream, error_names
from worker.providers.oddities import Oddities
from worker.providers.prompt_figures import PromptFigures
from worker.providers.provider import Capabilities, Prompt
from worker.providers.reading import MARKS, MOST_TOKENS, Reading, gave_up, token_count, tool_call, unreadable

API_VERSION: Final = "2023-06-01"

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


class _Delta(msgspec.Struct, gc=False):
    type: Literal["text_delta", "thinking_delta"]
    text: str = ""
    thinking: str = ""


class _Ordinary(msgspec.Struct, gc=False):
    """A delta of text or of thinking."""

    type: Literal["content_block_delta"]
    delta: _Delta
    error: None = None


_decode: Final = msgspec.json.Decoder(_Ordinary).decode


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

    def refused_field(self, sent: bytes, refusal: bytes) -> str | None:  # noqa: ARG002 -- requests have one form
        """Return None: every server takes the same fields."""
        return None

    def reader(self, reading: Reading, oddities: Oddities | None = None) -> "EventReader":
        """Return a reader of one answer."""
        return EventReader(reading, self.error_names, oddities)


DECLARATION: Final = Declaration(
    ProviderName.ANTHROPIC,
    make=Anthropic,
    error_names=_ERROR_NAMES,
    trace_name="anthropic",
    is_context_known=True,  # 200,000 tokens and more
)


class EventReader:
    """Reads the events of one message into a `Reading`.

    Nearly every event is one delta, and its decoder refuses all others. They are read field by field: a wrong type
    where nothing is needed costs no answer.
    """

    __slots__ = (
        "_end",
        "_error_names",
        "_is_marked",
        "_is_output_final",
        "_oddities",
        "_output",
        "_prompt",
        "_reading",
        "_reason",
        "_thinking",
    )

    def __init__(
        self, reading: Reading, names: ErrorNames = _ERROR_NAMES, oddities: Oddities | None = None
    ) -> None:
        self._reading = reading
        self._error_names = names
        self._oddities = oddities or Oddities()
        self._reason: str | None = None
        self._end: End | None = None
        self._is_marked = False
        # The largest valid figures so far.
        self._prompt = PromptFigures()
        self._output = self._thinking = 0
        self._is_output_final = False

    def feed(self, name: str, data: bytes) -> None:
        """Read one event.

        Raises:
            ProviderError: It is an error or a tool call, is out of order, or cannot be read.
        """
        reading = self._reading
        if reading.is_begun and not self._is_marked:
            try:
                delta = _decode(data).delta
            except UNDECODABLE:
                self._read_any(name, data)
                return
            if delta.type == "text_delta":
                reading.say(delta.text)
            elif delta.thinking:
                reading.think(delta.thinking)
            else:
                reading.stir()  # the thinking is not shown
            return
        self._read_any(name, data)

    def end(self, *, is_clean: bool) -> None:
        """Finish the reading if nothing of the answer is missing, now that no event follows."""
        if self._reading.is_finished:
            return
        if self._is_marked:
            if is_clean or self._reason is not None:
                self._finish()
        elif is_clean and self._reason is not None and self._has_usage():
            self._oddities.note(Oddity.NO_MARK)
            self._finish()

    # Anything but a delta.

    def _read_any(self, name: str, data: bytes) -> None:
        if name == "ping":
            return
        if not data.strip():
            self._oddities.note(Oddity.NO_OBJECT)
            return
        if data.strip() in MARKS and self._reading.is_begun:
            # Gateways to servers of OpenAI's dialect pass its mark on, after `message_stop` or in place of it.
            self._mark()
            return
        try:
            event = decode_any(data)
        except ValueError as exc:
            if name == "error":
                raise error_in_stream(None, self._error_names, self._reading.hush) from exc
            if self._is_marked or (name and name not in _KNOWN_EVENTS):
                self._oddities.note(Oddity.NO_OBJECT, name)
                return
            raise unreadable() from exc
        if not isinstance(event, dict):
            self._oddities.note(Oddity.NO_OBJECT)
            return
        kind = event.get("type")
        self._read_event(kind if isinstance(kind, str) and kind else name, event)

    def _read_event(self, kind: str, event: dict[str, Any]) -> None:
        error = event.get("error")
        if kind == "error" or error not in NO_ERRORS:
            if self._is_marked and self._reason is not None:
                return
            raise error_in_stream(error, self._error_names, self._reading.hush)
        if kind == "message_start" and not self._is_marked:
            self._start(event.get("message"))
        elif kind in _KNOWN_EVENTS:
            if not self._reading.is_begun:
                raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's message has no start")
            self._go_on(kind, event)

    def _start(self, message: Any) -> None:
        if self._reading.is_begun:
            raise ProviderError(Fault.PROVIDER_PROTOCOL, "the model provider's message started twice")
        self._reading.begin()
        if isinstance(message, dict):
            self._count(message.get("usage"))

    def _go_on(self, kind: str, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        match kind:
            case "content_block_start" if not self._is_marked:
                self._open(event.get("content_block"))
            case "content_block_delta" if not self._is_marked:
                if not isinstance(delta, dict):
                    raise unreadable()  # its text is in there
                self._add(delta)
            case "message_delta":
                counted = self._count(event.get("usage"))
                if isinstance(delta, dict):
                    counted = self._count(delta.get("usage")) or counted
                    self._read_reason(delta.get("stop_reason"))
                self._read_reason(event.get("stop_reason"))
                self._is_output_final = counted or self._is_output_final
            case "message_stop" if not self._is_marked:
                self._is_output_final = self._count(event.get("usage")) or self._is_output_final
                self._mark()

    def _open(self, block: Any) -> None:
        """Read the beginning of a block: most begin empty."""
        if not isinstance(block, dict):
            if block:
                self._oddities.note(Oddity.WRONG_TYPE, "content_block")
            return
        kind = block.get("type")
        if isinstance(kind, str) and kind.endswith("tool_use"):  # ours, the provider's or an MCP server's
            if is_call(block):
                raise tool_call()
            return
        self._say(block, is_thinking=kind == "thinking")

    def _add(self, delta: dict[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta" | "" | None:
                self._say({**delta, "type": "text"}, is_thinking=False)
            case "thinking_delta":
                self._say({**delta, "type": "thinking"}, is_thinking=True)
            case "input_json_delta":
                if is_call(delta.get("partial_json")):
                    raise tool_call()
            case "signature_delta":
                self._reading.stir()
            case "citations_delta":
                pass
            case kind:
                self._oddities.note(Oddity.UNKNOWN_PART, kind if isinstance(kind, str) else "")

    def _say(self, part: dict[str, Any], *, is_thinking: bool) -> None:
        try:
            for kind, text in pieces_of(part):
                match kind:
                    case PartKind.TEXT if text:
                        self._reading.say(text)
                    case PartKind.THOUGHT if text:
                        self._reading.think(text)
                    case PartKind.THOUGHT | PartKind.HIDDEN:
                        self._reading.stir()
                    case PartKind.UNKNOWN:
                        self._oddities.note(Oddity.UNKNOWN_PART, text)
        except ValueError as exc:
            if not is_thinking:
                raise unreadable() from exc

    # The end.

    def _read_reason(self, reason: Any) -> None:
        if not reason:
            return
        word = reason if isinstance(reason, str) else ""
        end = end_of(word)
        if is_whitewashed(self._end, end):
            return
        self._reason, self._end = word, end
        if self._end is Cut.TOOL_CALL:
            raise tool_call()
        if self._end is Cut.BROKEN:
            raise gave_up()

    def _mark(self) -> None:
        """Finish with the terminal mark, unless something is missing that may come after it."""
        self._is_marked = True
        if self._reason is not None and self._has_usage():
            self._finish()
        else:
            self._reading.is_marked = True

    def _finish(self) -> None:
        self._reading.finish(self._finish_reason(), self._usage() if self._has_usage() else None)

    def _finish_reason(self) -> FinishReason:
        if isinstance(self._end, FinishReason):
            return self._end
        if self._reason is None:
            self._oddities.note(Oddity.NO_REASON)
        else:
            self._oddities.note(Oddity.UNKNOWN_END, self._reason)
        return FinishReason.UNKNOWN

    # Usage.

    def _count(self, usage: Any) -> bool:
        """Take the plausible figures, and return whether one for the output was among them."""
        if not isinstance(usage, dict):
            return False
        output = token_count(usage.get("output_tokens"))
        details = usage.get("output_tokens_details")
        if isinstance(details, dict):
            self._thinking = max(self._thinking, token_count(details.get("thinking_tokens")))
        self._output = max(self._output, output)
        self._prompt.take(usage)
        found = self._usage()
        if not found.is_empty():
            self._reading.use(found)
        return output > 0

    def _usage(self) -> Usage:
        prompt = self._prompt
        return Usage(
            input_tokens=prompt.fresh,
            cache_read_tokens=prompt.read,
            cache_write_tokens=prompt.written,
            cache_write_1h_tokens=min(prompt.written_1h, prompt.written),
            output_tokens=self._output,
            reasoning_tokens=min(self._thinking, self._output),
        )

    def _has_usage(self) -> bool:
        """Return whether there are more figures than `message_start`'s: those do not count the answer.

        One that cannot be is told as a running figure, which is disputed, and never as the final one.
        """
        if max(self._prompt.total(), self._output) >= MOST_TOKENS:
            return False
        return self._prompt.total() > 0 and (self._is_output_final or not self._reading.is_spoken)


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
