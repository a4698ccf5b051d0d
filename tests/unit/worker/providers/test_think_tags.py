"""Thinking between tags, however the answer is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turn.turns import FinishReason
from worker.providers.provider import ContentDelta, ReasoningDelta
from worker.providers.think_tags import TaggedReading, TagSplitter

PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<thinking>", "<", "th", "ink>", "a", " ", "\n", "</", "<b>", "é"]
    ),
    max_size=12,
)


def split(pieces):
    """Return the text and the thinking."""
    tags = TagSplitter()
    told = [each for piece in pieces for each in tags.feed(piece)] + list(tags.flush())
    assert all(text for _, text in told)
    return tuple("".join(text for is_thinking, text in told if is_thinking is kind) for kind in (False, True))


@pytest.mark.parametrize(
    ("answer", "text", "thinking"),
    [
        ("<think>hm</think>yes", "yes", "hm"),
        ("  \n<think>hm</think>\n\nyes\n", "yes\n", "hm"),
        ("  no tag", "  no tag", ""),
        ("<think></think>yes", "yes", ""),
        ("<think>a</think><think>b</think>yes", "yes", "ab"),
        ("a <think>hm</think> b", "a  b", "hm"),
        ("<think>never closed", "", "never closed"),
        ("<think>never closed</thi", "", "never closed</thi"),
        ("<thinking>a</think>b</thinking>c", "c", "a</think>b"),
        ("a < b and <thin", "a < b and <thin", ""),
        ("</think>yes", "</think>yes", ""),
        ("<THINK>shouted", "<THINK>shouted", ""),
        ("", "", ""),
    ],
)
def test_what_stands_between_tags_is_thinking(answer, text, thinking):
    assert split([answer]) == (text, thinking)
    assert split(list(answer)) == (text, thinking)


@given(PIECES, st.data())
def test_every_chunking_gives_the_same_text_and_thinking(pieces, data):
    answer = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    parts = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert split(parts) == split([answer])


@given(st.lists(st.sampled_from(["<", "a", "b>", "</", " x", "thin", "\n"]), max_size=10))
def test_a_text_without_a_tag_is_kept_to_the_letter(pieces):
    answer = "".join(pieces)
    if "<think>" not in answer and answer.strip():
        assert split(pieces) == (answer, "")


def test_what_waited_for_a_tag_is_there_before_the_end():
    reading = TaggedReading(1000)
    reading.say("yes <thi")
    reading.finish(FinishReason.STOP, None)
    *deltas, _ = reading.take()
    assert [item for item in deltas if isinstance(item, ContentDelta | ReasoningDelta)] == [
        ContentDelta("yes "),
        ContentDelta("<thi"),
    ]
