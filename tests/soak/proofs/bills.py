"""Compares every row of the ledger with the provider's own record of the calls that the row pays for.

A row pays for an attempt, and an attempt may have made several calls: it calls again as long as no text was shown.
The provider knows nothing of attempts. Since they follow one another, a row's calls are those between the previous
row and this one.

Data that was still in flight when a connection ended was read by nobody and cannot be billed. So an answer that broke
off may be billed for less than was sent: by what the provider sends in `IN_FLIGHT_SECONDS`, plus the time by which the
machine was late just then. But what had been sent when a user stopped the turn is billed to the token.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.soak.chaos.checker import Stored, Violation
from tests.soak.chaos.clients import Told
from tests.soak.proofs.unseen import NAMED, is_unseen_prompt, too_many

PRICES_FILE: Final = Path(__file__).with_name("money_prices.toml")
IN_FLIGHT_SECONDS: Final = 0.25
"""From sending a token to its note in Redis, on a machine that is not late."""
_MILLION: Final = Decimal(1_000_000)
_BYTES_PER_TOKEN: Final = 4
_MESSAGE_TOKENS: Final = 4
_MOST_UNSEEN: Final = 2
"""How often an attempt repeats a call that could not be sent."""
_PROMPT: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_CLASSES: Final = (*_PROMPT, "output_tokens", "reasoning_tokens")
_TOTALS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
_FREE_OUTCOME: Final = "refused"

Figures = tuple[int, ...]
"""Tokens in the order of `_CLASSES`."""


@dataclass(slots=True)
class Found:
    """What the comparison found.

    Attributes:
        lateness: Returns how many seconds late the machine was around a moment.
        violations: The broken promises.
        counts: Figures for the summary.
        short: How many tokens of the answer less than was sent until their connection ended attempts were billed
            for, by how they ended.
        unseen: How many rows of a turn are for a prompt that the provider never received.
    """

    lateness: Callable[[float], float]
    notes: Mapping[tuple[str, int], str]
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    short: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    unseen: Counter[str] = field(default_factory=Counter)


def check_bills(
    told: Sequence[Told],
    stored: Stored,
    records: Sequence[Mapping[str, Any]],
    lateness: Callable[[float], float] = lambda _: 0.0,
    notes: Mapping[tuple[str, int], str] = MappingProxyType({}),
) -> Found:
    """Compare the ledger with the provider's log, and the totals with the ledger.

    Args:
        told: What clients received: which turn was which conversation.
        stored: What PostgreSQL holds; no turn may be active.
        records: What the provider was asked and sent.
        lateness: Returns how many seconds late the machine was around a moment, in seconds since 1970.
        notes: What attempts noted of their calls, `CallNotes.last`.
    """
    found = Found(lateness, notes)
    asked: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        asked[record["conversation"]].append(record)
    prices = _prices()
    for one in told:
        turn = stored.turns.get(one.turn_id)
        if turn is None:
            continue
        rows = sorted(stored.ledger.get(one.turn_id, []), key=lambda row: row["attempt"])
        calls = sorted(asked.get(one.plan.idempotency_key, []), key=lambda record: record["id"])
        for kind, evidence in _of_turn(turn, rows, calls, prices, found, stored):
            found.violations.append(Violation(kind, one.turn_id, one.plan.number, evidence))
    if too_many(found.unseen.total(), found.counts["rows"]):
        evidence = f"{found.unseen.total()} of {found.counts['rows']} rows"
        found.violations.append(Violation("unseen_often", "", 0, evidence))
    for kind, evidence in _of_totals(stored):
        found.violations.append(Violation(kind, "", 0, evidence))
    return found


def _of_turn(
    turn: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    prices: Mapping[tuple[str, str], Mapping[str, Any]],
    found: Found,
    stored: Stored,
) -> Iterator[tuple[str, str]]:
    left = list(records)
    for row in rows:
        found.counts["rows"] += 1
        settled_at = row["created_at"].timestamp()
        calls = [record for record in left if record["received_at"] <= settled_at]
        left = left[len(calls) :]
        if not calls and is_unseen_prompt(row, turn, stored, found.notes):
            found.unseen[str(turn["id"])] += 1
            found.counts[NAMED] += 1
            found.counts[f"rows {row['usage_source']}"] += 1
            yield from _cost(row, calls, prices)
            continue
        if not calls:
            noted = found.notes.get((str(turn["id"]), row["attempt"]))
            yield (
                "billed_unasked",
                f"attempt {row['attempt']} {_figures(row)}, and no call; it noted {noted!r}",
            )
            continue
        yield from _of_row(turn, row, calls, found, is_last=row is rows[-1])
        yield from _cost(row, calls, prices)
    for record in left:
        if _died_calling(record, found.lateness):
            found.counts["calls of attempts that died as they called"] += 1
        else:
            yield "unbilled", f"after {len(rows)} rows: {_shown(record)}"


def _of_row(
    turn: Mapping[str, Any],
    row: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]],
    found: Found,
    *,
    is_last: bool,
) -> Iterator[tuple[str, str]]:
    billed = _figures(row)
    owed = [record for record in calls if not _is_free(record)]
    paid = [record for record in owed if record is calls[-1] or not _died_calling(record, found.lateness)]
    found.counts[f"rows {row['usage_source']}"] += 1
    evidence = f"attempt {row['attempt']} {row['usage_source']} {billed}: {'; '.join(map(_shown, calls))}"
    if not owed and sum(billed):
        yield "refused_billed", evidence
        return
    if row["usage_source"] == "provider":
        found.counts["rows exact"] += 1
        if len(paid) != 1 or billed != _told(paid[0]):
            yield "tokens_differ", evidence
        return
    if is_last and turn["status"] == "completed" and _tells_usage(calls[-1]):
        # The answer is known exactly, so the rest of the bill is for failed calls.
        vain = [_vain(record, is_owed=record in paid) for record in owed[:-1]]
        unseen = _unseen(billed, _told(calls[-1]), vain, _estimate(calls[-1]))
        if unseen is None:
            yield "tokens_differ", evidence
        else:
            found.counts["completed rows with calls in vain"] += 1
            found.counts["calls in vain that the provider never saw"] += unseen
        return
    if is_last:
        yield from _at_the_stop(turn, billed, paid, evidence, found)
    ended = turn["status"] if is_last else "followed by another attempt"
    yield from _of_broken_off(row, paid, ended, evidence, found)


def _at_the_stop(
    turn: Mapping[str, Any], billed: Figures, paid: Sequence[Mapping[str, Any]], evidence: str, found: Found
) -> Iterator[tuple[str, str]]:
    """Yield a bill for less than the provider had written when a turn was stopped: exact even on a late machine.

    A turn is stopped at the moment at which PostgreSQL wrote the stop, before any process learned of it. What the
    provider sends from then until its connection is closed does not count. If the turn's worker died meanwhile, that
    ended the turn.
    """
    asked, observed = turn.get("stop_requested_at"), turn.get("stop_observed_at")
    if turn["status"] != "stopped" or asked is None or observed is None or not paid:
        return
    moment, last = asked.timestamp(), paid[-1]
    if not last["received_at"] <= moment <= last["finished_at"]:
        return
    written = max((tokens for at, tokens in last["progress"] if at <= moment), default=0)
    before = sum(_sent(record)[len(_PROMPT)] for record in paid[:-1])
    found.counts["stopped as the provider spoke"] += written > 0
    if billed[len(_PROMPT)] < before + written:
        yield "stop_short", f"{before + written} tokens had been sent at {moment:.3f}: {evidence}"


def _of_broken_off(
    row: Mapping[str, Any], paid: Sequence[Mapping[str, Any]], ended: str, evidence: str, found: Found
) -> Iterator[tuple[str, str]]:
    """Yield a bill for less of an attempt than was sent, or for another prompt than was reported."""
    billed = _figures(row)
    sent = [_sent(record) for record in paid]
    if row["usage_source"] == "estimated" and len(paid) == 1 and _has_told_prompt(paid[0], found.lateness):
        yield "prompt_guessed", evidence
    output = len(_PROMPT)
    if sum(billed[:3]) < sum(sum(figures[:3]) for figures in sent):
        yield "input_short", evidence
    is_by_rule = row["usage_source"] == "estimated" and len(paid) == 1
    if is_by_rule and billed[0] < _least_estimate(paid[0]):
        yield "input_short", f"not as the rule says: {evidence}"
    if row["usage_source"] == "partial" and len(paid) == 1 and billed[:output] != _told(paid[0])[:output]:
        yield "tokens_differ", evidence
    if len(paid) == 1 and _tells_prompt(paid[0]):
        found.counts[f"rows {row['usage_source']} of broken off answers whose prompt was told"] += 1
    short = sum(figures[output] for figures in sent) - billed[output]
    if short > 0:
        found.short[ended].append(short)
    if short > sum(_in_flight(record, found.lateness) for record in paid):
        yield "output_short", f"{short} tokens of {evidence}"


def _unseen(billed: Figures, told: Figures, vain: Sequence[Sequence[Figures]], estimate: int) -> int | None:
    """Return how many failed calls explain a surplus that the provider has not seen; None if no number does."""
    surplus = tuple(mine - said for mine, said in zip(billed, told, strict=True))
    for unseen in range(_MOST_UNSEEN + 1):
        for choice in product(*vain, *([_input(estimate)],) * unseen):
            if surplus == tuple(map(sum, zip(*choice, strict=True))):
                return unseen
    return None


def _vain(record: Mapping[str, Any], *, is_owed: bool) -> list[Figures]:
    """Return the possible bills of a call that was not refused and showed no text; none if it is not owed."""
    figures = [_input(_estimate(record)), *([] if is_owed else [_input(0)])]
    if record["first_byte_ns"] is not None:
        # Anthropic's start of a message has the prompt's figures and already one token of the answer.
        prompt = _told(record)[: len(_PROMPT)]
        figures += [(*prompt, output, 0) for output in (0, 1)]
    return figures


def _input(tokens: int) -> Figures:
    return (tokens, *(0,) * (len(_CLASSES) - 1))


def _figures(row: Mapping[str, Any]) -> Figures:
    return tuple(row[name] for name in _CLASSES)


def _told(record: Mapping[str, Any]) -> Figures:
    """Return what the provider counts for a call."""
    long = record["script"].get("cache_write_1h", 0) if record["dialect"] == "anthropic" else 0
    return (*(record[name] for name in _PROMPT[:3]), long, *(record[name] for name in _CLASSES[4:]))


def _sent(record: Mapping[str, Any]) -> Figures:
    """Return what is owed for a call; for one that was not answered, our estimate of the prompt."""
    if record["first_byte_ns"] is None:
        return _input(_least_estimate(record))
    return _told(record)


def _is_free(record: Mapping[str, Any]) -> bool:
    return record["outcome"] == _FREE_OUTCOME


def _tells_usage(record: Mapping[str, Any]) -> bool:
    return record["script"].get("usage", "full") not in {"none", "negative", "huge"}


def _tells_prompt(record: Mapping[str, Any]) -> bool:
    return _tells_usage(record) and record["dialect"] == "anthropic" and record["first_token_ns"] is not None


def _has_told_prompt(record: Mapping[str, Any], lateness: Callable[[float], float]) -> bool:
    """Return whether the prompt's figures were sent long enough before the end to be noted."""
    if not _tells_prompt(record):
        return False
    seconds = record["finished_at"] - record["first_token_at"]
    return bool(seconds > IN_FLIGHT_SECONDS + lateness(record["finished_at"]))


