"""The page's pure parts, in a real browser: Markdown as nodes, a turn from its events, figures."""

import hashlib
import random
import time

import pytest
from playwright.sync_api import Page

DRAW = """async (text) => {
  const { MarkdownView } = await import("/page/markdown.js");
  const root = document.createElement("div");
  new MarkdownView(root).update(text);
  return root.innerHTML.replace(/<figcaption>.*?<\\/figcaption>/g, "");
}"""

GROW = """async (pieces) => {
  const { MarkdownView } = await import("/page/markdown.js");
  const [whole, grown] = [document.createElement("div"), document.createElement("div")];
  const view = new MarkdownView(grown);
  let text = "";
  for (const piece of pieces) view.update((text += piece));
  new MarkdownView(whole).update(text);
  return [whole.innerHTML, grown.innerHTML];
}"""

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

LINK = '<a href="{0}" title="{0}" target="_blank" rel="noopener noreferrer nofollow">{1}</a>'


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain *em* **strong** `a*b`", "<p>plain <em>em</em> <strong>strong</strong> <code>a*b</code></p>"),
        ("one\n\ntwo\nlines", "<p>one</p><p>two\nlines</p>"),
        ("# Big\n### Small #", "<h3>Big</h3><h4>Small #</h4>"),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        (
            "```py\na  = 1\n\n*x*\n```\nafter",
            '<figure class="code"><pre tabindex="0"><code>a  = 1\n\n*x*</code></pre></figure><p>after</p>',
        ),
        ("> quoted *text*", "<blockquote><p>quoted <em>text</em></p></blockquote>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("a **b", "<p>a **b</p>"),
        (
            "see https://a.example/b.",
            f"<p>see {LINK.format('https://a.example/b', 'https://a.example/b')}.</p>",
        ),
        ("[docs](https://a.example/)", f"<p>{LINK.format('https://a.example/', 'docs')}</p>"),
        ("[a] and [b](https://b.example/)", f"<p>[a] and {LINK.format('https://b.example/', 'b')}</p>"),
        ("---", "<hr>"),
        ("line\u2028separator *x*", "<p>line\u2028separator <em>x</em></p>"),
    ],
)
def test_a_small_part_of_markdown_is_drawn(site: Page, text: str, html: str) -> None:
    assert site.evaluate(DRAW, text) == html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![picture](https://evil.example/p.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,hello)",
        '[x](https://a.example/"onmouseover="alert(1))',
        "```html\n<script>alert(1)</script>\n```",
        "> - <iframe src=https://evil.example></iframe>",
    ],
)
def test_what_a_model_writes_never_becomes_markup_nor_loads_anything(site: Page, text: str) -> None:
    html = site.evaluate(DRAW, text)
    found = site.evaluate(
        """(html) => {
          const nodes = [...new DOMParser().parseFromString(html, "text/html").body.querySelectorAll("*")];
          return {
            tags: nodes.map((node) => node.localName),
            listeners: nodes.flatMap((node) => node.getAttributeNames()).filter((name) => name.startsWith("on")),
            targets: nodes.filter((node) => node.href).map((node) => node.protocol),
          };
        }""",
        html,
    )
    assert not {"script", "img", "iframe", "svg", "object", "style"} & set(found["tags"])
    assert found["listeners"] == []
    assert set(found["targets"]) <= {"https:"}


def test_text_that_grows_is_drawn_like_text_that_came_at_once(site: Page) -> None:
    random_ = random.Random(7)
    parts = [
        "- a",
        "1. b",
        "\n",
        "\n\n",
        "  ",
        "```",
        "> q",
        "# h",
        "*e*",
        "**s**",
        "`c`",
        "word ",
        "[l](https://e.x/)",
        "_",
        "---",
        "\r\n",
    ]
    for _ in range(150):
        text = "".join(random_.choice(parts) for _ in range(random_.randint(1, 30)))
        cuts = sorted(random_.randint(0, len(text)) for _ in range(6))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole, grown = site.evaluate(GROW, pieces)
        assert grown == whole, pieces


@pytest.mark.parametrize(
    "piece", ["[", "*a", "`", "``` ", "# ", "> ", "_a_", "**", "[a](", "http://)", "- ", "\\", "a\n\n"]
)
def test_hostile_text_is_drawn_in_linear_time(site: Page, piece: str) -> None:
    started = time.monotonic()
    site.evaluate(DRAW, piece * 150_000 + "x")
    # A second or two; in quadratic time it would be minutes, also on a fast machine.
    assert time.monotonic() - started < 25.0


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
          const found = [0, day].map((later) => outbox.load("s", Date.now() + later)[0].isFailed);
          forgetWritten();
          return found;
        }"""
    )
    assert failed == [False, True]
