"""A conversation outlives what a provider refuses in it (rows V15 to V17 of the fault matrix)."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from shared.postgres.accounts import create_key, create_organization
from tests.e2e.protocol_client import Api, wait_until
from tests.faults.world import END_SECONDS, World, kill

CONTEXT = 700
"""What the model takes, as the scripted provider counts: far less than the default of `CONTEXT_TOKENS`."""
OUTPUT = 50
LONG = "A long question has very many words, all of them said before. " * 15
WORKERS = 2
WORDS = ("openai", "vllm", "llama.cpp", "silent")


class Talk:
    """A session of an organization of its own, about which no worker has learned anything yet.

    Each question has a marker, by which the provider's record of it is found.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        owner_url = world.postgres.owner_url
        organization = create_organization(owner_url, f"talk-{uuid.uuid4()}")
        self.api = Api(world.api.url, create_key(owner_url, organization, "service"))
        self.session = self.api.session(user="alice")

    def ask(self, content: str, **fields: object) -> tuple[dict, list[dict]]:
        """Run a turn; return it, and the requests that its worker sent."""
        marker = uuid.uuid4().hex
        turn = self.api.ask(f"{content} {marker}", self.session, max_output_tokens=OUTPUT, **fields)
        # Later requests repeat the question; these are those by now.
        return turn, self.world.oracle.records(marker)

    def messages(self) -> list[dict]:
        return self.api.expect(200, "GET", f"/v1/sessions/{self.session}/messages?limit=100")["data"]

    def events(self, turn: dict) -> list[dict]:
        return self.api.expect(200, "GET", f"/v1/turns/{turn['id']}/events")["data"]


@pytest.fixture
def talk(world: World) -> Iterator[Talk]:
    begun = Talk(world)
    yield begun
    begun.api.close()


other_talk = talk


def prompt_of(record: dict) -> str:
    return "\n".join(message["content"] for message in record["messages"])


def test_v15_a_question_that_is_refused_fails_no_later_one_and_is_shown_as_left_out(talk: Talk, world: World):
    with world.oracle.scripted(refuses="poison", text="fine"):
        assert talk.ask("Hello")[0]["status"] == "completed"
        for _ in range(2):
            refused, requests = talk.ask("poison")
            assert (refused["error"]["code"], len(requests)) == ("provider_rejected", 1)
            assert (refused["cost_usd"], refused["error"]["retryable"]) == ("0.000000", False)
        turn, (request,) = talk.ask("Hi")
    assert turn["status"] == "completed"
    assert "poison" not in prompt_of(request)
    assert len(request["messages"]) == 3
    shown = [message["in_conversation"] for message in talk.messages()]
    assert shown == [True, True, False, False, True, True]


def test_v15_a_question_that_failed_unseen_is_asked_with_the_next_unless_that_is_why_it_is_refused(
    talk: Talk, other_talk: Talk, world: World
):
    with world.oracle.scripted(status=503):
        assert talk.ask("poison")[0]["error"]["code"] == "provider_overloaded"
    with world.oracle.scripted(text="fine"):
        turn, (joined,) = talk.ask("one more")
        assert (turn["status"], "poison" in prompt_of(joined)) == ("completed", True)
    with world.oracle.scripted(status=503):
        other_talk.ask("poison")
    with world.oracle.scripted(refuses="poison", text="fine"):
        turn, requests = other_talk.ask("Hi")
        assert (turn["status"], turn["history_trimmed"]) == ("completed", 1)
        assert ["poison" in prompt_of(request) for request in requests] == [True, False]
        assert other_talk.ask("Hi again")[0]["status"] == "completed"


@pytest.fixture
def begin_anew(world: World) -> Iterator[Callable[[], None]]:
    """Kills the workers, so that others ask the server what it tells; and once more at the end."""

    def begin() -> None:
        old = set(world.worker_pids())
        for pid in world.service.pids("worker"):
            kill(pid)
        wait_until(lambda: len(set(world.worker_pids()) - old) == WORKERS, "new workers", END_SECONDS)

    yield begin
    begin()


def test_v16_a_server_that_tells_its_context_never_has_to_refuse(
    talk: Talk, world: World, begin_anew: Callable[[], None]
):
    with world.oracle.scripted(context=CONTEXT, context_words="vllm", text="fine"):
        begin_anew()
        asked = [talk.ask(LONG) for _ in range(6)]
    assert [(turn["status"], len(requests)) for turn, requests in asked] == [("completed", 1)] * 6
    assert asked[-1][0]["history_trimmed"] > 0


@pytest.mark.parametrize("words", WORDS)
def test_v16_a_conversation_that_outgrows_the_models_context_goes_on_without_its_oldest_turns(
    talk: Talk, world: World, words: str
):
    with world.oracle.scripted(context=CONTEXT, context_words=words, text="fine"):
        asked = [talk.ask(LONG) for _ in range(8)]
        asked.append(talk.ask("Hi"))
    assert [turn["status"] for turn, _ in asked] == ["completed"] * len(asked)
    trimmed = [turn["history_trimmed"] for turn, _ in asked]
    assert trimmed == sorted(trimmed)
    assert (trimmed[0], trimmed[-1] > 0) == (0, True)
    refused = [len(requests) - 1 for _, requests in asked]
    # Each worker learns once, and is then short enough at once; without figures it finds the length by halves.
    assert 1 <= sum(refused) <= WORKERS * (4 if words == "silent" else 2), refused
    for turn, requests in asked:
        assert turn["usage"]["input_tokens"] == requests[-1]["input_tokens"]  # nothing for what was refused
    (start,) = [event for event in talk.events(asked[-1][0]) if event["type"] == "message_start"]
    assert start["history_trimmed"] == trimmed[-1]


def test_v17_a_message_that_is_too_long_by_itself_fails_alone(talk: Talk, world: World):
    with world.oracle.scripted(context=CONTEXT, context_words="vllm", text="fine"):
        assert talk.ask("Hello")[0]["status"] == "completed"
        turn, requests = talk.ask(LONG * 8)
        assert turn["error"]["code"] == "context_too_long"
        assert turn["error"]["detail"] == "the message alone is longer than the model's context"
        assert (turn["cost_usd"], len(requests) <= 5) == ("0.000000", True)
        turn, (request,) = talk.ask("Hi")
    assert (turn["status"], len(request["messages"])) == ("completed", 3)
    assert [message["in_conversation"] for message in talk.messages()] == [True, True, False, True, True]
