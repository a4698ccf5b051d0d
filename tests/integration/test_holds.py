"""Money that cannot be overrun: holds and budgets on a real PostgreSQL (I6).

`BUDGET_RACES=50` runs the race for a budget as often, each from a seed of its own.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from random import Random
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from shared.errors import Fault
from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.turn.turns import TERMINAL, TRANSITIONS, FinishReason, StopReason
from tests.integration.conftest import choices_of
from turnkeeper.cli import main
from worker.recovery.sweeper import Sweeper
from worker.turn.claim import claim_next_turn, claim_turn
from worker.turn.outcome import NOTHING, Answer, Completed, Failed, Requeued, Stopped
from worker.turn.settle import Settlement, UnpayableError, settle

pytestmark = pytest.mark.usefixtures("one_day")

WORKER, SWEEPER = new_id(), new_id()
RACES = int(os.environ.get("BUDGET_RACES", "3"))
TURNS_PATH = "/v1/sessions/{}/turns"
# By hand, for the scripted provider: the dearest class of input is a cache write of an hour.
INPUT_USD, OUTPUT_USD = Decimal("0.000006"), Decimal("0.000015")
ANSWER = Answer(
    "hello", "", called=True, usage=Usage(input_tokens=10, output_tokens=5), usage_source=UsageSource.PROVIDER
)
COST = Decimal("0.000105")


def hold_of(content: str, output: int, earlier: int = 0) -> Decimal:
    """Eight tokens around each message, 128 for the request, a token for each byte."""
    return (len(content.encode()) + 8 + earlier + 128) * INPUT_USD + output * OUTPUT_USD


class Bank:
    """An organization's budget, what is spent and held, and its turns."""

    def __init__(self, api, key, database, organization: UUID, settings, as_owner) -> None:
        self.api, self.key, self.database = api, key, database
        self.organization, self.settings, self.as_owner = organization, settings, as_owner
        self._users = count()

    def budget(self, daily=None, monthly=None) -> None:
        self.as_owner(
            "update turnkeeper.organizations set daily_usd = :daily, monthly_usd = :monthly where id = :o",
            o=self.organization,
            daily=daily,
            monthly=monthly,
        )

    def session(self) -> str:
        return self.api.session(self.key, user=f"user-{next(self._users)}")

    def post(self, session, content="question", **fields):
        return self.api.post(TURNS_PATH.format(session), self.key, json={"content": content, **fields})

    def accepted(self, session=None, content="question", **fields) -> UUID:
        answer = self.post(session or self.session(), content, **fields)
        assert answer.status_code == 202, answer.json
        return UUID(answer.json["id"])

    def refused(self, session=None, content="question", **fields) -> dict:
        answer = self.post(session or self.session(), content, **fields)
        assert (answer.status_code, answer.json["code"]) == (402, "budget_exceeded"), answer.json
        return answer.json

    def rows(self, statement, **parameters):
        return self.as_owner(statement, o=self.organization, **parameters)

    def turn(self, turn):
        (row,) = self.as_owner("select * from turnkeeper.turns where id = :turn", turn=turn)
        return row

    def totals(self) -> dict[str, tuple[Decimal, Decimal]]:
        found = self.rows(
            "select period, spent_usd, held_usd from turnkeeper.spend where organization_id = :o"
        )
        return {row.period: (row.spent_usd, row.held_usd) for row in found}

    def holds(self) -> list[Decimal]:
        found = self.rows(
            "select amount_usd from turnkeeper.holds where organization_id = :o order by created_at, turn_id"
        )
        return [row.amount_usd for row in found]

    def claim(self, turn, lease_seconds=600.0):
        return claim_turn(self.database, turn, WORKER, lease_seconds=lease_seconds, context_tokens=10_000)

    def settle(self, claim, ending, **options):
        wanted = Settlement(claim.organization_id, claim.turn_id, claim.attempt, last_seq=9, **options)
        return settle(self.database, self.settings.provider, wanted, ending)

    def sweep(self, monkeypatch, settings=None) -> None:
        settings = settings or self.settings
        sweeper = Sweeper(settings, choices_of(settings), SWEEPER, self.database, None, None, lambda *_: None)
        monkeypatch.setattr(sweeper, "_tell", lambda *_: None)  # what readers see is not the question
        sweeper.sweep()
        sweeper.stop()

    def agrees(self) -> bool:
        return main(["ledger", "check", "--organization", str(self.organization)]) == 0


