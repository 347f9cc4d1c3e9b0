"""What stands in for pynetdicom's constructors and encoders holds, and says, what theirs do."""

from __future__ import annotations

import queue
import threading

import pytest
from pynetdicom.acse import ACSE
from pynetdicom.association import Association, ServiceUser
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_AC

from relaypacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from relaypacs.dicom.pdu import associate_ac_with_contexts
from relaypacs.upper.inline import Line, local_entity, plain_accept, service_user
from tests.peers.raw import VERIFICATION, item
from tests.unit.upper.pair import associated


@pytest.mark.parametrize("mode", ["acceptor", "requestor"])
def test_an_association_holds_all_that_pynetdicom_gives_it(mode: str) -> None:
    stock = Association(local_entity(), mode)
    thread = set(vars(threading.Thread()))
    with associated(VERIFICATION) as (_, association, _):
        # A property of ours in its place is fine.
        for ours, theirs in (
            (association, stock),
            (association.dul, DULServiceProvider(stock)),
            (association.dimse, DIMSEServiceProvider(stock)),
            (association.acse, ACSE(stock)),
            (association.requestor, ServiceUser(stock, "requestor")),
            (association.acceptor, ServiceUser(stock, "acceptor")),
        ):
            missing = [name for name in vars(theirs) if name not in thread and not hasattr(ours, name)]
            assert missing == [], type(theirs).__name__


@pytest.mark.parametrize("mode", ["acceptor", "requestor"])
def test_ends_of_associations_share_nothing(mode: str) -> None:
    with associated(VERIFICATION) as (_, association, _):
        one, other = (service_user(association, mode, 65536) for _ in range(2))
        stock = ServiceUser(association, mode)
        stock.maximum_length = 65536
        stock.implementation_version_name = one.implementation_version_name
        assert [type(found) for found in one.user_information] == [type(found) for found in stock.user_information]
        one.maximum_length = 4096
        assert other.maximum_length == stock.maximum_length == 65536
        for name, value in vars(one).items():
            assert not isinstance(value, (list, dict)) or value is not getattr(other, name), name


@pytest.mark.parametrize("more", [b"", item(0x55, b"VERSION"), item(0x54, b"\0\x111.2.840.10008.1.1\1\1")])
def test_the_remembered_answer_is_what_pynetdicom_encodes(more: bytes) -> None:
    with associated(VERIFICATION, more=more) as (_, association, answer):
        primitive = association.acceptor.primitive
        assert primitive is not None
        assert primitive is not plain_accept(65536)[0]
        assert (primitive.calling_ae_title, primitive.called_ae_title) == ("RAW", "RELAYPACS")
        encoded = associate_ac_with_contexts(A_ASSOCIATE_AC(primitive).encode(), association.inline.context_items)
        assert encoded[6:] == answer
        received = A_ASSOCIATE_AC()
        received.decode(encoded)
        told = {type(one).__name__: one for one in received.user_information.to_primitive()}
        assert told["MaximumLengthNotification"].maximum_length_received == 65536
        assert told["ImplementationClassUIDNotification"].implementation_class_uid == IMPLEMENTATION_CLASS_UID
        assert told["ImplementationVersionNameNotification"].implementation_version_name == IMPLEMENTATION_VERSION_NAME


def test_a_line_is_a_queue_that_does_not_wait() -> None:
    line = Line()
    with pytest.raises(queue.Empty):
        line.get(timeout=5.0)
    line.put("a")
    line.put("b")
    assert not line.empty()
    assert (line.get(), line.get_nowait()) == ("a", "b")
    assert line.empty()
