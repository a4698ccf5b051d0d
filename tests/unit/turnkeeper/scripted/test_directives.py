import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.scripted.directives import (
    DirectiveError,
    describe,
    directives_from,
    directives_in,
    directives_of_model,
    script_of,
)
from turnkeeper.scripted.script import Finish, Gzip, Script, UsageMode


def test_a_message_without_directives_sets_nothing():
    assert directives_in("What is [a turn](x)? See [[wiki link]] and user@script.example") == {}


def test_the_compact_form_is_read_anywhere_in_a_message():
    read = directives_in('Tell me [[tokens=20 rate=50.5 text="a b" stamp=1]] more')
    assert read == {"tokens": 20, "rate": 50.5, "text": "a b", "stamp": True}


@pytest.mark.parametrize(
    "message", ['@script {"cut": 3}\nhello', 'hello\n@script {"cut": 3}', '@script {"cut":3}']
)
def test_a_first_or_last_line_of_json_is_read(message):
    assert directives_in(message) == {"cut": 3}


def test_a_line_of_json_in_the_middle_is_text():
    assert directives_in('hello\n@script {"cut": 3}\nbye') == {}


def test_brackets_inside_a_line_of_json_are_its_text():
    assert directives_in('@script {"text": "[[tokens=3]]"}') == {"text": "[[tokens=3]]"}


def test_only_the_last_directives_of_a_joined_history_count():
    assert directives_in("old [[hang=5]]\n\nnew [[tokens=3]]") == {"tokens": 3}
    assert directives_in('@script {"hang": 5}\n\nnew [[tokens=3]]') == {"tokens": 3}


def test_a_model_name_carries_directives():
    assert directives_of_model("scripted:tokens=5,usage=none") == {"tokens": 5, "usage": UsageMode.NONE}
    assert directives_of_model("gpt-x") == {}
    assert directives_of_model("scripted") == {}


def test_a_default_is_json_or_words():
    assert directives_from('{"finish": "length", "cached": 4}') == {"finish": Finish.LENGTH, "cached": 4}
    assert directives_from("gzip=bomb eof=2") == {"gzip": Gzip.BOMB, "eof": 2}


def test_the_message_wins_over_the_model_and_the_model_over_the_default():
    script = script_of({"tokens": 1}, {"tokens": 2, "rate": 2.0}, {"tokens": 3, "rate": 3.0, "cut": 3})
    assert (script.tokens, script.rate, script.cut) == (1, 2.0, 3)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("nonsense=1", "nonsense"),
        ("tokens=many", "tokens"),
        ("tokens=-1", "tokens"),
        ("status=200", "status"),
        ("rate=nan", "rate"),
        ("rate=inf", "rate"),
        ("usage=maybe", "usage"),
        ("stamp=perhaps", "stamp"),
        ("tokens=1 word", "word"),
        ('text="open', "text"),
    ],
)
def test_a_bad_directive_is_refused_by_its_name(written, named):
    with pytest.raises(DirectiveError, match=named):
        directives_in(f"[[{written}]]")


@pytest.mark.parametrize("written", ["{", "[1]", '{"tokens": 1.5}', '{"text": 3}', '{"tokens": [1]}', "5"])
def test_a_bad_json_script_is_refused(written):
    with pytest.raises(DirectiveError):
        directives_in(f"@script {written}")


@given(st.text())
def test_no_message_breaks_the_reader(message):
    for text in (message, f"[[{message}]]", f"@script {message}", f"[[text={message}]]"):
        try:
            read = directives_in(text)
        except DirectiveError:
            continue
        assert set(read) <= {field.name for field in dataclasses.fields(Script)}


def test_a_healed_script_keeps_its_answer_and_pace_and_loses_every_fault():
    broken = script_of(
        directives_from(
            "tokens=9 rate=5 reasoning=2 fail_times=1 cut=3 eof=1 fin=1 hang=2 status=500 garbage=1 html=1"
        )
    )
    assert broken.healed() == script_of({"tokens": 9, "rate": 5.0, "reasoning": 2, "fail_times": 1})


def test_every_directive_is_described_once_with_a_meaning():
    described = list(describe())
    assert [row[1] for row in described] == [field.name for field in dataclasses.fields(Script)]
    assert all(kind and meaning for _, _, kind, _, meaning in described)