@pytest.fixture
def bank(api, keys, database, organization, settings, as_owner, owner_url, monkeypatch):
    monkeypatch.setenv("DATABASE_OWNER_URL", owner_url)
    bank = Bank(api, keys.service, database, organization, settings, as_owner)
    yield bank
    assert bank.agrees()


class Sampler(threading.Thread):
    """Reads the totals as the owner, over and over, and remembers each that was above a limit."""

    def __init__(self, owner_url: str) -> None:
        super().__init__(daemon=True)
        self._owner_url = owner_url
        self._stopping = threading.Event()
        self._sampled = threading.Condition()
        self.samples = 0
        self.highest = Decimal(0)
        self.above: list[tuple] = []

    def run(self) -> None:
        with psycopg.connect(self._owner_url, autocommit=True, connect_timeout=60) as db:
            is_last = False
            while not is_last:
                is_last = self._stopping.is_set()  # so the last one is of what was left
                rows = db.execute(
                    "select p.period, p.spent_usd + p.held_usd,"
                    " case p.period when 'day' then o.daily_usd else o.monthly_usd end"
                    " from turnkeeper.spend as p join turnkeeper.organizations as o on o.id = p.organization_id"
                ).fetchall()
                self.highest = max([self.highest, *(total for _, total, _ in rows)])
                self.above += [row for row in rows if row[2] is not None and row[1] > row[2]]
                with self._sampled:
                    self.samples += 1
                    self._sampled.notify_all()

    def await_another(self):
        """Wait until the totals were read once more: else a quick rush would be over before they are."""
        with self._sampled:
            seen = self.samples
            assert self._sampled.wait_for(lambda: self.samples > seen, timeout=60)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self.join(timeout=60)
        assert not self.is_alive()


def open_sessions(bank, number):
    """Sessions of as many users, made as the api makes them."""
    sessions = [new_id() for _ in range(number)]
    bank.as_owner(
        "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns)"
        " select :o, id, id::text, 50 from unnest(cast(:ids as uuid[])) as id",
        o=bank.organization,
        ids=[str(one) for one in sessions],
    )
    return sessions


def rush(bank, posts, sampler, threads=24):
    """Post all at once, as far as there are threads; return the answers.

    Between the posts of one thread the sampler reads the totals, while the other threads go on.
    """
    barrier = threading.Barrier(threads)

    def post(numbered):
        number, (session, content, tokens) = numbered
        if number < threads:
            barrier.wait(timeout=60)
        elif number % threads == 0:
            sampler.await_another()
        return bank.post(session, content, max_output_tokens=tokens)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(post, enumerate(posts)))


def two_hundred_posts_with_room_for_ten(bank, owner_url, seed):
    choice = Random(seed)
    content, tokens = "x" * choice.randrange(1, 2000), choice.randrange(16, 3000)
    # Fifteen tokens are no answer: an eleventh finds nothing.
    room = 10 * hold_of(content, tokens) + hold_of(content, 15)
    ample = room * choice.randrange(2, 9)
    bank.budget(*choice.choice([(room, None), (None, room), (room, ample), (ample, room), (room, room)]))
    sessions = open_sessions(bank, 200)
    with Sampler(owner_url) as sampler:
        answers = rush(bank, [(session, content, tokens) for session in sessions], sampler)
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(202), statuses.count(402)) == (10, 190)
    assert sampler.above == []
    assert sampler.samples > 200 // 24
    assert sampler.highest == 10 * hold_of(content, tokens)
    assert bank.totals() == {period: (0, 10 * hold_of(content, tokens)) for period in ("day", "month")}
    assert bank.holds() == [hold_of(content, tokens)] * 10
    queued = bank.rows("select count(*) as turns from turnkeeper.turns where organization_id = :o")
    assert queued[0].turns == 10  # what is refused leaves nothing


@pytest.mark.parametrize("seed", range(RACES))
def test_of_two_hundred_parallel_posts_with_room_for_ten_ten_are_accepted(bank, owner_url, seed):
    two_hundred_posts_with_room_for_ten(bank, owner_url, seed)


