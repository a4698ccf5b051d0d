"""What the page loads at first: counted as it is sent, compressed."""

import gzip
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "api" / "page"
LIMIT_BYTES = 150 * 1024
STATIC = re.compile(
    r"""^\s*(?:import|export)\s(?:[^;"']*?\sfrom\s)?["'](\./[^"']+|\.\./[^"']+)["']""", re.MULTILINE
)


def modules(start: Path) -> set[Path]:
    """A module and all that it imports before it runs."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [(path.parent / name).resolve() for name in STATIC.findall(path.read_text())]
    return found


def first_load() -> set[Path]:
    html = (PAGE / "index.html").read_text()
    named = {PAGE / name for name in re.findall(r'(?:src|href)="/page/([^"]+)"', html)}
    return modules(PAGE / "main.js") | named | {PAGE / "index.html"}


def test_the_first_load_is_under_150_kib_as_it_is_sent():
    files = first_load()
    assert PAGE / "vendor" / "markdown-it.js" in files  # the sum is of something
    sent = sum(len(gzip.compress(path.read_bytes(), mtime=0)) for path in files)
    assert sent < LIMIT_BYTES, f"{sent} bytes in {len(files)} files"


def test_colours_for_code_are_not_part_of_the_first_load():
    assert not [path for path in first_load() if "highlight" in path.parts]


def test_nothing_names_another_host():
    """Text that a browser would load from elsewhere; the vendored files hold addresses in comments and messages."""
    for path in PAGE.iterdir():
        if path.suffix in {".js", ".css", ".html"}:
            found = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text()))
            assert found <= {"http://www.w3.org/2000/svg"}, path.name
