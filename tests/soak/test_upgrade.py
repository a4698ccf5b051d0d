"""Two releases with another schema beside each other, taken from a clone with a release more than there is.

What a deploy needs of one release alone is tested with the others: `tests/integration/test_migrations.py`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_migrations import CONTRACTS, EXPANDS, HEAD, INDEXES, later
from tests.nginx import replaced
from tests.soak.upgrade import AFTER, BEFORE

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 900.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LIMIT_SECONDS + 60)]


def git(clone: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=clone, check=True, capture_output=True, timeout=60)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of what was committed last."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True, timeout=60)
    git(tmp_path / "clone", "config", "user.name", "release")
    git(tmp_path / "clone", "config", "user.email", "release@example.com")
    return tmp_path / "clone"


def release(clone: Path, *migrations: str) -> None:
    """Commit a release that has these migrations more."""
    for number, body in enumerate(migrations, start=1):
        head = HEAD.format(revision=later(number), before=later(number - 1))
        (clone / "shared" / "migrations" / "versions" / f"{later(number)}_added.py").write_text(head + body)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "Release")


def change(clone: Path, name: str, *changes: tuple[str, str]) -> None:
    (clone / name).write_text(replaced((clone / name).read_text(), *changes))


def in_place_of_history_trimmed(read: str) -> tuple[str, str]:
    """The change after which the api reads something else where it reads turns."""
    columns = 'columns(ShownTurn, "t", without=frozenset({"last_seq"'
    return (
        f"{columns}}}))",
        f'{columns}, "history_trimmed"}})) + ", {read} as history_trimmed"',
    )


def upgrade(clone: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the clone's release beside the one before."""
    return subprocess.run(
        [sys.executable, "-m", "tests.soak.upgrade", "--from", "HEAD~1", *options],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def test_releases_with_an_expanded_schema_serve_beside_each_other(clone: Path):
    release(clone, EXPANDS, INDEXES)
    done = upgrade(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len([line for line in said if line.endswith("all turns are whole")]) == len(BEFORE) + len(AFTER)
    assert said[-1] == "ledger, totals and holds agree"


def test_a_column_that_goes_while_the_release_before_writes_it_is_found(clone: Path):
    """The new release knows nothing of the column, so that by itself it is right on both schemas."""
    change(
        clone,
        "worker/turn/settle.py",
        ("            history_trimmed = cast(:history_trimmed as integer),\n", ""),
        ('        "history_trimmed": settlement.history_trimmed,\n', ""),
    )
    change(clone, "api/statements/turns.py", in_place_of_history_trimmed("0"))
    release(clone, CONTRACTS)
    done = upgrade(clone, "--limit", "30")
    *whole, found = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(whole)) == (1, "", len(BEFORE))
    assert re.fullmatch(
        rf"new schema: {re.escape(AFTER[0].name)}: the end of [0-9a-f-]+ did not come in time", found
    )


def test_a_column_that_is_renamed_is_found(clone: Path):
    renamed = """
    op.execute("alter table turnkeeper.turns rename column history_trimmed to left_out")
"""
    change(
        clone,
        "worker/turn/settle.py",
        ("            history_trimmed = cast(", "            left_out = cast("),
    )
    change(clone, "api/statements/turns.py", in_place_of_history_trimmed("t.left_out"))
    release(clone, renamed)
    done = upgrade(clone, "--limit", "30")
    *whole, found = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(whole)) == (1, "", len(BEFORE))
    assert found.startswith(f"new schema: {AFTER[0].name}: ")