def test_turns_that_begin_and_end_at_once_never_pass_the_budget(bank, owner_url):
    """Holds are taken and replaced by costs at the same time, and what is freed is used again."""
    choice = Random(7)
    bank.budget(hold_of("question", 500) * 6, hold_of("question", 500) * 6)
    sessions = open_sessions(bank, 40)
    deadline = time.monotonic() + 180  # all of it; no single wait is longer than a minute

    def live(session):
        own, accepted = Random(str(session)), 0
        for _ in range(4):
            assert time.monotonic() < deadline
            answer = bank.post(session, max_output_tokens=500)
            if answer.status_code != 202:
                continue
            accepted += 1
            turn = UUID(answer.json["id"])
            if own.random() < 0.3:
                bank.api.post(f"/v1/turns/{turn}/stop", bank.key)
                continue
            claim = bank.claim(turn)
            used = Usage(
                input_tokens=own.randrange(100), output_tokens=own.randint(1, claim.turn.max_output_tokens)
            )
            answer = Answer("text", "", called=True, usage=used, usage_source=UsageSource.PROVIDER)
            ending = own.choice(
                [
                    Completed(answer, FinishReason.STOP),
                    Failed(answer, Fault.PROVIDER_TIMEOUT, "it fell silent"),
                    Stopped(answer, StopReason.USER),
                ]
            )
            assert bank.settle(claim, ending) is not None
        return accepted

    with Sampler(owner_url) as sampler, ThreadPoolExecutor(12) as pool:
        accepted = sum(pool.map(live, choice.sample(sessions, len(sessions))))
    assert accepted > 6
    assert sampler.above == []
    assert bank.holds() == []
    spent, held = bank.totals()["day"]
    assert held == 0 < spent


def test_a_session_that_is_posted_to_while_its_turns_end_never_deadlocks(bank):
    """Accepting and settling lock the session, the month and the day in the same order."""
    bank.budget(1000, 1000)
    session = bank.session()
    deadline = time.monotonic() + 180  # all of it; no single wait is longer than a minute
    posted = threading.Event()

    def post(_):
        answer = bank.post(session, max_output_tokens=50, multitask_strategy="enqueue")
        assert answer.status_code == 202, answer.json
        return UUID(answer.json["id"])

    def work():
        while not posted.is_set() or bank.holds():
            assert time.monotonic() < deadline
            claim = claim_next_turn(bank.database, WORKER, None, lease_seconds=60, context_tokens=10_000)
            if claim is not None:
                assert bank.settle(claim, Completed(ANSWER, FinishReason.STOP)) is not None

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work) for _ in range(2)]
        turns = list(pool.map(post, range(48)))
        posted.set()
        for one in working:
            one.result(timeout=60)
    assert {bank.turn(turn).status for turn in turns} == {"completed"}
    assert bank.totals()["month"] == (48 * COST, 0)


def test_without_a_budget_nothing_is_held(bank):
    turn = bank.accepted()
    assert (bank.holds(), bank.totals()) == ([], {})
    claim = bank.claim(turn)
    assert claim.turn.hold_usd is None
    bank.settle(claim, Completed(ANSWER, FinishReason.STOP))
    assert bank.totals() == {"day": (COST, 0), "month": (COST, 0)}


@pytest.mark.parametrize(("budget", "period"), [((0, None), "day"), ((None, 0), "month"), ((5, 0), "month")])
def test_a_budget_of_zero_allows_nothing(bank, budget, period):
    bank.budget(*budget)
    assert bank.refused()["period"] == period
    assert bank.holds() == []


def test_zero_allows_nothing_be_it_free(bank, database, organization):
    ask = text("select tokens from turnkeeper.take_hold(:o, :turn, 1, 0, 0, 16, 100)")
    turn = bank.accepted()
    bank.budget(Decimal("0.01"), 0)
    with database.of(organization) as db:
        assert db.execute(ask, {"o": organization, "turn": turn}).scalar_one() == 0
    bank.budget(Decimal("0.01"))
    with database.of(organization) as db:
        assert db.execute(ask, {"o": organization, "turn": turn}).scalar_one() == 100
    assert bank.holds() == [0]


def test_a_refusal_says_which_budget_and_when_it_begins_anew(bank):
    first = hold_of("question", 100)
    bank.budget(Decimal("0.002"), 1)
    bank.accepted(max_output_tokens=50)
    held = hold_of("question", 50)
    body = bank.refused(max_output_tokens=100)
    assert first > Decimal("0.002") - held
    today = datetime.now(UTC).date()
    assert body["period"] == "day"
    assert Decimal(body["limit_usd"]) == Decimal("0.002")
    assert (Decimal(body["spent_usd"]), Decimal(body["held_usd"])) == (0, held)
    assert body["resets_at"] == f"{today + timedelta(days=1)}T00:00:00.000Z"
    bank.budget(Decimal("0.002"), Decimal("0.002"))
    body = bank.refused(max_output_tokens=100)
    following = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    assert (body["period"], body["resets_at"]) == ("month", f"{following}T00:00:00.000Z")
    assert "retry_after_ms" not in body


