"""Each main state of the page in light, dark and on a phone: axe finds nothing, and pictures are made when asked for.

`make screenshots` makes them, for docs/images.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import violations
from tests.browser.conftest import LIMIT_SECONDS, clean_tab
from tests.browser.running import Service, expect_ended, last, say, sign_in, wait_for_words

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURED = {"answer", "streaming", "stopped", "sessions", "budget"}
WIDE = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 844}
LOOKS = {"light": ("light", WIDE), "dark": ("dark", WIDE), "phone": ("light", PHONE)}
ANSWER = """\
A worker that dies loses nothing that was promised. Here is what happens, **step by step**:

1. Its lease runs out, for nobody renews it.
2. The sweeper of any other worker finds the turn.
3. The turn runs again with the next `attempt`, and readers are told by a `message_reset`.

| what dies | who notices | what a reader sees |
|---|---|---|
| worker | the sweeper | the answer begins again |
| relay | the page | a reconnect |

```python
def settle(db: Session, claim: Claim, outcome: Outcome) -> bool:
    \"\"\"Write the claimed turn's outcome once.\"\"\"
    return db.execute(SETTLE, {"attempt": claim.attempt}).rowcount == 1
```

> Text that was shown is stored, however the turn ended.
"""


def direct(service: Service, **script: object) -> None:
    """Make the provider answer by this script from now on."""
    address = service.provider_url.removesuffix("/v1")
    httpx.put(
        f"{address}/_script", content=json.dumps(script), timeout=LIMIT_SECONDS, trust_env=False
    ).raise_for_status()


class Look:
    """The page as one kind of user sees it."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name

    def examine(self, state: str) -> None:
        """Let axe look at what is shown, and take its picture if asked to."""
        assert violations(self.page) == [], f"{state}, {self.name}"
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), state
        if os.environ.get("SCREENSHOTS") and state in PICTURED:
            IMAGES.mkdir(exist_ok=True)
            self.page.screenshot(path=IMAGES / f"page-{state}-{self.name}.png")


@pytest.fixture(autouse=True)
def undirected(service: Service) -> Iterator[None]:
    """Afterwards the provider answers again as it does by itself: the service is that of all modules."""
    yield
    address = service.provider_url.removesuffix("/v1")
    httpx.delete(f"{address}/_script", timeout=LIMIT_SECONDS, trust_env=False).raise_for_status()


@contextmanager
def look_of(browser: Browser, name: str) -> Iterator[Look]:
    scheme, size = LOOKS[name]
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(LIMIT_SECONDS * 1000)
    with clean_tab(context) as page:
        yield Look(page, name)
    context.close()


@pytest.mark.parametrize("name", LOOKS)
def test_axe_finds_nothing_in_any_main_state(browser: Browser, service: Service, name: str) -> None:
    with look_of(browser, name) as look:
        page = look.page
        page.goto(service.url)
        expect(page.get_by_label("API key")).to_be_visible()
        look.examine("sign-in")
        sign_in(page, service, service.user_key)
        look.examine("start")

        direct(service, text=ANSWER, reasoning=40)
        say(page, "What happens to my answer when the worker that writes it dies?")
        expect_ended(page, "completed")
        expect(page.locator("code .hljs-keyword").first).to_be_visible()
        page.locator(".scroll").evaluate("(node) => { node.scrollTop = 0; }")
        page.locator(".reasoning summary").click()
        look.examine("reasoning")
        page.locator(".reasoning summary").click()
        page.mouse.move(0, 0)
        look.examine("answer")

        page.get_by_role("button", name="This session").click()
        look.examine("menu")
        page.keyboard.press("Escape")

        direct(service, tokens=5000, rate=30)
        say(page, "And how does Stop work?")
        wait_for_words(page, 30)
        look.examine("streaming")
        page.get_by_role("button", name="Stop").click()
        expect_ended(page, "stopped")
        look.examine("stopped")
        last(page).get_by_role("button", name="Edit").click()
        look.examine("editing")
        page.keyboard.press("Escape")

        if name == "phone":
            page.get_by_role("button", name="Sessions").click()
            expect(page.get_by_role("link", name="New session")).to_be_in_viewport()
            look.examine("sessions")
        page.get_by_role("button", name="Keyboard shortcuts").click()
        look.examine("shortcuts")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")

        direct(service, tokens=10, error_after=5, error_type="api_error")
        say(page, "Fail, please.")
        expect_ended(page, "failed")
        look.examine("failed")


@pytest.mark.parametrize(("share", "level"), [("1.3", "near"), ("1.05", "close"), ("0.5", "close")])
def test_a_budget_that_is_nearly_used_up_is_said(
    page: Page, service: Service, budget: httpx.Client, share: str, level: str
) -> None:
    direct(service, tokens=50)
    sign_in(page, service, service.user_key)
    say(page, "Spend something.")
    expect_ended(page, "completed")
    current = budget.get("/v1/budget").json()
    limit = float(current["day"]["spent_usd"]) * float(share)
    limits = {name: current[name] for name in current if name not in {"day", "month"}}
    budget.put("/v1/budget", json={**limits, "daily_usd": f"{limit:.6f}"}).raise_for_status()
    if share == "0.5":
        say(page, "And more.")
        expect(page.locator(".notice")).to_contain_text("It starts anew")
        expect(page.get_by_label("Message", exact=True)).to_have_value("And more.")
        expect(page.locator(".exchange")).to_have_count(1)
    expect(page.locator(".budget")).to_be_hidden()  # the service tells a user nothing of it
    page.get_by_role("button", name="Sign out").click()
    page.evaluate("sessionStorage.clear()")
    sign_in(page, service, service.admin_key)
    expect(page.locator(".budget")).to_have_attribute("data-level", level)
    warning = page.locator(".budget-warning")
    expect(warning).to_contain_text("is used up" if share == "0.5" else "% used")
    Look(page, level).examine("budget")


@pytest.fixture
def budget(service: Service) -> Iterator[httpx.Client]:
    """The administrator; the limits are removed afterwards."""
    headers = {"Authorization": f"Bearer {service.admin_key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=LIMIT_SECONDS, trust_env=False) as admin:
        before = admin.get("/v1/budget").json()
        yield admin
        limits = {name: before[name] for name in before if name not in {"day", "month"}}
        admin.put("/v1/budget", json=limits).raise_for_status()


def test_the_choice_of_colours_is_remembered(page: Page, service: Service) -> None:
    sign_in(page, service, service.user_key)
    page.get_by_role("button", name="Use dark colours").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    expect(page.get_by_role("button", name="Use light colours")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.get_by_role("button", name="Use light colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
