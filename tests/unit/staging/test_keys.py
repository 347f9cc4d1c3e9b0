"""A key shows a date and nothing else of what a peer sent."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaypacs.errors import StagingError
from relaypacs.staging.keys import check_key, staged_key

DIGEST = "ab" * 32
FORM = re.compile(r"\d{4}/\d\d/\d\d/study-[0-9a-f]{32}/[0-9a-f]{32}-[0-9a-f]{16}\.dcm")


def key(study="1.2", instance="1.2.3", digest=DIGEST, date="20260114", secret=b"k"):
    return staged_key(secret, study_uid=study, sop_instance_uid=instance, digest=digest, date=date)


def test_the_form():
    assert FORM.fullmatch(key())
    assert key().startswith("2026/01/14/study-")
    assert key().endswith("-abababababababab.dcm")


def test_a_key_depends_on_each_part_and_on_the_secret():
    others = [key(study="1.3"), key(instance="1.2.4"), key(digest="cd" * 32), key(secret=b"l"), key(date="20260115")]
    assert len({key(), *others}) == 6
    assert key() == key()
    assert key(study="1.3").split("/")[4] == key().split("/")[4]
    assert key(instance="1.2.4").split("/")[3] == key().split("/")[3]


def test_study_and_instance_of_the_same_uid_do_not_show_that_they_are():
    folder, file = key(study="1.2", instance="1.2").split("/")[3:]
    assert folder.removeprefix("study-") not in file


@pytest.mark.parametrize(
    "date",
    [
        "",
        "2026",
        "20261301",
        "20260230",
        "00000101",
        "../../..",
        "２０２６０１１４",
        "2026011\n",
        "20260114 ",
        "2026.01.14",
    ],
)
def test_a_date_that_is_none(date):
    assert key(date=date).startswith("0000/00/00/study-")


def test_a_leap_day():
    assert key(date="20240229").startswith("2024/02/29/")
    assert key(date="00010101").startswith("0001/01/01/")


@pytest.mark.parametrize("digest", ["", "ab" * 31, "AB" * 32, "../" * 22, "ab" * 32 + "\n"])
def test_a_digest_that_is_none(digest):
    with pytest.raises(ValueError):
        key(digest=digest)


@given(st.text(), st.text(), st.text())
def test_whatever_comes_the_key_is_a_key(study, instance, date):
    made = key(study=study, instance=instance, date=date)
    assert FORM.fullmatch(made)
    assert check_key(made) == made


def test_a_lone_surrogate_is_no_reason_to_fail():
    assert FORM.fullmatch(key(study="\udcff"))


def test_check_key():
    with pytest.raises(StagingError):
        check_key("../x")