def test_an_answer_is_shortened_to_what_the_rest_of_both_budgets_pays(bank):
    bank.budget(hold_of("question", 300), hold_of("question", 200) + OUTPUT_USD / 2)
    turn = bank.accepted(max_output_tokens=1000)
    assert bank.turn(turn).max_output_tokens == 200
    assert bank.holds() == [hold_of("question", 200)]
    assert bank.claim(turn).turn.hold_usd == hold_of("question", 200)


def test_sixteen_tokens_are_an_answer_and_fifteen_are_none_unless_asked_for(bank):
    bank.budget(hold_of("question", 16) - OUTPUT_USD / 1000)
    bank.refused(max_output_tokens=16)
    bank.refused(max_output_tokens=4000)
    turn = bank.accepted(max_output_tokens=15)
    assert bank.turn(turn).max_output_tokens == 15
    bank.api.post(f"/v1/turns/{turn}/stop", bank.key)
    bank.budget(hold_of("question", 16))
    assert bank.turn(bank.accepted(max_output_tokens=4000)).max_output_tokens == 16


def test_a_hold_covers_what_the_session_sends_along(bank):
    bank.budget(10)
    session = bank.api.session(bank.key, user="ada", system_prompt="ä" * 10)
    first = bank.accepted(session, "o" * 100, max_output_tokens=50)
    assert bank.holds() == [hold_of("o" * 100, 50, earlier=20 + 8)]
    bank.settle(bank.claim(first), Completed(ANSWER, FinishReason.STOP))
    bank.accepted(session, "two", max_output_tokens=50)
    history = (20 + 8) + (100 + 8) + (len("hello") + 8)
    assert bank.holds() == [hold_of("two", 50, earlier=history)]


def test_a_turn_that_waits_behind_others_holds_at_once_and_for_their_answers(bank):
    bank.budget(10)
    session = bank.session()
    bank.accepted(session, "one", max_output_tokens=50)
    bank.accepted(session, "two", max_output_tokens=60, multitask_strategy="enqueue")
    first, second = hold_of("one", 50), hold_of("two", 60, earlier=(3 + 8) + (50 * 4 + 8))
    assert bank.holds() == [first, second]
    assert bank.totals()["day"] == bank.totals()["month"] == (0, first + second)


def test_a_hold_is_bounded_by_the_context(bank):
    bank.budget(1000)
    session = bank.session()
    self_made = "y" * 30_000
    for _ in range(30):
        turn = bank.accepted(session, self_made, max_output_tokens=10)
        bank.api.post(f"/v1/turns/{turn}/stop", bank.key)
    bank.accepted(session, "end", max_output_tokens=10)
    assert bank.holds() == [(4 * 180_000 + 128) * INPUT_USD + 10 * OUTPUT_USD]


@pytest.mark.parametrize(
    "ending",
    [
        Completed(ANSWER, FinishReason.STOP),
        Failed(ANSWER, Fault.PROVIDER_TIMEOUT, "it fell silent"),
        Failed(NOTHING, Fault.PROVIDER_UNREACHABLE, "there is nobody"),
        Stopped(ANSWER, StopReason.USER),
        Stopped(NOTHING, StopReason.BUDGET),
    ],
)
@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_a_settled_turn_leaves_its_cost_in_place_of_its_hold(bank, ending, is_asked_to_stop):
    bank.budget(10, 20)
    turn = bank.accepted()
    claim = bank.claim(turn)
    if is_asked_to_stop:
        bank.api.post(f"/v1/turns/{turn}/stop", bank.key)
    assert bank.totals()["day"] == (0, bank.holds()[0])
    assert bank.settle(claim, ending).status in TERMINAL
    cost = COST if ending.answer.called else 0
    assert bank.totals() == {"day": (cost, 0), "month": (cost, 0)}
    assert bank.holds() == []


