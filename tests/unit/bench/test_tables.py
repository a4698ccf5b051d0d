"""What the benchmark counts and shows, without measuring anything."""

from bench import report


def rows_of(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {name: [value.strip() for value in values] for name, *values in lines if values}


def test_columns_that_are_not_repetitions_are_headed_by_what_differs_and_have_no_median():
    rows = rows_of(report.table([{"turns": 10, "deltas": 5}, {"turns": 20, "deltas": 7}], "turns"))
    assert rows == {"turns": ["10", "20"], "deltas": ["5", "7"]}


def test_repetitions_are_numbered_and_have_their_median_last():
    rows = rows_of(report.table([{"deltas": 5}, {"deltas": 9}, {"deltas": 7}]))
    assert rows == {"figure": ["run 1", "run 2", "run 3", "median"], "deltas": ["5", "9", "7", "7"]}
