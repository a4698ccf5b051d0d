"""What PostgreSQL refuses a statement, as the service sees it: an outage whose cause says why."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import ProgrammingError

from shared.errors import NotServingError


@contextmanager
def refused(words: str) -> Iterator[None]:
    """Expect that rights or policies refuse what happens here, in these words."""
    with pytest.raises(NotServingError) as raised:
        yield
    cause = raised.value.__cause__
    assert isinstance(cause, ProgrammingError)
    assert re.search(words, str(cause)), cause
