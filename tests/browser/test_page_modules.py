"""The page's pure parts, in a real browser: a turn from its events, figures."""

import hashlib
import re

import pytest
from playwright.sync_api import Page, Route, expect

from api.site import document
from tests.browser.conftest import DOCUMENTS

APPLY = """async (events) => {
  const { newTurn, applyEvent } = await import("/page/turn.js");
  let turn = newTurn("t");
  const fates = [];
  for (const event of events) {
    const next = applyEvent(turn, event);
    turn = next.turn;
    fates.push(next.fate);
  }
  return { turn, fates };
}"""


def event(kind: str, seq: int, **fields: object) -> dict:
    return {"type": kind, "turn_id": "t", "seq": seq, "attempt": 1, **fields}


def test_an_event_that_comes_twice_is_taken_once(site: Page) -> None:
    events = [
        event("turn_queued", 1),
        event("content_delta", 2, delta="a"),
        event("content_delta", 2, delta="a"),
    ]
    result = site.evaluate(APPLY, events)
    assert result["fates"] == ["applied", "applied", "seen"]
    assert result["turn"]["content"] == "a"


def test_an_event_past_a_hole_is_not_taken(site: Page) -> None:
    result = site.evaluate(APPLY, [event("turn_queued", 1), event("content_delta", 3, delta="b")])
    assert result["fates"] == ["applied", "hole"]
    assert (result["turn"]["content"], result["turn"]["seq"]) == ("", 1)


def test_a_snapshot_stands_in_place_of_all_before_it(site: Page) -> None:
    newer = event("snapshot", 9, content="newer", reasoning="", status="running")
    back = event("snapshot", 4, content="old", reasoning="", status="running")
    result = site.evaluate(APPLY, [newer, back, event("content_delta", 5, delta="!")])
    assert result["turn"]["content"] == "old!"


def test_a_reset_voids_the_text_of_the_earlier_attempt(site: Page) -> None:
    events = [
        event("content_delta", 1, delta="first"),
        event("reasoning_delta", 2, delta="thought"),
        event("message_reset", 3, reason="worker_lost"),
        event("content_delta", 4, delta="second"),
    ]
    turn = site.evaluate(APPLY, events)["turn"]
    assert (turn["content"], turn["reasoning"], turn["restarted"]) == ("second", "", True)


@pytest.mark.parametrize("status", ["completed", "stopped", "failed", "expired"])
@pytest.mark.parametrize("seq", [2, 7], ids=["in order", "over a hole"])
def test_done_ends_a_turn_whatever_its_status_and_whatever_was_missed(
    site: Page, status: str, seq: int
) -> None:
    result = site.evaluate(APPLY, [event("turn_queued", 1), event("done", seq, status=status)])
    assert result["turn"]["done"] is True
    assert result["turn"]["status"] == status
    assert result["turn"]["whole"] is (seq == 2)


def test_an_older_answer_over_http_does_not_undo_events(site: Page) -> None:
    events = [event("turn_queued", 1), event("turn_started", 2, provider="p", model="m")]
    turn = site.evaluate(APPLY, events)["turn"]
    late = site.evaluate(
        "async ([turn, record]) => (await import('/page/turn.js')).withRecord(turn, record)",
        [turn, {"id": "t", "status": "queued", "provider": "p", "model": "m"}],
    )
    assert late["status"] == "running"


def test_a_turn_that_ends_while_the_store_is_read_keeps_its_text(site: Page) -> None:
    """The answer was not among the messages when they were read; `done` came before they were taken."""
    events = [event("content_delta", 1, delta="text"), event("done", 2, status="completed")]
    turn = site.evaluate(APPLY, events)["turn"]
    merged = site.evaluate(
        """async ([turn, records, messages]) => {
          const { mergeStored } = await import("/page/turn.js");
          return mergeStored(new Map([["t", turn]]), records, messages, new Set(["t"])).get("t");
        }""",
        [turn, [{"id": "t", "status": "running"}], [{"turn_id": "t", "role": "user", "content": "why?"}]],
    )
    assert (merged["content"], merged["question"], merged["done"]) == ("text", "why?", True)


