"""A STOW-RS answer in XML: read like JSON, and never by more than its bytes."""

from __future__ import annotations

import pytest

from relaypacs.forward.stow_answer import Listing, read_listing

ANSWER = b"""<?xml version="1.0" encoding="UTF-8"?>
<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
 <DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence">
  <Item number="1">
   <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.3</Value></DicomAttribute>
   <DicomAttribute tag="00081197" vr="US"><Value number="1">272</Value></DicomAttribute>
  </Item>
 </DicomAttribute>
 <DicomAttribute tag="00081199" vr="SQ">
  <Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1"> 1.2.4 </Value></DicomAttribute></Item>
 </DicomAttribute>
</NativeDicomModel>"""


def test_it_says_what_json_would_say() -> None:
    assert read_listing(ANSWER) == Listing(stored={"1.2.4": 0}, failed={"1.2.3": 272})


BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<NativeDicomModel><DicomAttribute tag="00081199" vr="SQ"><Value>&b;</Value></DicomAttribute></NativeDicomModel>"""
FILE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><NativeDicomModel>&a;</NativeDicomModel>"""


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        FILE,
        ANSWER[:-5],
        b"<",
        b"<html><body>Error</body></html>",
        b"<NativeDicomModel/>",
        b"<NativeDicomModel>" + b"<Item>" * 50_000,
        b"<a>" * 1000,
        "<NativeDicomModel>\ud800".encode("utf-16", "surrogatepass"),
    ],
)
def test_what_is_no_listing_says_nothing(body: bytes) -> None:
    assert read_listing(body) is None
