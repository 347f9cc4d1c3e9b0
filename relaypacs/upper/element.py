"""pynetdicom's `Association` over an inline DUL, with the service elements that need to know of it.

Used by `upper.association` (we ask) and `upper.accept` (we are asked). Everything of pynetdicom that waits for one of
its threads is answered here: nothing spins, nothing sleeps, no logging handler looks at what is received.
"""

from __future__ import annotations

import copy
import functools
import queue
import socket
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR, MODE_REQUESTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from relaypacs.dicom.contexts import Negotiated
from relaypacs.dicom.pdu import associate_ac_with_titles
from relaypacs.upper.dul import InlineDul
from relaypacs.upper.inline import ALWAYS, Line, local_entity, plain_accept, service_user
from relaypacs.upper.reader import Reader
from relaypacs.upper.stream import Stream


@functools.cache
def _default_handlers() -> dict[Any, Any]:
    handlers: dict[Any, Any] = {event: (evt.get_default_handler(event), None) for event in evt._INTERVENTION_EVENTS}
    handlers[evt.EVT_USER_ID] = (_refuse_identity, None)
    return handlers


def _refuse_identity(_event: evt.Event) -> tuple[bool, None]:
    # A password or token in the clear proves nothing; stock pynetdicom would let everyone in who sends one.
    return False, None


class InlineDimse(DIMSEServiceProvider):
    """The DIMSE provider; waiting for a message reads it."""

    def __init__(self, assoc: Association, dul: InlineDul) -> None:
        self._inline = dul
        self._cancelled: dict[int, Any] = {}
        super().__init__(assoc)
        self.msg_queue = Line()  # type: ignore[assignment]

    @property
    def cancel_req(self) -> dict[int, Any]:
        """C-CANCEL requests received; looking at them looks at the socket."""
        self._inline.poll()
        return self._cancelled

    @cancel_req.setter
    def cancel_req(self, value: dict[int, Any]) -> None:
        self._cancelled = value

    def get_msg(self, block: bool = False) -> Any:
        """The next message, or (None, None) after the DIMSE timeout or at the association's end."""
        if block:
            self._inline.pump_until(
                lambda: not self.msg_queue.empty() or not self._inline.to_user_queue.empty(), self.dimse_timeout
            )
        try:
            return self.msg_queue.get_nowait()
        except queue.Empty:
            return None, None


class InlineAcse(ACSE):
    """ACSE; as acceptor it leaves the presentation contexts to `upper.accept`."""

    def _negotiate_as_acceptor(self) -> None:
        request = self.requestor.primitive
        assert isinstance(request, A_ASSOCIATE)
        self.requestor.ae_title = request.calling_ae_title
        if self.requestor.user_identity:
            assert isinstance(self.assoc, InlineAssociation)
            if not self.assoc.identity_verified:
                self.send_reject(1, 1, 1)  # permanent, no reason given; PS3.7 D.3.3.7 names no reason of its own
                return
            if self.requestor.user_identity.positive_response_requested:
                response = UserIdentityNegotiation()
                response.server_response = b""  # PS3.7 D.3.3.7.2: empty for a username
                self.acceptor.add_negotiation_item(response)
        for item in self._check_sop_class_extended():
            self.acceptor.add_negotiation_item(item)
        self.acceptor._common_ext = self._check_sop_class_common_extended()
        if self.requestor.asynchronous_operations != (1, 1):
            self.acceptor.add_negotiation_item(self._window(*self.requestor.asynchronous_operations))
        self.send_accept()
        self.assoc.is_established = self.assoc.dul.state_machine.current_state == "Sta6"

    def _window(self, invoked: int, performed: int) -> AsynchronousOperationsWindowNegotiation:
        """The answer to a proposed window (PS3.7 D.3.3.3.2): never more than proposed, where 0 is any number. We answer
        in order and ask nothing ourselves, so what the peer performs stays at 1."""
        assert isinstance(self.assoc, InlineAssociation)
        item = AsynchronousOperationsWindowNegotiation()
        item.maximum_number_operations_invoked = min(invoked or 65535, self.assoc.max_operations_invoked)
        item.maximum_number_operations_performed = 1
        return item

    def send_accept(self) -> None:
        """Answer with an A-ASSOCIATE-AC. Without extended negotiation all of them differ in their titles only."""
        if self.acceptor.extended_negotiation:
            super().send_accept()
            return
        request = self.requestor.primitive
        length = self.acceptor.maximum_length
        assert isinstance(self.assoc, InlineAssociation)
        assert request is not None
        assert length is not None
        plain, data = plain_accept(length)
        primitive = copy.copy(plain)
        primitive.calling_ae_title, primitive.called_ae_title = request.calling_ae_title, request.called_ae_title
        self.acceptor.primitive = primitive
        self.assoc.inline.accept(associate_ac_with_titles(data, primitive.calling_ae_title, primitive.called_ae_title))


