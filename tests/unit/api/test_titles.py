import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.titles import title_from


def test_a_short_message_is_its_own_title_with_its_whitespace_collapsed():
    assert title_from("  What\n\n is\ta  turn? ") == "What is a turn?"


def test_a_long_message_is_cut_at_a_word_and_says_so():
    title = title_from("word " * 30)
    assert title == "word " * 15 + "word…"
    assert len(title) <= 80


def test_a_word_that_ends_at_the_limit_is_kept_whole():
    assert title_from("a" * 79 + " b") == "a" * 79 + "…"
    assert title_from("a" * 80) == "a" * 80


def test_one_endless_word_is_cut_where_the_room_ends():
    assert title_from("a" * 81) == "a" * 79 + "…"


@pytest.mark.parametrize("content", ["", " \n\t ", "\N{NO-BREAK SPACE}"])
def test_a_blank_message_makes_no_title(content):
    assert title_from(content) is None


@given(st.text(max_size=300))
def test_a_title_has_one_to_eighty_characters_and_no_double_space(content):
    title = title_from(content)
    if title is None:
        assert not content.strip()
    else:
        assert 1 <= len(title) <= 80
        assert "  " not in title
        assert title == title.strip()
