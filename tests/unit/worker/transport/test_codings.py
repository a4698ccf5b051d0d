"""What a `Content-Encoding` says of the body."""

import pytest

from worker.transport.codings import is_encoded


@pytest.mark.parametrize(
    "header", ["", "identity", "none", "None", " identity , none ", ",", "UTF-8", "null", "8bit"]
)
def test_what_names_no_coding_encodes_nothing(header):
    assert not is_encoded(header)


@pytest.mark.parametrize(
    "header", ["gzip", "br", "identity, gzip", "gzip,", "x-made-up", "none gzip", "aws-chunked"]
)
def test_every_other_word_is_a_coding(header):
    assert is_encoded(header)