def _texts(record: Mapping[str, Any]) -> list[str]:
    return [text for text in (record["system"], *(each["content"] for each in record["messages"])) if text]


def _estimate(record: Mapping[str, Any]) -> int:
    """Return the prompt's tokens by the rule for calls whose provider did not report them."""
    return sum(-(-len(text.encode()) // _BYTES_PER_TOKEN) + _MESSAGE_TOKENS for text in _texts(record))


def _least_estimate(record: Mapping[str, Any]) -> int:
    """Return the same for a worker that died: all texts together, without what joins them."""
    texts = _texts(record)
    return max(0, sum(len(text.encode()) for text in texts) // _BYTES_PER_TOKEN - len(texts))


def _in_flight(record: Mapping[str, Any], lateness: Callable[[float], float]) -> int:
    seconds = IN_FLIGHT_SECONDS + lateness(record["finished_at"])
    return int(record["script"].get("rate", 0) * seconds) + 1


def _died_calling(record: Mapping[str, Any], lateness: Callable[[float], float]) -> bool:
    """Return whether an attempt died during its call, before it had noted it: such a call need not be billed."""
    took = record["finished_at"] - record["received_at"]
    is_left = record["outcome"] == "client_disconnected"
    return is_left and took < IN_FLIGHT_SECONDS + lateness(record["finished_at"])


def _shown(record: Mapping[str, Any]) -> str:
    return (
        f"call {record['id']} {record['outcome']} {record['status']} {_told(record)}"
        f" estimated {_estimate(record)} of {record['script']},"
        f" received {record['received_at']:.3f}, finished {record['finished_at']:.3f}"
    )


def _prices() -> dict[tuple[str, str], dict[str, Any]]:
    """Read the prices again, with other code than the code that bills."""
    entries = tomllib.loads(PRICES_FILE.read_text(), parse_float=Decimal)["prices"]
    return {(entry["provider"], entry["model"]): entry for entry in entries}


def _cost(
    row: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]],
    prices: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    """Yield a cost that does not match the tokens, or that has the rates of a longer prompt."""
    entry = prices[row["provider"], row["model"]]
    long = entry.get("long_prompt", {"above_tokens": 1 << 62})
    owed = [record for record in calls if not _is_free(record)]
    # Of several calls the longest prompt counts. Each was billed as reported or estimated: the row does not say which.
    lengths = [(sum(_told(record)[:3]), _estimate(record)) for record in owed]
    if not calls or (len(owed) < 2 and row["usage_source"] != "estimated"):
        lengths = [(sum(_figures(row)[:3]),) * 2]
    may_be_short = max(map(min, lengths), default=0) <= long["above_tokens"]
    may_be_long = max(map(max, lengths), default=0) > long["above_tokens"]
    is_short = may_be_short and row["cost_usd"] == _cost_of(row, entry)
    is_long = "output" in long and row["cost_usd"] == _cost_of(row, long)
    if is_short or (is_long and may_be_long):
        return
    kind = "dearer" if is_long else "cost"
    yield kind, f"{row['cost_usd']} for {_figures(row)} at {row['price']}, calls of {lengths}"


def _cost_of(row: Mapping[str, Any], rates: Mapping[str, Any]) -> Decimal:
    of_input = rates["input"]
    of_short, of_long = rates.get("cache_write_5m", of_input), rates.get("cache_write_1h", of_input)
    long = row["cache_write_1h_tokens"]
    return (
        row["input_tokens"] * Decimal(of_input)
        + row["cache_read_tokens"] * Decimal(rates.get("cache_read", of_input))
        + (row["cache_write_tokens"] - long) * Decimal(of_short)
        + long * Decimal(of_long)
        + row["output_tokens"] * Decimal(rates["output"])
    ) / _MILLION


def _of_totals(stored: Stored) -> Iterator[tuple[str, str]]:
    """Yield totals of a day or month that differ from the ledger's, and holds of turns that are over."""
    sums: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in (row for of_turn in stored.ledger.values() for row in of_turn):
        for period, starts_on in (("day", row["day"]), ("month", row["day"].replace(day=1))):
            total = sums[row["organization_id"], period, starts_on]
            total["attempts"] += 1
            total["spent_usd"] += row["cost_usd"]
            for name in _TOTALS:
                total[name] += row[name]
    kept = {(row["organization_id"], row["period"], row["starts_on"]): row for row in stored.spend}
    for place in sums.keys() | kept.keys():
        billed, row = sums[place], kept.get(place, {})
        for name in ("attempts", "spent_usd", *_TOTALS):
            if billed[name] != row.get(name, 0):
                yield "totals", f"{place}: {name} {row.get(name)}, the ledger {billed[name]}"
        if row.get("held_usd"):
            yield "held", f"{place}: {row['held_usd']} is held, and no turn is active"
    for hold in stored.holds:
        yield "held", f"turn {hold['turn_id']} has a hold of {hold['amount_usd']}"


EXPLAINED: Final = {
    "tokens_differ": "bills that are not the provider's figures",
    "prompt_guessed": "prompts billed by estimate although the provider had told them",
    "input_short": "bills below the prompt that was answered",
    "output_short": "bills below the text that was sent",
    "stop_short": "bills below the text that had been sent when a user stopped the turn",
    "unseen_often": "more prompts billed that nobody saw than chance explains",
    "billed_unasked": "bills for attempts that called nobody",
    "refused_billed": "bills for what the provider refused",
    "unbilled": "calls without a bill",
    "cost": "costs that are not those of the tokens",
    "dearer": "prompts billed as longer ones",
    "totals": "totals that are not the ledger's sum",
    "held": "holds of turns that are over",
    "spent_differs": "moments at which spent was not the ledger's sum",
    "held_differs": "moments at which held was not the sum of the holds",
    "over_budget": "moments at which a budget was passed",
    "ledger_check": "what `turnkeeper ledger check` found",
    "no_proof": "what should have happened and did not",
}
"""Every kind of violation besides those of the histories."""
