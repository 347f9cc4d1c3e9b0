"""Senders that behave as modalities do: whoever loses an association opens another and sends again what was not
acknowledged. Two write PDUs by hand, cut at awkward places; one is stock pynetdicom.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association

from tests.crash.harness.objects import SOP_CLASS, TRANSFER_SYNTAX, Image, make_image, new_uid
from tests.peers import raw

_SMALL_BYTES, _LARGE_BYTES, _LONG_BYTES = 33 << 10, 700 << 10, 11 << 19
_RETRY_SECONDS = 0.03
_MANY = 150


class Traffic:
    """One study on its way, from several senders at once. What was acknowledged is in `acknowledged`.

    Images are made while `more()` says so, at least `least` and at most `most`.
    """

    def __init__(
        self,
        port: int,
        chance: random.Random,
        *,
        least: int,
        most: int,
        more: Callable[[], bool],
        seconds: float,
        long_every: int = 0,
    ) -> None:
        """Every `long_every`-th image, if that is not 0, is longer than one part of an upload (5 MiB)."""
        self.study = new_uid(chance)
        self.made: dict[str, Image] = {}
        self.acknowledged: set[str] = set()
        self.sent: Counter[str] = Counter()
        """How often each image's sending was begun."""
        self.statuses: Counter[int] = Counter()
        """Statuses other than Success."""
        self._chance, self._least, self._most, self._more = chance, least, most, more
        self._long_every = long_every
        self._give_up_at = time.monotonic() + seconds
        self._lock = threading.Lock()
        senders: list[Callable[[], None]] = [_RawSender(self, port).run, _RawSender(self, port).run]
        senders.append(_StockSender(self, port).run)
        self._threads = [threading.Thread(target=one, name="sender", daemon=True) for one in senders]

    def start(self) -> None:
        """Start the senders."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until everything made is acknowledged, or the time is over."""
        for thread in self._threads:
            thread.join()

    def random(self) -> float:
        """A number in [0, 1), for any thread."""
        with self._lock:
            return self._chance.random()

    def next(self) -> Image | None:
        """The next image to send, or None at the end."""
        with self._lock:
            count = len(self.made)
            if count >= self._most or (count >= self._least and not self._more()) or not self.may_go_on():
                return None
            size = _LARGE_BYTES if self._chance.random() < 0.1 else _SMALL_BYTES
            if self._long_every and count % self._long_every == self._long_every // 2:
                size = _LONG_BYTES
            image = make_image(self._chance, self.study, size)
            self.made[image.sop_instance_uid] = image
            return image

    def pause(self) -> float:
        """What a fast sender rests between two images, in seconds: longer when many have been sent."""
        return 0.004 if len(self.made) < _MANY else 0.05

    def may_go_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._give_up_at

    def begun(self, image: Image) -> None:
        """A sender starts to send it."""
        with self._lock:
            self.sent[image.sop_instance_uid] += 1

    def answered(self, image: Image, status: int) -> bool:
        """A sender has its answer; whether that is Success."""
        with self._lock:
            if status == 0:
                self.acknowledged.add(image.sop_instance_uid)
            else:
                self.statuses[status] += 1
        return status == 0


class _RawSender:
    """Fast, and rude: requests, commands and datasets come in pieces; an association ends after a few objects."""

    def __init__(self, traffic: Traffic, port: int) -> None:
        self._traffic, self._port = traffic, port
        self._peer: raw.Raw | None = None
        self._left = 0
        self._message_id = 0

    def run(self) -> None:
        """Send until there is nothing more."""
        traffic = self._traffic
        while (image := traffic.next()) is not None:
            while traffic.may_go_on():
                try:
                    if self._store(image):
                        break
                except OSError:
                    self._drop()
                time.sleep(_RETRY_SECONDS)
            time.sleep(traffic.pause())
        self._release()

    def _store(self, image: Image) -> bool:
        if self._left == 0:
            self._release()
        if self._peer is None:
            self._associate()
        peer = self._peer
        assert peer is not None
        self._left -= 1
        self._message_id = self._message_id % 0xFFFF + 1
        self._traffic.begun(image)
        command = raw.store_rq(
            message_id=self._message_id, sop_class=SOP_CLASS, sop_instance=image.sop_instance_uid, dataset=True
        )
        half = len(command) // 2
        if self._traffic.random() < 0.3:
            peer.send(raw.pdu(raw.DATA, raw.pdv(1, raw.COMMAND, command[:half])))
            time.sleep(0.002)
            peer.send(raw.pdu(raw.DATA, raw.pdv(1, raw.COMMAND | raw.LAST, command[half:])))
        else:
            peer.send(raw.pdu(raw.DATA, raw.pdv(1, raw.COMMAND | raw.LAST, command)))
        data = image.dataset
        for start in range(0, len(data), 16000):
            last = raw.LAST if start + 16000 >= len(data) else 0
            peer.send(raw.pdu(raw.DATA, raw.pdv(1, last, data[start : start + 16000])))
        kind, body = peer.read_pdu()
        if kind != raw.DATA:
            raise ConnectionError("no answer")
        status = struct.unpack("<H", raw.elements(body[6:])[0x0900])[0]
        return self._traffic.answered(image, status)

    def _associate(self) -> None:
        peer = self._peer = raw.Raw(self._port, timeout_seconds=10)
        self._left = 1 + int(self._traffic.random() * 12)
        request = raw.associate_rq(calling=b"RAWSENDER", contexts=[(1, SOP_CLASS, (TRANSFER_SYNTAX,))])
        if self._traffic.random() < 0.5:
            peer.send(request[:100])
            time.sleep(0.002)
            peer.send(request[100:])
        else:
            peer.send(request)
        if peer.read_pdu()[0] != raw.RQ + 1:
            raise ConnectionError("not associated")

    def _release(self) -> None:
        try:
            if self._peer is not None:
                self._peer.send(raw.pdu(raw.RELEASE_RQ, bytes(4)))
                self._peer.read_pdu()
        except OSError:
            pass
        self._drop()

    def _drop(self) -> None:
        if self._peer is not None:
            self._peer.sock.close()
            self._peer = None


class _StockSender:
    """Stock pynetdicom, one association for as long as it lasts."""

    def __init__(self, traffic: Traffic, port: int) -> None:
        self._traffic, self._port = traffic, port
        self._ae = AE(ae_title="STOCK")
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = 10
        self._ae.add_requested_context(SOP_CLASS, TRANSFER_SYNTAX)
        self._association: Association | None = None

    def run(self) -> None:
        """Send until there is nothing more."""
        while (image := self._traffic.next()) is not None:
            while self._traffic.may_go_on() and not self._store(image):
                time.sleep(_RETRY_SECONDS)
            time.sleep(self._traffic.pause())
        if self._association is not None and self._association.is_established:
            self._association.release()

    def _store(self, image: Image) -> bool:
        if self._association is None or not self._association.is_established:
            self._association = self._ae.associate("127.0.0.1", self._port, ae_title="RELAYPACS")
            if not self._association.is_established:
                return False
        dataset = dcmread(DicomBytesIO(image.dataset), force=True)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(TRANSFER_SYNTAX)
        self._traffic.begun(image)
        try:
            status = self._association.send_c_store(dataset)
        except (RuntimeError, ValueError):
            self._association.abort()
            return False
        return "Status" in status and self._traffic.answered(image, status.Status)
