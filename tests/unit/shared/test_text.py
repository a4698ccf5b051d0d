"""Text hygiene: what a model may emit and no database would take."""

from hypothesis import given
from hypothesis import strategies as st

from shared.text import TextCleaner, clean


def test_nul_is_dropped_because_postgresql_refuses_it():
    assert clean("a\0b") == "ab"


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert clean("a\ud800b") == "a\ufffdb"


def test_a_character_split_over_two_deltas_is_joined():
    cleaner = TextCleaner()
    assert cleaner.feed("a\ud83d") + cleaner.feed("\ude00b") + cleaner.flush() == "a\N{GRINNING FACE}b"


def test_a_half_that_never_gets_its_other_half_is_replaced_at_the_end():
    cleaner = TextCleaner()
    assert cleaner.feed("a\ud83d") + cleaner.flush() == "a\ufffd"


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=30), st.data())
def test_pieces_give_the_same_text_however_it_is_cut(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    cleaner = TextCleaner()
    assert "".join(map(cleaner.feed, pieces)) + cleaner.flush() == clean(text)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=30))
def test_what_comes_out_can_be_stored(text):
    assert "\0" not in clean(text)
    clean(text).encode()
