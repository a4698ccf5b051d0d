"""The chat completions dialect, as OpenAI, vLLM, llama.cpp, Ollama and LiteLLM speak it.

Its terminal mark is `[DONE]`: the usage comes after the finish reason, so a reason alone is not the end.
"""

import logging
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

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
from worker.providers.reading import Reading, token_count, unreadable

_log = logging.getLogger("turnkeeper.provider")

_FINISH_REASONS: Final = MappingProxyType(
    {
        "stop": FinishReason.STOP,
        "length": FinishReason.LENGTH,
        "content_filter": FinishReason.CONTENT_FILTER,
        "refusal": FinishReason.REFUSAL,
    }
)
_TOOL_REASONS: Final = frozenset({"tool_calls", "function_call"})
_BROKEN_REASONS: Final = frozenset({"abort", "error", "insufficient_system_resource"})
"""What vLLM, OpenRouter and DeepSeek send when generation was cut off on their side."""


_ERROR_NAMES: Final = error_names(
    {
        Fault.CONTEXT_TOO_LONG: "context_length_exceeded exceed_context_size_error contextwindowexceedederror",
        Fault.PROVIDER_AUTH: (
            "authentication_error authenticationerror permission_error permissiondeniederror invalid_api_key"
        ),
        Fault.PROVIDER_RATE_LIMITED: (
            "rate_limit_error rate_limit_exceeded ratelimiterror too_many_requests insufficient_quota"
        ),
        Fault.PROVIDER_OVERLOADED: (
            "overloaded server_error internal_error internal_server_error internalservererror "
            "service_unavailable serviceunavailableerror unavailable_error"
        ),
        Fault.PROVIDER_REJECTED: (
            "invalid_request_error badrequesterror not_found_error notfounderror model_not_found"
        ),
    },
    # Most servers have no code for it.
    "maximum context length",
    "context length is only",
    "maximum model length",
    "maximum prompt length",
    "longer than the model's context length",
    "available context size",
    "exceed context window",
    "`max_new_tokens` must be",
    "exceeds the maximum number of tokens allowed",
    "input is too long",
)
"""As OpenAI, vLLM, SGLang, llama.cpp, text-generation-inference, xAI, Google and LiteLLM spell them."""


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # vLLM's newer name for it, and Ollama's
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None  # read figure by figure: a wrong one must not cost the answer
    error: Any = None


_decode: Final = JsonDecoder(_Chunk)


class OpenAICompatible:
    """Builds the requests and reads the answers."""

    def __init__(self, settings: ProviderSettings, names: ErrorNames = _ERROR_NAMES) -> None:
        self.url = f"{settings.base_url}/chat/completions"
        self.headers = {"authorization": f"Bearer {settings.api_key.reveal()}"}
        self.capabilities = Capabilities(
            continuation=settings.continuation, running_usage=settings.running_usage
        )
        self.error_names = names
        self._model = settings.model
        self._stream_options = {"include_usage": True}
        if settings.running_usage:
            self._stream_options["continuous_usage_stats"] = True
        # The hold depends on this limit, so it needs the name that the server obeys: OpenAI's newer models
        # refuse `max_tokens`, and other servers may ignore `max_completion_tokens`.
        is_openai = f".{urlsplit(settings.base_url).hostname}".endswith(".openai.com")
        self._limit_name = "max_completion_tokens" if is_openai else "max_tokens"

    def body(self, prompt: Prompt) -> bytes:
        """Encode a request."""
        messages = [
            {"role": message.role.value, "content": _content(message.parts)} for message in prompt.messages
        ]
        if prompt.system is not None:
            messages.insert(0, {"role": "system", "content": prompt.system})
        request = {
            "model": self._model,
            "messages": messages,
            self._limit_name: prompt.max_output_tokens,
            "stream": True,
            "stream_options": self._stream_options,
        }
        if prompt.continues():
            # vLLM's names: without the second, its chat template would begin another message.
            request |= {"continue_final_message": True, "add_generation_prompt": False}
        return msgspec.json.encode(request)

    def reader(self, reading: Reading) -> "ChunkReader":
        """Return a reader of one answer."""
        return ChunkReader(reading, self.error_names)


