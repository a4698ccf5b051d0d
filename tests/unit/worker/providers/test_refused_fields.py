"""What a refusal says about a request's fields, and what it only repeats."""

import json

import pytest

from worker.providers.refused_fields import Refusal


def refusal(body, question="what is the sea?"):
    return Refusal(body if isinstance(body, bytes) else json.dumps(body).encode(), question)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unsupported parameter: 'max_tokens'"}},
        {"error": {"message": "no", "param": "max_tokens"}},
        {"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]},
        {"detail": "Unknown field: max_tokens"},
        {"errors": {"max_tokens": ["unknown"]}},
        b"max_tokens: unknown field",
        b'{"detail": "max_tokens is not known" and then it was cut',
    ],
)
def test_a_field_is_named_in_words_or_by_the_servers_own_structure(body):
    assert refusal(body).names("max_tokens")
    assert not refusal(body).names("stream_options")


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"loc": ["body", "user"], "input": {"max_tokens": 1}}]},
        {"error": {"message": "max_completion_tokens is unknown, my_max_tokens too"}},
        {"error": {"message": "no"}},
        b"",
        b"\xff",
        b"[" * 9000,
    ],
)
def test_a_field_that_is_repeated_or_part_of_another_name_is_not_named(body):
    assert not refusal(body).names("max_tokens")


def test_a_question_that_is_quoted_changes_nothing_and_the_servers_structure_does():
    quoting = {"error": {"message": "flagged: 'is max_tokens unsupported?'"}}
    assert not refusal(quoting, "is max_tokens unsupported?").names("max_tokens")
    structured = {"error": {"message": "unsupported", "param": "max_tokens"}}
    assert refusal(structured, "is max_tokens unsupported?").names("max_tokens")


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 900",
        "max_tokens must be at least 1",
        "This model's maximum context length is 4096 tokens, you requested 5000 with max_tokens",
        "max_tokens: 128000 > 64000, which exceeds what is allowed",
    ],
)
def test_a_complaint_of_the_value_is_told_apart(message):
    assert refusal({"error": {"message": message}}).is_about_a_value()
