"""Which processes are run, and what they see."""

from pathlib import Path

from turnkeeper.up.formation import Addresses, child_environ, scripted_provider, servings, workers
from turnkeeper.up.front import Kind

ADDRESSES = Addresses("postgresql://app", "postgresql://owner", "redis://here", "http://127.0.0.1:7/v1")


def test_the_processes_never_see_the_owners_login():
    environ = child_environ({"DATABASE_OWNER_URL": "postgresql://owner", "KEPT": "1"}, ADDRESSES)
    assert environ["DATABASE_URL"] == "postgresql://app"
    assert environ["KEPT"] == "1"
    assert "postgresql://owner" not in environ.values()


def test_each_serving_process_has_a_socket_and_a_name_of_its_own():
    parts = list(servings(Kind.RELAY, 3, Path("/run/here")))
    assert [part.name for part in parts] == ["relay-1", "relay-2", "relay-3"]
    assert len({part.pid_file for part in parts}) == 3
    assert parts[1].command[:3] == (Kind.RELAY, "--handoff", "/run/here/relay-2.sock")


def test_a_worker_has_longer_than_its_drain_to_end():
    (part,) = workers(1, 25)
    assert part.grace_seconds > 25


def test_a_scripted_provider_that_runs_elsewhere_is_not_run_again():
    assert [part.command[-1] for part in scripted_provider({}, ADDRESSES)] == ["7"]
    assert list(scripted_provider({"SCRIPTED_BASE_URL": "http://there/v1"}, ADDRESSES)) == []
    assert list(scripted_provider({}, Addresses("", "", "", ""))) == []


def test_no_url_shows_in_a_repr():
    assert "postgresql" not in repr(ADDRESSES)
