"""How many streams there may be for whom."""

from uuid import UUID

import pytest

from api.caller import Caller, reader_name
from api.relay.places import (
    ORGANIZATION_SHARE,
    USER_SHARE,
    Places,
    Reader,
    StreamLimits,
    address_of,
    share_of,
)


def reader(address, *, organization=1, key=1):
    return Reader(Caller(UUID(int=organization), UUID(int=key), "service", None, None), address)


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),  # the same client at a socket for both
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("", ""),
        (None, ""),
        ("/run/turnkeeper.sock", ""),
    ],
)
def test_a_client_is_counted_by_what_it_cannot_choose(peer, counted):
    assert address_of(peer) == counted


def test_an_address_has_so_many_streams_whatever_its_keys():
    places = Places(StreamLimits(most_sockets_per_address=2))
    for key in (1, 2):
        assert places.take_if_free(reader("203.0.113.7", organization=key, key=key))
    assert not places.has_room(reader("203.0.113.7", organization=3, key=3))
    assert places.has_room(reader("203.0.113.8"))
    assert places.has_room(reader(""))  # a socket of the same machine
    places.give_back(reader("203.0.113.7"))
    assert places.has_room(reader("203.0.113.7", organization=3, key=3))


def test_without_a_limit_addresses_are_not_counted_against_anyone():
    places = Places(StreamLimits())
    for _ in range(50):
        assert places.take_if_free(reader("203.0.113.7"))
    assert places.has_room(reader("203.0.113.7"))


def of_user(user=None, *, reads_for=None, key=1):
    reads_for = reads_for and reader_name(reads_for)
    return Reader(Caller(UUID(int=1), UUID(int=key), "user", user, None, reads_for=reads_for))


def test_a_user_has_so_many_places_whatever_its_keys_and_tickets():
    places = Places(StreamLimits(most_sockets_per_user=2))
    assert places.take_if_free(of_user("alice"))
    assert places.take_if_free(of_user(reads_for="alice", key=2))
    assert not places.take_if_free(of_user("alice", key=3))
    assert not places.take_if_free(of_user(reads_for="alice", key=4))
    assert places.take_if_free(of_user("bob", key=5))
    assert places.take_if_free(of_user(key=6))  # a back end reads for all
    places.give_back(of_user("alice"))
    assert places.take_if_free(of_user("alice", key=3))


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100, 20_000])
def test_no_organization_can_take_all_places_and_no_user_all_of_its_organizations(most):
    of_organization = share_of(most, ORGANIZATION_SHARE)
    of_user = share_of(of_organization, USER_SHARE)
    assert 1 <= of_user <= of_organization <= most
    assert of_organization < most or most == 1
    assert of_user < of_organization or of_organization == 1


def test_the_whole_is_a_limit_too():
    places = Places(StreamLimits(most_sockets=2))
    for number in (1, 2):
        assert places.take_if_free(reader("", organization=number, key=number))
    assert not places.take_if_free(reader("", organization=3, key=3))


def test_what_left_is_forgotten():
    places = Places(StreamLimits())
    for number in range(100):
        assert places.take_if_free(reader(f"203.0.113.{number}", organization=number, key=number))
    for number in range(100):
        places.give_back(reader(f"203.0.113.{number}", organization=number, key=number))
    assert places.callers() == []
    assert not any((places._per_key, places._per_organization, places._per_address, places._per_user))
