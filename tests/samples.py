"""Real DICOM files from installed packages (by local path, never downloaded), and generated series.

Used by tests and by the demo. The File Meta walker here is its own, so that RelayPACS isn't checked by itself.
"""

from __future__ import annotations

import importlib.util
import random
import struct
import warnings
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

_SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "MR": "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
    "OT": "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture Image Storage
}

_PACKAGES = (("pydicom", "data"), ("pynetdicom", "tests/dicom_files"), ("data_store", "data"))
_NOT_DICOM = {".py", ".pyc", ".txt", ".md", ".json", ".icc", ".dump", ".gz", ".gitignore"}
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # PS3.5 7.1.2


@dataclass(frozen=True, slots=True)
class Sample:
    """A DICOM file. `reason` is empty when it can be sent byte for byte by C-STORE, else says why not.

    UIDs are those of the File Meta (PS3.10 7.1), which a C-STORE-RQ announces; `own_uid` is the dataset's SOP Instance
    UID, which in some samples is another. `dataset_offset` is where the dataset starts, in bytes.
    """

    path: Path
    name: str
    sop_class_uid: str
    sop_instance_uid: str
    own_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    reason: str

    @property
    def sendable(self) -> bool:
        """Whether it can be sent as it is."""
        return not self.reason

    def dataset(self) -> bytes:
        """The dataset's bytes."""
        return self.path.read_bytes()[self.dataset_offset :]


@cache
def samples() -> tuple[Sample, ...]:
    """Every DICOM file of pydicom, pynetdicom's tests and pydicom-data that is installed, in a fixed order."""
    found: list[Sample] = []
    for package, folder in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        root = Path(spec.origin).parent / folder
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix not in _NOT_DICOM and path.name != "README":
                found.append(read_sample(path, f"{package}/{path.relative_to(root)}"))
    return tuple(found)


def sendable() -> list[Sample]:
    """The samples that can be sent byte for byte."""
    return [one for one in samples() if one.sendable]


def rounds(chosen: list[Sample]) -> list[list[Sample]]:
    """`chosen`, split so that no SOP Instance UID occurs twice in a part: many samples share theirs."""
    parts: list[tuple[list[Sample], set[str]]] = []
    for one in chosen:
        own = {one.sop_instance_uid, one.own_uid} - {""}
        for part, uids in parts:
            if not own & uids:
                part.append(one)
                uids.update(own)
                break
        else:
            parts.append(([one], own))
    return [part for part, _ in parts]


def read_sample(path: Path, name: str = "") -> Sample:
    """Look at a file: what it is and whether it can be sent."""
    meta, offset = file_meta(path.read_bytes()[: 1 << 20])
    class_uid, instance_uid, syntax = (meta.get(element, "") for element in (0x0002, 0x0003, 0x0010))
    if not offset:
        reason = "no File Meta"
    elif class_uid == _MEDIA_STORAGE_DIRECTORY:
        reason = "a DICOMDIR"
    else:
        wanted = {"SOP class": class_uid, "SOP Instance UID": instance_uid, "transfer syntax": syntax}
        missing = [what for what, value in wanted.items() if not value]
        reason = f"File Meta without {', '.join(missing)}" if missing else ""
    own_uid = "" if reason else _uid_in_dataset(path)
    return Sample(path, name or path.name, class_uid, instance_uid, own_uid, syntax, offset, reason)


