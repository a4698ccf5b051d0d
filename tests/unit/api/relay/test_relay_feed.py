"""The positions of readers in a turn."""

from uuid import UUID

import pytest

from api.relay.feed import Feed
from shared.turn.replay import Position, Turn


@pytest.mark.parametrize(
    ("position", "is_reached"),
    [
        (Position(7, 2), True),
        (Position(7, 0), True),  # what the api told belongs to no attempt
        (Position(7, None), True),
        (Position(6, 2), False),
        (Position(7, 1), False),  # a dead worker's event, which came late
    ],
)
def test_a_reader_joins_where_it_has_what_the_others_have(position, is_reached):
    feed = Feed(Turn(UUID(int=1), UUID(int=2)), now=0.0)
    feed.move(Position(7, 2))
    assert feed.is_reached_by(position) is is_reached
