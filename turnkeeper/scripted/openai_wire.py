"""The OpenAI dialect: chat completion chunks, usage on request, `[DONE]`.

It includes vLLM's additions: `reasoning_content`, and running usage on every chunk.
"""

import time
from typing import Any, Final

from turnkeeper.scripted.ask import Ask
from turnkeeper.scripted.figures import told
from turnkeeper.scripted.script import Finish, Script, UsageMode
from turnkeeper.scripted.wire import Delta, Tally, as_json, error_type_of

_DONE: Final = b"data: [DONE]\n\n"
_REFUSAL: Final = "I cannot help with that."


class OpenAIWire:
    """Encodes one answer."""

    def __init__(self, ask: Ask, script: Script, number: int) -> None:
        self._ask = ask
        self._script = script
        self._id = f"chatcmpl-{number:012d}"
        self._created = int(time.time())
        model = as_json(ask.model).decode()
        self._start = (
            f'data: {{"id":"{self._id}","object":"chat.completion.chunk",'
            f'"created":{self._created},"model":{model},'
        ).encode()
        choice = self._start + b'"choices":[{"index":0,"delta":{'
        self._content = choice + (b'"tool_calls":[],' if script.empty_tool_calls else b"") + b'"content":'
        self._reasoning = choice + b'"reasoning_content":'
        running = script.usage is UsageMode.CONTINUOUS or (
            ask.running_usage and ask.include_usage and script.usage is UsageMode.FULL
        )
        self._running = running
        self._told = (ask.include_usage or running) and script.usage is not UsageMode.NONE
        self._plain_tail = b'},"logprobs":null,"finish_reason":null}]' + (
            b',"usage":null}\n\n' if ask.include_usage and not running else b"}\n\n"
        )
        self._prompt = ask.input_tokens + script.cached
        # Formatted, not encoded: it is sent with each token.
        self._running_tail = (
            b'},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":%d,"completion_tokens":%%d,'
            b'"total_tokens":%%d,"prompt_tokens_details":{"cached_tokens":%d},'
            b'"completion_tokens_details":{"reasoning_tokens":%%d}}}\n\n'
        ) % (self._prompt, script.cached)
        self._told_output: tuple[int, int] | None = None
        self._reported: dict[str, Any] | None = None

    @property
    def reported(self) -> dict[str, Any] | None:
        """The usage that was last reported."""
        if self._reported is None and self._told_output is not None:
            return self._usage(*self._told_output)
        return self._reported

    def opening(self) -> bytes:
        """Return the chunk that names the role."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def affixes(self, delta: Delta, tally: Tally) -> tuple[bytes, bytes]:
        """Return what surrounds a delta's text."""
        head = self._reasoning if delta.reasoning else self._content
        if not self._running:
            return head, self._plain_tail
        self._told_output = (tally.output_tokens, tally.reasoning_tokens)
        return head, self._running_tail % (
            tally.output_tokens,
            self._prompt + tally.output_tokens,
            tally.reasoning_tokens,
        )

    def closing(self, finish: Finish, tally: Tally) -> list[bytes]:
        """Return the tool call, the finish, the usage and the mark, as the script directs."""
        events = self._tool_call() if self._script.tool_call else []
        if finish is Finish.REFUSAL:
            events.append(self._chunk({"refusal": _REFUSAL}, None))
        reason = Finish.STOP if finish is Finish.REFUSAL else finish
        mode = self._script.usage
        with_finish = (
            self._report(self._usage(tally.output_tokens, tally.reasoning_tokens))
            if self._told and mode is UsageMode.WITH_FINISH
            else None
        )
        events.append(self._chunk({}, None if self._script.no_reason else reason.value, with_finish))
        done = [] if self._script.no_done else [_DONE]
        usage = self._usage_chunks(tally)
        events += done + usage if mode is UsageMode.AFTER_FINISH else usage + done
        if self._script.after_done:
            events.append(self._chunk({"content": " And one more thing."}, None))
        return events

    def ping(self) -> bytes:
        """Return a comment: the dialect has no ping."""
        return b": ping\n\n"

    def in_band_error(self, error_type: str, code: str | None) -> bytes:
        """Return an error event followed by the mark, as vLLM sends them."""
        return b"data: " + self.error_body(500, "the engine failed", error_type, code) + b"\n\n" + _DONE

    def error_body(self, status: int, message: str, error_type: str | None, code: str | None) -> bytes:
        """Return the body of an HTTP error."""
        return openai_error(status, message, error_type, code)

    def whole(self, text: str, reasoning: str, finish: Finish, tally: Tally) -> bytes:
        """Return a chat completion."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if finish is Finish.REFUSAL:
            message["refusal"] = _REFUSAL
        if self._script.tool_call:
            message["tool_calls"] = [_call(self._id, '{"question":"why"}')]
        body: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._ask.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": Finish.STOP if finish is Finish.REFUSAL else finish,
                }
            ],
        }
        for figures in told(self._script.usage, self._usage(tally.output_tokens, tally.reasoning_tokens))[
            -1:
        ]:
            body["usage"] = self._report(figures)
        return as_json(body)

    def _usage(self, output: int, reasoning: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": output,
            "total_tokens": self._prompt + output,
            "prompt_tokens_details": {"cached_tokens": self._script.cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _usage_chunks(self, tally: Tally) -> list[bytes]:
        if not self._told or self._script.usage is UsageMode.WITH_FINISH:
            return []
        return [
            self._start + b'"choices":[],"usage":' + as_json(self._report(figures)) + b"}\n\n"
            for figures in told(self._script.usage, self._usage(tally.output_tokens, tally.reasoning_tokens))
        ]

    def _report(self, usage: dict[str, Any]) -> dict[str, Any]:
        self._reported = usage
        return usage

    def _tool_call(self) -> list[bytes]:
        first = {"index": 0, **_call(self._id, "")}
        rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"question":', '"why"}')]
        return [self._chunk({"tool_calls": [call]}, None) for call in (first, *rest)]

    def _chunk(self, delta: dict[str, Any], reason: str | None, usage: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        tail = b"" if usage is None else b',"usage":' + as_json(usage)
        return self._start + b'"choices":[' + as_json(choice) + b"]" + tail + b"}\n\n"


def openai_error(status: int, message: str, error_type: str | None = None, code: str | None = None) -> bytes:
    """Return the body of an error."""
    kind = error_type or error_type_of(status)
    return as_json({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _call(answer_id: str, arguments: str) -> dict[str, Any]:
    function = {"name": "scripted_tool", "arguments": arguments}
    return {"id": f"call_{answer_id[-12:]}", "type": "function", "function": function}
