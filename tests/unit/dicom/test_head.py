"""The walker reads what pydicom reads, survives what peers send, and costs little whatever it is."""

import importlib.util
import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from relaypacs.dicom.head import walk_head

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
SYNTAXES = [IMPLICIT, EXPLICIT, BIG]
KEYS = {
    "sop_class_uid": "SOPClassUID", "sop_instance_uid": "SOPInstanceUID", "study_date": "StudyDate",
    "accession_number": "AccessionNumber", "modality": "Modality", "patient_id": "PatientID",
    "study_instance_uid": "StudyInstanceUID", "series_instance_uid": "SeriesInstanceUID",
}  # fmt: skip
NONE = frozenset()


def element(group, number, vr, value, syntax=EXPLICIT):
    """One element, its length as given by `value` (bytes), however illegal."""
    order = ">" if syntax == BIG else "<"
    if syntax == IMPLICIT:
        return struct.pack("<HHL", group, number, len(value)) + value
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return struct.pack(order + "HH2sHL", group, number, vr.encode(), 0, len(value)) + value
    return struct.pack(order + "HH2sH", group, number, vr.encode(), len(value)) + value


def head(syntax=EXPLICIT, *, between=b"", study=b"1.2.3\0"):
    """A small dataset with `between` standing in front of the study UID."""
    return b"".join(
        [
            element(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0", syntax),
            element(0x0008, 0x0018, "UI", b"1.2.3.4.5\0", syntax),
            element(0x0008, 0x0060, "CS", b"CT", syntax),
            between,
            element(0x0020, 0x000D, "UI", study, syntax),
            element(0x0020, 0x000E, "UI", b"1.2.3.4\0", syntax),
            element(0x7FE0, 0x0010, "OW", b"pixels", syntax),
        ]
    )


def expect_whole(keys):
    assert keys.complete
    assert keys.problem == ""
    assert (keys.sop_instance_uid, keys.study_instance_uid, keys.series_instance_uid, keys.modality) == (
        "1.2.3.4.5", "1.2.3", "1.2.3.4", "CT",
    )  # fmt: skip


# --- what pydicom reads ------------------------------------------------------------------------------------------


def sample_files():
    for package in ("pydicom", "pynetdicom", "data_store"):
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations:
            for path in sorted(Path(root).rglob("*")):
                if path.is_file() and path.suffix not in {".py", ".pyc"}:
                    with path.open("rb") as file:
                        if file.read(132)[128:] == b"DICM":
                            yield path


def dataset_of(path):
    """Transfer syntax and dataset bytes of a Part 10 file."""
    content = path.read_bytes()
    file = io.BytesIO(content)
    file.seek(132)
    meta = pydicom.filereader._read_file_meta_info(file)
    return str(meta.get("TransferSyntaxUID", EXPLICIT)), content[file.tell() :]


def text_of(dataset, keyword):
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def test_every_sample_file_reads_as_with_pydicom():
    count = 0
    for path in sample_files():
        syntax, data = dataset_of(path)
        expected = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        keys = walk_head(memoryview(data)[:262144], syntax, frozenset({"00080070", "00200013"}))
        got = {keyword: getattr(keys, name) for name, keyword in KEYS.items()}
        assert got == {keyword: text_of(expected, keyword) for keyword in KEYS.values()}, path.name
        assert keys.elements.get("00080070", "") == text_of(expected, "Manufacturer"), path.name
        assert keys.elements.get("00200013", "") == text_of(expected, "InstanceNumber"), path.name
        assert keys.complete == bool(keys.sop_instance_uid), path.name
        count += 1
    assert count > 200


def written(dataset, syntax):
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(buffer, dataset)
    return buffer.getvalue()


WORDS = st.text("ABCXYZ019 _-", max_size=12).map(str.strip)
UIDS = st.lists(st.integers(0, 10**6), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))


@st.composite
def datasets(draw, depth=2):
    dataset = Dataset()
    for keyword, values in (
        ("SOPClassUID", UIDS), ("SOPInstanceUID", UIDS), ("StudyInstanceUID", UIDS), ("SeriesInstanceUID", UIDS),
        ("AccessionNumber", WORDS), ("PatientID", WORDS), ("Modality", WORDS), ("StationName", WORDS),
        ("SeriesDescription", WORDS), ("Rows", st.integers(0, 65535)), ("StudyDate", st.sampled_from(["", "20260114"])),
    ):  # fmt: skip
        if draw(st.booleans()):
            setattr(dataset, keyword, draw(values))
    if draw(st.booleans()):
        dataset.private_block(0x0009, "ACME", create=True).add_new(1, "UN", draw(st.binary(max_size=20)) + b"")
    if draw(st.booleans()):
        dataset.add_new(0x00091099, "OB", draw(st.binary(max_size=8)) * 2)
    for keyword in ("ReferencedStudySequence", "ProcedureCodeSequence", "RequestAttributesSequence"):
        if depth and draw(st.booleans()):
            items = draw(st.lists(datasets(depth=depth - 1), max_size=2))
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
            setattr(dataset, keyword, items)
            dataset[keyword].is_undefined_length = draw(st.booleans())
    return dataset


