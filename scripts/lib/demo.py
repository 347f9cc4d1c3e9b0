"""The demo: real files through a RelayPACS node to two real Orthancs, one by C-STORE, one by STOW-RS.

Run by `scripts/demo`, which has installed everything. Files that Orthanc itself refuses or rewrites are left out and
listed: each is first sent to a third Orthanc directly, so that whatever differs afterwards is RelayPACS's doing.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.lib.demo_files import Chosen, choose, send_with_relaypacs, send_with_storescu, uid_name
from tests.peers.node import RELAYPACS, Node, dicomweb, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.ports import answers, free_port
from tests.samples import Sample, dataset_of

CT_SLICES = 60
PATIENCE_SECONDS = 60.0  # without any arrival, while something is owed


def main() -> int:
    """Run the demo; the exit code."""
    arguments = argparse.ArgumentParser(prog="scripts/demo", description="RelayPACS with real files and real peers.")
    arguments.add_argument("--once", action="store_true", help="end after the check")
    arguments.add_argument("--keep", metavar="DIR", type=Path, help="keep configuration, state and logs in DIR")
    options = arguments.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    folder = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="relaypacs-demo-"))
    try:
        with ExitStack() as stack:
            return _demo(folder, stack, once=options.once)
    except KeyboardInterrupt:
        print("\ndemo: stopped; what it started has ended", flush=True)
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _demo(folder: Path, stack: ExitStack, *, once: bool) -> int:
    console = Console(highlight=False)
    console.rule("[bold]RelayPACS demo")
    chosen = choose(folder, CT_SLICES)
    _show_chosen(console, chosen)
    web = stack.enter_context(Orthanc(folder / "orthanc-web", aet="ORTHANCWEB"))
    by_dimse = stack.enter_context(Orthanc(folder / "orthanc-dimse", aet="ORTHANC"))
    begun = time.monotonic()
    node = stack.enter_context(
        Node(
            folder / "node",
            destinations=[
                dimse("orthanc-dimse", by_dimse.dicom_port, by_dimse.aet),
                dicomweb("orthanc-web", web.dicomweb_url),
            ],
            port=_port(11112),
            http_port=_port(8080),
        )
    )
    console.print(f"node ready {time.monotonic() - begun:.1f} s after its start, DICOM port {node.port}")
    peers = {"orthanc-dimse": by_dimse, "orthanc-web": web}
    _send(console, chosen.files, node, peers)
    identical = {name: _identical(peer, chosen.files) for name, peer in peers.items()}
    _show_arrived(console, chosen.files, peers, identical, node)
    sent = len(chosen.files)
    failed = sum(sent - count for count in identical.values())
    if not once:
        _show_what_next(console, node, peers, folder)
        signal.pause()
    counts = " ".join(f"{name}={count}" for name, count in identical.items())
    print(f"demo: sent={sent} {counts} failed={failed}", flush=True)
    return 1 if failed or sent == 0 else 0


def _port(usual: int) -> int:
    """The usual port if nobody has it, else a free one."""
    return free_port() if answers(usual) else usual


def _send(console: Console, files: list[Sample], node: Node, peers: dict[str, Orthanc]) -> None:
    """Send half with DCMTK, half with `relaypacs send`, and watch both destinations until all is there."""
    halves = {"DCMTK storescu": files[0::2], "relaypacs send": files[1::2]}
    bar = [TextColumn("{task.description:<24}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()]
    trouble: list[str] = []
    with Progress(*bar, console=console) as progress:
        sending = {name: progress.add_task(f"sent by {name}", total=len(part)) for name, part in halves.items()}
        arriving = {name: progress.add_task(f"arrived at {name}", total=len(files)) for name in peers}

        def send() -> None:
            for name, part in halves.items():
                steps = (send_with_storescu if "DCMTK" in name else send_with_relaypacs)(part, node.port)
                for count, problem in steps:
                    progress.advance(sending[name], count)
                    if problem:
                        trouble.append(f"{name}: {problem}")

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        before: list[int] = []
        moved = time.monotonic()
        while time.monotonic() - moved < PATIENCE_SECONDS:
            counts = [peer.count() for peer in peers.values()]
            for task, count in zip(arriving.values(), counts, strict=True):
                progress.update(task, completed=count)
            if counts != before or sender.is_alive():
                before, moved = counts, time.monotonic()
            if not sender.is_alive() and (all(count >= len(files) for count in counts) or _at_rest(node, moved)):
                break
            time.sleep(0.1)
    for line in trouble:
        console.print(f"[red]{line}")


def _at_rest(node: Node, moved: float) -> bool:
    """Whether nothing arrived for a while and the node owes nothing more: then what is missing stays missing."""
    return time.monotonic() - moved > 3 and node.ledger()["pending"] == 0


def _identical(peer: Orthanc, files: list[Sample]) -> int:
    """How many of the files `peer` stores with exactly their dataset's bytes."""
    stored = peer.instances()
    same = 0
    for one in files:
        instance = stored.get(one.sop_instance_uid)
        same += instance is not None and dataset_of(peer.file(instance)) == one.dataset()
    return same


