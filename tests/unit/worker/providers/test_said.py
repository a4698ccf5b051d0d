"""What may be repeated of a provider's error."""

from hypothesis import given
from hypothesis import strategies as st

from shared.turn.turns import Role
from worker.providers.provider import Prompt, text_message
from worker.providers.said import MAX_SAID, Discretion, said_in

QUESTION = "my landlord at 12 Baker Street wants the rent in cash, is that legal?"
KEY = "key-of-the-operator"


def discretion(*texts: str, system: str | None = None) -> Discretion:
    prompt = Prompt(tuple(text_message(Role.USER, text) for text in texts), system, 1)
    return Discretion((KEY,), prompt)


def test_the_sentence_of_a_server_is_kept():
    error = {
        "message": "max_tokens is too large: 9000",
        "type": "invalid_request_error",
        "param": "max_tokens",
    }
    assert discretion(QUESTION)(error) == "invalid_request_error max_tokens: max_tokens is too large: 9000"


def test_what_repeats_the_question_is_masked_to_whole_words():
    said = discretion(QUESTION)({"message": f"flagged: {QUESTION[5:40]}. See the policy."})
    assert said == "flagged: ***. See the policy."


def test_a_short_question_is_masked_where_it_is_quoted():
    assert (
        discretion("HIV")({"message": "the input 'HIV' is not allowed"}) == "the input '***' is not allowed"
    )


def test_the_system_prompt_is_masked_as_well():
    system = "You are the assistant of Example Bank and never name rates."
    assert "Example Bank" not in discretion("hi", system=system)(
        {"message": f"rejected instructions: {system}"}
    )


def test_the_operators_key_is_masked_wherever_it_stands():
    assert KEY not in discretion("hi")({"message": f"invalid key {KEY}", "code": KEY, "type": f"x{KEY}x"})


def test_line_ends_that_separate_a_repetition_hide_nothing():
    said = discretion("first line of a secret\nsecond line of a secret")(
        {"message": "no:  first line of a secret second   line of a secret"}
    )
    assert said == "no: ***"


def test_an_ordinary_sentence_survives_a_long_prompt():
    words = (
        "the maximum length of this model is what you asked about; tokens are counted by the context " * 400
    )
    said = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    assert discretion(words)({"message": said}) == said


@given(st.text(min_size=24, max_size=200), st.text(max_size=30), st.text(max_size=30))
def test_no_long_repetition_passes(secret, before, after):
    said = discretion(secret)({"message": before + secret + after})
    kept = " ".join(secret.split())
    longest = max(
        (len(kept[start : start + 23]) for start in range(len(kept)) if kept[start : start + 23] in said),
        default=0,
    )
    assert longest < 23


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.booleans() | st.floats(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["error", "message", "type", "code", "detail", "metadata", "x"]), inner
            )
        ),
        max_leaves=30,
    )
)
def test_any_error_is_one_printable_line_of_bounded_length(error):
    said = discretion(QUESTION)(error)
    assert len(said) <= MAX_SAID
    assert said.isprintable()
    said.encode()


@given(st.binary(max_size=300))
def test_any_body_is_readable(body):
    said_in(body).encode()


def test_a_name_that_repeats_the_prompt_is_left_out():
    error = {"type": "HIV", "code": "HIV", "param": "messages", "message": "not allowed"}
    assert discretion("what is HIV?")(error) == "messages: not allowed"
