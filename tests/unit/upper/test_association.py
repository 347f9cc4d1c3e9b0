"""Associations we ask for: against stock pynetdicom, and against peers that misbehave in every way."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pynetdicom import AE, evt

from relaypacs.dicom.command import encode_store_request
from relaypacs.upper.association import Requested, associate
from relaypacs.upper.errors import (
    AnswerTimeout,
    AssociationAborted,
    AssociationRejected,
    ConnectFailed,
    ConnectionLost,
    PeerBroken,
    PeerReleased,
    UpperError,
)
from tests.peers.ports import free_port
from tests.peers.raw import (
    ABORT,
    AC,
    COMMAND,
    CT,
    DATA,
    EXPLICIT,
    IMPLICIT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    VERIFICATION,
    element,
    item,
    pdu,
    pdv,
)

CONTEXTS = [(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]), (CT, [IMPLICIT]), ("1.2.3.4", [IMPLICIT])]


def ask(port: int, host: str = "127.0.0.1", **changed: object) -> Requested:
    settings: dict[str, object] = {
        "calling_ae": "OURS",
        "called_ae": "STOCK",
        "contexts": CONTEXTS,
        "connect_timeout_seconds": 2.0,
        "response_timeout_seconds": 2.0,
    }
    return associate(host, port, **{**settings, **changed})  # type: ignore[arg-type]


@contextmanager
def stock(handlers: list[tuple[object, object]] | None = None, **settings: object) -> Iterator[int]:
    """A stock pynetdicom SCP's port."""
    entity = AE("STOCK")
    entity.add_supported_context(VERIFICATION)
    entity.add_supported_context(CT, [EXPLICIT, IMPLICIT])
    for name, value in settings.items():
        setattr(entity, name, value)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers or [])  # type: ignore[arg-type]
    try:
        yield server.server_address[1]
    finally:
        entity.shutdown()


def answer_ac(request: bytes, *, max_length: int | None = 16384, result: int = 0) -> bytes:
    """An A-ASSOCIATE-AC that answers every context of `request` in its first syntax."""
    body = request[6:74]
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (_, syntaxes) in enumerate(CONTEXTS):
        body += item(0x21, bytes((2 * number + 1, 0, result, 0)) + item(0x40, syntaxes[0].encode()))
    length = b"" if max_length is None else item(0x51, struct.pack(">I", max_length))
    body += item(0x50, length + item(0x52, b"1.2.3"))
    return pdu(AC, body)


Script = Callable[[socket.socket, bytes], None]


