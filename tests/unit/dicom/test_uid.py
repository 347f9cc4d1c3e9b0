"""UIDs by PS3.5 9.1 and their names by PS3.6 A."""

import pytest

from relaypacs.dicom.uid import check_uid, is_uid, uid_names


@pytest.mark.parametrize("uid", ["1.2", "0.0", "1.2.840.10008.1.2", "2." + "1" * 62])
def test_a_uid(uid):
    assert is_uid(uid)
    assert check_uid(uid) == uid


@pytest.mark.parametrize(
    "uid",
    ["", "1", "1.", ".1", "1..2", "01.2", "1.02", "1.2 ", "1.2\0", "1.2\n", "1.a", "2." + "1" * 63,
     "１.２", "../../etc/cron.d/x"],
)  # fmt: skip
def test_what_is_none(uid):
    assert not is_uid(uid)
    with pytest.raises(ValueError, match="64 characters"):
        check_uid(uid)


def test_names():
    assert uid_names("1.2.840.10008.5.1.4.1.1.2") == ("CT Image Storage", "CTImageStorage")
    assert uid_names("1.2.3") == ()
    assert uid_names("hostile\n") == ()
