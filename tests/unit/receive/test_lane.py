"""What a C-STORE-RQ is refused for, and what the spool's refusals are answered with."""

from __future__ import annotations

import pytest

from relaypacs.dicom.command import CommandSet
from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.receive.association_id import new_association_id
from relaypacs.receive.lane import answer_to, refuse

CT = "1.2.840.10008.5.1.4.1.1.2"


def request(sop_class: str = CT, instance: str = "1.2.3", *, has_dataset: bool = True) -> CommandSet:
    return CommandSet(1, 1, None, has_dataset, None, sop_class, instance)


def test_what_is_taken() -> None:
    assert refuse(request(), CT, is_storage=True) is None


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(has_dataset=False), 0xC000),
        (request(instance=""), 0xC000),
        (request(sop_class=""), 0xC000),
        (request(instance="1.2."), 0x0117),
        (request(instance="9" * 65), 0x0117),
        (request(sop_class="1.2.3"), 0x0122),
    ],
)
def test_what_is_not(asked: CommandSet, status: int) -> None:
    answer = refuse(asked, CT, is_storage=True)
    assert answer is not None
    assert answer.status == status
    assert 0 < len(answer.comment) <= 64


def test_a_class_that_is_not_for_storage() -> None:
    answer = refuse(request(sop_class="1.2.840.10008.1.1"), "1.2.840.10008.1.1", is_storage=False)
    assert answer is not None
    assert answer.status == 0x0122


@pytest.mark.parametrize(
    ("error", "status"),
    [(SpoolFull("full"), 0xA700), (SpoolError("failed"), 0xA700), (ValueError("Doe^John"), 0x0110)],
)
def test_errors_have_their_status_and_say_nothing_of_the_object(error: Exception, status: int) -> None:
    answer = answer_to(error)
    assert answer.status == status
    assert str(error) not in answer.comment
    assert 0 < len(answer.comment) <= 64


def test_association_ids_sort_by_time_and_differ() -> None:
    ids = [new_association_id(1_700_000_000 + number / 1000) for number in range(100)]
    assert ids == sorted(ids)
    assert len({new_association_id(1.0) for _ in range(100)}) == 100
    assert all(len(one) == 20 for one in ids)