def test_nothing_is_taken_after_done(site: Page) -> None:
    events = [event("done", 1, status="stopped"), event("content_delta", 2, delta="late")]
    result = site.evaluate(APPLY, events)
    assert result["fates"] == ["applied", "seen"]
    assert result["turn"]["content"] == ""


def test_an_unknown_event_counts_in_the_order_and_does_nothing_else(site: Page) -> None:
    result = site.evaluate(APPLY, [event("invented_later", 1), event("content_delta", 2, delta="x")])
    assert result["fates"] == ["applied", "applied"]
    assert result["turn"]["content"] == "x"


@pytest.mark.parametrize(("text", "exact"), [("Grüße 👋", True), ("Grüße", False)])
def test_the_text_is_held_against_its_hash(site: Page, text: str, exact: bool) -> None:
    digest = hashlib.sha256("Grüße 👋".encode()).hexdigest()
    result = site.evaluate(
        APPLY,
        [event("content_delta", 1, delta=text), event("done", 2, status="completed", content_sha256=digest)],
    )
    assert (
        site.evaluate("async (turn) => (await import('/page/turn.js')).isExact(turn)", result["turn"])
        is exact
    )


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0.001230", "$0.00123"),
        ("0.000000", "$0.00"),
        ("12.5", "$12.50"),
        ("0.00000000123", "$0.00000000123"),
        ("3", "$3.00"),
    ],
)
def test_money_is_shown_to_its_last_digit(site: Page, amount: str, shown: str) -> None:
    assert site.evaluate("async (amount) => (await import('/page/format.js')).usd(amount)", amount) == shown


def test_an_answer_that_ended_while_the_store_was_read_keeps_its_text(site: Page) -> None:
    events = [event("content_delta", 1, delta="text"), event("done", 2, status="completed")]
    content = site.evaluate(
        """async (turn) => {
          const { mergeStored } = await import("/page/turn.js");
          const asked = [{ turn_id: "t", role: "user", content: "why?" }];
          const running = [{ id: "t", status: "running" }];
          return mergeStored(new Map([["t", turn]]), running, asked, new Set(["t"])).get("t").content;
        }""",
        site.evaluate(APPLY, events)["turn"],
    )
    assert content == "text"


def test_drafts_are_bounded_and_the_oldest_go(site: Page) -> None:
    kept = site.evaluate(
        """async () => {
          const { drafts, forgetWritten } = await import("/page/storage.js");
          for (let at = 1; at <= 60; at += 1) drafts.save(`s${at}`, "text", at);
          const loaded = Array.from({ length: 60 }, (_, at) => drafts.load(`s${at + 1}`)).map((text) => text !== "");
          forgetWritten();
          return [loaded, Object.keys(localStorage)];
        }"""
    )
    assert kept == [[False] * 10 + [True] * 50, []]


def test_a_message_older_than_its_key_is_not_sent_again_by_itself(site: Page) -> None:
    failed = site.evaluate(
        """async () => {
          const { outbox, forgetWritten } = await import("/page/storage.js");
          outbox.add("s", "text");
          const day = 24 * 3_600_000;
          const found = [0, day].map((later) => outbox.load("s", Date.now() + later)[0]);
          outbox.again("s", found[0].key, Date.now() + day); // unless its reader says so
          found.push(outbox.load("s", Date.now() + day)[0]);
          forgetWritten();
          return found.map(({ isFailed, why }) => [isFailed, why]);
        }"""
    )
    assert failed == [[False, None], [True, "It is a day old, and may have arrived then."], [False, None]]


def test_a_fault_in_sending_one_message_does_not_keep_back_those_behind_it(site: Page) -> None:
    assert site.evaluate(
        """async () => {
          const { Outbox } = await import("/page/outbox.js");
          const reported = [];
          window.reportError = (error) => reported.push(error.message);
          const sent = await new Promise((resolve) => {
            const post = async ({ content }) => {
              if (content === "first") throw new TypeError("a fault of the page");
              resolve(content);
            };
            const outbox = new Outbox("s", { post, onRefused: () => false, onEdit: () => false });
            outbox.send("first");
            outbox.send("second");
          });
          return [sent, reported];
        }"""
    ) == ["second", ["a fault of the page"]]


