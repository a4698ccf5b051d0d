"""One organization cannot have all threads, and nobody waits while one is free and due."""

from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.up.thread_shares import ThreadShares


def test_one_organization_alone_gets_three_quarters():
    shares: ThreadShares[int] = ThreadShares(16, 1000)
    for job in range(100):
        assert shares.ask("greedy", job, 0.0)
    assert list(shares.start()) == list(range(12))
    assert shares.ask("modest", -1, 0.0)
    assert list(shares.start()) == [-1]


def test_organizations_take_turns():
    shares: ThreadShares[str] = ThreadShares(1, 1000)
    for tenant in ("a", "a", "a", "b"):
        shares.ask(tenant, tenant, 0.0)
    served = []
    for _ in range(4):
        (job,) = shares.start()
        served.append(job)
        shares.end(job)
    assert served == ["a", "b", "a", "a"]


def test_a_process_of_one_thread_serves():
    shares: ThreadShares[int] = ThreadShares(1, 1000)
    shares.ask("a", 1, 0.0)
    assert list(shares.start()) == [1]


def test_too_many_that_wait_are_refused_and_those_that_waited_too_long_are_given_up():
    shares: ThreadShares[int] = ThreadShares(1, 2)
    assert [shares.ask("a", job, float(job)) for job in range(3)] == [True, True, False]
    assert shares.ask("b", 9, 0.0)
    assert list(shares.give_up(0.5)) == [0, 9]
    assert list(shares.start()) == [1]


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200))
def test_whoever_holds_no_thread_gets_the_next_free_one_and_no_thread_is_lost(
    threads: int, steps: list[tuple[int, bool]]
):
    shares: ThreadShares[int] = ThreadShares(threads, 1000)
    running: list[int] = []
    waiting: list[int] = []
    for tenant, ends in steps:
        if ends and running:
            shares.end(running.pop(0))
        else:
            shares.ask(tenant, tenant, 0.0)
            waiting.append(tenant)
        for started in shares.start():
            waiting.remove(started)
            running.append(started)
        assert len(running) <= threads
        if len(running) < threads:
            assert all(tenant in running for tenant in waiting)
        if threads > 1 and len(set(running)) == 1:
            assert len(running) < threads
