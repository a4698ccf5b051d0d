"""The Anthropic dialect: named events, content blocks, cumulative usage, `message_stop`."""

from typing import Any, Final

from turnkeeper.scripted.ask import Ask
from turnkeeper.scripted.figures import told
from turnkeeper.scripted.script import Finish, Script, UsageMode
from turnkeeper.scripted.wire import Delta, Tally, as_json, error_type_of

_STOP_REASONS: Final = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.CONTENT_FILTER: "refusal",
    Finish.REFUSAL: "refusal",
    Finish.TOOL_CALLS: "tool_use",
}
_SIGNATURE: Final = "c2NyaXB0ZWQgdGhpbmtpbmc="
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'


class AnthropicWire:
    """Encodes one answer; remembers which content block is open."""

    def __init__(self, ask: Ask, script: Script, number: int) -> None:
        self._ask = ask
        self._script = script
        self._id = f"msg_{number:012d}"
        self._tool_id = f"toolu_{number:012d}"
        self._index = -1
        self._thinking = False
        self._heads = (b"", b"")
        self.reported: dict[str, Any] | None = None

    def opening(self) -> bytes:
        """Return `message_start`, which reports the input's usage."""
        message = self._message([], None)
        if self._script.usage is not UsageMode.NONE:
            # As the real API does: the first token is counted here, and again in `message_delta`'s total.
            silent = self._script.empty or self._script.tokens == 0 or self._script.text == ""
            message["usage"] = self._report(told(self._script.usage, self._usage(0 if silent else 1))[0])
        return _event("message_start", {"message": message}) + _PING

    def affixes(self, delta: Delta, tally: Tally) -> tuple[bytes, bytes]:
        """Return what surrounds a delta's text; the first delta also opens its block."""
        opened = b""
        if self._index < 0 or delta.reasoning is not self._thinking:
            opened = self._close_block() + self._open_block(delta.reasoning)
        head = opened + self._heads[delta.reasoning]
        if self._script.usage is not UsageMode.CONTINUOUS:
            return head, b"}}\n\n"
        usage = self._usage(tally.output_tokens, tally.reasoning_tokens)
        return head, b"}}\n\n" + self._message_delta(None, usage)

    def closing(self, finish: Finish, tally: Tally) -> list[bytes]:
        """Return the block's end, the tool call, `message_delta` and the mark, as the script directs."""
        events = [self._close_block()] if self._index >= 0 else []
        if self._script.tool_call:
            events.append(self._tool_use())
        mode = self._script.usage
        figures = told(mode, self._usage(tally.output_tokens, tally.reasoning_tokens))
        reason = None if self._script.no_reason else finish
        deltas = [self._message_delta(reason, usage) for usage in figures]
        stop = [] if self._script.no_done else [_STOP]
        if mode is UsageMode.AFTER_FINISH:
            events += [self._message_delta(reason, None), *stop, *deltas]
        else:
            events += [*(deltas or [self._message_delta(reason, None)]), *stop]
        if self._script.after_done:
            delta = {"type": "text_delta", "text": " And one more thing."}
            events.append(_event("content_block_delta", {"index": max(self._index, 0), "delta": delta}))
        return events

    def ping(self) -> bytes:
        """Return a ping event."""
        return _PING

    def in_band_error(self, error_type: str, code: str | None) -> bytes:
        """Return an error event; nothing follows it."""
        return b"event: error\ndata: " + self.error_body(500, "Overloaded", error_type, code) + b"\n\n"

    def error_body(self, status: int, message: str, error_type: str | None, code: str | None) -> bytes:
        """Return the body of an HTTP error; the dialect has no code, only the type."""
        del code
        return anthropic_error(status, message, error_type)

    def whole(self, text: str, reasoning: str, finish: Finish, tally: Tally) -> bytes:
        """Return a message."""
        content: list[dict[str, Any]] = []
        if reasoning:
            content.append({"type": "thinking", "thinking": reasoning, "signature": _SIGNATURE})
        if text:
            content.append({"type": "text", "text": text})
        if self._script.tool_call:
            tool = {
                "type": "tool_use",
                "id": self._tool_id,
                "name": "scripted_tool",
                "input": {"question": "why"},
            }
            content.append(tool)
        message = self._message(content, _STOP_REASONS[finish])
        usage = self._usage(tally.output_tokens, tally.reasoning_tokens)
        for figures in told(self._script.usage, usage)[-1:]:
            message["usage"] = self._report(figures)
        return as_json(message)

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._ask.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
        }

    def _usage(self, output_tokens: int, thinking_tokens: int = 0) -> dict[str, Any]:
        script = self._script
        return {
            "input_tokens": self._ask.input_tokens,
            "cache_creation_input_tokens": script.cache_write + script.cache_write_1h,
            "cache_read_input_tokens": script.cached,
            "cache_creation": {
                "ephemeral_5m_input_tokens": script.cache_write,
                "ephemeral_1h_input_tokens": script.cache_write_1h,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": thinking_tokens},
            "service_tier": "standard",
        }

    def _report(self, usage: dict[str, Any]) -> dict[str, Any]:
        self.reported = usage
        return usage

    def _open_block(self, thinking: bool) -> bytes:
        self._index += 1
        self._thinking = thinking
        delta = (
            f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{self._index},"delta":'
        )
        self._heads = (
            f'{delta}{{"type":"text_delta","text":'.encode(),
            f'{delta}{{"type":"thinking_delta","thinking":'.encode(),
        )
        block = (
            {"type": "thinking", "thinking": "", "signature": ""}
            if thinking
            else {"type": "text", "text": ""}
        )
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _close_block(self) -> bytes:
        if self._index < 0:
            return b""
        signed = b""
        if self._thinking:
            delta = {"type": "signature_delta", "signature": _SIGNATURE}
            signed = _event("content_block_delta", {"index": self._index, "delta": delta})
        return signed + _event("content_block_stop", {"index": self._index})

    def _tool_use(self) -> bytes:
        self._index += 1
        block = {"type": "tool_use", "id": self._tool_id, "name": "scripted_tool", "input": {}}
        pieces = ("", '{"question":', '"why"}')
        events = [_event("content_block_start", {"index": self._index, "content_block": block})]
        for piece in pieces:
            delta = {"type": "input_json_delta", "partial_json": piece}
            events.append(_event("content_block_delta", {"index": self._index, "delta": delta}))
        events.append(_event("content_block_stop", {"index": self._index}))
        return b"".join(events)

    def _message_delta(self, finish: Finish | None, usage: dict[str, Any] | None) -> bytes:
        delta = {"stop_reason": _STOP_REASONS[finish] if finish else None, "stop_sequence": None}
        body: dict[str, Any] = {"delta": delta}
        if usage is not None:
            nested = ("cache_creation", "service_tier")
            cumulative = {name: figure for name, figure in self._report(usage).items() if name not in nested}
            body["usage"] = cumulative
        return _event("message_delta", body)


def anthropic_error(status: int, message: str, error_type: str | None = None) -> bytes:
    """Return the body of an error."""
    error = {"type": error_type or error_type_of(status), "message": message}
    return as_json({"type": "error", "error": error, "request_id": None})


def _event(name: str, body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: " % name.encode() + as_json({"type": name, **body}) + b"\n\n"
