"""What servers tell of their context when they refuse a prompt, each in its own words."""

from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from shared.configuration.provider_settings import ProviderName
from shared.errors import ContextTold, Fault
from worker.providers.context_told import context_told
from worker.providers.faults import error_in_stream, error_of_other_content, error_of_response
from worker.providers.registration import error_names_of
from worker.providers.said import Discretion, said_in

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSALS = [
    (
        "openai",
        (
            "This model's maximum context length is 8192 tokens. However, you requested 8207 tokens (4111 in the "
            "messages, "
            "4096 in the completion). Please reduce the length of the messages or completion."
        ),
        8192,
        4111,
    ),
    (
        "openai, without a limit",
        (
            "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens. "
            "Please "
            "reduce the length of the messages."
        ),
        4097,
        5000,
    ),
    (
        "vllm",
        (
            "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. Please "
            "reduce "
            "the length of the input messages."
        ),
        4096,
        5000,
    ),
    (
        "vllm, the limit",
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 "
            "tokens "
            "and your request has 12 input tokens (4096 > 4096 - 12)."
        ),
        4096,
        12,
    ),
    (
        "vllm, newer",
        (
            "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is "
            "only 4096 "
            "tokens, resulting in a maximum input length of 3996 tokens."
        ),
        4096,
        5000,
    ),
    (
        "vllm, at least",
        (
            "This model's maximum context length is 32768 tokens. However, you requested 4096 output tokens and your "
            "prompt "
            "contains at least 28673 input tokens, for a total of at least 32769 tokens."
        ),
        32768,
        28673,
    ),
    (
        "vllm, the decoder",
        (
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
            "`max_model_len` is no smaller than the number of text tokens."
        ),
        4096,
        5000,
    ),
    (
        "sglang",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        4096,
        5000,
    ),
    (
        "sglang, the sum",
        (
            "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
            "of 5000 "
            "tokens: 904 tokens from the input messages and 4096 tokens for the completion."
        ),
        4096,
        904,
    ),
    ("anthropic", "prompt is too long: 210000 tokens > 200000 maximum", 200_000, 210_000),
    (
        "anthropic, the limit",
        (
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
            "`max_tokens` and try again"
        ),
        200_000,
        188_240,
    ),
    (
        "text-generation-inference",
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens "
            "and 100 "
            "`max_new_tokens`"
        ),
        4096,
        5000,
    ),
    (
        "mistral",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        32_768,
        40_000,
    ),
    (
        "xai",
        "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
        131_072,
        150_000,
    ),
    (
        "openrouter",
        (
            "This endpoint's maximum context length is 131072 tokens. However, you requested about 200000 tokens "
            "(199000 of "
            "text input, 1000 in the output)."
        ),
        131_072,
        199_000,
    ),
    (
        "google",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        1_048_576,
        1_200_000,
    ),
    ("llama-cpp-python", "Requested tokens (2054) exceed context window of 2048", 2048, 2054),
    (
        "llama.cpp",
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        4096,
        5000,
    ),
    ("bedrock", "Input is too long for requested model.", None, None),
]


def refusal(message, status=400, name=ProviderName.OPENAI_COMPATIBLE, **fields):
    body = msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", **fields}})
    return error_of_response(status, httpx.Headers(), body, NOW, error_names_of(name), Discretion())


@pytest.mark.parametrize("name", ProviderName)
@pytest.mark.parametrize(
    ("message", "limit", "prompt"), [each[1:] for each in REFUSALS], ids=[each[0] for each in REFUSALS]
)
def test_a_refusal_for_length_is_known_by_its_words_and_its_figures_are_read(message, limit, prompt, name):
    error = refusal(message, name=name)
    assert error.fault is Fault.CONTEXT_TOO_LONG
    assert error.told == ContextTold(limit, prompt)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_it_is_known_without_a_type_that_is_known_and_with_any_status_of_a_request(status):
    assert refusal(REFUSALS[0][1], status, type=None).told == ContextTold(8192, 4111)


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_other_statuses_mean_what_they_say(status):
    error = refusal(REFUSALS[0][1], status)
    assert (error.fault is Fault.CONTEXT_TOO_LONG, error.told) == (False, None)


def test_a_body_that_is_too_large_is_a_matter_of_length_whoever_says_so():
    names = error_names_of(ProviderName.OPENAI_COMPATIBLE)
    error = error_of_response(413, httpx.Headers(), b"<html>nginx</html>", NOW, names, Discretion())
    assert (error.fault, error.told) == (Fault.PROVIDER_REJECTED, ContextTold())


def test_fields_are_read_before_words():
    told = context_told({"n_ctx": 4096, "n_prompt_tokens": 5000}, "maximum context length is 7 tokens")
    assert told == ContextTold(4096, 5000)


@pytest.mark.parametrize("wrong", [-1, 0, True, "4096", 4096.5, None, 10**12, [4096]])
def test_a_field_of_another_type_is_no_figure(wrong):
    assert context_told({"n_ctx": wrong, "n_prompt_tokens": wrong}, "") == ContextTold()


@pytest.mark.parametrize(
    "sentence", ["", "no", "maximum context length is many tokens", "9" * 400, "1 > " + "9" * 12]
)
def test_a_sentence_without_a_figure_tells_none(sentence):
    assert context_told(None, sentence) == ContextTold()


def test_an_error_within_a_stream_tells_the_same():
    error = {"message": REFUSALS[2][1], "type": "BadRequestError", "code": 400}
    names = error_names_of(ProviderName.OPENAI_COMPATIBLE)
    assert error_in_stream(error, names, Discretion()).told == ContextTold(4096, 5000)
    assert said_in(error)


def test_a_plain_rejection_tells_nothing():
    error = refusal("temperature must be between 0 and 2")
    assert (error.fault, error.told) == (Fault.PROVIDER_REJECTED, None)


@pytest.mark.parametrize(
    ("sentence", "fault", "limit"),
    [
        (
            (
                "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested "
                "41250. The input or output tokens must be reduced in order to run successfully."
            ),
            Fault.CONTEXT_TOO_LONG,
            30000,
        ),
        (
            (
                "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, "
                "Requested 1250. Please try again in 500ms."
            ),
            Fault.PROVIDER_RATE_LIMITED,
            None,
        ),
    ],
)
def test_a_request_that_is_larger_than_its_rate_is_too_long_and_a_rate_that_is_used_up_is_not(
    sentence, fault, limit
):
    body = msgspec.json.encode(
        {"error": {"message": sentence, "type": "tokens", "code": "rate_limit_exceeded"}}
    )
    names = error_names_of(ProviderName.OPENAI_COMPATIBLE)
    error = error_of_response(429, httpx.Headers(), body, NOW, names, Discretion())
    assert error.fault is fault
    assert (error.told.limit if error.told else None) == limit


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": "context_length_exceeded", "message": "too long"}, Fault.CONTEXT_TOO_LONG),
        ({"type": "invalid_request_error", "message": "filtered"}, Fault.PROVIDER_REJECTED),
        ({"type": "server_error", "message": "down"}, Fault.PROVIDER_PROTOCOL),
        ({"code": "nobody_knows_it", "message": "?"}, Fault.PROVIDER_PROTOCOL),
    ],
)
def test_a_refusal_with_a_status_of_success_is_a_refusal_and_not_repeated(error, fault):
    body = msgspec.json.encode({"error": error})
    told = error_of_other_content(body, error_names_of(ProviderName.OPENAI_COMPATIBLE), Discretion())
    assert (told.fault, told.may_repeat) == (fault, False)