def _show_chosen(console: Console, chosen: Chosen) -> None:
    table = Table(title=f"{len(chosen.files)} files to send", title_justify="left")
    table.add_column("SOP class")
    table.add_column("transfer syntax")
    table.add_column("files", justify="right")
    kinds = Counter((uid_name(one.sop_class_uid), uid_name(one.transfer_syntax_uid)) for one in chosen.files)
    for (sop_class, syntax), count in sorted(kinds.items()):
        table.add_row(sop_class, syntax, str(count))
    console.print(table)
    left_out = Table(title=f"{sum(len(names) for names in chosen.left_out.values())} left out", title_justify="left")
    left_out.add_column("why")
    left_out.add_column("files", justify="right")
    left_out.add_column("for example")
    for reason, names in chosen.left_out.items():
        left_out.add_row(reason, str(len(names)), names[0])
    console.print(left_out)


def _show_arrived(
    console: Console, files: list[Sample], peers: dict[str, Orthanc], identical: dict[str, int], node: Node
) -> None:
    table = Table(title="What arrived", title_justify="left")
    for column in ("destination", "sent", "arrived", "byte for byte"):
        table.add_column(column, justify="left" if column == "destination" else "right")
    for name, peer in peers.items():
        colour = "green" if identical[name] == len(files) else "red"
        table.add_row(name, str(len(files)), str(peer.count()), f"[{colour}]{identical[name]}")
    console.print(table)
    ledger = node.ledger()
    keys = ("received", "instances", "duplicates", "routed", "delivered", "pending", "failed", "imbalance")
    console.print("ledger: " + ", ".join(f"{key} {ledger[key]}" for key in keys if key in ledger))


def _show_what_next(console: Console, node: Node, peers: dict[str, Orthanc], folder: Path) -> None:
    config = node.config_path
    console.rule("[bold]still running: try it")
    for what, commands in {
        "Send your own files": [
            f"/usr/bin/storescu -aec {node.ae_title} 127.0.0.1 {node.port} FILE.dcm",
            f"{RELAYPACS} send FOLDER --to 127.0.0.1:{node.port} --called {node.ae_title}",
        ],
        "Look at the queue, find a study, check the books": [
            f"{RELAYPACS} queue --config {config}",
            f"{RELAYPACS} trace ACC-demo --config {config}",
            f"{RELAYPACS} ledger --config {config}",
        ],
        "Health and metrics": [f"{node.url}/healthz", f"{node.url}/readyz", f"{node.url}/metrics"],
        "What the destinations hold": [f"{peer.http_url}/app/explorer.html   ({name})" for name, peer in peers.items()],
        "Configuration, state and logs": [str(folder)],
    }.items():
        console.print(f"[bold]{what}")
        for command in commands:
            console.print(f"  {command}", soft_wrap=True)
    console.print("Ctrl-C ends everything.")


if __name__ == "__main__":
    sys.exit(main())
