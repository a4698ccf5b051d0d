"""The table of a turn's life."""

from shared.turn.turns import ACTIVE, TERMINAL, TRANSITIONS, Signal, TurnStatus, sources_into, sources_of


def test_the_terminal_statuses_are_the_four_of_the_protocol():
    # Written out by hand: derived from the table, this would prove nothing.
    assert sorted(TERMINAL) == ["completed", "expired", "failed", "stopped"]
    assert sorted(ACTIVE) == ["queued", "running", "stopping"]


def test_nothing_leaves_a_terminal_status():
    assert not {source for source, _ in TRANSITIONS} & TERMINAL


def test_every_status_can_be_reached_and_left_towards_an_end():
    reachable = {TurnStatus.QUEUED}
    while True:
        further = {target for (source, _), target in TRANSITIONS.items() if source in reachable}
        if further <= reachable:
            break
        reachable |= further
    assert reachable == set(TurnStatus)
    for status in ACTIVE:
        assert {target for (source, _), target in TRANSITIONS.items() if source is status}


def test_a_stop_ends_a_queued_turn_and_asks_a_running_one():
    assert sources_into(Signal.STOP, TurnStatus.STOPPED) == {TurnStatus.QUEUED}
    assert sources_into(Signal.STOP, TurnStatus.STOPPING) == {TurnStatus.RUNNING, TurnStatus.STOPPING}


def test_only_waiting_turns_expire():
    assert sources_of(Signal.EXPIRE) == {TurnStatus.QUEUED}
