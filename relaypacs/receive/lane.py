"""The C-STORE lane: one object from its C-STORE-RQ to its C-STORE-RSP, streamed into the spool.

`receive.serving` calls `Lane.store` for each C-STORE-RQ of an association. Success is sent after the spool's commit
and only then; every refusal is sent after the rest of the object was read, and the association goes on. No dataset is
built: fragments pass as views from the read buffer to the spool. What ends the association is raised or returned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from relaypacs import log
from relaypacs.dicom.command import (
    CANNOT_UNDERSTAND,
    INVALID_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    CommandSet,
    encode_response,
    is_valid_uid,
)
from relaypacs.dicom.message import encode_message
from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.failpoint import reach
from relaypacs.model import Committed, ObjectMeta
from relaypacs.spool.append import Append
from relaypacs.spool.writer import SpoolWriter
from relaypacs.upper.reader import Pdu, Reader
from relaypacs.upper.stream import Stream

RECEIVED_OBJECTS = Counter(
    "relaypacs_received_objects_total",
    "Objects answered, by C-STORE status (hexadecimal); 0000 means durable in the spool.",
    ["status"],
)
RECEIVED_BYTES = Counter("relaypacs_received_bytes_total", "Dataset bytes made durable in the spool.")
RESPONSE_SECONDS = Histogram(
    "relaypacs_cstore_response_seconds",
    "From an object's last fragment to its C-STORE response, in seconds: what durability costs the modality.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0),
)
_STATUSES = (
    SUCCESS,
    OUT_OF_RESOURCES,
    CANNOT_UNDERSTAND,
    INVALID_SOP_INSTANCE,
    SOP_CLASS_NOT_SUPPORTED,
    PROCESSING_FAILURE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A C-STORE status and its Error Comment (empty with success)."""

    status: int
    comment: str = ""


_STORED = Answer(SUCCESS)
_FULL = Answer(OUT_OF_RESOURCES, "no space for this object now, try again later")
_SPOOL_FAILED = Answer(OUT_OF_RESOURCES, "the object could not be made durable, try again later")
_NOT_STAGED = Answer(OUT_OF_RESOURCES, "not in object storage yet, send it again later")
_EMPTY = Answer(CANNOT_UNDERSTAND, "the dataset is empty")
_UNEXPECTED = Answer(PROCESSING_FAILURE, "unexpected internal error")


def refuse(request: CommandSet, abstract_syntax: str, *, is_storage: bool) -> Answer | None:
    """Why a C-STORE-RQ can't be served whatever its dataset holds (PS3.7 9.1.1.1.9, annex C), or None.

    `abstract_syntax` is that of the presentation context, `is_storage` whether it is a storage SOP class.
    """
    if not request.has_dataset:
        return Answer(CANNOT_UNDERSTAND, "the request has no dataset")
    if not request.sop_instance_uid:
        return Answer(CANNOT_UNDERSTAND, "Affected SOP Instance UID is missing")
    if not request.sop_class_uid:
        return Answer(CANNOT_UNDERSTAND, "Affected SOP Class UID is missing")
    if not is_valid_uid(request.sop_instance_uid):
        return Answer(INVALID_SOP_INSTANCE, "Affected SOP Instance UID is no UID")
    if not is_storage or request.sop_class_uid != abstract_syntax:
        return Answer(SOP_CLASS_NOT_SUPPORTED, "SOP class is not the presentation context's")
    return None


@dataclass(slots=True)
class Tally:
    """What an association has brought: objects committed to the spool, and their dataset bytes."""

    objects: int = 0
    bytes: int = 0


class _Sink:
    """Where a dataset's fragments go: the spool until it fails, then nowhere."""

    __slots__ = ("answer", "append", "error", "rest", "sop_instance_uid")

    def __init__(self, append: Append | None, answer: Answer | None) -> None:
        self.append = append
        self.answer = answer
        self.error: Exception | None = None
        self.rest: Sequence[memoryview] = ()
        """The dataset's end, for the commit: views of the read buffer."""
        self.sop_instance_uid = ""

    def __call__(self, fragments: Sequence[memoryview]) -> None:
        if self.append is None:
            return
        try:
            self.append.write(fragments)
        except Exception as error:
            self.fail(error)

    def last(self, fragments: Sequence[memoryview]) -> None:
        """The dataset's end is read."""
        self.rest = fragments

    def fail(self, error: Exception) -> None:
        """The spool refused: remember the answer and give the space back."""
        self.answer, self.error = answer_to(error), error
        self.abandon()

    def abandon(self) -> None:
        """Give the space back."""
        append, self.append = self.append, None
        if append is not None:
            append.abandon()


def answer_to(error: Exception) -> Answer:
    """The answer to an object that the spool did not take."""
    if isinstance(error, SpoolError):
        return _FULL if isinstance(error, SpoolFull) else _SPOOL_FAILED
    return _UNEXPECTED