@contextmanager
def scripted(script: Script) -> Iterator[int]:
    """A peer that reads the A-ASSOCIATE-RQ and then does as told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(5)
                header = sock.recv(6, socket.MSG_WAITALL)
                body = sock.recv(struct.unpack(">BxI", header)[1], socket.MSG_WAITALL)
                script(sock, header + body)

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def until_closed(sock: socket.socket) -> bytes:
    """Everything the other side still sends."""
    data = b""
    try:
        while more := sock.recv(4096):
            data += more
    except OSError:
        pass
    return data


def test_store_and_echo_with_stock_pynetdicom() -> None:
    got = []

    def store(event: evt.Event) -> int:
        got.append(
            (str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue(), event.context.context_id)
        )
        return 0xB000 if event.request.MessageID == 3 else 0

    dataset = memoryview(bytes(range(250)) * 400)
    with stock([(evt.EVT_C_STORE, store)]) as port:
        requested = ask(port)
        assert requested.is_open
        assert requested.accepted == {(VERIFICATION, IMPLICIT): 1, (CT, EXPLICIT): 3, (CT, IMPLICIT): 5}
        assert requested.echo() == 0
        for number in (1, 2, 3):
            context_id = requested.accepted[(CT, EXPLICIT if number < 3 else IMPLICIT)]
            requested.send_message(context_id, encode_store_request(number, CT, f"1.2.{number}"), dataset)
            answer = requested.read_message()
            assert (answer.responded_to, answer.status) == (number, 0xB000 if number == 3 else 0)
        assert requested.echo() == 0
        requested.release()
        assert not requested.is_open
    assert got == [("1.2.1", bytes(dataset), 3), ("1.2.2", bytes(dataset), 3), ("1.2.3", bytes(dataset), 5)]


@pytest.mark.parametrize("max_pdu", [128, 4096, 0])
def test_the_peers_pdu_length_is_respected(max_pdu: int) -> None:
    lengths = []

    def received(event: evt.Event) -> None:
        if event.data[0] == DATA:
            lengths.append(len(event.data) - 6)

    handlers = [(evt.EVT_DATA_RECV, received), (evt.EVT_C_STORE, lambda event: 0)]
    with stock(handlers, maximum_pdu_size=max_pdu) as port:
        requested = ask(port)
        assert requested.peer_max_pdu_bytes == max_pdu
        requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(bytes(200_000)))
        assert requested.read_message().status == 0
        requested.release()
    assert max(lengths) <= (max_pdu or 131072)
    assert sum(lengths) > 200_000


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_names_and_addresses(host: str) -> None:
    with stock() as port:
        ask(port, host).release()


def test_rejection_has_its_reason() -> None:
    with stock(require_called_aet=True) as port:
        with pytest.raises(AssociationRejected) as caught:
            ask(port, called_ae="OTHER")
        error = caught.value
        assert (error.result, error.source, error.reason, error.transient) == (1, 1, 7, False)


def test_no_context_accepted_is_no_error() -> None:
    with stock() as port:
        requested = ask(port, contexts=[("1.2.3.4", [IMPLICIT])])
        assert requested.accepted == {}
        assert not requested.is_open


def test_connect_failures() -> None:
    for host, port in (("127.0.0.1", free_port()), ("name.invalid", 104)):
        with pytest.raises(ConnectFailed, match="no connection"):
            ask(port, host)


@pytest.mark.parametrize("host", ["pacs..example", "x" * 64 + ".example"])
def test_a_host_name_that_is_none_is_a_connection_that_failed(host: str) -> None:
    with pytest.raises(ConnectFailed, match="no such host name") as failed:
        ask(104, host)
    assert isinstance(failed.value.__cause__, socket.gaierror)


def rejects(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(pdu(RJ, b"\0\x02\x03\x02"))
    until_closed(sock)


def aborts(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(pdu(ABORT, b"\0\0\x02\x05"))
    until_closed(sock)


def closes(_sock: socket.socket, _request: bytes) -> None:
    return


def resets(sock: socket.socket, _request: bytes) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_silent(sock: socket.socket, _request: bytes) -> None:
    until_closed(sock)


def is_slow(sock: socket.socket, request: bytes) -> None:
    try:
        for byte in answer_ac(request):
            sock.sendall(bytes((byte,)))
            time.sleep(0.1)
    except OSError:
        pass


def speaks_http(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    until_closed(sock)


def lies(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(pdu(AC, b"", length=0xFFFFFFFF))
    until_closed(sock)


def answers_garbage(sock: socket.socket, request: bytes) -> None:
    sock.sendall(pdu(AC, request[6:74] + b"\x21\x00\xff\xff\x01"))
    until_closed(sock)


def answers_out_of_turn(sock: socket.socket, _request: bytes) -> None:
    sock.sendall(pdu(RELEASE_RP, bytes(4)))
    until_closed(sock)


def takes_nothing(sock: socket.socket, request: bytes) -> None:
    sock.sendall(answer_ac(request, max_length=6))
    until_closed(sock)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (rejects, AssociationRejected),
        (aborts, AssociationAborted),
        (closes, ConnectionLost),
        (resets, ConnectionLost),
        (is_silent, AnswerTimeout),
        (is_slow, AnswerTimeout),
        (speaks_http, PeerBroken),
        (lies, PeerBroken),
        (answers_garbage, PeerBroken),
        (answers_out_of_turn, PeerBroken),
        (takes_nothing, PeerBroken),
    ],
)
def test_association_that_does_not_come_about(script: Script, error: type[UpperError]) -> None:
    started = time.monotonic()
    with scripted(script) as port, pytest.raises(error) as caught:
        ask(port, connect_timeout_seconds=0.7, response_timeout_seconds=0.7)
    assert type(caught.value) is error
    assert time.monotonic() - started < 5


def then(*answers: bytes, wait: bool = True) -> Script:
    """Accept, read something, send `answers`, then wait for the close or close."""

    def run(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request))
        sock.recv(4096)
        for answer in answers:
            sock.sendall(answer)
        if wait:
            until_closed(sock)

    return run


RESPONSE = element(0x0100, b"\x01\x80") + element(0x0800, b"\x01\x01") + element(0x0900, b"\0\0")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (then(pdu(ABORT, bytes(4))), AssociationAborted),
        (then(pdu(RELEASE_RQ, bytes(4))), PeerReleased),
        (then(wait=False), ConnectionLost),
        (then(), AnswerTimeout),
        (then(pdu(DATA, pdv(3, COMMAND | LAST, RESPONSE))[:20]), AnswerTimeout),
        (then(pdu(DATA, pdv(3, COMMAND | LAST, RESPONSE))[:20], wait=False), ConnectionLost),
        (then(pdu(DATA, pdv(3, COMMAND | LAST, b"nonsense!"))), PeerBroken),
        (then(pdu(DATA, bytes(10), length=0xFFFFFFFF)), PeerBroken),
        (then(pdu(99, b"")), PeerBroken),
        (then(pdu(AC, bytes(68))), PeerBroken),
    ],
)
def test_answer_that_does_not_come(script: Script, error: type[UpperError]) -> None:
    with scripted(script) as port:
        requested = ask(port, response_timeout_seconds=0.7)
        requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(b"data"))
        with pytest.raises(error) as caught:
            requested.read_message()
        assert type(caught.value) is error
        assert not requested.is_open
        with pytest.raises(UpperError):
            requested.send_message(3, encode_store_request(2, CT, "1.3"), memoryview(b"data"))
        with pytest.raises(UpperError):
            requested.echo()


def test_a_peer_that_says_no_maximum_length_is_asked_for_an_echo() -> None:
    def answers(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request, max_length=None))
        sock.recv(4096)
        echoed = element(0x0002, b"1.2.840.10008.1.1\0") + element(0x0100, b"\x30\x80") + element(0x0120, b"\1\0")
        sock.sendall(pdu(DATA, pdv(1, COMMAND | LAST, echoed + element(0x0800, b"\1\1") + element(0x0900, b"\0\0"))))
        until_closed(sock)

    with scripted(answers) as port:
        requested = ask(port)
        assert requested.peer_max_pdu_bytes == 16384
        assert requested.echo() == 0
        requested.abort()


@pytest.mark.parametrize("numbers", [(1, 1, 4), (1, 3, 0), (0, 0, 0), (3, 1, 1), (255, 255, 255)])
def test_a_rejection_may_say_what_the_standard_reserves(numbers: tuple[int, int, int]) -> None:
    rejects = scripted(lambda sock, _: sock.sendall(pdu(RJ, bytes((0, *numbers)))))
    with rejects as port, pytest.raises(AssociationRejected) as caught:
        ask(port)
    assert (caught.value.result, caught.value.source, caught.value.reason) == numbers
    assert not caught.value.transient


@pytest.mark.parametrize("said", [(2, 3), (2, 7), (255, 255), (0, 9), (1, 1)])
def test_an_abort_may_say_what_the_standard_reserves(said: tuple[int, int]) -> None:
    aborts = scripted(lambda sock, _: sock.sendall(pdu(ABORT, bytes((0, 0, *said)))))
    with aborts as port, pytest.raises(AssociationAborted) as caught:
        ask(port)
    assert type(caught.value) is AssociationAborted
    assert (caught.value.source, caught.value.reason) == said


@pytest.mark.parametrize("pause_seconds", [0.0, 0.05])
@pytest.mark.parametrize(
    ("first", "again"),
    [
        (pdu(DATA, pdv(3, COMMAND | LAST, RESPONSE.replace(b"\x01\x01", b"\0\0"))), pdu(DATA, pdv(3, 0, b"xy"))),
        (b"", pdu(DATA, pdv(3, COMMAND, b""))),
        (pdu(AC, b""[:0])[:1], b"\0"),
    ],
    ids=["a dataset", "empty pieces", "a header"],
)
def test_an_answer_without_end_is_ended(first: bytes, again: bytes, pause_seconds: float) -> None:
    def never_ends(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request))
        sock.recv(4096)
        with contextlib.suppress(OSError):
            sock.sendall(first)
            while True:
                sock.sendall(again * (1 if pause_seconds else 500))
                time.sleep(pause_seconds)

    started = time.monotonic()
    with scripted(never_ends) as port:
        requested = ask(port, response_timeout_seconds=0.7)
        requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(b"data"))
        with pytest.raises((AnswerTimeout, PeerBroken)):
            requested.read_message()
    assert time.monotonic() - started < 10


def test_a_long_dataset_behind_an_answer_is_not_waited_for() -> None:
    answer = element(0x0100, b"\x01\x80") + element(0x0800, b"\0\0") + element(0x0900, b"\0\0")
    behind = pdu(DATA, pdv(3, 0, bytes(16000))) * 8
    with scripted(then(pdu(DATA, pdv(3, COMMAND | LAST, answer)) + behind)) as port:
        requested = ask(port, response_timeout_seconds=60.0)
        requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(b"data"))
        with pytest.raises(PeerBroken):
            requested.read_message()


def test_an_echo_with_a_dataset_without_end_is_ended() -> None:
    def never_ends(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request))
        sock.recv(4096)
        echoed = element(0x0100, b"\x30\x80") + element(0x0120, b"\1\0") + element(0x0800, b"\0\0")
        with contextlib.suppress(OSError):
            sock.sendall(pdu(DATA, pdv(1, COMMAND | LAST, echoed + element(0x0900, b"\0\0"))))
            while True:
                sock.sendall(pdu(DATA, pdv(1, 0, b"xy")))
                time.sleep(0.05)

    with scripted(never_ends) as port:
        requested = ask(port, response_timeout_seconds=0.7)
        with pytest.raises((AnswerTimeout, PeerBroken)):
            requested.echo()


def test_echo_without_an_answer_times_out() -> None:
    with scripted(then()) as port:
        requested = ask(port, response_timeout_seconds=0.5)
        with pytest.raises(AnswerTimeout):
            requested.echo()


def test_answer_with_a_dataset_is_read_past_it() -> None:
    answer = element(0x0100, b"\x01\x80") + element(0x0800, b"\0\0") + element(0x0900, b"\x01\xa7")
    script = then(pdu(DATA, pdv(3, COMMAND | LAST, answer)) + pdu(DATA, pdv(3, 0, bytes(40_000)) + pdv(3, LAST, b"x")))
    with scripted(script) as port:
        requested = ask(port)
        requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(b"data"))
        assert requested.read_message().status == 0xA701
        requested.abort()


@pytest.mark.parametrize("last_words", [pdu(ABORT, bytes(4)), pdu(RELEASE_RQ, bytes(4)), b""])
def test_idle_association_knows_that_the_peer_left(last_words: bytes) -> None:
    def leave(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request) + last_words)
        if last_words:
            until_closed(sock)

    with scripted(leave) as port:
        requested = ask(port)
        time.sleep(0.2)
        assert not requested.is_open


def test_peer_that_reads_nothing_does_not_hold_us() -> None:
    done = threading.Event()

    def stall(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request))
        done.wait(10)

    with scripted(stall) as port:
        requested = ask(port, response_timeout_seconds=0.7)
        started = time.monotonic()
        with pytest.raises(AnswerTimeout):
            requested.send_message(3, encode_store_request(1, CT, "1.2"), memoryview(bytes(64 << 20)))
        assert time.monotonic() - started < 5
        done.set()


def test_abort_reaches_the_peer() -> None:
    heard = []

    def listen(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer_ac(request))
        heard.append(until_closed(sock))

    with scripted(listen) as port:
        ask(port).abort()
    assert heard == [pdu(ABORT, bytes(4))]


def test_too_many_contexts_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        ask(1, contexts=[(CT, [EXPLICIT])] * 129)