def test_every_end_of_a_turn_that_waits_frees_its_hold(bank, monkeypatch):
    bank.budget(10)
    session = bank.session()
    stopped = bank.accepted(session)
    bank.api.post(f"/v1/turns/{stopped}/stop", bank.key)
    assert (bank.turn(stopped).status, bank.holds()) == ("stopped", [])

    superseded = bank.accepted(session)
    last = bank.accepted(session, multitask_strategy="interrupt")
    assert (bank.turn(superseded).status, len(bank.holds())) == ("stopped", 1)
    rolled_back = last
    last = bank.accepted(session, multitask_strategy="rollback")
    assert (bank.turn(rolled_back).status, len(bank.holds())) == ("stopped", 1)
    bank.accepted(session, multitask_strategy="enqueue")
    assert bank.api.call("DELETE", f"/v1/sessions/{session}", bank.key).status_code == 204
    assert (bank.turn(last).status, bank.holds()) == ("stopped", [])

    overdue = bank.accepted()
    bank.as_owner(
        "update turnkeeper.turns set claimable_at = now() - interval '1 day' where id = :turn", turn=overdue
    )
    bank.sweep(monkeypatch)
    assert (bank.turn(overdue).status, bank.holds()) == ("expired", [])

    waits_again = bank.accepted()
    bank.settle(bank.claim(waits_again), Requeued(NOTHING, handed_back=True))
    assert len(bank.holds()) == 1
    bank.api.post(f"/v1/turns/{waits_again}/stop", bank.key)
    assert (bank.turn(waits_again).status, bank.holds()) == ("stopped", [])
    assert bank.totals()["day"] == (0, 0)


def end_by_statement(bank, turn, status):
    """End a turn that waits by a statement that knows nothing of holds."""
    bank.as_owner(
        "update turnkeeper.turns set status = cast(:status as text), finished_at = now(), stop_reason = 'user',"
        " error = case when :status = 'failed' then jsonb_build_object() end where id = :turn",
        turn=turn,
        status=status,
    )


def end_running(bank, turn, ending, *, asks=False):
    claim = bank.claim(turn)
    if asks:
        bank.api.post(f"/v1/turns/{turn}/stop", bank.key)
    assert bank.settle(claim, ending) is not None


FAILED = Failed(ANSWER, Fault.INTERNAL, "x")
# By hand: one way for each move that ends a turn.
ENDS = {
    ("queued", "stop"): lambda bank, turn: bank.api.post(f"/v1/turns/{turn}/stop", bank.key),
    ("queued", "fail"): lambda bank, turn: end_by_statement(bank, turn, "failed"),
    ("queued", "expire"): lambda bank, turn: end_by_statement(bank, turn, "expired"),
    ("running", "complete"): lambda bank, turn: end_running(bank, turn, Completed(ANSWER, FinishReason.STOP)),
    ("running", "observe_stop"): lambda bank, turn: end_running(
        bank, turn, Stopped(ANSWER, StopReason.BUDGET)
    ),
    ("running", "fail"): lambda bank, turn: end_running(bank, turn, FAILED),
    ("stopping", "complete"): lambda bank, turn: end_running(
        bank, turn, Completed(ANSWER, FinishReason.STOP), asks=True
    ),
    ("stopping", "observe_stop"): lambda bank, turn: end_running(
        bank, turn, Stopped(ANSWER, StopReason.USER), asks=True
    ),
    ("stopping", "fail"): lambda bank, turn: end_running(bank, turn, FAILED, asks=True),
}


def test_no_move_of_the_table_that_ends_a_turn_leaves_a_hold(bank):
    ending = {(source.value, signal.value) for (source, signal), to in TRANSITIONS.items() if to in TERMINAL}
    assert ending == ENDS.keys()
    bank.budget(10)
    for move, end in ENDS.items():
        turn = bank.accepted()
        assert len(bank.holds()) == 1
        end(bank, turn)
        assert bank.turn(turn).status in TERMINAL
        assert bank.holds() == [], move
    assert bank.totals()["day"] == (6 * COST, 0)


