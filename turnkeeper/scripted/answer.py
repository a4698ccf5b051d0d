"""The text of an answer, token by token: generated words, prose or the script's own, and awkward deltas."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from turnkeeper.scripted.ask import Ask
from turnkeeper.scripted.prose import reply
from turnkeeper.scripted.script import Script
from turnkeeper.scripted.wire import Delta, Tally
from turnkeeper.scripted.words import tokens_of, words

_STAMP: Final = re.compile("⟦\\d+⟧")
_DEFAULT_TOKENS: Final = 64


def answer_tokens(ask: Ask, script: Script, directed: bool) -> Iterator[Delta]:
    """Yield the answer one token at a time, without the part that the request already contains.

    Args:
        ask: The request.
        script: How to answer.
        directed: Whether the request itself had directives; one without them is answered in prose.
    """
    if script.empty:
        return
    seed = ask.conversation if script.seed is None else script.seed
    prefix = _STAMP.sub("", ask.prefix)
    if not prefix:
        for text in islice(words(f"{seed} reasoning"), script.reasoning):
            yield Delta(text, 1, reasoning=True)
    specials = _specials(script)
    position = -1
    for position, text in enumerate(_without(prefix, _content(ask, script, seed, directed))):
        yield Delta(text, 1, reasoning=False)
        if position == 0:
            yield from specials
    if position < 0 and not prefix:
        yield from specials


def _content(ask: Ask, script: Script, seed: int | str, directed: bool) -> Iterator[str]:
    if script.endless:
        return words(seed)
    if script.text is not None:
        return iter(tokens_of(script.text))
    if script.tokens is not None or directed:
        return islice(words(seed), _DEFAULT_TOKENS if script.tokens is None else script.tokens)
    return iter(tokens_of(reply(ask.question)))


def _without(prefix: str, tokens: Iterator[str]) -> Iterator[str]:
    """Drop `prefix` from the text; a text that does not start with it is yielded in full."""
    dropped: list[str] = []
    left = prefix
    for token in tokens:
        if not left:
            yield token
        elif left.startswith(token):
            dropped.append(token)
            left = left[len(token) :]
        elif token.startswith(left):
            yield token[len(left) :]
            left = ""
        else:
            yield from dropped
            yield token
            left = ""


def _specials(script: Script) -> list[Delta]:
    """Return the awkward deltas for which a script asks."""
    deltas: list[Delta] = []
    if script.split_surrogates:
        deltas += [Delta(" \ud83d", 1, reasoning=False), Delta("\ude00", 1, reasoning=False)]
    if script.lone_surrogate:
        deltas.append(Delta(" \ud83d half", 1, reasoning=False))
    if script.nul:
        deltas.append(Delta(" nul\0l", 1, reasoning=False))
    if script.u2028:
        deltas.append(Delta(" line\u2028paragraph\u2029next\u0085end", 1, reasoning=False))
    if script.bad_utf8:
        deltas.append(Delta(" bad\ufffdbyte", 1, reasoning=False, raw=b'" bad\xffbyte"'))
    return deltas


def limited(tokens: Iterator[Delta], limit: int | None, tally: Tally) -> Iterator[Delta]:
    """Yield at most `limit` tokens, and note if there were more."""
    if limit is None:
        yield from tokens
        return
    yield from islice(tokens, limit)
    tally.cut_short = next(tokens, None) is not None


def grouped(tokens: Iterator[Delta], size: int, stops: list[int]) -> Iterator[Delta]:
    """Join tokens into deltas of `size`, never across a fault, a kind or an awkward delta."""
    if size == 1:
        yield from tokens
        return
    group: list[Delta] = []
    for said, token in enumerate(tokens):
        apart = bool(group) and (group[0].reasoning is not token.reasoning or token.raw or group[0].raw)
        if group and (apart or len(group) == size or said in stops):
            yield _joined(group)
            group = []
        group.append(token)
    if group:
        yield _joined(group)


def _joined(group: list[Delta]) -> Delta:
    if len(group) == 1:
        return group[0]
    return Delta("".join(token.text for token in group), len(group), group[0].reasoning)
