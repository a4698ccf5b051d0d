"""One list says which refusals mean "not a server for me", whichever client reads them."""

import pytest
from redis._parsers.base import BaseParser

from shared.redis.refusals import Refusal, refusal_in, refusal_of, word_of
from tests.redis_refusals import FULL, OTHERS, REFUSALS


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refusal_says_that_the_server_does_not_serve(reply):
    assert refusal_in(reply) is Refusal.NOT_SERVING
    assert refusal_of(BaseParser.parse_error(reply)) is Refusal.NOT_SERVING


def test_a_full_server_is_full_and_serves():
    assert refusal_in(FULL) is Refusal.FULL
    assert refusal_of(BaseParser.parse_error(FULL)) is Refusal.FULL


@pytest.mark.parametrize("reply", OTHERS)
def test_an_error_about_the_command_says_nothing_of_the_server(reply):
    assert refusal_in(reply) is None
    assert refusal_of(BaseParser.parse_error(reply)) is None


@pytest.mark.parametrize("reply", [*REFUSALS, FULL, *OTHERS])
def test_only_the_first_word_of_a_refusal_is_logged(reply):
    word = word_of(BaseParser.parse_error(reply))
    assert " " not in word
    assert word in reply or word.endswith("Error")