class InlineAssociation(Association):
    """An association without threads, on a connected stream."""

    negotiated: Negotiated | None = None
    """As acceptor, what was negotiated."""
    identity_verified = False
    """As acceptor, whether the user identity that was shown is right."""
    max_operations_invoked = 1
    """As acceptor, the longest asynchronous operations window that is granted (PS3.7 D.3.3.3)."""
    _contexts: dict[int, PresentationContext]

    def __init__(
        self,
        mode: str,
        stream: Stream,
        reader: Reader,
        *,
        max_pdu_bytes: int,
        acse_timeout_seconds: float,
        dimse_timeout_seconds: float,
    ) -> None:
        # Not Association's own constructor, nor Thread's: see `upper.inline`.
        self._ae, self._server, self.mode = local_entity(), None, mode
        self.requestor = service_user(self, MODE_REQUESTOR, max_pdu_bytes)
        self.acceptor = service_user(self, MODE_ACCEPTOR, max_pdu_bytes)
        self.is_established = self.is_rejected = self.is_aborted = self.is_released = False
        self._sent_abort = self._sent_release = self._kill = self._started_dul = False
        self._accepted_cx, self._rejected_cx = {}, []
        self._dul_ready = self._reactor_checkpoint = ALWAYS
        self._timer_resolution, self.network_timeout_response = None, "A-ABORT"
        self._bind_defaults()
        self.inline = InlineDul(self, stream, reader)
        self.dul = self.inline
        self.dimse = InlineDimse(self, self.inline)
        self.acse = InlineAcse(self)
        self.acse_timeout = acse_timeout_seconds
        self.dimse_timeout = dimse_timeout_seconds
        self.connection_timeout = self.network_timeout = None

    def _bind_defaults(self) -> None:
        # pynetdicom's would also log every message and PDU, with what they say.
        self._handlers = dict(_default_handlers())

    @property
    def _accepted_cx(self) -> dict[int, PresentationContext]:
        # Made when one of pynetdicom's services asks: for C-STOREs nobody does.
        if not self._contexts and self.negotiated is not None:
            self._contexts = self.negotiated.presentation_contexts()
        return self._contexts

    @_accepted_cx.setter
    def _accepted_cx(self, value: dict[int, PresentationContext]) -> None:
        self._contexts = value

    @property
    def _is_paused(self) -> bool:
        return True  # release() and every send_…() spin until the reactor that we don't have stands still

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        pass

    def _abort_blocking(self, block: bool = True) -> None:
        """A-ABORT by the service user, once; the connection is closed by `inline.close`."""
        if not self._sent_abort and not self.is_released:
            self._sent_abort = True
            self.acse.send_abort(0x00)


class _NumericAddress(AddressInformation):
    """An address as a socket names it; pynetdicom's would be looked up with getaddrinfo, in 0.2 ms."""

    def __init__(self, host: str, port: int, flowinfo: int = 0, scope_id: int = 0) -> None:
        self._addr, self.port, self.flowinfo, self.scope_id = host, port, flowinfo, scope_id


def address(sock: socket.socket, *, remote: bool) -> AddressInformation:
    """The connection's end as pynetdicom wants it."""
    return _NumericAddress(*(sock.getpeername() if remote else sock.getsockname()))
