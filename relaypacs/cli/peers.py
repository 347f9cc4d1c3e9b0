"""`echo` and `send`: this machine as an SCU. Each returns its exit code; what a network does is an answer, no error."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from relaypacs import log
from relaypacs.cli import say
from relaypacs.config import Config, Destination
from relaypacs.dicom.part10 import MAGIC, META_OFFSET, PREAMBLE_BYTES, read_file_head
from relaypacs.forward.echo import echo as ask
from relaypacs.forward.lane import Address
from relaypacs.forward.send import send_files
from relaypacs.model import Deferred, Delivered, Outcome
from relaypacs.policy.aetitle import check_ae_title

_CONNECT_TIMEOUT_SECONDS = 10.0
_RESPONSE_TIMEOUT_SECONDS = 120.0
_DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage, PS3.4 I.4
_HEAD_BYTES = 4096
_OPTIONS = {"`calling_ae`": "--calling", "`called_ae`": "--called", "`associations` here": "the number here"}
"""What reasons call options of a [[destination]], and what they are here."""
_RESULTS = ("accepted", "failed", "unsent", "skipped")


def echo(config: Config, destination: Destination, *, as_json: bool) -> int:
    """Whether the destination answers; 1 if not."""
    log.setup(level="critical", json_lines=False, service="cli")
    answer = ask(destination, calling_ae=config.receive.ae_titles[0])
    if as_json:
        say.out_json(
            {
                "destination": destination.name,
                "ok": answer.ok,
                "sentence": answer.sentence,
                "milliseconds": round(answer.milliseconds, 1),
            }
        )
    else:
        line = f"{destination.name}: {answer.sentence} ({answer.milliseconds:.0f} ms)"
        (say.out if answer.ok else say.tell)(line)
    return 0 if answer.ok else 1


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a file: `accepted`, `failed` (refused, or not to be read), `unsent` (the peer was not to be
    had), or `skipped` (it is no DICOM file)."""

    file: str
    result: str
    status: int | None = None
    warning: bool = False
    reason: str = ""
    seconds: float = 0.0


def send(paths: Sequence[Path], *, to: str, called: str, calling: str, as_json: bool) -> int:
    """Send files and folders of them; 0 only if every object was accepted, and there was one."""
    log.setup(level="critical", json_lines=False, service="cli")
    address = _address(to, called, calling)
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"there is no file or folder {say.printable(str(path))!r}")
    files, results = _sorted_out(paths)
    _send(files, address, results)
    counts = Counter(result.result for result in results)
    if as_json:
        say.out_json({name: counts[name] for name in _RESULTS} | {"files": [asdict(result) for result in results]})
    else:
        for line in _lines(results):
            say.out(line)
        say.out(", ".join(f"{counts[name]} {name}" for name in _RESULTS))
    named_but_skipped = any(result.result == "skipped" and Path(result.file) in paths for result in results)
    refused = counts["failed"] + counts["unsent"]
    return 0 if counts["accepted"] and not refused and not named_but_skipped else 1


def _address(to: str, called: str, calling: str) -> Address:
    host, _, port = to.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise typer.BadParameter("write --to HOST:PORT, such as 127.0.0.1:11112 or [::1]:11112")
    for option, title in (("--called", called), ("--calling", calling)):
        try:
            check_ae_title(title)
        except ValueError as wrong:
            raise typer.BadParameter(f"{option}: {wrong}") from None
    return Address(
        host.strip("[]"),
        int(port),
        calling_ae=calling.strip(),
        called_ae=called.strip(),
        connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS,
        response_timeout_seconds=_RESPONSE_TIMEOUT_SECONDS,
    )


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[Result]]:
    """The DICOM files under `paths`, and a result for each that is none."""
    files, results = [], []
    for path in _walk(paths):
        if why := _no_dicom(path):
            results.append(Result(str(path), "skipped", reason=why))
        else:
            files.append(path)
    return files, results


def _walk(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names))


def _no_dicom(path: Path) -> str:
    """Why it is nothing to send, or nothing. What only looks damaged is sent for: that it can't be is a failure."""
    if not path.is_file():
        return "not a file"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head[PREAMBLE_BYTES:META_OFFSET] != MAGIC:
            return "not a DICOM file (no DICM at byte 128)"
        found = read_file_head(head, file_length=path.stat().st_size)
    except (OSError, ValueError):
        return ""
    return "a DICOMDIR lists objects, it is none" if found.sop_class_uid == _DICOMDIR else ""


def _send(files: list[Path], address: Address, results: list[Result]) -> None:
    if not files:
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        bar = Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        task = bar.add_task("send", total=len(files))
    else:
        bar, task = None, None

    def report(path: Path, outcome: Outcome, seconds: float) -> None:
        results.append(_result(path, outcome, seconds))
        if bar is not None and task is not None:
            bar.advance(task)

    with bar or nullcontext():
        send_files(files, address, report)


def _result(path: Path, outcome: Outcome, seconds: float) -> Result:
    file, took = str(path), round(seconds, 4)
    if isinstance(outcome, Delivered):
        return Result(file, "accepted", outcome.status, outcome.warning, seconds=took)
    unsent = isinstance(outcome, Deferred) and outcome.status is None
    reason = outcome.reason
    for option, ours in _OPTIONS.items():
        reason = reason.replace(option, ours)
    return Result(file, "unsent" if unsent else "failed", outcome.status, reason=reason, seconds=took)


def _lines(results: Sequence[Result]) -> Iterator[str]:
    """What was not simply accepted: file by file, but for a peer that was not to be had, which is said once."""
    for result in results:
        name = say.printable(result.file)
        if result.result in ("skipped", "failed"):
            yield f"{result.result}  {name}: {result.reason}"
        elif result.warning:
            yield f"accepted  {name}: with a warning (status {result.status:04X})"
    for reason, count in Counter(result.reason for result in results if result.result == "unsent").items():
        yield f"unsent  {say.counted(count, 'file')}: {reason}"
