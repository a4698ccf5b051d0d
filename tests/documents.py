"""The code blocks of the documentation: which test runs each, and why some are not run.

Tests get blocks only from here, as the table allots them to their files. So the table cannot claim more than what is
run: a file that does not take one of its blocks fails (`conftest.py`), and blocks that are allotted to no file fail
`tests/unit/test_docs_blocks.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("bench", "clients", "deploy", "docs")

_LINE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^`\s]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Args:
        page: Its page, relative to the root of the repository.
        line: The number of its opening line.
        heading: The heading above it.
        language: The language of its fence; may be empty.
        text: Its lines, without the fence's indentation.
    """

    page: str
    line: int
    heading: str
    language: str
    text: str

    @property
    def place(self) -> str:
        """Its location, for people."""
        return f"{self.page}:{self.line}"

    def take(self) -> str:
        """Return its text for a test to run, and mark it as taken."""
        _taken.add(self)
        return self.text


@dataclass(frozen=True, slots=True)
class Share:
    """Blocks in one language, from the pages that match a pattern; `begins` and `heading` narrow them down."""

    pages: str
    language: str
    heading: str = "*"
    begins: str = ""

    def has(self, block: Block) -> bool:
        """Return whether a block is one of them."""
        return (
            fnmatchcase(block.page, self.pages)
            and block.language == self.language
            and fnmatchcase(block.heading, self.heading)
            and block.text.startswith(self.begins)
        )


ALLOTTED: Final[Mapping[str, tuple[Share, ...]]] = MappingProxyType(
    {
        "tests/e2e/test_readme.py": (
            Share("README.md", "sh", heading="Try it"),
            Share("README.md", "sh", begins="make run"),
            Share("README.md", "python"),
        ),
        "tests/e2e/test_howtos.py": (
            Share("docs/tutorial/*.md", "sh"),
            Share("docs/tutorial/*.md", "text"),
            Share("docs/howto/*.md", "sh"),
            Share("docs/howto/check-with-doctor.md", "text"),
            Share("docs/howto/read-the-log.md", "json"),
        ),
        "clients/python/tests/test_readme.py": (Share("clients/python/README.md", "python"),),
        "clients/javascript/tests/test_javascript.py": (Share("clients/javascript/README.md", "js"),),
        "tests/faults/test_pgbouncer.py": (
            Share("docs/howto/run-behind-pgbouncer.md", "ini", begins="[databases]"),
        ),
        "tests/integration/test_nginx.py": (Share("docs/howto/run-behind-nginx.md", "nginx"),),
        "tests/unit/test_docs_settings.py": (Share("README.md", "ini"), Share("docs/*.md", "ini")),
        "tests/unit/test_docs_samples.py": (
            Share("docs/explanation/money.md", "toml"),
            Share("docs/howto/budgets.md", "json"),
            Share("docs/howto/limits.md", "http"),
            Share("docs/howto/read-the-log.md", "text"),
            Share("docs/reference/states.md", "mermaid"),
            Share("README.md", "sh", begins="make test"),
            Share("CONTRIBUTING.md", "sh"),
            Share("bench/README.md", "sh"),
        ),
        "tests/unit/test_operate.py": (Share("docs/howto/monitor.md", "yaml"),),
    }
)
"""By the file that runs them. A block belongs to the first share that it fits, unless it is in `NOT_RUN`."""

CONTAINERS: Final = "needs a container engine"
CLUSTER: Final = "needs a cluster"
MACHINE: Final = "changes the machine: a user, files in /etc, running units"
PACKAGES: Final = "installs packages into the environment that it runs in"
MODEL: Final = "needs a model and a program that runs it"
PICTURE: Final = "a picture for people, which GitHub draws"

