"""Text of any length, the same for the same seed and different at every position.

So a reader that loses, repeats or reorders a token ends up with another text.
"""

import random
import re
from collections.abc import Iterator
from typing import Final

_WORDS: Final = """
    a about above after again air all along also always an and another answer any are around as ask at
    away back be because been before began begin being below best better between big book both boy bring
    but by call came can change children city clear close cold come could country cut day did different
    do does done door down draw dry each early earth eat end enough even ever every eye face fall far
    farm fast father feel few field find fire first fish five fly follow food for form found four friend
    from full gave get girl give go gold good got great green ground group grow had half hand happy hard
    has have he head hear heard heart heat heavy help her here high hill him his hold home horse hot
    hour house how hundred idea if in inch into is island it just keep kind king knew know land language
    large last late laugh lay lead learn leave left less let letter life light like line list listen
    little live long look love low made make man many map mark may me mean might mile mind miss money
    moon more morning most mother mountain move much must my name near need never new next night no
    north nothing notice now number of off often old on once one only open or order other our out over
    own page paper part pass people perhaps place plain plan plant play point port press problem pull
    put question quick quiet rain ran reach read ready real red rest right river road rock room round
    rule run said same sand saw say school sea second see seem self sentence set seven several shape she
    ship short should show side simple since sing sit six sky sleep slow small snow so some song soon
    sound south space stand star start state stay step still stone stood stop story street strong study
    such summer sun sure table take talk teach tell ten than that the their them then there these they
    thing think this those though thought three through time to together told too took top toward town
    travel tree true try turn two under until up upon us usual very voice vowel wait walk want warm was
    watch water way we week weight well went were west what wheel when where which while white who whole
    why will wind winter with wonder wood word work world would write year yellow yes yet you young your
""".split()  # noqa: SIM905  # a list literal would be one word a line
_TOKEN: Final = re.compile(r"\s*\S+|\s+\Z")


def words(seed: int | str) -> Iterator[str]:
    """Yield tokens without end: a word each, with the space before it.

    Args:
        seed: The only thing that the text depends on.
    """
    rng = random.Random(seed)  # noqa: S311  # text, not secrets
    space = ""
    while True:
        sentence = rng.choices(_WORDS, k=rng.randrange(5, 15))
        yield space + sentence[0].capitalize()
        for word in sentence[1:-1]:
            yield " " + word
        yield f" {sentence[-1]}."
        space = "\n\n" if rng.random() < 0.1 else " "  # about ten sentences a paragraph


def tokens_of(text: str) -> list[str]:
    """Cut `text` into tokens: a word each, with the white space before it; joined, they are `text` again."""
    return _TOKEN.findall(text)
