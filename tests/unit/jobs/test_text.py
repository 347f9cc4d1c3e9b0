"""What peers wrote becomes storable without becoming something else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relaypacs.jobs.text import LONGEST, storable

anything = st.text(st.characters(codec=None, categories=None), max_size=2 * LONGEST)


@given(anything)
def test_it_can_be_stored_in_any_database_and_index(value: str) -> None:
    stored = storable(value)
    assert "\0" not in stored
    assert len(stored) <= LONGEST
    assert len(stored.encode("utf-8")) < 2000


@given(anything)
def test_it_is_stable(value: str) -> None:
    assert storable(value) == storable(value)
    assert storable(storable(value)) == storable(value)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=LONGEST))
def test_what_is_storable_is_unchanged(value: str) -> None:
    assert storable(value) == value


def test_long_values_stay_different() -> None:
    assert storable("1" * 5000 + "2") != storable("1" * 5000 + "3")
    assert storable("1" * 5000 + "2") == storable("1" * 5000 + "2")