def test_what_another_tab_has_yet_to_send_is_kept_when_a_message_is_accepted_here(site: Page) -> None:
    assert site.evaluate(
        """async () => {
          const { Outbox } = await import("/page/outbox.js");
          const { outbox, forgetWritten } = await import("/page/storage.js");
          const left = await new Promise((resolve) => {
            const post = async ({ content }) => {
              if (content === "ours") outbox.add("two", "theirs");
              else resolve(outbox.load("two").map((message) => message.content));
            };
            new Outbox("two", { post, onRefused: () => false, onEdit: () => false }).send("ours");
          });
          forgetWritten();
          return left;
        }"""
    ) == ["theirs"]


LINK = re.compile(r'<link rel="modulepreload" href="(/page/[^"]+)">\n')


@pytest.mark.parametrize(
    ("path", "entry"), [("/", "main.js"), ("/usage", "administration.js")], ids=["chat", "administration"]
)
def test_a_page_names_the_modules_that_it_begins_with_and_no_other(
    page: Page, origin: str, path: str, entry: str
) -> None:
    """The browser itself says which they are, once the names are taken out of the page."""
    named: list[str] = []
    asked: list[str] = []

    def without_names(route: Route) -> None:
        text = document(DOCUMENTS[path])
        named.extend(LINK.findall(text))
        route.fulfill(content_type="text/html", body=LINK.sub("", text))

    page.route(f"{origin}{path}", without_names)
    page.on("request", lambda request: asked.append(request.url.removeprefix(origin)))
    page.goto(f"{origin}{path}")
    expect(page.get_by_label("API key")).to_be_visible()
    modules = {url for url in asked if url.endswith(".js")} - {"/page/theme-early.js", f"/page/{entry}"}
    assert sorted(named) == sorted(modules)


def test_the_administrators_budget_warns_at_the_shares_and_in_the_colours_of_the_chat(site: Page) -> None:
    spent = ["69.99", "70", "89.99", "90", "100", "83"]
    cards = site.evaluate(
        """async (amounts) => {
          const { BudgetCard } = await import("/page/budget-card.js");
          const none = { spent_usd: "0", held_usd: "0", resets_at: "2026-02-01T00:00:00.000Z" };
          const colour = (node) => getComputedStyle(node).getPropertyValue("--accent");
          return amounts.map((spent_usd) => {
            // A part of it is held: it counts as well.
            const day = { ...none, spent_usd: String(spent_usd - 1), held_usd: "1" };
            const limits = { enabled: true, daily_usd: "100", monthly_usd: "1000" };
            const card = new BudgetCard(null, { ...limits, day, month: none });
            const chat = document.createElement("div");
            chat.className = "budget";
            const period = card.node.querySelector(".period");
            chat.dataset.level = period.dataset.level;
            document.body.append(card.node, chat);
            const ids = [...card.node.querySelectorAll("pattern")].map(({ id }) => id);
            const found = [period.dataset.level, colour(period), colour(period) === colour(chat), new Set(ids).size];
            card.node.remove();
            chat.remove();
            return found;
          });
        }""",
        spent,
    )
    assert [level for level, *_ in cards] == ["plain", "near", "near", "close", "close", "near"]
    assert all(is_same and patterns == 2 for _, _, is_same, patterns in cards)
    assert len({colour for _, colour, _, _ in cards}) == 3


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("stop", None),
        ("length", "length limit"),
        ("content_filter", "content filter"),
        ("refusal", "declined"),
        ("unknown", "may be incomplete"),
    ],
)
def test_an_end_that_leaves_the_answer_short_is_said_in_words(
    site: Page, reason: str, words: str | None
) -> None:
    ended = {"done": True, "status": "completed", "finishReason": reason, "content": "x"}
    said = site.evaluate('async (turn) => (await import("/page/words.js")).outcome(turn)', ended)
    if words is None:
        assert said is None
    else:
        assert words in said["title"]
