"""Which files the demo sends, and sending them.

`choose` takes the installed samples and a generated CT series, and keeps what Orthanc stores byte for byte when
DCMTK's `storescu` sends it there directly: only for those can a difference be blamed on what is between.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from pynetdicom.presentation import AllStoragePresentationContexts

from tests.peers.dcmtk import run, storescu
from tests.peers.node import RELAYPACS
from tests.peers.orthanc import Orthanc
from tests.samples import Sample, dataset_of, read_sample, rounds, samples, write_ct_series

# The option that makes storescu propose a transfer syntax first.
_OPTION_OF_SYNTAX = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-x=",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
_STORAGE_CLASSES = {context.abstract_syntax for context in AllStoragePresentationContexts}
_FILES_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to send; and by reason, the names of those left out."""

    files: list[Sample]
    left_out: dict[str, list[str]]


def uid_name(uid: str) -> str:
    """A UID's name in PS3.6, without the word they all end in."""
    return UID(uid).name.removesuffix(" Storage")


def choose(folder: Path, slices: int) -> Chosen:
    """The samples and a CT series of `slices`, less what can't show anything."""
    left_out: dict[str, list[str]] = defaultdict(list)
    for one in samples():
        if not one.sendable:
            left_out[f"can't be sent: {one.reason}"].append(one.name)
        elif one.sop_class_uid not in _STORAGE_CLASSES:
            left_out["retired SOP class or no storage class (receive.private_sop_classes)"].append(one.name)
    candidates = [one for one in samples() if one.sendable and one.sop_class_uid in _STORAGE_CLASSES]
    kept: list[Sample] = []
    for one, stored in _sent_directly(folder, candidates):
        if stored is None:
            left_out["not stored when storescu sends it to Orthanc directly"].append(one.name)
        elif dataset_of(stored) != one.dataset():
            left_out["rewritten when storescu sends it to Orthanc directly"].append(one.name)
        else:
            kept.append(one)
    # Orthanc keeps one object per SOP Instance UID, and many samples share theirs: the rarest transfer syntax wins.
    of_syntax = Counter(one.transfer_syntax_uid for one in kept)
    kept.sort(key=lambda one: (of_syntax[one.transfer_syntax_uid], one.name))
    files, *others = rounds(kept)
    left_out["has the SOP Instance UID of another that is sent"] = [one.name for part in others for one in part]
    generated = write_ct_series(folder / "ct-series", slices, seed="demo")
    return Chosen(files + [read_sample(path, f"generated/{path.name}") for path in generated], dict(left_out))


def _sent_directly(folder: Path, files: list[Sample]) -> list[tuple[Sample, bytes | None]]:
    """What Orthanc stores of each file when nothing is in between; None where it stores nothing."""
    found: list[tuple[Sample, bytes | None]] = []
    with Orthanc(folder / "orthanc-direct", environment={"TCP_NODELAY": "1"}) as direct:

        def send(one: Sample) -> None:
            option = _OPTION_OF_SYNTAX.get(one.transfer_syntax_uid, "-x=")
            storescu(direct.dicom_port, [one.path], options=[option, "-R", "-ts", "10", "-td", "10"])

        for part in rounds(files):
            with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
                list(pool.map(send, part))
            stored = direct.files()
            found += [(one, stored.get(one.sop_instance_uid)) for one in part]
            direct.clear()
    return found


def send_with_storescu(files: list[Sample], port: int) -> Iterator[tuple[int, str]]:
    """Send with DCMTK; after each run, how many files it was and what went wrong if anything did."""
    by_option: dict[str, list[Path]] = defaultdict(list)
    for one in files:
        by_option[_OPTION_OF_SYNTAX.get(one.transfer_syntax_uid, "-x=")].append(one.path)
    for option, paths in by_option.items():
        for part in _parts(paths):
            done = storescu(port, part, calling="DEMO", options=[option, "-R", "--no-halt"])
            yield len(part), _said(done.stdout) if done.returncode or done.stdout.strip() else ""


def send_with_relaypacs(files: list[Sample], port: int) -> Iterator[tuple[int, str]]:
    """Send with `relaypacs send`, likewise."""
    for part in _parts([one.path for one in files]):
        to = ["--to", f"127.0.0.1:{port}", "--called", "RELAYPACS", "--calling", "DEMO"]
        done = run([RELAYPACS, "send", *part, *to])
        yield len(part), "" if done.returncode == 0 else _said(done.stdout)


def _parts(paths: list[Path]) -> list[list[Path]]:
    return [paths[at : at + _FILES_AT_ONCE] for at in range(0, len(paths), _FILES_AT_ONCE)]


def _said(text: str) -> str:
    return "; ".join(text.strip().splitlines()[-4:]) or "it failed and said nothing"
