"""The file of refusals: what is written is read, what makes no sense says nothing, and nobody's change is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from relaypacs.config import Config
from relaypacs.config.model import Destination
from relaypacs.errors import RelayPacsError
from relaypacs.refusals import Known, Seen, editing, forget, identity, of_config, read, stamp

CT, JPEG, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"
PACS = Destination(name="pacs", kind="dimse", host="h", called_ae="A")


def write(path: Path, **known: Known) -> None:
    with editing(path) as found:
        found.update(known)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "refusals.json"
    assert read(path) == {}
    assert stamp(path) is None
    known = Known("me", {(CT, JPEG): Seen(1.5), (CT, EXPLICIT): Seen(2.0, by_status=True)})
    write(path, pacs=known)
    assert read(path) == {"pacs": known}
    first = stamp(path)
    write(path, pacs=known)
    assert stamp(path) == first, "nothing changed, so nothing is written"
    assert forget(path, "other") == 0
    assert forget(path, "pacs", but=[(CT, JPEG)]) == 1
    assert read(path) == {"pacs": Known("me", {(CT, JPEG): Seen(1.5)})}
    assert forget(path, "pacs") == 1
    assert read(path) == {}
    assert stamp(path) != first


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"form": 2}', '{"form": 1, "destinations": {"pacs": 3}}', "[" * 100_000]
)
def test_nonsense_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "refusals.json"
    path.write_text(text)
    assert read(path) == {}
    write(path, pacs=Known("me", {(CT, JPEG): Seen(1.0)}))
    assert read(path)["pacs"].identity == "me"


def test_a_destination_configured_otherwise_refuses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "refusals.json"
    write(path, pacs=Known(identity(PACS, "RELAYPACS"), {(CT, JPEG): Seen(1.0)}))

    def of(**changed: object) -> int:
        destination = PACS.model_copy(update=changed)
        return len(of_config(path, Config(destination=(destination,))).get("pacs", {}))

    assert of() == 1
    assert of(port=105) == 0
    assert of(called_ae="B") == 0
    assert of(refused_for_seconds=0.0) == 0
    config = Config.model_validate({"receive": {"ae_titles": ["OTHER"]}}).model_copy(update={"destination": (PACS,)})
    assert of_config(path, config) == {}


def test_nobodys_change_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "refusals.json"

    def add(thread: int) -> None:
        for number in range(20):
            write(path, **{f"d{thread}-{number}": Known("me", {(CT, JPEG): Seen(1.0)})})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(read(path)) == 80


def test_one_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError), editing(tmp_path / "nowhere" / "refusals.json"):
        raise RelayPacsError("never reached")
