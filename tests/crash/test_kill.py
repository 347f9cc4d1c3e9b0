"""`kill -9` of any process of the node at random moments of a send: nothing acknowledged is lost, the ledger balances.

The senders are stock pynetdicom, the destination is DCMTK's `storescp +B`. A sender that loses its association opens
a new one and sends again what was not acknowledged, as a modality does. CI: 400 objects, 6 kills; `--long`: 2,000
objects, 20 kills.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until

SENDERS = 4
PIXEL_BYTES = 128 * 128 * 2


def mr_image(study: str, number: int, pixels: bytes) -> Dataset:
    """One MR slice of about 33 KiB."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = f"{study[:-2]}.1"
    image.StudyDate = "20260102"
    image.Modality = "MR"
    image.PatientName = "CRASH^TEST"
    image.PatientID = "CRASH1"
    image.AccessionNumber = "ACC1"
    image.InstanceNumber = number
    image.Rows = image.Columns = 128
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = pixels
    return image


class Sender(threading.Thread):
    """A modality: sends its images until each is acknowledged, with a new association whenever the old one is lost."""

    def __init__(self, port: int, images: list[Dataset], give_up_at: float) -> None:
        super().__init__(daemon=True)
        self.port, self.images, self.give_up_at = port, images, give_up_at
        self.acknowledged: dict[str, str] = {}
        self.repeats = 0
        self.statuses: set[int] = set()

    def run(self) -> None:
        ae = AE(ae_title="MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 15
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        association: Association | None = None
        for image in self.images:
            while time.monotonic() < self.give_up_at:
                if association is None or not association.is_established:
                    association = ae.associate("127.0.0.1", self.port, ae_title="RELAYPACS")
                    if not association.is_established:
                        time.sleep(0.1)
                        continue
                try:
                    status = association.send_c_store(image)
                except (RuntimeError, ValueError):
                    association.abort()
                    continue
                if "Status" in status:
                    self.statuses.add(status.Status)
                    if status.Status == 0x0000:
                        encoded = encode(image, False, True)
                        assert encoded is not None
                        self.acknowledged[image.SOPInstanceUID] = hashlib.sha256(encoded).hexdigest()
                        break
                self.repeats += 1
        if association is not None and association.is_established:
            association.release()


def stored_digests(scp: StoreScp) -> dict[str, str]:
    """SOP Instance UID → SHA-256 of the dataset's bytes, for everything the destination holds."""
    found = {}
    for path in scp.files():
        with path.open("rb") as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        data = path.read_bytes()
        # The dataset follows File Meta, whose group length is the first element (PS3.10 7.1).
        start = 144 + int.from_bytes(data[140:144], "little")
        found[str(header.SOPInstanceUID)] = hashlib.sha256(data[start:]).hexdigest()
    return found


def kill_one(node: Node, chance: random.Random) -> str:
    """Kill a random process of the node, or all of them, and have the node running again."""
    pids = node.pids()
    victim = chance.randrange(len(pids) + 1)
    if victim == len(pids):
        node.kill()
        node.start()
        return "all"
    if victim == 0:
        # Its children see it die and end by themselves; the new node waits for the spool's lock until they have.
        node.kill(pids[0])
        wait_until(lambda: node.program.exit_code is not None, "supervisor's end", 10)
        node.start(60)
        return "supervisor"
    node.kill(pids[victim])
    return f"child {victim}"


def test_nothing_acknowledged_is_lost_when_processes_are_killed(
    node: Callable[..., Node], storescp: Callable[..., StoreScp], tmp_path: Path, long_run: bool
) -> None:
    total, kills = (2000, 20) if long_run else (400, 6)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    scp = storescp()
    running = node(destinations=[dimse("pacs", scp.port, scp.aet, retry="1000x1s")])
    pixels = chance.randbytes(PIXEL_BYTES)
    study = generate_uid()
    images = [mr_image(study, number, pixels) for number in range(total)]
    give_up_at = time.monotonic() + 150
    senders = [Sender(running.port, images[n::SENDERS], give_up_at) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    killed = []
    for number in range(kills):
        # Spread over the send: the n-th kill comes somewhere after n/kills of the objects were acknowledged.
        goal = total * number / kills
        while sum(len(s.acknowledged) for s in senders) < goal and time.monotonic() < give_up_at:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.5)
        killed.append(kill_one(running, chance))
    for sender in senders:
        sender.join(160)
    acknowledged = {uid: digest for sender in senders for uid, digest in sender.acknowledged.items()}
    repeats = sum(sender.repeats for sender in senders)
    ledger = running.wait_settled(len(acknowledged), 90)
    arrived = stored_digests(scp)
    lost = [uid for uid in acknowledged if uid not in arrived]
    changed = [uid for uid, digest in acknowledged.items() if arrived.get(uid, digest) != digest]
    print(
        f"kills: seed={seed} {killed} acknowledged={len(acknowledged)} sender_repeats={repeats} "
        f"received={ledger['received']} duplicates={ledger['duplicates']} lost={len(lost)} partial={len(changed)} "
        f"imbalance={ledger['imbalance']}"
    )
    assert len(acknowledged) == total, f"seed {seed}: statuses {[hex(s) for x in senders for s in x.statuses]}"
    assert not lost, f"seed {seed}: {len(lost)} acknowledged objects are not at the destination"
    assert not changed, f"seed {seed}: {len(changed)} objects changed on the way"
    assert set(arrived) <= {image.SOPInstanceUID for image in images}
    assert ledger["imbalance"] == 0, f"seed {seed}: {ledger}"
    assert ledger["failed"] == 0, f"seed {seed}: {ledger}"