NOT_RUN: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("README.md", "flowchart LR"): PICTURE,
        ("docs/ARCHITECTURE.md", "sequenceDiagram"): PICTURE,
        (
            "docs/explanation/scaling.md",
            "cores of a kind",
        ): "a formula in words; `make bench ARGS=scaling` tests it",
        ("docs/howto/check-with-doctor.md", "docker compose run"): CONTAINERS,
        ("docs/howto/report-errors.md", "pip install"): PACKAGES,
        ("docs/howto/run-behind-nginx.md", "umask 077"): CONTAINERS,
        ("docs/howto/run-behind-nginx.md", "export ENVIRONMENT"): (
            "names servers on other machines; tests/e2e/formation.py starts the same"
        ),
        ("docs/howto/run-on-kubernetes.md", "kubectl apply -f"): CLUSTER,
        ("docs/howto/run-on-kubernetes.md", "kubectl apply -k"): CLUSTER,
        ("docs/howto/run-with-systemd.md", "useradd"): MACHINE,
        ("docs/howto/run-with-systemd.md", "systemctl start"): MACHINE,
        (
            "docs/model/README.md",
            "make model",
        ): "takes minutes and gigabytes; tests/model runs each case by itself",
        ("docs/howto/trace.md", "pip install"): PACKAGES,
        ("docs/howto/use-llama-cpp.md", "llama-server"): MODEL,
        ("docs/howto/use-ollama.md", "OLLAMA_CONTEXT_LENGTH"): MODEL,
        ("docs/howto/use-vllm.md", "vllm serve"): MODEL,
    }
)
"""Why no test runs a block, by its page and its first words. Shell lines are still rehearsed, with programs that only
record how they were called: `tests/unit/test_docs_rehearsed.py`.
"""

INCOMPLETE: Final = pytest.StashKey[bool]()
"""On a module of tests: not all of them passed, so it need not have taken all of its blocks."""

_taken: set[Block] = set()


def pages() -> list[Path]:
    """Return every page of documentation in the repository."""
    found = [page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")]
    return sorted(page for page in [*ROOT.glob("*.md"), *found] if "node_modules" not in page.parts)


@cache
def blocks() -> tuple[Block, ...]:
    """Return every block of every page, in order."""
    return tuple(block for page in pages() for block in blocks_in(page.read_text(), name_of(page)))


def blocks_in(text: str, page: str) -> list[Block]:
    """Return the blocks of a page's text.

    Raises:
        AssertionError: A block is never closed.
    """
    found: list[Block] = []
    heading, opened, inside = "", None, []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _LINE.match(line)
        if opened is not None and fence and line.strip() == opened["fence"]:
            body = "".join(f"{each.removeprefix(opened['indent'])}\n" for each in inside)
            found.append(Block(page, number - len(inside) - 1, heading, opened["language"], body))
            opened = None
        elif opened is not None:
            inside.append(line)
        elif fence:
            opened, inside = fence, []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert opened is None, f"{page} ends within a block"
    return found


def name_of(path: Path) -> str:
    """Return a path relative to the root of the repository."""
    return path.resolve().relative_to(ROOT).as_posix()


def reasons_of(block: Block) -> list[str]:
    """Return why it is not run; empty if it is."""
    return [
        reason
        for (page, begins), reason in NOT_RUN.items()
        if page == block.page and block.text.startswith(begins)
    ]


def reader_of(block: Block) -> str | None:
    """Return the test file that runs it."""
    if reasons_of(block):
        return None
    return next(
        (file for file, shares in ALLOTTED.items() if any(share.has(block) for share in shares)), None
    )


def allotted(file: str | Path) -> list[Block]:
    """Return the blocks for a test file to run, in the order of the pages."""
    name = name_of(ROOT / file)
    return [block for block in blocks() if reader_of(block) == name]


def untaken(file: Path) -> list[str]:
    """Return the locations of the blocks that a file was allotted and did not take."""
    if not file.resolve().is_relative_to(ROOT) or name_of(file) not in ALLOTTED:
        return []
    return [block.place for block in allotted(file) if block not in _taken]