WANTED = frozenset({"00081010", "0008103E", "00280010"})


@settings(max_examples=150, deadline=None)
@given(datasets(), st.sampled_from(SYNTAXES), st.data())
def test_generated_datasets_whole_and_cut_anywhere(dataset, syntax, data):
    encoded = written(dataset, syntax)
    keys = walk_head(encoded, syntax, WANTED)
    assert keys.complete == ("SOPInstanceUID" in dataset)
    for name, keyword in KEYS.items():
        assert getattr(keys, name) == str(dataset.get(keyword, "")), keyword
    for tag, keyword in (("00081010", "StationName"), ("0008103E", "SeriesDescription"), ("00280010", "Rows")):
        assert keys.elements.get(tag) == (str(dataset.get(keyword)) if keyword in dataset else None)
    # Of a cut dataset a value is either as it was or absent, never half of it.
    cut = walk_head(encoded[: data.draw(st.integers(0, len(encoded)))], syntax, WANTED)
    for name in KEYS:
        assert getattr(cut, name) in {"", getattr(keys, name)}
    for tag, value in cut.elements.items():
        assert value == keys.elements[tag]
    assert cut.complete == (cut.problem == "")


# --- what peers send ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_small_head(syntax):
    expect_whole(walk_head(head(syntax), syntax, NONE))
    expect_whole(walk_head(memoryview(head(syntax)), syntax, NONE))


def test_an_unknown_transfer_syntax_is_explicit():
    expect_whole(walk_head(head(), "1.2.3.4", NONE))


def test_nothing_behind_the_last_wanted_tag_is_looked_at():
    expect_whole(walk_head(head()[: -len(b"pixels")] + b"\xff" * 7, EXPLICIT, NONE))
    cut = head().index(b"\xe0\x7f\x10\x00")
    keys = walk_head(head()[:cut] + element(0x0028, 0x0010, "US", b"\x00\x02"), EXPLICIT, frozenset({"00280010"}))
    expect_whole(keys)
    assert keys.elements == {"00280010": "512"}


def test_empty_and_absent_values():
    for data in (b"", element(0x7FE0, 0x0010, "OW", b"")):
        keys = walk_head(data, EXPLICIT, NONE)
        assert (keys.complete, keys.problem) == (False, "the dataset's head has no SOP Instance UID")
        assert keys.study_instance_uid == ""
    keys = walk_head(head(study=b""), EXPLICIT, frozenset({"00081010"}))
    assert keys.study_instance_uid == ""
    assert keys.series_instance_uid == "1.2.3.4"
    assert keys.elements == {}


UNDEFINED = struct.pack("<L", 0xFFFFFFFF)
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
SQ = struct.pack("<HH", 0x0008, 0x1110) + b"SQ\0\0" + UNDEFINED
INNER = element(0x0020, 0x000D, "UI", b"9.9.9\0")


@pytest.mark.parametrize(
    "between",
    [
        element(0x0009, 0x0000, "UL", struct.pack("<L", 0xFFFFFFF0)),
        element(0x0009, 0x0010, "LO", b"ACME") + element(0x0009, 0x1001, "UN", b"odd"),
        element(0x0009, 0x1001, "LO", b"odd") + element(0x0009, 0x1002, "OB", bytes(70_001)),
        element(0x0009, 0x1001, "UT", b"x" * 70_000),
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"ZZ", 0, 6) + b"future",
        element(0x0008, 0x1110, "SQ", b""),
        element(0x0008, 0x1110, "SQ", ITEM + struct.pack("<L", len(INNER)) + INNER),
        SQ + SEQUENCE_END,
        SQ + ITEM + struct.pack("<L", len(INNER)) + INNER + SEQUENCE_END,
        SQ + ITEM + UNDEFINED + INNER + ITEM_END + ITEM + UNDEFINED + ITEM_END + SEQUENCE_END,
        SQ + ITEM + UNDEFINED + SQ + ITEM + UNDEFINED + INNER + ITEM_END + SEQUENCE_END + ITEM_END + SEQUENCE_END,
        # Length bytes that look like a VR.
        SQ + ITEM + b"OB\0\0" + bytes(0x424F) + SEQUENCE_END,
        # Inside of UN all is implicit (PS3.5 6.2.2), and some writers do so inside of SQ.
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
        + ITEM + UNDEFINED + element(0x0020, 0x000D, "UI", b"9.9.9\0", IMPLICIT) + ITEM_END + SEQUENCE_END,
        SQ + ITEM + UNDEFINED + element(0x0020, 0x000D, "UI", b"9.9.9\0", IMPLICIT) + ITEM_END + SEQUENCE_END,
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
        + ITEM + UNDEFINED + element(0x0009, 0x1002, "UT", bytes(0x5355), IMPLICIT) + ITEM_END + SEQUENCE_END,
        # The item's own end is missing; an end stands where nothing was open.
        SQ + ITEM + UNDEFINED + INNER + SEQUENCE_END,
        element(0x0008, 0x1110, "SQ", b"") + SEQUENCE_END,
        # Encapsulated pixel data of an icon.
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFF)
        + ITEM + bytes(4) + ITEM + struct.pack("<L", 6) + b"\xff\xd8\xfe\xff\x0d\xe0" + SEQUENCE_END,
    ],
)  # fmt: skip
def test_what_may_stand_between(between):
    expect_whole(walk_head(head(between=between), EXPLICIT, NONE))


