"""What `doctor` looks at on this machine: the disks, the clock, the limits of the process, the listeners' ports.

Each function yields findings; an OSError that nobody foresaw is `doctor`'s to report.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from relaypacs.cli.finding import Finding, Grade

if TYPE_CHECKING:
    from relaypacs.config import Config

_SYNCS = 25
_SYNC_BYTES = 40960
_SLOW_SECONDS, _HOPELESS_SECONDS = 0.02, 0.2
"""Median time to make 40 KiB durable: a modality waits for it with every object."""
_COPY_ON_WRITE = frozenset({"btrfs", "zfs", "bcachefs"})
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronized."""


def disks(config: Config) -> Iterator[Finding]:
    """The spool's folder and the state folder: kind of file system, room, speed of a sync, encryption."""
    from relaypacs.spool.lock import network_file_system, statfs_magic

    seen = set()
    for what, folder in (("spool", config.spool_dir), ("state folder", config.node.state_dir)):
        here = _nearest(folder)
        if not os.access(here, os.W_OK | os.X_OK):
            mend = (
                f"make {folder}, owned by the node's user" if here != folder else "give it to the node's user (chown)"
            )
            yield Finding(what, Grade.FAILED, f"{here} can't be written by this user", mend)
            continue
        device = here.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        network = network_file_system(statfs_magic(here))
        if network is not None:
            yield Finding(
                what, Grade.FAILED, f"{folder} is on a network file system ({network})", "put it on a local disk"
            )
            continue
        yield from _room(what, here, config)
        yield from _kind(what, here, config)
        yield _sync_speed(what, here)
        yield _encryption(what, device)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _room(what: str, folder: Path, config: Config) -> Iterator[Finding]:
    found = os.statvfs(folder)
    free, mark = found.f_bavail * found.f_frsize, config.spool.min_free_bytes
    said = f"{free / 1e9:.1f} GB free on {folder}, refused below {mark / 1e9:.1f} GB"
    if free < mark:
        yield Finding(f"{what} room", Grade.FAILED, said, "make room: objects are refused now (A700)")
    elif free < 4 * mark:
        yield Finding(f"{what} room", Grade.WARNING, said, "make room, or give it a larger disk")
    else:
        yield Finding(f"{what} room", Grade.GOOD, said)
    if found.f_favail and found.f_favail < 10_000:
        yield Finding(f"{what} files", Grade.WARNING, f"only {found.f_favail} more files fit", "free inodes")


def _kind(what: str, folder: Path, config: Config) -> Iterator[Finding]:
    kind = _mounted_as(folder)
    if kind in _COPY_ON_WRITE and config.spool.recycle:
        yield Finding(
            f"{what} file system", Grade.WARNING, f"{kind} copies on write", "set [spool] recycle = false: it is faster"
        )
    elif kind in {"tmpfs", "ramfs"}:
        yield Finding(
            f"{what} file system", Grade.FAILED, f"{kind} is gone after a power cut", "put it on a disk: see [node]"
        )
    elif kind:
        yield Finding(f"{what} file system", Grade.GOOD, kind)


def _mounted_as(folder: Path) -> str:
    """The file system's name from /proc/self/mountinfo, "" if it isn't found."""
    found = folder.stat().st_dev
    device = f"{os.major(found)}:{os.minor(found)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[2] == device:
            return rest.split()[0]
    return ""


def _sync_speed(what: str, folder: Path) -> Finding:
    """Durable writes as the spool makes them: over blocks that exist."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        block = b"\0" * _SYNC_BYTES
        for number in range(_SYNCS):
            os.pwrite(file.fileno(), block, number * _SYNC_BYTES)
        os.fsync(file.fileno())
        for number in range(_SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), block, number * _SYNC_BYTES)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    median = statistics.median(taken)
    said = f"40 KiB are durable in {median * 1000:.2f} ms (median), {max(taken) * 1000:.2f} ms at worst"
    if median > _HOPELESS_SECONDS:
        return Finding(f"{what} sync", Grade.FAILED, said, "use a disk with a write cache that survives power cuts")
    if median > _SLOW_SECONDS:
        return Finding(f"{what} sync", Grade.WARNING, said, "an SSD for the spool makes every sender faster")
    return Finding(f"{what} sync", Grade.GOOD, said)


def _encryption(what: str, device: int) -> Finding:
    name = f"{what} encryption"
    mapped = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/dm/uuid")
    if mapped.exists() and mapped.read_text().startswith("CRYPT-"):
        return Finding(name, Grade.GOOD, "the volume is encrypted (dm-crypt)")
    return Finding(
        name, Grade.NOTE, "no encryption of the volume is seen from here", "encrypt it (LUKS, or the cloud's)"
    )


def machine(config: Config) -> Iterator[Finding]:
    """Clock and limits."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(512))
    if state == _TIME_ERROR:
        yield Finding("clock", Grade.WARNING, "no time service keeps the clock", "run chrony or systemd-timesyncd")
    elif state >= 0:
        yield Finding("clock", Grade.GOOD, "kept by a time service")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = config.receive.max_connections or 10_000
    wanted = most // config.receive.processes + 256
    most_files = "any number of" if hard == resource.RLIM_INFINITY else hard
    said = f"{most_files} files may be open in a process, {wanted} are needed for [receive] max_connections"
    if hard != resource.RLIM_INFINITY and hard < wanted:
        yield Finding("open files", Grade.WARNING, said, f"raise the limit (LimitNOFILE={wanted}) or lower the option")
    else:
        yield Finding("open files", Grade.GOOD, said)


def ports(config: Config, *, running: bool) -> Iterator[Finding]:
    """Whether the node can listen, or, if it runs, whether it does. Nothing is said to whoever listens."""
    from relaypacs.config.options import endpoint

    receive, tls, sidecar = config.receive, config.tls, config.sidecar
    places = [
        (receive.host, receive.port, "DICOM"),
        *((*endpoint(one), "DICOM") for one in receive.also_listen),
        *((*endpoint(one), "DICOM TLS") for one in tls.listen),
        (sidecar.host, sidecar.port, "health and metrics"),
    ]
    for host, port, what in dict.fromkeys(places):
        if port == 0:
            continue
        name = f"port {port}"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            try:
                if running:
                    sock.settimeout(3)
                    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
                    sock.connect((reach, port))
                    yield Finding(name, Grade.GOOD, f"{what}: somebody listens, as this node should")
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((host, port))
                    yield Finding(name, Grade.GOOD, f"{what}: free")
            except OSError as problem:
                yield Finding(
                    name, Grade.FAILED, f"{what}: {problem.strerror or problem}", _port_mend(problem, running)
                )


def _port_mend(problem: OSError, running: bool) -> str:
    if running:
        return "the node runs but does not answer there: see its log"
    if problem.errno == errno.EADDRINUSE:
        return "something else listens there: stop it, or choose another port"
    if problem.errno == errno.EACCES:
        return "ports below 1024 need root, or CAP_NET_BIND_SERVICE"
    return "correct the address: it must be one of this machine's"
