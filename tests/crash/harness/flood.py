"""Many small objects at once: senders that write as fast as they are answered, each on one association."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from tests.crash.harness.objects import SOP_CLASS, TRANSFER_SYNTAX, Image, make_image, new_uid
from tests.peers import raw

_PIXEL_BYTES = 32
_IMAGES_PER_STUDY = 250


def small_images(chance: random.Random, count: int) -> list[Image]:
    """Images of a few hundred bytes, 250 to a study."""
    images: list[Image] = []
    while len(images) < count:
        study = new_uid(chance)
        images += [make_image(chance, study, _PIXEL_BYTES) for _ in range(min(_IMAGES_PER_STUDY, count - len(images)))]
    return images


def flood(port: int, images: Sequence[Image], associations: int) -> None:
    """Send every image once, over so many associations, and return when all are answered; AssertionError unless each
    was answered with Success.
    """
    refused: list[str] = []
    parts = [images[number::associations] for number in range(associations)]
    threads = [threading.Thread(target=_send, args=(port, part, refused), daemon=True) for part in parts if part]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not refused, refused[:3]


def _send(port: int, images: Sequence[Image], refused: list[str]) -> None:
    try:
        with raw.Raw(port, timeout_seconds=60) as peer:
            kind = peer.associate(calling=b"FLOOD", contexts=[(1, SOP_CLASS, (TRANSFER_SYNTAX,))])
            assert kind == raw.AC, f"association answered with PDU type {kind}"
            for image in images:
                status = peer.store(image.dataset, sop_class=SOP_CLASS, sop_instance=image.sop_instance_uid)
                assert status == 0, f"status {status:04x}"
            peer.release()
    except (AssertionError, OSError) as problem:
        refused.append(str(problem) or type(problem).__name__)
