"""Compares three independent histories: the clients', PostgreSQL's and the provider's.

Each check names the kind of promise that it found broken; nothing is repaired and nothing is forgiven.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from tests.e2e.protocol_client import TERMINAL, sha256
from tests.soak.chaos.clients import Told
from tests.soak.chaos.plan import FAILING, Kind

_USAGE: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_TURNS: Final = "select * from turnkeeper.turns"
_MESSAGES: Final = "select id, turn_id, role, content, status, position from turnkeeper.messages"
_LEDGER: Final = "select * from turnkeeper.ledger"
_SPEND: Final = "select * from turnkeeper.spend"
_HOLDS: Final = "select * from turnkeeper.holds"
_SYSTEM_PROMPTS: Final = "select id, system_prompt from turnkeeper.sessions"
_LEFT_OVER: Final = "select count(*) as rows from turnkeeper.checkpoints"
_TOTALS: Final = """
    select period, sum(spent_usd) as cost_usd, sum(attempts) as attempts, sum(input_tokens) as input_tokens,
           sum(output_tokens) as output_tokens
    from turnkeeper.spend group by period
"""
_SESSIONS: Final = """
    select s.id, s.cost_usd, coalesce(sum(l.cost_usd), 0) as billed
    from turnkeeper.sessions s left join turnkeeper.ledger l on l.session_id = s.id
    group by s.organization_id, s.id, s.cost_usd having s.cost_usd <> coalesce(sum(l.cost_usd), 0)
"""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    Attributes:
        kind: Which promise, for counting.
        turn_id: The turn; empty if it concerns none.
        number: The turn's number in the run; 0 if it concerns none.
        evidence: What was observed.
    """

    kind: str
    turn_id: str
    number: int
    evidence: str


@dataclass(slots=True)
class Stored:
    """What PostgreSQL holds at the end."""

    turns: dict[str, dict[str, Any]]
    messages: dict[str, list[dict[str, Any]]]
    ledger: dict[str, list[dict[str, Any]]]
    totals: dict[str, dict[str, Any]]
    sessions_off: list[dict[str, Any]]
    checkpoints: int
    spend: list[dict[str, Any]] = field(default_factory=list)
    holds: list[dict[str, Any]] = field(default_factory=list)
    system_prompts: dict[str, str | None] = field(default_factory=dict)


@dataclass(slots=True)
class Verdict:
    """What the comparison found."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def kinds(self) -> dict[str, int]:
        """Return how many violations there are of each kind."""
        return dict(Counter(each.kind for each in self.violations))


def read_stored(owner_url: str) -> Stored:
    """Read everything that was stored, in one transaction, as the owner, who sees every organization."""
    with psycopg.connect(owner_url, connect_timeout=10, row_factory=dict_row) as db:
        db.execute("set transaction isolation level repeatable read")
        turns = {str(row["id"]): row for row in db.execute(_TURNS)}
        messages, ledger = _by_turn(db.execute(_MESSAGES)), _by_turn(db.execute(_LEDGER))
        totals = {row["period"]: row for row in db.execute(_TOTALS)}
        sessions_off = db.execute(_SESSIONS).fetchall()
        left_over = db.execute(_LEFT_OVER).fetchone()
        spend, holds = db.execute(_SPEND).fetchall(), db.execute(_HOLDS).fetchall()
        systems = {str(row["id"]): row["system_prompt"] for row in db.execute(_SYSTEM_PROMPTS)}
    assert left_over is not None
    return Stored(turns, messages, ledger, totals, sessions_off, left_over["rows"], spend, holds, systems)


def _by_turn(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[str(row["turn_id"])].append(row)
    return found


def check(
    told: Sequence[Told],
    stored: Stored,
    records: Iterable[Mapping[str, Any]],
    unseen: Mapping[str, int] = MappingProxyType({}),
) -> Verdict:
    """Compare the histories.

    Args:
        told: What clients received.
        stored: What PostgreSQL holds.
        records: What the provider was asked and sent; only what is compared is kept of each.
        unseen: How many rows of a turn are known to be for a prompt that the provider never received.
    """
    verdict = Verdict()
    asked: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        asked[record["conversation"]].append(record)
    for one in told:
        turn = stored.turns.get(one.turn_id)
        of_turn = _of_turn(one, turn, stored, asked, unseen.get(one.turn_id, 0))
        for kind, evidence in [*one.violations, *of_turn]:
            verdict.violations.append(Violation(kind, one.turn_id, one.plan.number, evidence))
        if turn is not None:
            _count(verdict.counts, one, turn, stored, asked[one.plan.idempotency_key])
    for kind, evidence in _of_run(told, stored, asked):
        verdict.violations.append(Violation(kind, "", 0, evidence))
    return verdict


def _count(
    counts: Counter[str],
    told: Told,
    turn: Mapping[str, Any],
    stored: Stored,
    records: Sequence[Mapping[str, Any]],
) -> None:
    counts[f"ended {turn['status']}"] += 1
    if turn["status"] == "failed" and told.plan.kind not in FAILING:
        counts[f"failed by chaos: {turn['error']['code']}"] += 1
    counts["attempts"] += turn["attempt"]
    counts["attempts handed back"] += turn["handed_back"]
    counts["provider requests"] += len(records)
    rows = stored.ledger.get(told.turn_id, [])
    counts["ledger rows"] += len(rows)
    for row in rows:
        counts[f"ledger rows {row['usage_source']}"] += 1


def _of_turn(
    told: Told,
    turn: dict[str, Any] | None,
    stored: Stored,
    asked: Mapping[str, Sequence[Mapping[str, Any]]],
    unseen: int,
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with one turn."""
    if turn is None:
        if told.turn_id or not (told.violations or told.is_unpaid):
            yield "lost", "accepted, and there is no row"
        return
    records = asked.get(told.plan.idempotency_key, ())
    answers = [each for each in stored.messages.get(told.turn_id, []) if each["role"] == "assistant"]
    answer = answers[0]["content"] if answers else ""
    if turn["status"] not in TERMINAL:
        yield "not_terminal", f"{turn['status']}, attempt {turn['attempt']}"
        return
    yield from _messages(told, turn, stored.messages.get(told.turn_id, []))
    yield from _done(told, turn, answer)
    yield from _ending(told, turn)
    rows = stored.ledger.get(told.turn_id, [])
    yield from _bill(turn, rows)
    if len(rows) > len(records) + unseen:
        yield "billed_unasked", f"{len(rows)} ledger rows for {len(records)} requests"
    yield from _said(told, turn, answer, records, rows)


