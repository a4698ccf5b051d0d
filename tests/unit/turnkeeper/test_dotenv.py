"""The `.env` file."""

import pytest

from shared.errors import SettingsError
from turnkeeper.dotenv import parse_dotenv, read_dotenv


def test_assignments_quotes_and_comments_are_read_as_people_write_them():
    text = """
    # a comment
    PLAIN=one two
    export EXPORTED=yes
    DOUBLE="with # and 'quotes'"
    SINGLE='$NOT expanded'
    TRAILING=value # why
    HASH=a#b
    EMPTY=
    SPACED = around
    """
    assert parse_dotenv(text) == {
        "PLAIN": "one two",
        "EXPORTED": "yes",
        "DOUBLE": "with # and 'quotes'",
        "SINGLE": "$NOT expanded",
        "TRAILING": "value",
        "HASH": "a#b",
        "EMPTY": "",
        "SPACED": "around",
    }


def test_every_bad_line_is_named_and_none_is_repeated():
    with pytest.raises(SettingsError) as refused:
        parse_dotenv("sk-secret\nGOOD=1\n2BAD=secret\n")
    assert len(refused.value.problems) == 2
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_file_of_any_editor_is_read(tmp_path, mark, end):
    lines = [b"A=1", b'B="two"', b"# c", b"C=x\xe2\x80\xa8y", b"D=4"]
    (tmp_path / ".env").write_bytes(mark + end.join(lines))
    assert read_dotenv(tmp_path / ".env") == {"A": "1", "B": "two", "C": "x\u2028y", "D": "4"}


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_refused_in_words(tmp_path, coding):
    mark = "" if coding == "utf-16" else "\ufeff"
    (tmp_path / ".env").write_bytes(f"{mark}A=1\n".encode(coding))
    with pytest.raises(SettingsError, match="save it as UTF-8"):
        read_dotenv(tmp_path / ".env")


def test_a_file_in_utf_16_without_a_mark_is_refused_in_words(tmp_path):
    (tmp_path / ".env").write_bytes("A=1\n".encode("utf-16-le"))
    with pytest.raises(SettingsError, match="save it as UTF-8"):
        read_dotenv(tmp_path / ".env")


@pytest.mark.parametrize("line", ['A="one', "A='one", 'A="one" two', "A='one\"", 'A="'])
def test_quotes_that_do_not_match_are_refused_rather_than_taken_into_the_value(line):
    with pytest.raises(SettingsError, match="line 1 has a quote"):
        parse_dotenv(line)


@pytest.mark.parametrize("line", ["A=it's", "A= one\t ", "export A = 'one'  ", 'A="one" # two', 'A={"b": 1}'])
def test_spaces_and_inner_quotes_are_no_matter(line):
    assert list(parse_dotenv(line)) == ["A"]


def test_a_missing_file_says_nothing(tmp_path):
    assert read_dotenv(tmp_path / ".env") == {}


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    with pytest.raises(SettingsError):
        read_dotenv(tmp_path / ".env")
