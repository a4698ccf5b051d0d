"""Counting, and adding up what processes counted, the dead ones included."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from time import sleep

import pytest

from shared.metrics import table
from shared.metrics.exposition import Exposition
from shared.metrics.pages import Pages, PagesError, Sum
from shared.metrics.registry import PLACES, SIZE, Registry
from shared.metrics.table import METRICS, Kind, Service
from worker.publishing.delta_counts import DeltaCounts

DEAD = """
import os, signal, sys
from pathlib import Path
from shared.metrics import table
from shared.metrics.pages import Pages
from shared.metrics.registry import Registry

registry = Registry()
registry.move(Pages(Path(sys.argv[1])).open())
registry.counter(table.ACCEPTED).add(int(sys.argv[2]))
registry.gauge(table.OUTBOX_WAITING).set(5)
registry.histogram(table.CLAIM_WAIT).observe(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def folder_in(path: Path) -> Path:
    return path / "figures" / "web"


def run_to_death(folder: Path, counted: int) -> None:
    """Count in a process of its own, which is then killed."""
    command = [sys.executable, "-c", DEAD, str(folder), str(counted)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[4], timeout=60, check=False)
    assert ended.returncode == -9


def value(total: Sum, metric: table.Metric, *labels: str) -> float:
    return total.values[PLACES[metric, labels]]


def counting_in(folder: Path) -> Registry:
    registry = Registry()
    registry.move(Pages(folder).open())
    return registry


def test_every_series_has_a_place_of_its_own():
    taken = [place + number for (metric, _), place in PLACES.items() for number in range(metric.width)]
    assert sorted(taken) == list(range(SIZE))


def test_names_are_those_of_prometheus():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("turnkeeper_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith(("_seconds", "_bytes"))
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert len(set(metric.series)) == len(metric.series)
        assert all(len(labels) == len(metric.labels) for labels in metric.series)


def test_no_label_can_take_a_value_that_is_not_in_the_table():
    with pytest.raises(KeyError):
        Registry().counter(table.PROBLEMS, "what a client said")


class Interrupted(list):
    """Figures of which each reading lets another thread go on, before what was read is written back."""

    def __getitem__(self, place):
        value = super().__getitem__(place)
        sleep(0)
        return value


def test_threads_that_count_at_once_lose_nothing():
    registry = Registry()
    registry.values = Interrupted([0.0] * SIZE)
    counter, histogram = registry.counter(table.ACCEPTED), registry.histogram(table.CLAIM_WAIT)

    def count() -> None:
        for _ in range(200):
            counter.add()
            histogram.observe(0.02)
            histogram.observe_all([0.02])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.values[PLACES[table.ACCEPTED, ()]] == 800
    assert registry.values[PLACES[table.CLAIM_WAIT, ()] + 1] == 1600


def test_a_value_on_a_bound_belongs_below_it_one_by_one_and_all_at_once():
    values = [0.0, 0.001, 0.0011, 0.5, 10.0, 10.1]
    single, together = Registry(), Registry()
    for each in values:
        single.histogram(table.DELTA_DELAY).observe(each)
    together.histogram(table.DELTA_DELAY).observe_all(values)
    place, width = PLACES[table.DELTA_DELAY, ()], table.DELTA_DELAY.width
    counted = list(single.values[place : place + width])
    assert counted == list(together.values[place : place + width])
    assert counted[0] == 2
    assert counted[-2] == 1
    assert counted[-1] == pytest.approx(sum(values))


def test_a_flow_hands_over_what_passed_and_each_sample_once():
    registry = Registry()
    counts = DeltaCounts(registry)
    counts.deltas, counts.delta_events = 7, 3
    counts.delays.extend((0.002, 0.3))
    counts.writes.append(500)
    counts.hand_over()
    counts.hand_over()
    assert registry.values[PLACES[table.DELTAS, ()]] == 7
    assert registry.values[PLACES[table.DELTA_EVENTS, ()]] == 3
    place = PLACES[table.DELTA_DELAY, ()]
    assert sum(registry.values[place : place + table.DELTA_DELAY.width - 1]) == 2
    assert registry.values[PLACES[table.FLUSH_BYTES, ()] + table.FLUSH_BYTES.width - 1] == 500


def test_the_figures_of_all_processes_are_added_up(tmp_path: Path):
    pages = Pages(folder_in(tmp_path))
    first, second = counting_in(folder_in(tmp_path)), counting_in(folder_in(tmp_path))
    first.counter(table.ACCEPTED).add(3)
    second.counter(table.ACCEPTED).add(4)
    first.gauge(table.OUTBOX_WAITING).set(1)
    second.gauge(table.OUTBOX_WAITING).set(2)
    total = pages.total()
    assert value(total, table.ACCEPTED) == 7
    assert value(total, table.OUTBOX_WAITING) == 3
    assert total.processes == 2


def test_what_a_killed_process_counted_stays_and_what_it_showed_goes(tmp_path: Path):
    folder = folder_in(tmp_path)
    alive = counting_in(folder)
    alive.counter(table.ACCEPTED).add()
    for counted in (10, 20):
        run_to_death(folder, counted)
        total = Pages(folder).total()
        assert value(total, table.OUTBOX_WAITING) == 0
        assert total.processes == 1
    assert value(total, table.ACCEPTED) == 31
    assert value(Pages(folder).total(), table.ACCEPTED) == 31
    place = PLACES[table.CLAIM_WAIT, ()]
    assert sum(total.values[place : place + table.CLAIM_WAIT.width - 1]) == 2
    assert len(list(folder.glob("*.page"))) == 1


def test_a_reader_that_is_killed_while_it_folds_counts_nothing_twice(tmp_path: Path):
    folder = folder_in(tmp_path)
    run_to_death(folder, 10)
    (page,) = folder.glob("*.page")
    content = page.read_bytes()
    Pages(folder).total()
    page.write_bytes(content)  # as if it had been killed between writing the sum and removing the page
    assert value(Pages(folder).total(), table.ACCEPTED) == 10
    assert not page.exists()


def test_pages_of_another_version_and_a_sum_that_is_no_json_are_passed_over(tmp_path: Path):
    folder = folder_in(tmp_path)
    registry = counting_in(folder)
    registry.counter(table.ACCEPTED).add()
    (folder / "0123.other.page").write_bytes(b"\xff" * 16)
    (folder / "gone.json").write_text("{")
    assert value(Pages(folder).total(), table.ACCEPTED) == 1


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path):
    folder = folder_in(tmp_path)
    Pages(folder)
    folder.chmod(0o770)
    with pytest.raises(PagesError, match="only this user"):
        Pages(folder)
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(PagesError, match="only this user"):
        Pages(linked / "web")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path):
    folder = folder_in(tmp_path)
    Pages(folder)
    os.chown(folder, 12345, 12345)
    with pytest.raises(PagesError, match="only this user"):
        Pages(folder)


def test_a_sampler_that_fails_keeps_no_other_from_its_work(caplog: pytest.LogCaptureFixture):
    registry, sampled = Registry(), []

    def fail() -> None:
        raise RuntimeError("no")

    registry.on_sample(fail)
    registry.on_sample(lambda: sampled.append(1))
    registry.sample()
    assert sampled == [1]
    assert "could not be taken" in caplog.text


def test_a_sum_is_kept_by_names_so_that_a_new_version_reads_it(tmp_path: Path):
    folder = folder_in(tmp_path)
    run_to_death(folder, 10)
    Pages(folder).total()
    kept = json.loads((folder / "gone.json").read_text())["figures"]
    assert kept["turnkeeper_turns_accepted_total|0"] == 10
    assert not any(name.startswith("turnkeeper_outbox_waiting|") for name in kept)


@pytest.mark.parametrize("service", Service)
def test_each_service_shows_its_own_metrics_and_no_others(service: Service):
    from array import array

    exposition = Exposition(service, lambda: Sum(array("d", bytes(8 * SIZE)), 1), dict)
    shown = {family.name for family in exposition.collect()}
    expected = {metric.name.removesuffix("_total") for metric in METRICS if service in metric.services}
    assert shown == expected
