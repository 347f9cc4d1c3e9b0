"""pynetdicom's `Association` over an inline DUL, with the service elements that need to know of it.

Used by `upper.association` (we ask) and `upper.accept` (we are asked). Everything of pynetdicom that waits for one of
its threads is answered here: nothing spins, nothing sleeps, no logging handler looks at what is received.
"""

from __future__ import annotations

import functools
import queue
import socket
from typing import Any

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from relaypacs.dicom.contexts import Negotiated
from relaypacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from relaypacs.upper.dul import InlineDul
from relaypacs.upper.reader import Reader
from relaypacs.upper.stream import Stream


@functools.cache
def local_entity() -> ApplicationEntity:
    """The pynetdicom AE that every association of this process belongs to; only its implementation's name matters."""
    entity = ApplicationEntity()
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


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
            verified, response = self._check_user_identity()
            if not verified:
                self.send_reject(1, 1, 1)  # permanent, no reason given; PS3.7 D.3.3.7 names no reason of its own
                return
            if response:
                self.acceptor.add_negotiation_item(response)
        for item in self._check_sop_class_extended():
            self.acceptor.add_negotiation_item(item)
        self.acceptor._common_ext = self._check_sop_class_common_extended()
        if self.requestor.asynchronous_operations != (1, 1):
            window = self._check_async_ops()
            if window:
                self.acceptor.add_negotiation_item(window)
        self.send_accept()
        self.assoc.is_established = self.assoc.dul.state_machine.current_state == "Sta6"


class InlineAssociation(Association):
    """An association without threads, on a connected stream."""

    negotiated: Negotiated | None = None
    """As acceptor, what was negotiated."""
    _contexts: dict[int, PresentationContext]

    def __init__(
        self, mode: str, stream: Stream, reader: Reader, *, acse_timeout_seconds: float, dimse_timeout_seconds: float
    ) -> None:
        super().__init__(local_entity(), mode)
        self.inline = InlineDul(self, stream, reader)
        self.dul = self.inline
        self.dimse = InlineDimse(self, self.inline)
        self.acse = InlineAcse(self)
        self.acse_timeout = acse_timeout_seconds
        self.dimse_timeout = dimse_timeout_seconds

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
