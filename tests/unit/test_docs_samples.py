"""What the documentation shows of answers, lines, files and targets is what the code makes or takes."""

import json
import logging
import re
import shlex
import subprocess
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.limits import Limit, Scope, _headers
from api.problems import problem_body
from api.statements.holds import _refusal
from api.windows import Count, Window
from bench.__main__ import _parser
from shared.configuration.provider_settings import PRICED
from shared.money.price_table import read_price_table
from shared.money.usage import Usage
from shared.observing.logs import TextFormatter
from tests.documents import ROOT, Block, allotted
from tests.e2e.clone import environment
from turnkeeper.reference import pages as reference

BLOCKS = allotted(__file__)
ELLIPSIS = "…"


def of(page: str) -> Block:
    """The block of a page."""
    (block,) = (block for block in BLOCKS if block.page == page)
    return block


def test_the_file_of_prices_is_one_that_is_read(tmp_path: Path):
    (tmp_path / "prices.toml").write_text(of("docs/explanation/money.md").take())
    problems: list[str] = []
    table = read_price_table(tmp_path / "prices.toml", PRICED, problems)
    assert problems == []
    price = table.price("anthropic", "claude-opus-5-5", Usage(), date(2026, 11, 2))
    assert price is not None
    assert (price.input, price.cache_write_1h) == (Decimal(4), Decimal(8))


def test_the_refusal_by_a_budget_has_the_fields_and_the_form_that_are_shown():
    shown = json.loads(of("docs/howto/budgets.md").take())
    assert shown.pop(ELLIPSIS) == ELLIPSIS
    held = SimpleNamespace(
        period="day",
        limit_usd=Decimal(shown["limit_usd"]),
        spent_usd=Decimal(shown["spent_usd"]),
        held_usd=Decimal(shown["held_usd"]),
        starts_on=date(2026, 11, 22),
    )
    said = problem_body(_refusal(held), "r1")
    assert {name: said[name] for name in shown} == shown


def test_the_fields_of_rate_limits_are_those_that_an_answer_has():
    lines = of("docs/howto/limits.md").take().splitlines()
    limits, counts = [], []
    for policy, standing in zip(*(line.partition(": ")[2].split(", ") for line in lines), strict=True):
        scope, most, seconds = re.fullmatch(r'"(\w+)";q=(\d+);w=(\d+)', policy).groups()
        same, left, until = re.fullmatch(r'"(\w+)";r=(\d+);t=(\d+)', standing).groups()
        assert same == scope
        limits.append(Limit(Scope(scope), Window("key", int(most), int(seconds))))
        counts.append(Count(int(left), float(until)))
    assert [f"{name}: {value}" for name, value in _headers(limits, counts).items()] == lines


def test_the_line_for_a_terminal_is_that_of_the_fields_that_are_shown_as_json():
    page = (ROOT / "docs" / "howto" / "read-the-log.md").read_text()
    fields = json.loads(re.search(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1])
    at = datetime.fromisoformat(fields.pop("ts"))
    process, level = fields.pop("process"), fields.pop("level")
    record = logging.makeLogRecord(
        {
            "name": fields.pop("logger"),
            "msg": fields.pop("message"),
            "levelname": level.upper(),
            "created": at.timestamp(),
            **fields,
        }
    )
    assert TextFormatter(process).format(record) + "\n" == of("docs/howto/read-the-log.md").take()


def test_the_diagram_of_states_is_the_one_that_is_made_from_their_table():
    assert of("docs/reference/states.md").take() in reference.states_page()


LINES = [line for block in BLOCKS if block.language == "sh" for line in block.take().splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_make_knows_each_target_and_what_it_calls_knows_its_arguments(line: str):
    asked, *given = shlex.split(line, comments=True)
    assert asked == "make"
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *given],
        cwd=ROOT,
        env=environment(),  # without the arguments of the `make test` that runs this
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    match shlex.split(done.stdout.splitlines()[-1]):
        case [_, "-m", "bench", *arguments] if "--help" in arguments:
            with pytest.raises(SystemExit, match="0"):
                _parser().parse_args(arguments)
        case [_, "-m", "bench", *arguments] if arguments:
            assert _parser().parse_args(arguments).name == arguments[0]
        case [_, "-m", "pytest", "-n", "2"]:
            pass
        case [_, "-m", "pytest", *arguments]:
            assert all((ROOT / word).exists() for word in arguments)
