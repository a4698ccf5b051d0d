"""Several subscriptions on one socket never disturb each other, whatever is between them (I4)."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.api.relay.played_relay import SOCKETS, TURNS, play

numbers = st.integers(0, len(TURNS) - 1)
sockets = st.integers(0, SOCKETS - 1)
fates = st.sampled_from(["arrives", "arrives", "arrives", "lost", "twice", "late"])
subscriptions = st.tuples(
    st.just("subscribe"),
    sockets,
    numbers | st.none(),
    st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    st.sampled_from([False, False, True]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), numbers, st.lists(fates, min_size=1, max_size=5)),
        st.tuples(st.just("emit"), numbers, st.lists(fates, min_size=1, max_size=5)),
        subscriptions,
        subscriptions,
        st.tuples(st.just("run"), st.integers(1, 12)),
        st.tuples(st.just("run"), st.integers(1, 12)),
        st.tuples(st.just("rest"), st.sampled_from([0.1, 1.0, 5.0])),
        st.tuples(st.just("end"), numbers, st.booleans()),
        st.tuples(st.just("forget"), numbers),
        st.tuples(st.just("unsubscribe"), sockets),
        st.tuples(st.just("reconnect"), sockets),
        st.tuples(st.just("lose")),
        st.tuples(st.just("come_back")),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 16), steps=steps)
def test_each_event_of_each_turn_is_sent_once_and_in_order_whatever_else_a_socket_subscribes(seed, steps):
    play(seed, steps)


def test_a_second_subscription_leaves_the_replay_of_the_first_alone():
    """While turn A is still replayed, B and C of the same session are subscribed: A is not sent again."""
    arrives = ["arrives"] * 5
    opening = [("emit", number, arrives) for number in range(3)]
    for between in range(8):
        for seed in range(10):
            asked = [("subscribe", 0, 0, 0.0, False), ("run", between), ("subscribe", 0, 1, 0.0, False)]
            more = [("emit", 0, arrives), ("subscribe", 0, 2, 0.0, False), ("emit", 0, arrives), ("run", 3)]
            play(seed, [*opening, *asked, *more])


def test_a_reader_of_the_whole_session_gets_a_turn_that_another_reader_asked_for_by_name():
    begun = [("emit", 0, ["lost"] * 3)]
    live = [("subscribe", 0, None, 0.0, False), ("run", 12), ("run", 12)]
    other = [("emit", 1, ["lost"] * 3), ("subscribe", 1, 1, 0.0, False), ("run", 12), ("run", 12)]
    play(1, [*live, *begun, *other, ("emit", 1, ["arrives"])])