def test_a_sequence_nested_and_closed_ten_thousand_deep():
    depth = 10_000
    between = (SQ + ITEM + UNDEFINED) * depth + (ITEM_END + SEQUENCE_END) * depth
    before = time.perf_counter()
    expect_whole(walk_head(head(between=between), EXPLICIT, NONE))
    assert time.perf_counter() - before < 0.5


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("start", [b"", element(0x0008, 0x0018, "UI", b"1.2")])
def test_a_hundred_thousand_levels_that_never_close(syntax, start):
    bomb = start + (SQ + ITEM + UNDEFINED) * 100_000
    before = time.perf_counter()
    keys = walk_head(memoryview(bomb)[:262144], syntax, NONE)
    assert time.perf_counter() - before < 1
    assert not keys.complete


def test_a_broken_sequence_is_left_to_pydicom():
    broken = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFF) + b"not items" + SEQUENCE_END
    expect_whole(walk_head(head(between=broken), EXPLICIT, NONE))
    keys = walk_head(head(between=SQ + b"not items, not ended"), EXPLICIT, NONE)
    assert not keys.complete
    assert keys.problem == "the dataset's head isn't encoded as its transfer syntax says"
    assert keys.sop_instance_uid == "1.2.3.4.5"


def test_the_other_vr_encoding_than_the_transfer_syntax_says():
    expect_whole(walk_head(head(EXPLICIT), IMPLICIT, NONE))
    expect_whole(walk_head(head(IMPLICIT), EXPLICIT, NONE))


def test_a_truncated_head_says_so():
    seen = set()
    for length in range(1, len(head())):
        keys = walk_head(head()[:length], EXPLICIT, NONE)
        assert keys.complete == (keys.problem == "")
        # Between two elements a cut can't be seen; behind the last wanted one it doesn't matter.
        if length in {52, 62, 76} or length >= 92:
            assert keys.complete, length
        else:
            seen.add(keys.problem)
            assert not keys.complete, length
    assert seen == {"the dataset's head ends in the middle of an element", "the dataset's head has no SOP Instance UID"}


def test_a_value_longer_than_what_is_there():
    keys = walk_head(head(between=struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFE)), EXPLICIT, NONE)
    assert not keys.complete
    assert keys.modality == "CT"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([*SYNTAXES, DEFLATED, "", "1.2.3"]))
def test_random_bytes_never_raise(data, syntax):
    keys = walk_head(data, syntax, frozenset({"00280010", "00091001"}))
    assert keys.complete == (keys.problem == "")


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=12), st.integers(0, 200), st.sampled_from(SYNTAXES))
def test_a_damaged_head_never_raises(damage, at, syntax):
    good = head(syntax, between=SQ + ITEM + UNDEFINED + INNER + ITEM_END + SEQUENCE_END)
    walk_head(good[:at] + damage + good[at + len(damage) :], syntax, WANTED)


@pytest.mark.parametrize("syntax", [*SYNTAXES, DEFLATED])
@pytest.mark.parametrize(
    "data",
    [
        os.urandom(262144), bytes(262144), b"\xff" * 262144, b"A" * 262144, b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 32768,
        struct.pack("<HH2sH", 8, 5, b"SH", 0) * 32768, SQ * 20000,
        SQ + ITEM + bytes(4) * 60000, b"\x08\0\0\0SQ" * 40000,
    ],
    ids=range(9),
)  # fmt: skip
def test_whatever_it_is_the_time_is_bounded(data, syntax):
    before = time.perf_counter()
    walk_head(memoryview(data)[:262144], syntax, NONE)
    assert time.perf_counter() - before < 1


# --- deflated ----------------------------------------------------------------------------------------------------


