"""Tags as people write them."""

import pytest

from relaypacs.dicom.tags import tag_of


@pytest.mark.parametrize("text", ["StationName", "0008,1010", "(0008,1010)", "00081010", "(0008, 1010)"])
def test_the_ways_to_write_a_tag(text):
    assert tag_of(text) == "00081010"


def test_lower_case_digits_and_private_tags():
    assert tag_of("0019,10ab") == "001910AB"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("StatonName", "did you mean StationName"),
        ("", "write a keyword"),
        ("../x", "write a keyword"),
        ("0008,101", "write a keyword"),
        ("PixelData", "not in the head"),
        ("0002,0010", "not in the head"),
        ("ReferencedStudySequence", "a sequence"),
    ],
)
def test_what_names_no_element_of_the_head(text, says):
    with pytest.raises(ValueError, match=says):
        tag_of(text)
