"""What the benchmark counts and shows, without measuring anything."""

import asyncio

import pytest

from bench import report
from bench.peers.load import seen
from bench.peers.reader import Answer, Exchange


def rows_of(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {name: [value.strip() for value in values] for name, *values in lines if values}


def test_columns_that_are_not_repetitions_are_headed_by_what_differs_and_have_no_median():
    rows = rows_of(report.table([{"turns": 10, "deltas": 5}, {"turns": 20, "deltas": 7}], "turns"))
    assert rows == {"turns": ["10", "20"], "deltas": ["5", "7"]}


def test_repetitions_are_numbered_and_have_their_median_last():
    rows = rows_of(report.table([{"deltas": 5}, {"deltas": 9}, {"deltas": 7}]))
    assert rows == {"figure": ["run 1", "run 2", "run 3", "median"], "deltas": ["5", "9", "7", "7"]}


def test_a_stamp_that_lies_across_two_pieces_counts_when_its_last_byte_was_there():
    async def judged() -> Answer:
        exchange = Exchange()
        exchange._pieces = [(100, "a⟦12⟧b".encode()), (200, b'"\\u27e63'), (300, b'4\\u27e7 c"')]
        answer = Answer(posted_ns=1)
        exchange._judge(answer)
        return answer

    answer = asyncio.run(judged())
    assert answer.sent_ns == [12, 34]
    assert answer.received_ns == [100, 300]


@pytest.mark.parametrize(
    ("status", "sent"),
    [(200, [1]), (200, [1, 2, 3]), (200, [1, 1]), (200, [2, 1]), (500, [1, 2])],
    ids=["lost", "too-many", "doubled", "out-of-order", "refused"],
)
def test_an_answer_that_is_not_whole_is_a_failure(status: int, sent: list[int]):
    happened = seen([Answer(0, sent, sent, 9, status), Answer(0, [1, 2], [1, 2], 9, 200)], 1.0, tokens=2)
    assert len(happened.answers) == 1
    assert len(happened.failures) == 1
