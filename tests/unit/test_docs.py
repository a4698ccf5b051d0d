"""The documentation points at what exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = sorted([*(ROOT / name for name in TOP), *DOCS.rglob("*.md")])
ARCHITECTURE = (DOCS / "ARCHITECTURE.md").read_text()
INVARIANTS = tuple(f"I{number}" for number in range(1, 11))
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text())


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links_of(page: Path) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page))


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """What a heading of the page can be reached by, in the form that GitHub gives it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return frozenset(heading.replace(" ", "-") for heading in plain)


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path):
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_mentions_a_place_outside_the_repository(page: Path):
    text = page.read_text()
    assert not re.search(r"(^|[\s`(\"'])/(home|root|work|tmp|Users)/", text)
    for path in re.findall(r"(?:\.\./)+[\w./-]*", text):
        assert (page.parent / path).resolve().is_relative_to(ROOT), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path):
    folders = "api|worker|shared|turnkeeper|tests|bench|docs|deploy"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", prose(page)):
        assert (ROOT / path).exists(), path


def test_every_page_is_reached_from_the_index():
    reached = {(DOCS / link.partition("#")[0]).resolve() for link in links_of(DOCS / "README.md")}
    missing = {*DOCS.rglob("*.md")} - reached - {DOCS / "README.md"}
    assert sorted(map(name_of, missing)) == []


def test_decisions_are_numbered_without_a_hole_and_say_what_they_cost():
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (DOCS / "README.md").read_text()
    for page in pages:
        text = page.read_text()
        title = re.match(r"# (\d{4})\. (.*)\n", text)
        assert title.group(1) == page.name[:4]
        assert f"[{title.group(1)} {title.group(2)}](decisions/{page.name})" in index
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings[:3] == ["Context", "Decision", "Consequences"]


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_every_invariant_names_code_that_obeys_it_and_tests_that_exist(invariant: str):
    row = re.search(rf"^\| \*\*{invariant}\*\* \|(.*)\|$", ARCHITECTURE, re.MULTILINE)
    assert row, f"{invariant} has no row"
    _promise, where, kept_by = row.group(1).split(" | ")
    places = re.findall(r"`([^`]+)`", where)
    assert places
    assert all((ROOT / place).exists() for place in places)
    path, checked = "", 0
    for word in re.findall(r"`([^`]+)`", kept_by):
        if word.startswith("tests/"):
            path = word
        else:
            assert word in functions_of(path), f"{path} has no {word}"
            checked += 1
    assert checked


def test_every_line_of_the_security_page_names_tests_that_exist_or_says_why_there_is_none():
    page = (DOCS / "explanation" / "security.md").read_text()
    rows = re.findall(r"^\| (?!line \|)([^|]+)\|([^|]*)\|$", page, re.MULTILINE)
    assert len(rows) > 40
    assert len(rows) == len(re.findall(r"^\| (?!line \|)", page, re.MULTILINE)), "a row is not of two cells"
    for line, shown_by in rows:
        path = ""
        for word in re.findall(r"`([^`]+)`", shown_by):
            if word.startswith("tests/"):
                path = word
            else:
                assert word in functions_of(path), f"{path} has no {word}"
        # Without a test it has to say so: what is not there, or whose business it is.
        assert path or re.search(r"\bnot?\b|\bnone\b|\*\*not\*\*|Pin", line, re.IGNORECASE), line


def test_the_map_names_every_module_once_and_no_other():
    listed = re.findall(r"^\| `([\w/]+\.py)` \| \S.*\|$", ARCHITECTURE, re.MULTILINE)
    there = [
        str(source.relative_to(ROOT))
        for folder in ("api", "worker", "shared", "turnkeeper")
        for source in (ROOT / folder).rglob("*.py")
        if source.name != "__init__.py" and source.parent.name != "versions"
    ]
    assert sorted(listed) == sorted(there)


def test_the_code_cites_no_invariant_that_the_architecture_does_not_have():
    cited = set()
    for folder in ("api", "worker", "shared", "turnkeeper"):
        for source in (ROOT / folder).rglob("*.py"):
            cited |= set(re.findall(r"(?:# |\()(I\d+)\b", source.read_text()))
    assert cited
    assert cited <= set(INVARIANTS)


def measured(page: Path) -> list[str]:
    """The rows of a page's measured figures, without the heads of their tables."""
    (table,) = re.findall(r"^<!-- bench:table -->$(.*)^<!-- /bench:table -->$", page.read_text(), re.M | re.S)
    return [row for row in re.findall(r"^\| (?!what \|).*\|$", table, re.MULTILINE) if "---" not in row]


def test_the_readme_quotes_measured_figures_as_their_page_has_them():
    readme, page = measured(ROOT / "README.md"), measured(DOCS / "explanation" / "figures.md")
    assert readme
    assert set(readme) < set(page)


def test_the_changelog_has_the_projects_version_and_its_day():
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## Unreleased\n" in changelog
    assert re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)


def test_every_package_has_the_projects_version():
    stated = re.compile(r'^(?:version = |  "version": |VERSION: Final = )"(.+)"', re.MULTILINE)
    found = {
        name: stated.findall((ROOT / name).read_text())
        for name in (
            "pyproject.toml",
            "clients/python/pyproject.toml",
            "clients/python/src/turnkeeper_client/address.py",
            "clients/javascript/package.json",
        )
    }
    assert len(found["pyproject.toml"]) == 1
    assert found == dict.fromkeys(found, found["pyproject.toml"])
