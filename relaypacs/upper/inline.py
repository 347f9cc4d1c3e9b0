"""What pynetdicom's constructors build, as little of it as an association without threads needs.

Used by `upper.element` and `upper.dul`. pynetdicom makes three threads, two sets of providers, ten queues with three
condition variables each and validates the same UIDs for every association: 0.15 ms. A test compares the attributes
with those that its own constructors set, so that a new one can't be missed.
"""

from __future__ import annotations

import copy
import functools
import queue
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association, ServiceUser
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from relaypacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from relaypacs.dicom.pdu import APPLICATION_CONTEXT
from relaypacs.dicom.user_information import without_what_decides_nothing
from relaypacs.upper.stream import Stream

if TYPE_CHECKING:
    import threading

    from pynetdicom.transport import T_CONNECT


@functools.cache
def local_entity() -> ApplicationEntity:
    """The pynetdicom AE that every association of this process belongs to; only its implementation's name matters."""
    entity = ApplicationEntity()
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


class Line:
    """A `queue.Queue` on which nobody ever waits."""

    __slots__ = ("queue",)

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Append."""
        self.queue.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first; queue.Empty at once if there is none."""
        try:
            return self.queue.popleft()
        except IndexError:
            raise queue.Empty from None

    get_nowait = get

    def empty(self) -> bool:
        """Whether there is none."""
        return not self.queue


class _Set:
    """A `threading.Event` that is always set: what it would hold up runs already."""

    def set(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def is_set(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> bool:
        return True


ALWAYS = cast("threading.Event", _Set())


class InlineSocket:
    """What pynetdicom's actions call an AssociationSocket: here an already connected `Stream`."""

    def __init__(self, stream: Stream, confirm: Callable[[T_CONNECT], None]) -> None:
        self._stream = stream
        self._confirm = confirm
        self._ready = ALWAYS
        self._is_connected = True

    def connect(self, primitive: T_CONNECT) -> None:
        """The connection is there: confirm it."""
        primitive.result = "Evt2"
        self._confirm(primitive)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    _shutdown_socket = close


@functools.cache
def _service_user(mode: str, max_pdu_bytes: int) -> ServiceUser:
    nobody = cast("Association", SimpleNamespace(ae=local_entity()))
    user = ServiceUser(nobody, mode)
    user.maximum_length = max_pdu_bytes
    user.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return user


def service_user(association: Association, mode: str, max_pdu_bytes: int) -> ServiceUser:
    """An end of an association as pynetdicom makes it, announcing our implementation and `max_pdu_bytes`; the peer's
    is then told by what it sends."""
    user = copy.copy(_service_user(mode, max_pdu_bytes))
    user.assoc = association
    user._contexts, user._common_ext = [], {}
    user._user_info = [copy.copy(item) for item in user._user_info]
    user._ext_neg = {kind: [] for kind in user._ext_neg}
    return user


@functools.cache
def plain_accept(max_pdu_bytes: int) -> tuple[A_ASSOCIATE, bytes]:
    """The primitive and the A-ASSOCIATE-AC by which we accept, both without titles and presentation contexts."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = primitive.called_ae_title = "TITLE"
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = []
    primitive.user_information = _service_user("acceptor", max_pdu_bytes).user_information
    return primitive, A_ASSOCIATE_AC(primitive).encode()


@functools.lru_cache(maxsize=64)
def decoded_request(pdu: bytes) -> A_ASSOCIATE_RQ:
    """An A-ASSOCIATE-RQ as pynetdicom's decoder reads it, which raises anything, less what decides nothing. It is only
    read from: a modality asks with the same bytes every time."""
    request = A_ASSOCIATE_RQ()
    request.decode(without_what_decides_nothing(pdu))
    return request