def deflate(data, window=-15):
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    return packer.compress(data) + packer.flush()


def test_a_deflated_dataset():
    expect_whole(walk_head(deflate(head()), DEFLATED, NONE))
    expect_whole(walk_head(deflate(head(), window=15), DEFLATED, NONE))
    expect_whole(walk_head(memoryview(deflate(head() + os.urandom(10_000)))[:5000], DEFLATED, NONE))


def test_a_deflate_bomb_costs_little():
    bomb = deflate(head(between=element(0x0009, 0x1001, "OB", bytes(64 << 20))))
    tracemalloc.start()
    before = time.perf_counter()
    keys = walk_head(bomb, DEFLATED, NONE)
    assert time.perf_counter() - before < 1
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert not keys.complete
    assert keys.sop_instance_uid == "1.2.3.4.5"


def test_what_is_no_deflate_stream():
    keys = walk_head(head(), DEFLATED, NONE)
    assert (keys.complete, keys.problem) == (False, "the dataset is not a deflate stream")


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"CT\0\0", "CT"), (b" CT ", "CT"), (b"CT\n\r\x1b[31m", "CT[31m"), (b"A\\B ", "A\\B"), (b"\xc3\xa9", "é"),
        (b"\xe9", "é"), (b"%s\0%s", "%s%s"), (b"x" * 3000, "x" * 128), (b"\0 \0", ""),
    ],
)  # fmt: skip
def test_values_are_cleaned_and_bounded(raw, value):
    data = head(between=element(0x0010, 0x0020, "LO", raw))
    assert walk_head(data, EXPLICIT, NONE).patient_id == value


def test_an_element_a_rule_asks_for_is_bounded_too():
    data = head(between=element(0x0008, 0x1030, "LO", b"y" * 60_000))
    assert walk_head(data, EXPLICIT, frozenset({"00081030"})).elements == {"00081030": "y" * 1024}


@pytest.mark.parametrize(
    ("character_set", "raw"),
    [
        (b"ISO_IR 192", "Köln-1".encode()), (b"ISO_IR 100", "Köln-1".encode("latin-1")),
        (b"ISO_IR 144", "Щ-1".encode("iso8859_5")), (b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B-1"),
        (b"GB18030", "王-1".encode("gb18030")), (b"NONSENSE", "Köln-1".encode()),
    ],
)  # fmt: skip
def test_text_by_its_character_set(character_set, raw):
    data = element(0x0008, 0x0005, "CS", character_set) + head(between=element(0x0010, 0x0020, "LO", raw))
    value = walk_head(data, EXPLICIT, NONE).patient_id
    assert value in {"Köln-1", "Щ-1", "山田-1", "王-1"}
    assert "\x1b" not in value


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_numbers_are_decimals(syntax):
    dataset = Dataset()
    dataset.Rows, dataset.RecommendedDisplayFrameRateInFloat = 512, 2.5
    dataset.add_new(0x00280009, "AT", [0x00181063, 0x00181065])
    dataset.add_new(0x00280106, "SS", -5)
    dataset.add_new(0x00280006, "US", [1, 2])
    wanted = {"00280010", "00089459", "00280009", "00280106", "00280006"}
    elements = walk_head(written(dataset, syntax), syntax, frozenset(wanted)).elements
    smallest = "65531" if syntax == IMPLICIT else "-5"  # US or SS: its VR isn't written
    assert elements == {
        "00280010": "512",
        "00089459": "2.5",
        "00280009": "00181063\\00181065",
        "00280106": smallest,
        "00280006": "1\\2",
    }


def test_un_and_private_values_are_text_and_bulk_is_nothing():
    between = (
        element(0x0008, 0x1010, "UN", b"ROOM 1")
        + element(0x0009, 0x1001, "UN", b"ACME X")
        + element(0x0009, 0x1002, "OB", b"\1\2")
    )
    wanted = frozenset({"00081010", "00091001", "00091002"})
    keys = walk_head(head(between=between), EXPLICIT, wanted)
    assert keys.elements == {"00081010": "ROOM 1", "00091001": "ACME X", "00091002": ""}
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + ITEM + bytes(4) + SEQUENCE_END
    assert walk_head(head(between=sequence), EXPLICIT, wanted).elements == {}


def test_of_duplicates_the_first_counts():
    data = head(between=element(0x0008, 0x0060, "CS", b"MR"))
    assert walk_head(data, EXPLICIT, NONE).modality == "CT"


def test_it_is_fast():
    data = memoryview(
        written(pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False)), EXPLICIT)
    )
    best = min(_seconds(data) for _ in range(20))
    assert best < 0.0005


def _seconds(data):
    before = time.perf_counter()
    walk_head(data, EXPLICIT, NONE)
    return time.perf_counter() - before