def test_a_cost_goes_to_the_day_and_month_that_held_it(bank):
    """Otherwise yesterday's turns could exceed today's budget, which was never checked for them."""
    bank.budget(10)
    turn = bank.accepted()
    claim = bank.claim(turn)
    for change in (
        "holds set day = date '2026-01-31', month = date '2026-01-01' where",
        "spend set starts_on = date '2026-01-31' where period = 'day' and",
        "spend set starts_on = date '2026-01-01' where period = 'month' and",
    ):
        bank.rows(f"update turnkeeper.{change} organization_id = :o")
    bank.settle(claim, Completed(ANSWER, FinishReason.STOP))
    spend = bank.rows(
        "select period, starts_on, spent_usd, held_usd from turnkeeper.spend where organization_id = :o order by period"
    )
    assert [tuple(row) for row in spend] == [
        ("day", date(2026, 1, 31), COST, 0),
        ("month", date(2026, 1, 1), COST, 0),
    ]
    (bill,) = bank.rows("select day from turnkeeper.ledger where organization_id = :o")
    assert bill.day == date(2026, 1, 31)


def test_a_new_attempt_takes_a_hold_of_its_own_and_the_old_one_is_billed(bank):
    bank.budget(10)
    turn = bank.accepted()
    (held,) = bank.holds()
    dead = bank.claim(turn)
    row = bank.settle(dead, Requeued(ANSWER))
    assert row.status == "queued"
    assert (bank.holds(), bank.totals()["day"]) == ([held], (COST, held))
    again = bank.claim(turn)
    assert (again.attempt, again.turn.hold_usd) == (2, held)
    bank.settle(again, Completed(ANSWER, FinishReason.STOP))
    assert (bank.holds(), bank.totals()["month"]) == ([], (2 * COST, 0))


def test_a_turn_whose_next_attempt_nobody_pays_for_is_stopped_by_the_sweeper_and_keeps_its_text(
    bank, monkeypatch
):
    bank.budget(hold_of("question", 100))
    turn = bank.accepted(max_output_tokens=100)
    claim = bank.claim(turn, lease_seconds=-1.0)
    with pytest.raises(UnpayableError):
        bank.settle(claim, Requeued(ANSWER))
    assert bank.turn(turn).status == "running"  # nothing was written
    bank.as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning,"
        " input_tokens, output_tokens) values (:o, :turn, 1, 5, true, 'hello', '', 10, 5)",
        o=bank.organization,
        turn=turn,
    )
    bank.sweep(monkeypatch)
    row = bank.turn(turn)
    assert (row.status, row.stop_reason, bank.holds()) == ("stopped", "budget", [])
    (answer,) = bank.rows(
        "select content from turnkeeper.messages where organization_id = :o and role = 'assistant'"
    )
    assert answer.content == "hello"
    assert bank.totals()["day"] == (COST, 0)


def test_a_turn_that_is_handed_back_keeps_what_is_left_of_its_hold(bank):
    bank.budget(hold_of("question", 100))
    turn = bank.accepted(max_output_tokens=100)
    (held,) = bank.holds()
    bank.settle(bank.claim(turn), Requeued(ANSWER, handed_back=True))
    assert (bank.holds(), bank.totals()["day"]) == ([held - COST], (COST, held - COST))
    assert bank.claim(turn).turn.hold_usd == held - COST


def test_the_check_says_what_does_not_agree(bank, capsys):
    bank.budget(10)
    session = bank.session()
    bank.settle(bank.claim(bank.accepted(session)), Completed(ANSWER, FinishReason.STOP))
    bank.accepted(session)
    assert main(["ledger", "check"]) == 0
    wrongs = {
        "spent": "update turnkeeper.spend set spent_usd = spent_usd + 1 where organization_id = :o and period = 'day'",
        "held": "update turnkeeper.spend set held_usd = held_usd + 1 where organization_id = :o and period = 'month'",
        "attempts": "update turnkeeper.spend set attempts = attempts + 1 where organization_id = :o",
        "turn": "update turnkeeper.holds set attempt = 7 where organization_id = :o",
        "session": "update turnkeeper.sessions set cost_usd = cost_usd + 1 where organization_id = :o",
    }
    rights = {
        "spent": wrongs["spent"].replace("+ 1", "- 1"),
        "held": wrongs["held"].replace("+ 1", "- 1"),
        "attempts": wrongs["attempts"].replace("+ 1", "- 1"),
        "turn": wrongs["turn"].replace("7", "1"),
        "session": wrongs["session"].replace("+ 1", "- 1"),
    }
    for name, wrong in wrongs.items():
        bank.rows(wrong)
        capsys.readouterr()
        assert main(["ledger", "check", "--organization", "Acme"]) == 1
        out = capsys.readouterr().out
        assert name in out
        assert str(bank.organization) in out
        bank.rows(rights[name])
