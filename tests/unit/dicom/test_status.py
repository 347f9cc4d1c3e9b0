"""The tables of statuses: every row can be reached, says its code and names a mend, and success is spelled out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from relaypacs.dicom.status import STORE, STOW, Meaning, Row, look_up

SUCCESS = (Meaning.STORED, Meaning.WARNING, Meaning.THERE)


@pytest.mark.parametrize("table", [STORE, STOW])
def test_no_row_is_hidden_behind_others(table: Sequence[Row]) -> None:
    for row in table:
        assert row.first <= row.last
        assert any(look_up(table, code) is row for code in range(row.first, row.last + 1)), row


@pytest.mark.parametrize("table", [STORE, STOW])
def test_every_refusal_says_its_code_and_success_says_nothing(table: Sequence[Row]) -> None:
    for row in table:
        assert row.source
        assert ("{code}" in row.sentence) == (row.meaning not in SUCCESS), row


def test_success_is_exactly_this() -> None:
    """Never more than the standard calls so, whatever rows are added for a dialect."""
    stored = {code for code in range(0x10000) if (row := look_up(STORE, code)) and row.meaning in SUCCESS}
    assert stored == {0x0000, 0x0001, 0x0107, 0x0111, 0x0116, *range(0xB000, 0xC000)}
    listed = {code for code in range(0x10000) if (row := look_up(STOW, code)) and row.meaning in SUCCESS}
    assert listed == {0x0111, 0xB00E}


@pytest.mark.parametrize("code", [0x0002, 0x4711, 0xA600, 0xA800, 0xD000, 0xFE00, 0xFF00, 0xFFFF])
def test_what_nobody_defines_is_unknown(code: int) -> None:
    assert look_up(STORE, code) is None
    assert look_up(STOW, code) is None
