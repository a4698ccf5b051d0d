"""The administrators' pages against the whole service: they show what the ledger and the turns contain."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from shared.postgres.accounts import create_key, create_organization
from tests.browser.axe import violations
from tests.browser.conftest import clean_tab, profile
from tests.browser.running import Service as RunningService
from tests.browser.running import running_service, wait_until

HOSTILE = '<img src=x onerror="alert(1)">=1+1'
TITLE = "<script>alert(1)</script> \N{RIGHT-TO-LEFT OVERRIDE}evil"


class Service:
    """A running Turnkeeper with some turns of two users, and another organization that has none."""

    def __init__(self, running: RunningService) -> None:
        self.url = running.url
        self.admin_key = running.admin_key
        self.user_key = running.user_key
        others = create_organization(running.owner_url, "Others")
        self.strangers_key = create_key(running.owner_url, others, "admin")
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def get(self, path: str, **parameters: str) -> Any:
        return self.http.get(path, params=parameters).raise_for_status().json()

    def session(self, user: str, **fields: str) -> str:
        return self.http.post("/v1/sessions", json={"user": user, **fields}).raise_for_status().json()["id"]

    def turn(self, session_id: str, content: str) -> str:
        asked = self.http.post(f"/v1/sessions/{session_id}/turns", json={"content": content})
        return asked.raise_for_status().json()["id"]

    def ended(self, turn_id: str) -> str:
        wait_until(lambda: self.get(f"/v1/turns/{turn_id}", wait="10")["finished_at"], "the turn's end")
        return turn_id

    def limit(self, **limits: Any) -> None:
        budget = {
            name: value for name, value in self.get("/v1/budget").items() if name not in {"day", "month"}
        }
        self.http.put("/v1/budget", json=budget | limits).raise_for_status()


@pytest.fixture(scope="module")
def service(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A separate service, whose figures are known; requested after the browser."""
    with running_service(tmp_path_factory.mktemp("up")) as running:
        ours = Service(running)
        with ours.http:
            yield ours


@pytest.fixture(scope="module")
def turns(service: Service) -> dict[str, str]:
    """The organization's data: answers to two users, a failure, a stop and a flagged session."""
    made = {}
    for user, name in (("ada", "first"), ("ada", "second"), (HOSTILE, "hostile")):
        made[name] = service.turn(service.session(user), "[[tokens=9 rate=1000]] Hello")
    made["failed"] = service.turn(
        service.session("ada"), "[[tokens=9 error_after=2 error_type=invalid_request_error]] Fail"
    )
    session = service.session("ada", title=TITLE)
    made["stopped"] = service.turn(session, "[[tokens=2000 rate=50]] At length")
    wait_until(lambda: service.get(f"/v1/turns/{made['stopped']}")["status"] == "running", "a worker")
    service.http.post(f"/v1/turns/{made['stopped']}/stop", json={}).raise_for_status()
    for turn in made.values():
        service.ended(turn)
    service.http.post(f"/v1/sessions/{session}/flag", json={"reason": HOSTILE}).raise_for_status()
    made["flagged"] = session
    return made


def open_as(page: Page, service: Service, key: str, path: str) -> Page:
    page.add_init_script(f"sessionStorage.setItem('turnkeeper.key', {json.dumps(key)})")
    page.goto(service.url + path)
    return page


@pytest.fixture
def usage(page: Page, service: Service, turns: dict[str, str]) -> Page:
    """The usage page, loaded."""
    open_as(page, service, service.admin_key, "/usage")
    expect(table(page, "Ledger").locator("tbody tr")).not_to_have_count(0)
    expect(page.locator("[aria-busy]")).to_have_count(0)
    return page


@pytest.fixture
def operations(page: Page, service: Service, turns: dict[str, str]) -> Page:
    """The operations page, loaded."""
    open_as(page, service, service.admin_key, "/operations")
    expect(table(page, "Turns").locator("tbody tr")).not_to_have_count(0)
    return page


