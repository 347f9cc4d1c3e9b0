"""`relaypacs spool`: what the write-ahead log holds, on a live node's folder, a dead one's, or a copied segment."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relaypacs.cli import say
from relaypacs.errors import SpoolError

if TYPE_CHECKING:
    from relaypacs.spool.inspect import Report

app = typer.Typer(help="Look into the spool, the log on local disk.", no_args_is_help=True, rich_markup_mode=None)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", metavar="DIR", help="The spool's folder. Default: that of the configuration."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON document.")]
SegmentsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SEGMENT...]", help="Segments: the beginning of a name, or a .tar file. Default: all."),
]
SegmentArgument = Annotated[
    str, typer.Argument(metavar="SEGMENT", help="Beginning of a segment's name, or a .tar file.")
]


def _folder(context: typer.Context, given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise SpoolError(f"{given} is no folder")
        return given
    from relaypacs.cli import settings

    return settings.load(context.obj, secrets=False).spool_dir


def _chosen(context: typer.Context, folder: Path | None, names: list[str]) -> list[Path]:
    """The segment files that `names` mean; SpoolError for one that means none or several."""
    from relaypacs.spool.inspect import segment_files

    given = {name: Path(name) for name in names if name.endswith(".tar")}
    known = segment_files(_folder(context, folder)) if len(given) < len(names) or not names else []
    if not names:
        return known
    chosen = []
    for name in names:
        found = [given[name]] if name in given else [path for path in known if path.stem.startswith(name)]
        if len(found) != 1:
            raise SpoolError(f"{'no segment' if not found else 'more than one segment'} begins with {name!r}")
        chosen += found
    return chosen


def _reports(paths: list[Path], *, verify: bool) -> list[Report]:
    from relaypacs.spool.inspect import report

    found = []
    for path in paths:
        # A live node frees segments while we look.
        with suppress(FileNotFoundError):
            found.append(report(path, verify=verify))
    return found


@app.command("ls")
def list_segments(
    context: typer.Context, segment: SegmentsArgument = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """List the segments, or the records of those named."""
    paths = _chosen(context, folder, segment or [])
    if segment:
        _list_records(paths, as_json=as_json)
        return
    reports = _reports(paths, verify=False)
    if as_json:
        say.out_json([asdict(one) | {"oldest": say.iso(one.oldest)} for one in reports])
        return
    if not reports:
        say.tell("The spool is empty.")
        return
    say.out_table(
        ["segment", "place", "state", "objects", "events", "dataset bytes", "file bytes", "oldest", "damaged"],
        [
            [
                one.generation,
                one.place,
                one.state,
                str(one.objects),
                str(one.events),
                str(one.dataset_bytes),
                str(one.size_bytes),
                say.when(one.oldest),
                "yes" if any(damage.lost for damage in one.damage) else "no",
            ]
            for one in reports
        ],
    )


def _list_records(paths: list[Path], *, as_json: bool) -> None:
    from relaypacs.model import EventRecord, ObjectRecord
    from relaypacs.spool.inspect import walk

    found = [record for path in paths for record in walk(path, verify=False)]
    if as_json:
        parts = ("at", "meta")
        say.out_json([asdict(one) | {k: getattr(one, k)._asdict() for k in parts if hasattr(one, k)} for one in found])
        return
    rows = []
    for record in found:
        if isinstance(record, ObjectRecord):
            meta = record.meta
            said = [meta.calling_ae, meta.called_ae, meta.peer, meta.sop_instance_uid, meta.transfer_syntax_uid]
            rows.append(
                [
                    f"{record.at.generation[:16]} {record.at.number}",
                    say.when(meta.received_at),
                    *map(say.printable, said),
                    str(record.dataset_length),
                ]
            )
        elif isinstance(record, EventRecord):
            name = f"{record.at.generation[:16]} {record.at.number}"
            rows.append([name, say.when(record.time), "", "", "", say.printable(f"event: {record.kind}"), "", ""])
        else:
            say.tell(record.problem)
    columns = ["record", "received", "calling", "called", "peer", "SOP instance", "transfer syntax", "bytes"]
    say.out_table(columns, rows)


@app.command("cat")
def cat(
    context: typer.Context,
    segment: SegmentArgument,
    number: Annotated[int, typer.Argument(metavar="RECORD", help="The record's number in the segment.")],
    folder: FolderOption = None,
) -> None:
    """Write a record to standard output. An object as a DICOM file, an event as JSON."""
    from relaypacs.model import EventRecord, ObjectRecord
    from relaypacs.spool.inspect import copy_object, walk

    (path,) = _chosen(context, folder, [segment])
    for record in walk(path, verify=True):
        if isinstance(record, ObjectRecord) and record.at.number == number:
            sys.stdout.flush()
            copy_object(path, record, sys.stdout.fileno())
            return
        if isinstance(record, EventRecord) and record.at.number == number:
            say.out_json({"kind": record.kind, "time": record.time, "body": record.body})
            return
    say.tell(f"Segment {path.stem} holds no valid record {number}.")
    raise typer.Exit(1)


@app.command("check")
def check(
    context: typer.Context, segment: SegmentsArgument = None, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """Verify every byte. Exit code 1 if an acknowledged record is damaged; a torn tail is no damage."""
    reports = _reports(_chosen(context, folder, segment or []), verify=True)
    damaged = sum(any(damage.lost for damage in one.damage) for one in reports)
    if as_json:
        say.out_json([asdict(one) | {"oldest": say.iso(one.oldest)} for one in reports])
    else:
        for one in reports:
            for damage in one.damage:
                say.out(f"{'DAMAGED' if damage.lost else 'torn tail'} ({one.place}): {damage.problem}")
        records = sum(one.objects + one.events for one in reports)
        say.out(
            f"{say.counted(len(reports), 'segment')}, {say.counted(records, 'record')} whole, "
            f"{say.counted(damaged, 'segment')} damaged."
        )
    raise typer.Exit(1 if damaged else 0)


@app.command("export")
def export(
    context: typer.Context,
    into: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write DICOM files into; made if need be.")],
    segment: SegmentsArgument = None,
    folder: FolderOption = None,
) -> None:
    """Write every object that verifies as a DICOM file, durably. Exit code 1 if some were damaged."""
    from relaypacs.model import ObjectRecord
    from relaypacs.spool.inspect import Damage, copy_object, walk

    into.mkdir(parents=True, exist_ok=True)
    written = damaged = 0
    for path in _chosen(context, folder, segment or []):
        for record in walk(path, verify=True):
            if isinstance(record, ObjectRecord):
                target = into / f"{record.at.generation}-{record.at.number:06d}.dcm"
                fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    copy_object(path, record, fd)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                written += 1
            elif isinstance(record, Damage) and record.lost:
                damaged += 1
                say.tell(record.problem)
    say.out(f"{say.counted(written, 'object')} written to {into}.")
    raise typer.Exit(1 if damaged else 0)
