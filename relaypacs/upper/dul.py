"""pynetdicom's DUL service provider without its thread: the state machine run inline by whoever calls it.

pynetdicom's `Association` talks to it as to its own (`send_pdu`, `receive_pdu`, `peek_next_pdu`), and its state
machine decides every action (PS3.8 9.2). What is sent is on the socket when `send_pdu` returns; what is received is
read by the caller who waits for it. The lanes read the same `Reader` themselves while the state is Sta6.
A broken connection, a broken protocol and an abort end up as primitives in `to_user_queue`, as pynetdicom expects.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pynetdicom import pdu as pdus
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.timer import Timer

from relaypacs.dicom.command import C_CANCEL_RQ, CommandError, CommandSet, decode_command
from relaypacs.dicom.pdu import (
    A_ABORT,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    AbortReason,
    PduError,
    associate_ac_with_contexts,
)
from relaypacs.upper.inline import InlineSocket, Line, decoded_request
from relaypacs.upper.reader import Command, Pdu, Reader
from relaypacs.upper.received import for_decoder
from relaypacs.upper.stream import Stream

if TYPE_CHECKING:
    from pynetdicom.association import Association

MAX_IDENTIFIER_BYTES = 1 << 20
"""Largest dataset of a message that pynetdicom serves from memory (everything but C-STORE)."""
_REMEMBERED_BYTES = 1024
"""Longer association requests (less their contexts) are decoded anew each time: hostile ones take no memory."""
_CLOSED = ("Sta1", "Sta13")
_RECEIVED_PDU = ("Evt3", "Evt4", "Evt6", "Evt10", "Evt12", "Evt13")


class InlineDul(DULServiceProvider):
    """A DUL service provider that no thread runs. One thread receives; sending is serialised."""

    def __init__(self, assoc: Association, stream: Stream, reader: Reader) -> None:
        # Not the provider's own constructor, nor Thread's: see `upper.inline`.
        self._assoc = assoc
        self.event_queue, self.to_provider_queue, self.to_user_queue, self._recv_pdu = Line(), Line(), Line(), Line()  # type: ignore[assignment]
        self._idle_timer, self.artim_timer = Timer(None), Timer(None)
        self.state_machine = StateMachine(self)
        self._kill_thread, self._run_loop_delay = False, 0.0
        self.stream = stream
        self.reader = reader
        self.socket = InlineSocket(stream, self.to_provider_queue.put)  # type: ignore[assignment]
        self._turn = threading.RLock()
        self._abort_reason = AbortReason.NOT_SPECIFIED
        self._held: Command | None = None
        self.context_items = b""
        """As acceptor, the presentation context items of the A-ASSOCIATE-AC."""
        self.aborted_because = ""
        """One sentence if we ended the association because of what the peer did."""
        self.lost_because = ""
        """One sentence if the connection broke."""
        self.lost_error: Exception | None = None
        self.timed_out = False
        self.peer_abort: tuple[int, int] | None = None
        """Source and reason of the A-ABORT the peer sent (PS3.8 9.3.8)."""
        self.peer_rejection = (0, 0, 0)
        """Result, source and reason of the A-ASSOCIATE-RJ the peer sent (PS3.8 9.3.4)."""

    @property
    def state(self) -> str:
        """The state machine's state, `Sta1` to `Sta13` (PS3.8 9.2.1)."""
        return str(self.state_machine.current_state)

    # What pynetdicom asks of a thread

    def start(self) -> None:
        """Nothing to start."""
        self.assoc._dul_ready.set()

    def is_alive(self) -> bool:
        """There is no thread to wait for."""
        return False

    def stop_dul(self) -> bool:
        """Nothing to stop."""
        return True

    def kill_dul(self) -> None:
        """Nothing to kill."""

    def idle_timer_expired(self) -> bool:
        """Deadlines are kept by those who read."""
        return False

    def indicate_connection(self) -> None:
        """A peer connected to us (Evt5): await its A-ASSOCIATE-RQ."""
        self._do("Evt5")

    # Sending

    def send_pdu(self, primitive: Any) -> None:
        """Run the state machine's action for a primitive of ours: encoded and written when this returns."""
        with self._turn:
            self.to_provider_queue.put(primitive)
            while self._process_recv_primitive():
                if not self._do(self.event_queue.get_nowait()):
                    self._forget_primitives()  # no place for it in this state: the association is over

    def _send(self, pdu: Any) -> None:
        if isinstance(pdu, pdus.A_ABORT_RQ) and self._abort_reason:
            # pynetdicom's AA-1, AA-8 don't say why; PS3.8 9.3.8 has words for it.
            pdu.source, pdu.reason_diagnostic = 0x02, int(self._abort_reason)
        data = pdu.encode()
        self._write(
            associate_ac_with_contexts(data, self.context_items) if isinstance(pdu, pdus.A_ASSOCIATE_AC) else data
        )

    def accept(self, pdu: bytes) -> None:
        """Action AE-7 (PS3.8 9.2.3) with an A-ASSOCIATE-AC that is encoded but for its presentation contexts."""
        with self._turn:
            if self.state == "Sta3":
                self._write(associate_ac_with_contexts(pdu, self.context_items))
                self.state_machine.current_state = "Sta6"
                if not self.event_queue.empty():
                    self._do(self.event_queue.get_nowait())

    def _write(self, data: bytes) -> None:
        try:
            self.stream.send(data)
        except OSError as error:
            self._note_lost(error)
            self.event_queue.put("Evt17")

    # Receiving

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """The next primitive for the service user; reads the socket until there is one, for at most `timeout` s."""
        if wait:
            self.pump_until(lambda: not self.to_user_queue.empty(), timeout)
        return super().receive_pdu(wait=False)

    def peek_next_pdu(self) -> Any:
        """The next primitive without taking it; looks at the socket, so that handlers see an abort."""
        self.poll()
        return super().peek_next_pdu()

    def pump_until(self, done: Callable[[], bool], timeout_seconds: float | None) -> bool:
        """Read messages and PDUs and act on each until `done()`; False after `timeout_seconds` or at the end."""
        deadline = time.monotonic() + (timeout_seconds if timeout_seconds is not None else 1e9)
        while not done():
            if self.state in _CLOSED:
                return done()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            held, self._held = self._held, None
            if held is not None:
                self.deliver(held)
                continue
            try:
                part = self.reader.read_command(left)
            except TimeoutError as error:
                if time.monotonic() >= deadline:
                    return False
                self.fail(error)
            except (PduError, OSError, EOFError) as error:
                self.fail(error)
            else:
                if part is not None:
                    self.take(part)
        return True

    def poll(self) -> None:
        """Without waiting: act on an abort, a release request or a C-CANCEL that has come; hold anything else."""
        while self._held is None and self.state not in _CLOSED:
            if not (self.reader.has_bytes or self.stream.readable_now()):
                return
            try:
                part = self.reader.read_command(0.0)
            except (PduError, OSError, EOFError) as error:
                self.fail(error)
                return
            if isinstance(part, Command) and _field_of(part) != C_CANCEL_RQ:
                self._held = part
            elif part is not None:
                self.take(part)

    def next_part(self, read: Callable[[], Command | Pdu | None]) -> Command | Pdu | None:
        """What `poll` held back, or what `read` brings: for the lane's own loop."""
        held, self._held = self._held, None
        return held if held is not None else read()

    def take(self, part: Command | Pdu) -> None:
        """Act on something that was read: a command goes to pynetdicom's DIMSE provider, a PDU to the machine."""
        if isinstance(part, Command):
            self.deliver(part)
            return
        with self._turn:
            try:
                pdu, event = self._decode(part)
                self._recv_pdu.put(pdu)
                self._do(event)
            except PduError as error:
                self.fail(error)
            except Exception:  # whatever a hostile peer makes pynetdicom's decoder and actions raise
                self.fail(PduError(AbortReason.INVALID_PARAMETER, "a PDU can't be decoded"))

    def _decode(self, part: Pdu) -> tuple[Any, str]:
        if part.kind == A_ABORT:
            self.peer_abort = (part.data[8], part.data[9])
        elif part.kind == A_ASSOCIATE_RJ:
            self.peer_rejection = (part.data[7], part.data[8], part.data[9])
        elif part.kind == A_ASSOCIATE_RQ and len(part.data) <= _REMEMBERED_BYTES:
            return decoded_request(part.data), "Evt6"
        return self._decode_pdu(bytearray(for_decoder(part)))

    def deliver(self, command: Command, known: CommandSet | None = None) -> None:
        """Hand a message to pynetdicom's DIMSE provider, with its dataset where it has one (bounded)."""
        try:
            has_dataset = (known or decode_command(command.data)).has_dataset
            self._indicate(command.context_id, b"\x03" + command.data)
            if has_dataset:
                self._indicate(command.context_id, b"\x02" + self._read_identifier(command.context_id))
        except CommandError as error:
            self.fail(PduError(AbortReason.INVALID_PARAMETER, str(error)))
        except (PduError, OSError, EOFError) as error:
            self.fail(error)
        except Exception:  # pynetdicom's decoder on what a peer made up
            self.fail(PduError(AbortReason.INVALID_PARAMETER, "a DIMSE message can't be decoded"))

    def _indicate(self, context_id: int, data: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context_id, data]]  # type: ignore[list-item]  # it insists on a list
        with self._turn:
            self._recv_pdu.put(pdus.P_DATA_TF(primitive))
            self._do("Evt10")

    def _read_identifier(self, context_id: int) -> bytes:
        collected = bytearray()

        def collect(fragments: Sequence[memoryview]) -> None:
            for fragment in fragments:
                collected.extend(fragment)
            if len(collected) > MAX_IDENTIFIER_BYTES:
                raise PduError(AbortReason.INVALID_PARAMETER, "a dataset that is not to be stored is over the limit")

        cut = self.reader.read_dataset(context_id, collect, within_seconds=self.reader.pdu_timeout_seconds)
        if cut is not None:
            self.take(cut)
            raise EOFError("a dataset was cut")
        return bytes(collected)

    # Endings

    def fail(self, error: Exception) -> None:
        """The peer broke the protocol (A-ABORT with the reason), fell silent (A-ABORT) or is gone (PS3.8 9.2)."""
        with self._turn:
            if not isinstance(error, (PduError, TimeoutError)):
                self._note_lost(error)
            if self.state in _CLOSED:
                return
            if isinstance(error, PduError):
                self._abort_reason = error.reason
                self.aborted_because = str(error)
                self._do("Evt19")
            elif isinstance(error, TimeoutError):
                self.timed_out = True
                self._do("Evt19")
            else:
                self._do("Evt17")
            self._forget_primitives()

    def _note_lost(self, error: Exception) -> None:
        if not self.lost_because:
            self.lost_error = error
            closed = isinstance(error, EOFError)
            self.lost_because = "the peer closed the connection" if closed else "the connection broke"

    def _do(self, event: str) -> bool:
        """Run the action of `event` and of those it brings about; False if this state knows no such event."""
        legal = True
        while True:
            action = TRANSITION_TABLE.get((event, self.state))
            if action is None:
                legal = False
            else:
                if action in ("AA-1", "AA-8") and event in _RECEIVED_PDU and not self._abort_reason:
                    self._abort_reason = AbortReason.UNEXPECTED_PDU
                    self.aborted_because = "a PDU came that has no place in this state"
                self.state_machine.do_action(event)
            if self.event_queue.empty():
                return legal
            event = self.event_queue.get_nowait()

    def _forget_primitives(self) -> None:
        while not self.to_provider_queue.empty():
            self.to_provider_queue.get_nowait()

    def close(self, linger_seconds: float) -> None:
        """Wait in Sta13 for the peer to close (ARTIM, PS3.8 9.1.5), then close and return the buffer."""
        if self.state == "Sta13" and self.stream.is_open and linger_seconds > 0:
            self.stream.wait_closed(linger_seconds)
        with self._turn:
            self.stream.close()
            self._do("Evt17")
        self.reader.give_back()


def _field_of(command: Command) -> int:
    try:
        return decode_command(command.data).field
    except CommandError:
        return -1
