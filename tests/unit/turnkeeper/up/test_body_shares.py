"""How the memory of requests is shared."""

from turnkeeper.up.body_shares import BodyShares


def test_one_alone_takes_three_quarters_and_another_has_room():
    shares = BodyShares(100)
    assert [shares.take("a", 25) for _ in range(4)] == [True, True, True, False]
    assert shares.take("b", 10)
    shares.give_back("a", 25)
    assert not shares.take("a", 50)
    assert shares.take("a", 10)


def test_all_comes_back():
    shares = BodyShares(100)
    for _ in range(50):
        assert shares.take("a", 70)
        shares.give_back("a", 70)