def _messages(
    told: Told, turn: dict[str, Any], messages: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    by_role = Counter(each["role"] for each in messages)
    if by_role["user"] != 1 or by_role["assistant"] > 1:
        yield "messages", f"roles {dict(by_role)}"
    if bool(by_role["assistant"]) != (turn["message_id"] is not None):
        yield "messages", f"message_id {turn['message_id']} beside roles {dict(by_role)}"
    for each in messages:
        if each["role"] == "user" and each["content"] != told.plan.content:
            yield "messages", "the question is not stored as written"


def _done(told: Told, turn: dict[str, Any], answer: str) -> Iterator[tuple[str, str]]:
    done = told.done
    if done is None:
        return  # its readers have reported it
    if done["status"] != turn["status"] or done["stop_reason"] != turn["stop_reason"]:
        yield "done_differs", f"done {done['status']} {done['stop_reason']}, row {turn['status']}"
    if Decimal(done["cost_usd"]) != turn["cost_usd"]:
        yield "done_differs", f"done costs {done['cost_usd']}, row {turn['cost_usd']}"
    if told.seq != turn["last_seq"]:
        yield "done_differs", f"done is number {told.seq}, the row says {turn['last_seq']}"
    if done["content_sha256"] != sha256(answer):
        yield "text_differs", f"done's hash is not that of the stored {len(answer)} characters"
    if {name: turn[name] for name in _USAGE} != done["usage"]:
        yield "done_differs", f"done's usage {done['usage']} is not the row's"


def _ending(told: Told, turn: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield endings that neither the plan nor a lost worker explains."""
    code = turn["error"]["code"] if turn["error"] else None
    match turn["status"]:
        case "stopped":
            is_unpaid = told.plan.may_lack_money and turn["stop_reason"] == "budget"
            allowed = told.is_stopped or told.is_deleted or is_unpaid
        case "failed":
            allowed = code == "worker_lost" or told.plan.kind in FAILING
        case "completed":
            allowed = told.plan.kind not in FAILING
        case _:
            allowed = False
    if not allowed:
        yield "wrong_end", f"{told.plan.kind} ended {turn['status']} {code} {turn['stop_reason']}"
    if (
        code == "worker_lost"
        and told.plan.recovery == "restart"
        and turn["attempt"] - turn["handed_back"] < 4  # the end that the sweeper wrote has another number
    ):
        yield "given_up_early", f"lost after {turn['attempt']} attempts, {turn['handed_back']} handed back"


def _bill(turn: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    attempts = [row["attempt"] for row in rows]
    if len(set(attempts)) != len(attempts) or any(not 1 <= each <= turn["attempt"] for each in attempts):
        yield "ledger", f"attempts {attempts} of {turn['attempt']}"
    if sum((row["cost_usd"] for row in rows), Decimal(0)) != turn["cost_usd"]:
        yield "ledger", f"rows cost {[str(row['cost_usd']) for row in rows]}, the turn {turn['cost_usd']}"
    for name in _USAGE:
        if sum(row[name] for row in rows) != turn[name]:
            yield "ledger", f"{name}: rows {[row[name] for row in rows]}, the turn {turn[name]}"


def _said(
    told: Told,
    turn: dict[str, Any],
    answer: str,
    records: Sequence[Mapping[str, Any]],
    rows: Sequence[dict[str, Any]],
) -> Iterator[tuple[str, str]]:
    """Yield where the provider's record differs."""
    if any(record["outcome"] == "running" for record in records):
        yield "left_open", "the provider still answers a turn that is over"
    if turn["status"] != "completed":
        if answer and not any(record["text"].startswith(answer) for record in records):
            yield "text_unsaid", f"{len(answer)} stored characters are no beginning of what was said"
        return
    whole = [each for each in records if each["text"] == answer and each["outcome"] == "completed"]
    if not whole:
        yield "text_unsaid", f"no request said the stored {len(answer)} characters"
        return
    last = [row for row in rows if row["attempt"] == turn["attempt"]]
    if len(last) != 1:
        yield (
            "unbilled",
            f"attempt {turn['attempt']} completed, billed are {[row['attempt'] for row in rows]}",
        )
        return
    # Of several with the same text, the last: attempts follow one another.
    said = (whole[-1]["input_tokens"], whole[-1]["output_tokens"], whole[-1]["reasoning_tokens"])
    billed = (last[0]["input_tokens"], last[0]["output_tokens"], last[0]["reasoning_tokens"])
    if last[0]["usage_source"] == "provider" and billed != said:
        yield "tokens_differ", f"billed {billed}, the provider reported {said}"
    is_told = told.plan.kind is not Kind.UNCOUNTED
    if last[0]["usage_source"] != "provider" and len(records) < 2 and is_told:
        yield "tokens_differ", f"{last[0]['usage_source']} although the provider reported {said}"


def _of_run(
    told: Sequence[Told], stored: Stored, asked: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the run as a whole."""
    known = {one.turn_id for one in told}
    for turn_id in stored.turns.keys() - known:
        yield "doubled", f"turn {turn_id} is stored and no client was told of it"
    if len(known - {""}) != sum(bool(one.turn_id) for one in told):
        yield "doubled", "two posts were answered with one turn"
    unknown = asked.keys() - {one.plan.idempotency_key for one in told}
    if unknown:
        yield "asked_unknown", f"the provider was asked {sorted(unknown)[:5]}"
    if stored.checkpoints:
        yield "checkpoints", f"{stored.checkpoints} are left"
    for row in stored.sessions_off:
        yield "totals", f"session {row['id']} says {row['cost_usd']}, its ledger {row['billed']}"
    rows = [row for of_turn in stored.ledger.values() for row in of_turn]
    cost = sum((row["cost_usd"] for row in rows), Decimal(0))
    for period in ("day", "month"):
        total = stored.totals.get(period)
        if total is None or (total["cost_usd"], total["attempts"]) != (cost, len(rows)):
            yield "totals", f"{period}: {total}, the ledger {cost} in {len(rows)} rows"
        elif any(total[name] != sum(row[name] for row in rows) for name in ("input_tokens", "output_tokens")):
            yield "totals", f"{period}: tokens {total}"


EXPLAINED: Final = {
    "lost": "accepted turns without a row",
    "not_terminal": "turns that are not over",
    "no_done": "readers without a done",
    "stream": "readers with a lost, doubled or wrong event, or a wrong text",
    "numbered_again": "readers whose numbers went back",
    "two_truths": "readers of a turn who were told different things",
    "messages": "missing or double messages",
    "text_differs": "hashes that are not the stored text's",
    "text_unsaid": "stored texts that the provider did not say",
    "doubled": "turns that one post made twice",
    "done_differs": "dones that differ from the row",
    "wrong_end": "ends that nothing explains",
    "given_up_early": "turns given up before their attempts were used up",
    "ledger": "ledgers that are not the turn's sum",
    "totals": "totals that are not the ledger's sum",
    "tokens_differ": "bills that are not the provider's figures",
    "unbilled": "answers that nobody paid for",
    "billed_unasked": "bills for what was not asked",
    "left_open": "requests that go on after the turn",
    "asked_unknown": "requests that belong to no turn",
    "checkpoints": "checkpoints left behind",
    "posted_twice": "repeated posts answered with another turn",
    "request": "requests answered wrongly",
}
"""Every kind of violation, for the table: a zero shows that it was looked for."""