def table(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def rows(page: Page, name: str) -> list[list[str]]:
    lines = table(page, name).locator("tbody tr").all()
    return [[cell.strip() for cell in line.locator("th, td").all_text_contents()] for line in lines]


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tiles > div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def usd(amount: str | Decimal) -> str:
    whole, _, decimals = f"{amount}".partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"


def test_the_figures_shown_are_the_ledgers(usage: Page, service: Service) -> None:
    ledger = service.get("/v1/ledger", limit="100")["data"]
    total = sum(Decimal(row["cost_usd"]) for row in ledger)
    assert total > 0
    expect(tile(usage, "Spent")).to_have_text(usd(total))
    expect(tile(usage, "Turns")).to_contain_text(str(len({row["turn_id"] for row in ledger})))
    assert [row[6] for row in rows(usage, "Ledger")] == [usd(row["cost_usd"]) for row in ledger]
    by_user: dict[str, Decimal] = {}
    for row in ledger:
        by_user[row["user"]] = by_user.get(row["user"], Decimal(0)) + Decimal(row["cost_usd"])
    expected = sorted(by_user.items(), key=lambda group: (-group[1], group[0]))
    assert [(row[0], row[2]) for row in rows(usage, "Spend by user")] == [
        (user, usd(cost)) for user, cost in expected
    ]
    assert [row[2] for row in rows(usage, "Spend by model")] == [usd(total)]
    usage.get_by_text("Figures as a table").click()
    days = rows(usage, "Spend by day")
    assert len(days) == 30
    # If midnight passed meanwhile, it is spread over two days.
    assert sum(Decimal(day[1].removeprefix("$")) for day in days) == total
    columns = usage.locator(".plot rect.column title").all_text_contents()
    assert columns == [f"{day[0]}: {day[1]}" for day in days if day[1] != "$0.00"]
    assert usage.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_rows_are_found_by_filters_and_downloaded_as_they_are_shown(
    usage: Page, service: Service, turns: dict[str, str]
) -> None:
    usage.get_by_label("User", exact=True).fill(HOSTILE)
    expect(table(usage, "Ledger").locator("tbody tr")).to_have_count(1)
    assert rows(usage, "Ledger")[0][1] == HOSTILE
    with usage.expect_download() as began:
        usage.get_by_role("button", name="Download CSV").click()
    path = began.value.path()
    asked = service.http.get("/v1/ledger", params={"user": HOSTILE}, headers={"Accept": "text/csv"})
    assert path.read_bytes() == asked.content
    assert turns["hostile"] in path.read_text()
    usage.get_by_label("Model", exact=True).fill("no such model")
    expect(usage.get_by_text("No rows.")).to_be_visible()
    usage.get_by_label("Model", exact=True).fill("")
    usage.get_by_label("User", exact=True).fill("")
    usage.get_by_label("Figures", exact=True).select_option("estimated")
    estimated = service.get("/v1/ledger", usage_source="estimated", limit="100")["data"]
    expect(table(usage, "Ledger").locator("tbody tr")).to_have_count(len(estimated))
    table(usage, "Ledger").get_by_role("link").first.click()
    expect(usage.get_by_role("heading", name="Timeline")).to_be_visible()


def test_days_are_chosen_and_kept_in_the_address(usage: Page) -> None:
    usage.get_by_label("From", exact=True).fill("2020-01-01")
    usage.get_by_label("To", exact=True).fill("2020-01-07")
    expect(tile(usage, "Spent")).to_have_text("$0.00")
    expect(usage).to_have_url(re.compile(r"\?from=2020-01-01&to=2020-01-07$"))
    usage.reload()
    expect(usage.get_by_label("To", exact=True)).to_have_value("2020-01-07")
    expect(tile(usage, "Spent")).to_have_text("$0.00")
    usage.get_by_label("To", exact=True).fill("2019-12-31")
    expect(usage.get_by_role("alert").filter(has_text="must not be after")).to_be_visible()


def test_limits_are_changed_as_a_whole_and_refused_field_by_field(usage: Page, service: Service) -> None:
    service.limit(turns_per_hour=77)  # by somebody else, after this page was loaded
    usage.get_by_role("button", name="Change limits").click()
    usage.get_by_label("US dollars a day").fill("1.5x")
    usage.get_by_role("button", name="Save").click()
    expect(usage.get_by_label("US dollars a day")).to_have_attribute("aria-invalid", "true")
    expect(usage.get_by_label("US dollars a day")).to_be_focused()
    usage.get_by_label("US dollars a day").fill("1.50")
    usage.get_by_label("Turns at once").fill("0")
    usage.get_by_role("button", name="Save").click()
    expect(usage.get_by_role("button", name="Save")).to_have_count(0)
    budget = service.get("/v1/budget")
    assert (budget["daily_usd"], budget["max_concurrent_turns"], budget["turns_per_hour"]) == (
        "1.500000",
        0,
        77,
    )
    spent, held = budget["day"]["spent_usd"], budget["day"]["held_usd"]
    expect(usage.locator(".period").first).to_contain_text(f"{usd(spent)} spent, {usd(held)} held, of $1.50")
    # Refusals by a limit are shown with the users refused.
    refused = service.http.post(
        f"/v1/sessions/{service.session(HOSTILE)}/turns", json={"content": "Hello"}
    ).json()
    assert refused["code"] == "too_many_turns"
    service.limit(daily_usd=None, max_concurrent_turns=None, turns_per_hour=None)
    wait_until(lambda: service.get("/v1/refusals")["data"], "the refusal to be counted")
    usage.reload()
    expect(table(usage, "Limits hit").locator("tbody tr")).to_have_count(1)
    assert rows(usage, "Limits hit")[0][:3] == [HOSTILE, "turns at once", "1"]


def test_turns_are_followed_by_themselves(operations: Page, service: Service) -> None:
    expect(tile(operations, "Running")).to_have_text("0")
    turn = service.turn(service.session("ada"), "[[tokens=5000 rate=20]] At length")
    expect(tile(operations, "Running")).to_have_text("1")
    expect(tile(operations, "Workers hearing")).to_have_text("1 of 1")
    link = table(operations, "Workers").get_by_role("link", name=f"…{turn[-6:]}")
    expect(link).to_have_attribute("href", f"/operations/turns/{turn}")
    link.focus()
    operations.get_by_label("Status", exact=True).select_option("running")
    expect(table(operations, "Turns").locator("tbody tr")).to_have_count(1)
    service.http.post(f"/v1/turns/{turn}/stop", json={}).raise_for_status()
    service.ended(turn)
    expect(tile(operations, "Running")).to_have_text("0")
    expect(operations.get_by_text("No such turns.")).to_be_visible()


def test_failures_are_shown_by_code_and_found_by_it(operations: Page, turns: dict[str, str]) -> None:
    expect(table(operations, "Last failures")).to_contain_text("provider_rejected")
    assert rows(operations, "Failures of the last 24 hours by code") == [
        ["provider_rejected", "1", f"…{turns['failed'][-6:]}"]
    ]
    operations.get_by_role("button", name="provider_rejected").click()
    expect(table(operations, "Turns").locator("tbody tr")).to_have_count(1)
    assert rows(operations, "Turns")[0][0] == f"…{turns['failed'][-6:]}"


def test_a_flag_is_taken_away_and_a_title_is_text(
    operations: Page, service: Service, turns: dict[str, str]
) -> None:
    flagged = table(operations, "Flagged sessions")
    expect(flagged.get_by_role("link")).to_have_text(TITLE)
    assert rows(operations, "Flagged sessions")[0][2] == HOSTILE
    assert operations.evaluate("document.querySelectorAll('main img, main script').length") == 0
    flagged.get_by_role("button", name="Unflag").click()
    expect(operations.get_by_text("No session is flagged.")).to_be_visible()
    assert service.get(f"/v1/sessions/{turns['flagged']}")["flagged"] is False


def test_a_turns_page_has_its_times_and_what_its_attempts_cost(
    page: Page, service: Service, turns: dict[str, str]
) -> None:
    open_as(page, service, service.admin_key, f"/operations/turns/{turns['stopped']}")
    moments = page.locator(".timeline strong")
    expect(moments.first).to_be_visible()
    shown = moments.all_text_contents()
    # The first text may arrive before or after the stop was requested.
    assert [name for name in shown if name != "First text"] == [
        "Accepted",
        "Claimed",
        "Stop asked",
        "Stop observed",
        "Done",
    ]
    billed = service.get("/v1/ledger", turn_id=turns["stopped"])["data"]
    assert [row[5] for row in rows(page, "Attempts")] == [usd(row["cost_usd"]) for row in billed]
    expect(page.locator(".facts-of-turn")).to_contain_text("stopped")


def test_another_organizations_administrator_sees_nothing(
    page: Page, service: Service, turns: dict[str, str]
) -> None:
    open_as(page, service, service.strangers_key, "/usage")
    expect(tile(page, "Spent")).to_have_text("$0.00")
    expect(page.get_by_text("No rows.")).to_be_visible()
    page.goto(f"{service.url}/operations")
    expect(tile(page, "Workers hearing")).to_have_text("1 of 1")
    for nothing in ("No such turns.", "Nothing failed.", "No session is flagged."):
        expect(page.get_by_text(nothing)).to_be_visible()
    page.goto(f"{service.url}/operations/turns/{turns['first']}")
    expect(page.locator(".notice")).to_contain_text("Not found.")
    assert "ada" not in page.locator("main").inner_text()


def test_a_member_is_told_that_it_is_for_administrators(page: Page, service: Service) -> None:
    open_as(page, service, service.user_key, "/usage")
    expect(page.get_by_role("heading", name="For administrators")).to_be_visible()
    expect(page.get_by_role("link", name="Operations")).to_have_count(0)
    page.get_by_role("link", name="Go to the chat").click()
    expect(page.get_by_label("Message")).to_be_visible()
    expect(page.get_by_role("link", name="Usage")).to_have_count(0)


def test_an_administrator_goes_from_the_chat_to_usage_and_signs_out(
    browser: Browser, service: Service
) -> None:
    with profile(browser) as context, clean_tab(context) as page:
        page.goto(f"{service.url}/usage")
        page.get_by_label("API key").fill(service.admin_key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Usage", exact=True)).to_be_visible()
        page.get_by_role("link", name="Chat").click()
        page.get_by_label("Message").fill("not yet")
        page.get_by_role("link", name="Operations").click()
        expect(page.get_by_role("heading", name="Operations", exact=True)).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.evaluate("Object.keys(localStorage)") == []
        page.goto(service.url)
        expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(page: Page, service: Service, turns: dict[str, str], scheme: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    open_as(page, service, service.admin_key, "/usage")
    for path, name in (
        ("/usage", "Ledger"),
        ("/operations", "Turns"),
        (f"/operations/turns/{turns['first']}", "Attempts"),
    ):
        page.goto(service.url + path)
        expect(table(page, name).locator("tbody tr")).not_to_have_count(0)
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert violations(page) == [], path


def test_the_colours_chosen_in_the_chat_hold_here_and_the_limits_have_no_frames(
    page: Page, service: Service, turns: dict[str, str]
) -> None:
    open_as(page, service, service.admin_key, "/")
    page.get_by_role("button", name="Use dark colours").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("link", name="Usage").click()
    page.get_by_role("button", name="Change limits").click()
    expect(page.get_by_label("AI is switched on")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    edges = "document.querySelectorAll('.budget-form > .wide')"
    assert page.evaluate(f"[...{edges}].map((node) => getComputedStyle(node).borderTopWidth)") == ["0px"] * 3
    page.get_by_role("button", name="Use light colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


POLL = """async () => {
  const { Poll } = await import("/page/poll.js");
  window.asked = 0;
  window.poll = new Poll(async () => { window.asked += 1; }, 1000);
  window.poll.start();
}"""
LOOK = """(state) => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_nothing_is_asked_while_the_page_is_hidden_or_paused(page: Page, origin: str) -> None:
    page.clock.install(time=0)
    page.goto(origin)
    page.clock.pause_at(3_600_000)  # from now on no time passes by itself
    page.evaluate(POLL)
    page.clock.run_for(3_500)
    assert page.evaluate("window.asked") == 4
    page.evaluate(LOOK, "hidden")
    page.clock.run_for(10_000)
    assert page.evaluate("window.asked") == 4
    page.evaluate(LOOK, "visible")
    assert page.evaluate("window.asked") == 5
    page.evaluate("window.poll.pause()")
    page.clock.run_for(10_000)
    assert page.evaluate("window.asked") == 5
    page.evaluate("window.poll.resume()")
    assert page.evaluate("window.asked") == 6
    page.evaluate("window.poll.close()")
    page.clock.run_for(10_000)
    assert page.evaluate("window.asked") == 6


UPDATE = """async () => {
  const { Table } = await import("/page/table.js");
  const { el } = await import("/page/dom.js");
  const columns = [{ name: "A", cell: ({ a }) => el("a", { href: "#" }, a) }, { name: "B", cell: ({ b }) => b }];
  const table = new Table("T", columns, ({ key }) => key);
  document.body.append(table.node);
  const row = (key, b = "") => ({ key, a: key, b });
  table.update([row("gone"), row("kept"), row("last")]);
  const [, kept] = table.table.tBodies[0].rows;
  kept.querySelector("a").focus();
  table.update([row("new"), row("kept", "changed"), row("last")]);
  const [, again] = table.table.tBodies[0].rows;
  const words = table.table.tBodies[0].innerText.trim().split(/\\s+/);
  return [again === kept, document.activeElement.textContent, words.join(" ")];
}"""


def test_a_table_is_changed_where_it_changed_and_keeps_the_focus(page: Page, origin: str) -> None:
    page.goto(origin)
    assert page.evaluate(UPDATE) == [True, "kept", "new kept changed last"]


def test_an_axis_ends_at_or_above_the_most(page: Page, origin: str) -> None:
    page.goto(origin)
    steps = page.evaluate(
        """async (values) => {
          const { steps } = await import("/page/chart.js");
          return values.map((value) => steps(value));
        }""",
        [0, 0.000012, 0.9, 1, 3.2, 99, 100, 123456],
    )
    for most, marks in zip([0, 0.000012, 0.9, 1, 3.2, 99, 100, 123456], steps, strict=True):
        assert marks[0] == 0
        assert marks[-1] >= most * 0.999999
        assert 2 <= len(marks) <= 6, (most, marks)


def test_everything_is_stopped_after_a_question(usage: Page, service: Service) -> None:
    session = service.session("ada")
    running = service.turn(session, "[[tokens=400 rate=5]] long")
    wait_until(lambda: service.get(f"/v1/turns/{running}")["status"] == "running", "the turn to run")
    usage.get_by_role("button", name="Stop everything").click()
    usage.get_by_role("button", name="Cancel").click()
    assert service.get(f"/v1/turns/{running}")["status"] == "running"
    usage.get_by_role("button", name="Stop everything").click()
    usage.get_by_role("dialog").get_by_role("button", name="Stop everything").click()
    expect(usage.get_by_text("Stopped: 0 that waited, 1 that ran.")).to_be_visible()
    service.ended(running)
    assert service.get(f"/v1/turns/{running}")["stop_reason"] == "user"


FIGURES = """async () => {
  const { figuresOf } = await import("/page/figures.js");
  const words = (row) => {
    const node = figuresOf(row);
    return typeof node === "string" ? [node, ""] : [node.textContent, node.title];
  };
  return [
    words({ usage_source: "provider", kind: "usage", reported: null }),
    words({ usage_source: "disputed", kind: "usage", reported: { input_tokens: 3, output_tokens: 1000000 } }),
    words({ usage_source: "disputed", kind: "correction", reason: "<b>credited</b>" }),
  ];
}"""


def test_a_row_says_what_its_provider_said_and_why_it_was_corrected(page: Page, origin: str) -> None:
    page.goto(origin)
    assert page.evaluate(FIGURES) == [
        ["provider", ""],
        ["disputed", "The provider said: 3 input, 1,000,000 output"],
        ["correction", "<b>credited</b>"],
    ]