DECLARATION: Final = Declaration(
    ProviderName.OPENAI_COMPATIBLE, make=OpenAICompatible, error_names=_ERROR_NAMES, trace_name="openai"
)
SCRIPTED: Final = replace(DECLARATION, name=ProviderName.SCRIPTED, is_context_known=True)


class ChunkReader:
    """Reads chat completion chunks into a `Reading`."""

    __slots__ = (
        "_cached",
        "_completion",
        "_error_names",
        "_prompt",
        "_reading",
        "_reason",
        "_reasoning",
        "_refused",
    )

    def __init__(self, reading: Reading, names: ErrorNames = _ERROR_NAMES) -> None:
        self._reading = reading
        self._error_names = names
        self._reason: str | None = None
        self._refused = False
        # The largest valid figures so far, as the provider counts them.
        self._prompt = self._cached = self._completion = self._reasoning = 0

    def feed(self, name: str, data: bytes) -> None:
        """Read one event.

        Raises:
            ProviderError: It is an error or a tool call, or cannot be read.
        """
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self._reading.finish(self._finish_reason(), self._final_usage())
            return
        if name == "ping":
            return
        try:
            chunk = _decode(data)
        except ValueError as exc:
            raise unreadable() from exc
        if chunk.error is not None or name == "error":
            raise error_in_stream(chunk.error, self._error_names, self._reading.hush)
        if chunk.usage is not None:
            self._count(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._read(choice)

    def _read(self, choice: _Choice) -> None:
        reading = self._reading
        reading.begin()
        delta = choice.delta
        if delta is not None:
            if delta.tool_calls or delta.function_call:
                raise _tool_call()
            if thought := delta.reasoning_content or delta.reasoning:
                reading.think(thought)
            if delta.content:
                reading.say(delta.content)
            if delta.refusal:
                self._refused = True
                reading.say(delta.refusal)
        if choice.finish_reason:
            self._reason = choice.finish_reason
            if choice.finish_reason in _TOOL_REASONS:
                raise _tool_call()
            if choice.finish_reason in _BROKEN_REASONS:
                raise ProviderError(
                    Fault.PROVIDER_OVERLOADED, "the model provider gave the answer up before its end"
                )

    def _finish_reason(self) -> FinishReason:
        if self._refused:
            return FinishReason.REFUSAL
        reason = _FINISH_REASONS.get(self._reason or "stop")
        if reason is None:
            _log.warning("unknown finish reason", extra={"finish_reason": (self._reason or "")[:40]})
            return FinishReason.STOP
        return reason

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        self._prompt = max(self._prompt, token_count(usage.get("prompt_tokens")))
        self._completion = max(self._completion, token_count(usage.get("completion_tokens")))
        self._cached = max(self._cached, _detail(usage, "prompt_tokens_details", "cached_tokens"))
        self._reasoning = max(
            self._reasoning, _detail(usage, "completion_tokens_details", "reasoning_tokens")
        )
        if self._prompt or self._completion:
            self._reading.use(self._usage())

    def _usage(self) -> Usage:
        cached = min(self._cached, self._prompt)  # prompt tokens include the cached ones
        return Usage(
            input_tokens=self._prompt - cached,
            cache_read_tokens=cached,
            output_tokens=self._completion,
            reasoning_tokens=min(self._reasoning, self._completion),
        )

    def _final_usage(self) -> Usage | None:
        """Return the figures, unless they count nothing although there is text: an answer is never free."""
        is_counted = self._prompt > 0 and (self._completion > 0 or not self._reading.is_spoken)
        return self._usage() if is_counted else None


def _detail(usage: dict[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return token_count(details.get(name)) if isinstance(details, dict) else 0


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
                pass  # The dialect has no place for thinking in a prompt
            case _:
                assert_never(part)
    return "".join(texts)
