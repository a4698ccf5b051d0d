"""The chat completions dialect, as OpenAI, vLLM, llama.cpp, Ollama and LiteLLM speak it.

Its terminal mark is `[DONE]`: the usage comes after the finish reason, so a reason alone is not the end.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

import msgspec

from shared.configuration.provider_settings import LimitField, ProviderName, ProviderSettings
from shared.errors import Fault
from shared.turn.parts import Parts, Reasoning, Text
from worker.providers.chunks import ChunkReader
from worker.providers.dialect import Declaration
from worker.providers.faults import ErrorNames, error_names
from worker.providers.oddities import Oddities
from worker.providers.provider import Capabilities, Prompt
from worker.providers.reading import Reading
from worker.providers.refused_fields import Refusal

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

_OPTIONS: Final = "stream_options"
_RUNNING: Final = "continuous_usage_stats"
_LIMITS: Final = {
    LimitField.MAX_TOKENS.value: LimitField.MAX_COMPLETION_TOKENS.value,
    LimitField.MAX_COMPLETION_TOKENS.value: LimitField.MAX_TOKENS.value,
}


@dataclass(frozen=True, slots=True)
class _Form:
    """Which fields requests have, as far as servers differ about them.

    Args:
        limit: The name of the limit.
        options: Whether usage is asked for.
        running: Whether it is asked for with every chunk.
    """

    limit: str
    options: bool
    running: bool

    def without(self, field: str) -> "_Form":
        """Return the form in which a server that refuses `field` is asked."""
        if field in _LIMITS:
            return replace(self, limit=_LIMITS[field])
        return replace(self, running=False, options=self.options and field != _OPTIONS)


class OpenAICompatible:
    """Builds the requests and reads the answers.

    What the server refuses of a request's form is remembered for as long as the process lives.
    """

    def __init__(self, settings: ProviderSettings, names: ErrorNames = _ERROR_NAMES) -> None:
        self.url = f"{settings.base_url}/chat/completions"
        self.headers = {"authorization": f"Bearer {settings.api_key.reveal()}"}
        self.capabilities = Capabilities(
            continuation=settings.continuation,
            running_usage=settings.running_usage and settings.stream_options,
        )
        self.error_names = names
        self._model = settings.model
        self._form = _Form(
            _limit_name(settings),
            options=settings.stream_options,
            running=settings.stream_options and settings.running_usage,
        )

    def body(self, prompt: Prompt) -> bytes:
        """Encode a request."""
        messages = [
            {"role": message.role.value, "content": _content(message.parts)} for message in prompt.messages
        ]
        if prompt.system is not None:
            messages.insert(0, {"role": "system", "content": prompt.system})
        request: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            self._form.limit: prompt.max_output_tokens,
            "stream": True,
        }
        if self._form.options:
            request[_OPTIONS] = {"include_usage": True}
            if self._form.running:
                request[_OPTIONS][_RUNNING] = True
        if prompt.continues():
            # vLLM's names: without the second, its chat template would begin another message.
            request |= {"continue_final_message": True, "add_generation_prompt": False}
        return msgspec.json.encode(request)

    def refused_field(self, sent: bytes, refusal: bytes) -> str | None:
        """Return which field of a request its refusal complains of; later requests have it no more.

        Both names of the limit are one field: a server takes one of them.

        Args:
            sent: The request's body.
            refusal: The beginning of the response's body.
        """
        request: dict[str, Any] = msgspec.json.decode(sent)
        said = Refusal(refusal, str(request["messages"]))
        options = request.get(_OPTIONS, {})
        if _RUNNING in options and said.names(_RUNNING) and not said.names(_OPTIONS, "include_usage"):
            field = _RUNNING
        elif options and said.names(_OPTIONS, "include_usage"):
            field = _OPTIONS
        else:
            field = next((name for name in _LIMITS if name in request), "")
            # A limit that is too high would be refused under its other name as well or, worse, be ignored, and then
            # the hold would not cover the answer (I6).
            if not field or not said.names(field) or said.is_about_a_value():
                return None
        # Unless another turn's refusal has changed it meanwhile.
        if self._form == self._form_of(request):
            self._form = self._form.without(field)
        return "limit" if field in _LIMITS else field

    def reader(self, reading: Reading, oddities: Oddities | None = None) -> ChunkReader:
        """Return a reader of one answer."""
        return ChunkReader(reading, self.error_names, oddities, expects_usage=self._form.options)

    def _form_of(self, request: dict[str, Any]) -> _Form:
        options = request.get(_OPTIONS, {})
        limit = next((name for name in _LIMITS if name in request), self._form.limit)
        return _Form(limit, options=bool(options), running=_RUNNING in options)


DECLARATION: Final = Declaration(
    ProviderName.OPENAI_COMPATIBLE, make=OpenAICompatible, error_names=_ERROR_NAMES, trace_name="openai"
)
SCRIPTED: Final = replace(DECLARATION, name=ProviderName.SCRIPTED, is_context_known=True)


def _limit_name(settings: ProviderSettings) -> str:
    """Return the name of the limit that the server obeys, as far as that is known before it was asked.

    The hold depends on this limit: OpenAI's newer models refuse `max_tokens`, and other servers may ignore
    `max_completion_tokens`.
    """
    if settings.limit_field is not LimitField.AUTO:
        return settings.limit_field.value
    is_openai = f".{urlsplit(settings.base_url).hostname}".endswith(".openai.com")
    return (LimitField.MAX_COMPLETION_TOKENS if is_openai else LimitField.MAX_TOKENS).value


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
