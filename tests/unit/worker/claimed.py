"""A claimed turn and fakes of the services that it uses, which record the order of their calls."""

from dataclasses import replace
from datetime import UTC, datetime

from shared.configuration.settings import load_settings
from shared.ids import new_id
from shared.metrics.registry import Registry
from worker.metrics import WorkerMetrics
from worker.providers.breaker import Breaker
from worker.providers.choice import Choice, Choices
from worker.providers.provider import Capabilities
from worker.services import Services
from worker.turn.claim import ClaimedTurn

TRUST_SECONDS = 10.0
FIRST = ClaimedTurn(
    id=new_id(),
    organization_id=new_id(),
    session_id=new_id(),
    number=1,
    attempt=1,
    status="running",
    recovery="restart",
    answer_id=new_id(),
    max_output_tokens=100,
    last_seq=1,
    title=None,
    queued_at=datetime(2026, 1, 1, tzinfo=UTC),
    traceparent="",
    seconds_left=60.0,
    queued_seconds=1.0,
    claimable_seconds=1.0,
    first_token_at=None,
    handed_back=0,
    system_prompt=None,
    checkpoint_seq=None,
    kept_text=None,
    hold_usd=None,
    history=[(1, "user", "question")],
    all_messages=1,
    unread_tokens=0,
    earlier_turns=0,
)
AGAIN = replace(FIRST, attempt=2, last_seq=5)


class Tape:
    """A channel that records its calls."""

    def __init__(self, seq=0):
        self.seq = seq
        self.told = []
        self.goes_on_from = None
        self.state = "open"

    def go_on_from(self, text, *, is_in_log):
        self.goes_on_from = (text, is_in_log)

    def event(self, event):
        self.seq += 1
        self.told.append(event)

    def encoded(self, seq, event):
        self.told.append((seq, event))

    def next_seq(self):
        return self.seq + 1

    async def drained(self, within_seconds):
        self.told.append("drained")
        return True

    def fence(self):
        self.state = "fenced"

    def close(self):
        self.state = "closed"

    def discard(self):
        self.state = "discarded"


class World:
    """Publisher, leases and stops in one, so that the order of calls is visible.

    Args:
        last_seq: The number of the log's last event.
        stands: Whether the log has text of an earlier attempt.
    """

    def __init__(self, last_seq=0, *, stands=False):
        self.last_seq = last_seq
        self.stands = stands
        self.done = []
        self.tapes = []
        self.fence = None
        self.trusted = True
        self.handed_back = False
        self.last_entry_of_log = None

    # The publisher.

    async def take_over(self, session_id, turn_id, attempt):
        self.done.append(("shut out before", attempt))
        return self.stands

    async def open(self, session_id, turn_id, accepted):
        self.done.append(("opened with", len(accepted)))
        return self.last_seq

    async def last_entry(self, session_id, turn_id):
        return self.last_entry_of_log

    def channel(self, session_id, turn_id, attempt, seq, message_id, on_fenced, organization_id=None):
        self.done.append(("numbers after", seq))
        self.fence = on_fenced
        self.tapes.append(Tape(seq))
        return self.tapes[-1]

    # The leases and the stops.

    def hold(self, session_id, turn_id, number, attempt):
        self.done.append(("held", "fenced" if attempt.is_fenced else "running"))

    def check(self, turns):
        self.done.append(("looked for stops of", len(turns)))

    def running(self):
        return 1

    def is_trusted(self):
        return self.trusted

    def has_handed_back(self):
        return self.handed_back


class Speaking:
    """A provider of which only the name and the capabilities are used."""

    name, model = "scripted", "m"

    def __init__(self, *, continuation=False):
        self.capabilities = Capabilities(continuation=continuation)


def services(world, *, continuation=False, loop=None, ring=None) -> Services:
    settings = load_settings(
        {
            "DATABASE_URL": "postgresql://app@127.0.0.1:9/db",
            "REDIS_URL": "redis://127.0.0.1:9",
            "MCP_LLM_PROVIDER": "scripted",
            "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
        }
    )
    choice = Choice(settings.provider, Speaking(continuation=continuation), Breaker(lambda: 0.0, 10.0))
    return Services(
        settings=replace(settings, lease_trust_seconds=TRUST_SECONDS),
        worker_id=new_id(),
        database=None,
        choices=Choices([choice]),
        publisher=world,
        leases=world,
        aborts=world,
        loop=loop,
        ring=ring,
        must_ask=lambda: False,
        metrics=WorkerMetrics(Registry()),
        recorder=None,
    )
