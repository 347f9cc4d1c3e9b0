"""The association log is never read whole: not when it is written, asked or forgotten, however long it has become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relaypacs.jobs.associations import Asked
from relaypacs.jobs.store import JobStore
from tests.unit.jobs.made import NODE, end
from tests.unit.jobs.test_plans import plans, statements

ENDS = [
    replace(
        end(f"{number:04}", objects=0, ended_at=float(number), calling_ae=f"CT{number % 9}"),
        contexts=f"[{number % 7}]",
        word="contexts" if number % 5 == 0 else "",
    )
    for number in range(1000)
]
Deed = Callable[[JobStore], object]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.migrate()
    store.take_in(NODE, [], ENDS, [], 2000.0)
    yield store
    store.close()


@pytest.mark.parametrize(
    "deed",
    [
        lambda store: store.take_in(NODE, [], ENDS[:50], [], 2000.0),
        lambda store: store.associations.find(Asked(), limit=50),
        lambda store: store.associations.find(Asked(refused=True), limit=50),
        lambda store: store.associations.find(Asked(refused=True, since=900.0), limit=50),
        lambda store: store.associations.find(Asked(calling_ae="CT1", since=5.0), limit=50),
        lambda store: store.associations.find(Asked(calling_ae="CT1"), limit=50),
        lambda store: store.associations.find(Asked(since=900.0), limit=50),
        lambda store: store.associations.forget(ended_before=100.0, limit=200),
        lambda store: store.associations.forget(ended_before=-1.0, limit=200),
    ],
)
def test_by_a_key_or_in_order(filled: JobStore, tmp_path: Path, deed: Deed) -> None:
    with statements() as seen:
        deed(filled)
    found = plans(tmp_path, seen)
    assert seen
    for plan in found:
        step = plan.partition("   <- ")[0]
        if "association_log" in step and not step.startswith("SEARCH"):
            assert "USING INDEX" in step or "USING COVERING INDEX" in step, plan
        assert not step.startswith("SCAN proposal"), plan
        assert "TEMP B-TREE FOR ORDER BY" not in step, plan
