"""A real Chromium for the page, and the page served from its folder for tests that need no service behind it."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from api.site import content_security_policy, document
from tests.browser.running import Service, running_service, sign_in
from tests.marks import leaks

PAGE_FOLDER = Path(__file__).parents[2] / "api" / "page"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIMIT_SECONDS = 60.0
BROWSER_START_SECONDS = 120
"""A browser that is not yet in memory takes half a minute to load from a slow disk, which is not what we test."""
ORIGIN = "http://localhost"
"""A secure context for the browser, as https is: hashes and the clipboard are available."""
CONTENT_SECURITY_POLICY = content_security_policy("localhost")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
DOCUMENTS = {"/": "index.html", "/usage": "administration.html"}


def chromium_path() -> str | None:
    """Return Chromium's path on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need Chromium."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Per module, not per run: while it lives, no other test can start an event loop."""
    path = chromium_path()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium on PATH: the browser tests are required here")
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    expect.set_options(timeout=LIMIT_SECONDS * 1000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            headless=False,  # its own flag selects the new headless mode, which is the real browser
            args=ARGUMENTS,
            timeout=BROWSER_START_SECONDS * 1000,
        )
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile."""
    with profile(browser) as fresh:
        yield fresh


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab of a fresh profile."""
    with clean_tab(context) as tab:
        yield tab


@contextmanager
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A profile of its own, with nothing stored."""
    fresh = browser.new_context(viewport={"width": 1100, "height": 750})
    fresh.set_default_timeout(LIMIT_SECONDS * 1000)
    yield fresh
    fresh.close()


@contextmanager
def clean_tab(context: BrowserContext) -> Iterator[Page]:
    """A tab in which no script may fail, no content security policy be violated, and nothing leak (I10)."""
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
    tab.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
    told: list[str] = []
    tab.on("console", lambda line: told.extend(leaks(line.text)))
    tab.on("request", lambda request: told.extend(leaks(unquote(request.url))))
    yield tab
    assert errors == []
    assert told == []


SHARED = ExitStack()
"""What runs for all browser tests and for no others: a session fixture would run until the very last test."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End what is shared after the last browser test."""
    if nextitem is None or not nextitem.path.is_relative_to(Path(__file__).parent):
        SHARED.close()


def pytest_sessionfinish() -> None:
    """Also end it if the run was interrupted: after a failure with `-x`, or by hand."""
    SHARED.close()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """The whole service, for all modules: starting it takes longer than most of their tests."""
    return SHARED.enter_context(running_service(tmp_path_factory.mktemp("up")))


@pytest.fixture
def service(browser: Browser, request: pytest.FixtureRequest) -> Service:
    """The whole service; requested after the browser, so that nothing is started if there is none."""
    found: Service = request.getfixturevalue("running")
    return found


@pytest.fixture
def signed_in(page: Page, service: Service) -> Page:
    """The page, signed in as a user."""
    sign_in(page, service, service.user_key)
    return page


def serve_page(route: Route) -> None:
    """Answer `/` and `/page/<file>` from the page's folder."""
    name = route.request.url.removeprefix(ORIGIN).partition("?")[0].partition("#")[0].removeprefix("/page/")
    file = PAGE_FOLDER / DOCUMENTS.get(name, name)
    headers = {"Content-Type": TYPES[file.suffix], "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    body = document(file.name) if file.suffix == ".html" else file.read_bytes()
    route.fulfill(status=200, headers=headers, body=body)


@pytest.fixture(scope="module")
def site(browser: Browser) -> Iterator[Page]:
    """The page's files at ORIGIN with nothing behind them; one tab for all tests that store nothing in it."""
    with profile(browser) as context, clean_tab(context) as tab:
        tab.route(f"{ORIGIN}/**", serve_page)
        tab.goto(ORIGIN)
        yield tab


@pytest.fixture
def origin(page: Page) -> str:
    """Let a test's own tab find the page's files; routes that are added later take precedence."""
    page.route(f"{ORIGIN}/**", serve_page)
    return ORIGIN


Until = Callable[..., None]


@pytest.fixture
def until(page: Page) -> Until:
    """Wait until a JavaScript expression is true; Playwright's own way needs `eval`, which the policy forbids."""

    def wait(expression: str, argument: object = None) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not page.evaluate(expression, argument):
            assert time.monotonic() < deadline, f"waited too long for: {expression}"
            page.wait_for_timeout(10)

    return wait
