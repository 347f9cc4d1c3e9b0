"""Stand-ins for PACS that misbehave, and how eight deliveries to each stand afterwards: a table for each protocol.

`tests/flow/test_forward_bad_peers.py` tries each beside a good neighbour; `scripts/bench neighbours` measures what the
neighbour notices of it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from relaypacs.dicom.command import NO_DATASET, encode_response
from relaypacs.dicom.pdu import abort_pdu
from relaypacs.model import State
from tests.unit.forward.dimsepeer import Connection
from tests.unit.forward.webpeer import Reply, Request, module

OBJECTS = 8
DELIVERED, FAILED, DEFERRED, QUEUED = State.DELIVERED, State.FAILED, State.DEFERRED, State.QUEUED
Serve = Callable[[Connection], None]
NEVER = {DEFERRED: 1, QUEUED: OBJECTS - 1}
"""One attempt was counted, and nothing else was tried."""


def rejects(result: int, source: int, reason: int) -> Serve:
    def serve(peer: Connection) -> None:
        peer.read_pdu()
        peer.send(struct.pack(">BxIxBBB", 3, 4, result, source, reason))
        peer.read_pdu()

    return serve


def answers(*statuses: int) -> Serve:
    """Each in turn, over all of its life."""
    given: list[int] = []

    def serve(peer: Connection) -> None:
        peer.accept()
        while peer.store(statuses[len(given) % len(statuses)]):
            given.append(0)

    return serve


def aborts_instead_of_accepting(peer: Connection) -> None:
    peer.read_pdu()
    peer.abort()


def aborts_when_an_object_begins(peer: Connection) -> None:
    peer.accept()
    peer.read_pdu()
    peer.abort()


def aborts_after_the_object(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.abort()


def aborts_between_objects(peer: Connection) -> None:
    peer.accept()
    peer.store()
    peer.abort()


def resets_after_success(peer: Connection) -> None:
    peer.accept()
    peer.store()
    time.sleep(0.05)  # so that the answer is read before the reset overtakes it
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.file.close()
    peer.socket.close()


def hangs_before_accepting(peer: Connection) -> None:
    peer.read_pdu()
    peer.file.read(1)


def hangs_in_an_object(peer: Connection) -> None:
    peer.accept()
    peer.file.read(500)
    time.sleep(5)


def hangs_before_the_answer(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.file.read(1)


def half_an_answer(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(b"\x04\x00\x00\x00\x00\x40\x00\x00")
    peer.file.read(1)


def answers_another_message(peer: Connection) -> None:
    peer.accept()
    context_id, command, _ = peer.read_object()
    if command is not None:
        ours, other = (struct.pack("<HHIH", 0, 0x0120, 2, one) for one in (command.message_id or 0, 999))
        peer.send_message(context_id, encode_response(command, 0).replace(ours, other))
        peer.file.read(1)


def aborts_for_no_known_reason(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(abort_pdu(2, 3))


def answers_without_end(*pieces: bytes, pause_seconds: float = 0.0, has_dataset: bool = False) -> Serve:
    """After an object: a C-STORE-RSP that says a dataset follows, if there is to be one, then these for ever."""

    def serve(peer: Connection) -> None:
        peer.accept()
        context_id, command, _ = peer.read_object()
        if command is None:
            return
        if has_dataset:
            none, some = (struct.pack("<HHIH", 0, 0x0800, 2, one) for one in (NO_DATASET, 0))
            peer.send_message(context_id, encode_response(command, 0).replace(none, some))
        with suppress(OSError):
            while True:
                for piece in pieces:
                    peer.send(piece.replace(_CONTEXT, bytes((context_id,))))
                time.sleep(pause_seconds)

    return serve


_CONTEXT = b"@"


def _data(control: int, data: bytes) -> bytes:
    return struct.pack(">BxIIcB", 4, len(data) + 6, len(data) + 2, _CONTEXT, control) + data


def accepts(**how: object) -> Serve:
    """And takes everything."""

    def serve(peer: Connection) -> None:
        peer.accept(**how)  # type: ignore[arg-type]
        while peer.store():
            pass

    return serve


_ODD = b"".join(
    struct.pack(">BxH", kind, len(value)) + value
    for kind, value in (
        (0x55, b"SCANNER_3\0"),
        (0x55, b"seventeen letters"),
        (0x55, "GERÄT".encode("latin-1")),
        (0x5F, b"nobody knows this"),
        (0x54, b"\0\0\1\1"),
        (0x56, b"odd"),
    )
)


DIMSE: dict[str, tuple[Serve, dict[State, int]]] = {
    "rejects for good": (rejects(1, 1, 1), NEVER),
    "rejects our title": (rejects(1, 1, 3), NEVER),
    "rejects for now": (rejects(2, 3, 2), NEVER),
    "aborts instead of accepting": (aborts_instead_of_accepting, NEVER),
    "aborts when an object begins": (aborts_when_an_object_begins, NEVER),
    "aborts after the object": (aborts_after_the_object, NEVER),
    "aborts between objects": (aborts_between_objects, {DELIVERED: OBJECTS}),
    "resets after Success": (resets_after_success, {DELIVERED: OBJECTS}),
    "hangs before accepting": (hangs_before_accepting, NEVER),
    "hangs in an object": (hangs_in_an_object, NEVER),
    "hangs before the answer": (hangs_before_the_answer, NEVER),
    "half an answer": (half_an_answer, NEVER),
    "answers another message": (answers_another_message, NEVER),
    "half refused": (answers(0x0000, 0xC001), {DELIVERED: OBJECTS // 2, FAILED: OBJECTS // 2}),
    "has it already": (answers(0x0111), {DELIVERED: OBJECTS}),
    "warns": (answers(0xB007), {DELIVERED: OBJECTS}),
    "unknown status": (answers(0x4711), {DEFERRED: OBJECTS}),
    "Pending": (answers(0xFF00), {DEFERRED: OBJECTS}),
    "rejects for no known reason": (rejects(3, 1, 0), NEVER),
    "aborts for no known reason": (aborts_for_no_known_reason, NEVER),
    "a flood behind its answer": (answers_without_end(_data(0, bytes(16000)), has_dataset=True), NEVER),
    "drips behind its answer": (answers_without_end(_data(0, b"x"), pause_seconds=0.1, has_dataset=True), NEVER),
    "an answer of empty pieces": (answers_without_end(_data(1, b"") * 500), NEVER),
    "says no Maximum Length": (accepts(max_pdu_bytes=None), {DELIVERED: OBJECTS}),
    "odd about itself": (accepts(informs=_ODD), {DELIVERED: OBJECTS}),
}


HANGS = (
    *("hangs before accepting", "hangs in an object", "hangs before the answer", "half an answer"),
    *("a flood behind its answer", "drips behind its answer", "an answer of empty pieces"),
)
"""What ends by a timeout."""


def lies(request: Request) -> Reply:
    return Reply(200, module(["1.2.3.4.5"]))


def one_of_them_is_bad(request: Request) -> Reply:
    """400, with the good ones stored and listed."""
    good = [uid for uid in request.uids if not uid.endswith(".3")]
    return Reply(400, module(good, {uid: 0xC000 for uid in request.uids if uid not in good}))


WEB: dict[str, tuple[Callable[[Request], Reply], dict[State, int]]] = {
    "200 with empty sequences": (lambda _: Reply(200, module()), {DEFERRED: OBJECTS}),
    "400 with the good ones stored": (one_of_them_is_bad, {DELIVERED: OBJECTS - 1, FAILED: 1}),
    "names a UID nobody sent": (lies, {FAILED: OBJECTS}),
    "truncated JSON": (lambda request: Reply(200, module(request.uids)[:-20]), {DEFERRED: OBJECTS}),
    "a body without end": (lambda request: Reply(200, module(request.uids) + b" " * (4 << 20)), {DEFERRED: OBJECTS}),
    "cuts the connection": (lambda _: Reply(200, cut=True), {DEFERRED: OBJECTS}),
    "409 with reasons": (lambda r: Reply(409, module([], dict.fromkeys(r.uids, 43264))), {FAILED: OBJECTS}),
    "409, all there already": (lambda r: Reply(409, module([], dict.fromkeys(r.uids, 45070))), {DELIVERED: OBJECTS}),
    "401": (lambda _: Reply(401), {DEFERRED: OBJECTS}),
    "404": (lambda _: Reply(404), {DEFERRED: OBJECTS}),
    "413": (lambda r: Reply(413 if r.files else 503), {DEFERRED: 3, QUEUED: OBJECTS - 3}),
    "415": (lambda r: Reply(415 if r.files else 503), {DEFERRED: 3, QUEUED: OBJECTS - 3}),
    "429": (lambda _: Reply(429, headers={"Retry-After": "60"}), {DEFERRED: OBJECTS}),
    "503": (lambda _: Reply(503), {DEFERRED: OBJECTS}),
    "drips its answer": (lambda request: Reply(200, module(request.uids), drip=True), {DEFERRED: OBJECTS}),
    "never ends its head": (lambda _: Reply(200, endless_head=True), {DEFERRED: OBJECTS}),
    "never ends its trailers": (lambda r: Reply(200, module(r.uids), endless=b"0\r\nX: y\r\n"), {DEFERRED: OBJECTS}),
    "never ends a length": (lambda r: Reply(200, module(r.uids), endless=b"0"), {DEFERRED: OBJECTS}),
    "never answers": (lambda _: Reply(200, silent=True), {DEFERRED: OBJECTS}),
    "redirects": (lambda _: Reply(307, headers={"Location": "http://169.254.169.254/"}), {DEFERRED: OBJECTS}),
}
SLOW = (
    *("drips its answer", "never ends its head", "never ends its trailers", "never ends a length", "never answers"),
)
"""What ends by a timeout."""