class Lane:
    """The C-STOREs of one association, one after another. Used by its thread alone."""

    def __init__(
        self,
        spool: SpoolWriter,
        stream: Stream,
        reader: Reader,
        *,
        association_id: str,
        calling_ae: str,
        called_ae: str,
        peer: str,
        peer_max_pdu_bytes: int,
        receipt: Callable[[Committed, str], bool] | None = None,
    ) -> None:
        """`receipt`: what Success waits for beside the commit (the record, its SOP Instance UID); False is A700."""
        self.tally = Tally()
        self._spool = spool
        self._stream = stream
        self._reader = reader
        self._association_id = association_id
        self._calling_ae = calling_ae
        self._called_ae = called_ae
        self._peer = peer
        self._receipt = receipt
        self._peer_max_pdu_bytes = peer_max_pdu_bytes
        self._counted = {status: RECEIVED_OBJECTS.labels(f"{status:04X}") for status in _STATUSES}

    def store(
        self, context_id: int, abstract_syntax: str, transfer_syntax: str, request: CommandSet, *, is_storage: bool
    ) -> Pdu | None:
        """Receive the object that `request` announces and answer. A `Pdu` if one cut it instead (A-ABORT).

        Raises what `Reader.read_dataset` and `Stream.send` raise; the object is then lost or, if committed, counted.
        """
        answer = refuse(request, abstract_syntax, is_storage=is_storage)
        sink = _Sink(None, answer)
        if answer is None:
            self._begin(sink, request, transfer_syntax)
        if request.has_dataset:
            try:
                cut = self._reader.read_dataset(context_id, sink, sink.last)
            except BaseException:
                self._log_cut(sink)
                raise
            if cut is not None:
                self._log_cut(sink)
                return cut
        received_at = time.perf_counter()
        reach("lane.last-pdv")
        size = self._commit(sink)
        reach("lane.committed")
        try:
            self._answer(context_id, request, sink.answer or _UNEXPECTED, received_at)
        finally:
            RECEIVED_BYTES.inc(size)
        return None

    def answer(self, context_id: int, response: bytes) -> None:
        """Send a response, an encoded command set, in one piece."""
        self._stream.send(encode_message(context_id, response, self._peer_max_pdu_bytes))

    def _answer(self, context_id: int, request: CommandSet, answer: Answer, received_at: float) -> None:
        """Send the C-STORE-RSP in one piece; then count, while the peer is already at work."""
        self.answer(context_id, encode_response(request, answer.status, answer.comment))
        reach("lane.answered")
        RESPONSE_SECONDS.observe(time.perf_counter() - received_at)
        self._counted[answer.status].inc()

    def _begin(self, sink: _Sink, request: CommandSet, transfer_syntax: str) -> None:
        meta = ObjectMeta(
            association_id=self._association_id,
            calling_ae=self._calling_ae,
            called_ae=self._called_ae,
            peer=self._peer,
            received_at=time.time(),
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=transfer_syntax,
        )
        sink.sop_instance_uid = request.sop_instance_uid
        try:
            sink.append = self._spool.begin(meta)
        except Exception as error:
            sink.fail(error)

    def _commit(self, sink: _Sink) -> int:
        """Make the object durable; the dataset bytes that now count, 0 if the spool did not take it."""
        append = sink.append
        size = 0
        if append is not None:
            size = append.dataset_length + sum(map(len, sink.rest))
            if size == 0:
                sink.answer = _EMPTY
                sink.abandon()
            else:
                try:
                    committed = append.commit(sink.rest)
                except Exception as error:
                    sink.fail(error)
                    size = 0
                else:
                    sink.answer = _STORED
                    self.tally.objects += 1
                    self.tally.bytes += size
                    if self._receipt is not None and not self._receipt(committed, sink.sop_instance_uid):
                        sink.answer = _NOT_STAGED
        if sink.answer is not _STORED:
            self._log_refusal(sink)
        return size

    def _log_cut(self, sink: _Sink) -> None:
        received = sink.append.dataset_length if sink.append is not None else 0
        sink.abandon()
        log.event(
            log.WARNING,
            "object-cut",
            "the object did not come whole, nothing of it is kept",
            trace_id=self._association_id,
            user_id=self._calling_ae,
            bytes=received,
        )

    def _log_refusal(self, sink: _Sink) -> None:
        answer = sink.answer or _UNEXPECTED
        log.event(
            log.ERROR if sink.error is not None else log.WARNING,
            "object-refused",
            answer.comment,
            trace_id=self._association_id,
            user_id=self._calling_ae,
            status=f"{answer.status:04X}",
            error=type(sink.error).__name__ if sink.error else "",
        )
