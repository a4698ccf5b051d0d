"""Refuses a prompt for its length or its text, in the words of the server that a script names."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from turnkeeper.scripted.anthropic_wire import anthropic_error
from turnkeeper.scripted.ask import Ask, Dialect
from turnkeeper.scripted.script import ContextWords, Script
from turnkeeper.scripted.wire import SECRET_MARK, as_json

STATUS: Final = 400
_PROMPT_ALONE: Final = frozenset({ContextWords.LLAMA_CPP})
"""Servers that look at the prompt alone; all others add the limit of the answer."""


def refusal_of(ask: Ask, script: Script) -> bytes | None:
    """Return the body with which the request is refused, with `STATUS`; None if it is not."""
    if script.refuses is not None and _contains(ask, script.refuses):
        return _filtered(ask.dialect)
    if script.context is None:
        return None
    words = script.context_words or (
        ContextWords.ANTHROPIC if ask.dialect is Dialect.ANTHROPIC else ContextWords.OPENAI
    )
    answer = 0 if words in _PROMPT_ALONE else ask.max_tokens or 0
    if ask.input_tokens + answer <= script.context:
        return None
    return _WORDS[words](ask.input_tokens, answer, script.context)


def _contains(ask: Ask, text: str) -> bool:
    sent = msgspec.json.decode(ask.messages)
    return text in ask.system or any(text in str(message.get("content")) for message in sent)


def _filtered(dialect: Dialect) -> bytes:
    """Return a content filter's refusal; Azure's where the dialect is OpenAI's."""
    if dialect is Dialect.ANTHROPIC:
        return anthropic_error(STATUS, f"Output blocked by content filtering policy; key {SECRET_MARK}")
    message = f"The response was filtered due to the prompt triggering the content management policy; key {SECRET_MARK}"
    return _error(message, type=None, param="prompt", code="content_filter")


def _openai(prompt: int, answer: int, context: int) -> bytes:
    message = (
        f"This model's maximum context length is {context} tokens. However, you requested {prompt + answer} tokens "
        f"({prompt} in the messages, {answer} in the completion). Please reduce the length of the messages or "
        "completion."
    )
    return _error(message, type="invalid_request_error", param="messages", code="context_length_exceeded")


def _vllm(prompt: int, answer: int, context: int) -> bytes:
    if prompt >= context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your request has {prompt} "
            "input tokens. Please reduce the length of the input messages."
        )
    else:
        message = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {answer}. This model's maximum context length is "
            f"{context} tokens and your request has {prompt} input tokens ({answer} > {context} - {prompt})."
        )
    return _error(message, type="BadRequestError", param=None, code=STATUS)


def _llama_cpp(prompt: int, _answer: int, context: int) -> bytes:
    message = (
        f"request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it"
    )
    return _error(
        message, code=STATUS, type="exceed_context_size_error", n_prompt_tokens=prompt, n_ctx=context
    )


def _anthropic(prompt: int, answer: int, context: int) -> bytes:
    if prompt > context:
        return anthropic_error(STATUS, f"prompt is too long: {prompt} tokens > {context} maximum")
    return anthropic_error(
        STATUS,
        f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {context}, decrease input length "
        "or `max_tokens` and try again",
    )


def _silent(_prompt: int, _answer: int, _context: int) -> bytes:
    return _error("the prompt is too long", type="invalid_request_error", code="context_length_exceeded")


def _error(message: str, **fields: Any) -> bytes:
    return as_json({"error": {"message": message, **fields}})


_WORDS: Final[dict[ContextWords, Callable[[int, int, int], bytes]]] = {
    ContextWords.OPENAI: _openai,
    ContextWords.VLLM: _vllm,
    ContextWords.LLAMA_CPP: _llama_cpp,
    ContextWords.ANTHROPIC: _anthropic,
    ContextWords.SILENT: _silent,
}