def _uid_in_dataset(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
        except Exception:  # some samples are there to break readers
            return ""
        return str(found.get("SOPInstanceUID", ""))


def dataset_of(part10: bytes) -> bytes:
    """The dataset's bytes of a DICOM file; ValueError if it has no File Meta."""
    offset = file_meta(part10)[1]
    if not offset:
        raise ValueError("not a DICOM Part 10 file")
    return part10[offset:]


def file_meta(part10: bytes) -> tuple[dict[int, str], int]:
    """The UIDs of the File Meta by element number, and where the dataset starts; ({}, 0) when there is none.

    Walks group 0002 element by element (PS3.10 7.1, Explicit VR Little Endian): group lengths lie in some samples.
    """
    if part10[128:132] != b"DICM":
        return {}, 0
    uids: dict[int, str] = {}
    offset = 132
    while part10[offset : offset + 2] == b"\x02\x00":
        element, vr = struct.unpack_from("<H2s", part10, offset + 2)
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", part10, offset + 8)
            start = offset + 12
        else:
            (length,) = struct.unpack_from("<H", part10, offset + 6)
            start = offset + 8
        if vr == b"UI":
            uids[element] = part10[start : start + length].decode("ascii", "replace").strip("\0 ")
        offset = start + length
    return uids, (offset if offset > 132 else 0)


def write_ct_series(folder: Path, count: int, *, seed: str = "ct", rows: int = 512, columns: int = 512) -> list[Path]:
    """Write a CT series of `count` slices (16 bits per pixel, Explicit VR Little Endian); the files, in order.

    The same `seed` gives the same UIDs and bytes. Every slice's pixels differ.
    """
    return _write_series(folder, count, seed, "CT", (rows, columns))


def write_mr_series(folder: Path, count: int, *, seed: str = "mr", rows: int = 128, columns: int = 128) -> list[Path]:
    """Write an MR series of `count` small slices, as `write_ct_series` does."""
    return _write_series(folder, count, seed, "MR", (rows, columns))


def write_multi_frame(path: Path, pixel_bytes: int, *, seed: str = "multi-frame") -> Sample:
    """Write one multi-frame object with `pixel_bytes` of Pixel Data (below 4 GiB), in constant memory.

    Every mebibyte of it is numbered, so that bytes lost or out of order are seen.
    """
    frames = max(1, pixel_bytes // (1024 * 1024 * 2))
    head = _head(seed, 0, "OT", (1024, 1024))
    head.NumberOfFrames = frames
    head.FrameIncrementPointer = 0x00181063
    head.FrameTime = "40"
    path.parent.mkdir(parents=True, exist_ok=True)
    head.save_as(path, enforce_file_format=True)
    block = random.Random(seed).randbytes(1 << 20)
    with path.open("ab") as out:
        length = frames * 1024 * 1024 * 2
        out.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length))
        for number in range(length >> 20):
            out.write(struct.pack("<Q", number))
            out.write(memoryview(block)[8:])
    return read_sample(path)


def _write_series(folder: Path, count: int, seed: str, modality: str, shape: tuple[int, int]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _disc(*shape)
    row_bytes = 2 * shape[1]
    paths: list[Path] = []
    for number in range(1, count + 1):
        image = _head(seed, number, modality, shape)
        turn = (number * row_bytes) % len(pixels)
        image.PixelData = pixels[turn:] + pixels[:turn]
        paths.append(folder / f"{modality}{number:05d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _disc(rows: int, columns: int) -> bytes:
    """A bright disc on a gradient, 12 bits in 16."""
    pixels = array("H", bytes(2 * rows * columns))
    for row in range(rows):
        for column in range(columns):
            inside = (row - rows / 2) ** 2 + (column - columns / 2) ** 2 < (min(rows, columns) / 3) ** 2
            pixels[row * columns + column] = (row + column) % 1024 + (2048 if inside else 0)
    return pixels.tobytes()


def _head(seed: str, number: int, modality: str, shape: tuple[int, int]) -> FileDataset:
    """Everything of an image but its pixels. UIDs come from the seed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    head.SOPClassUID = _SOP_CLASSES[modality]
    head.SOPInstanceUID = generate_uid(entropy_srcs=[seed, "instance", str(number)])
    head.StudyDate = "20260102"
    head.StudyTime = "101112"
    head.AccessionNumber = f"ACC-{seed}"[:16]
    head.Modality = modality
    head.Manufacturer = "RelayPACS tests"
    head.PatientName = "TEST^GENERATED"
    head.PatientID = f"ID-{seed}"
    head.PatientBirthDate = ""
    head.PatientSex = "O"
    head.StudyInstanceUID = generate_uid(entropy_srcs=[seed, "study"])
    head.SeriesInstanceUID = generate_uid(entropy_srcs=[seed, "series"])
    head.StudyID = "1"
    head.SeriesNumber = 1
    head.InstanceNumber = number
    head.ImagePositionPatient = [0, 0, number]
    head.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    head.FrameOfReferenceUID = generate_uid(entropy_srcs=[seed, "frame"])
    head.SamplesPerPixel = 1
    head.PhotometricInterpretation = "MONOCHROME2"
    head.Rows, head.Columns = shape
    head.PixelSpacing = [0.5, 0.5]
    head.BitsAllocated, head.BitsStored, head.HighBit, head.PixelRepresentation = 16, 12, 11, 0
    if modality == "CT":
        head.RescaleIntercept, head.RescaleSlope = -1024, 1
    return head
