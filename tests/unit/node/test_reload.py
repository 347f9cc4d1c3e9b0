"""A round of reloading with children that agree, refuse, hang or die: all take it, or none."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from relaypacs import log
from relaypacs.config import Config
from relaypacs.config.files import Source, read
from relaypacs.config.load import load_sources
from relaypacs.errors import ConfigError, JobsError
from relaypacs.node import orders, reload
from relaypacs.node.reload import Configuration
from relaypacs.node.versions import KEPT, record, versions
from tests.peers.ports import wait_until

FILE = '[node]\nstate_dir = "{folder}"\n[[caller]]\nae_title = "{caller}"\n'


class Child:
    """A process that follows, as a thread: what it has in force, and how it prepares."""

    def __init__(self, refuses: Callable[[], None] = lambda: None) -> None:
        self.channel, end = orders.pair()
        self.callers: list[str] = []
        self.prepared = 0
        self._refuses, self._end = refuses, end
        orders.Follower(end, self._prepare).start()

    def _prepare(self, new: Config) -> Callable[[], None]:
        self._refuses()
        self.prepared += 1
        return lambda: self.callers.append(new.caller[0].ae_title)

    def die(self) -> None:
        self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()


class House:
    def __init__(self, folder: Path) -> None:
        self.place = folder / "relaypacs.toml"
        self.folder = folder
        (folder / "run").mkdir()
        self.write("CT_1")
        sources = read(self.place)
        self.configuration = Configuration(load_sources(sources, {}), self.place, sources, role="all")

    def write(self, caller: str) -> None:
        self.place.write_text(FILE.format(folder=self.folder, caller=caller))

    def look(self, **children: Child) -> list[str]:
        return self.configuration.look({name: child.channel for name, child in children.items()})

    @property
    def state(self) -> dict[str, object]:
        told: dict[str, object] = json.loads((self.folder / "run" / "config" / "all.json").read_text())
        return told


@pytest.fixture
def house(tmp_path: Path) -> House:
    log.setup(level="critical", json_lines=True, service="test")
    return House(tmp_path)


def refusing(problem: Exception) -> Callable[[], None]:
    def refuse() -> None:
        raise problem

    return refuse


def test_all_take_it(house: House) -> None:
    one, two = Child(), Child()
    house.write("MR_1")
    assert house.look(one=one, two=two) == []
    assert (one.callers, two.callers) == (["MR_1"], ["MR_1"])
    assert house.configuration.config.caller[0].ae_title == "MR_1"
    assert (house.state["version"], house.state["looked"], house.state["rejected"]) == (2, 1, [])
    assert house.state["pid"] == os.getpid()
    assert reload.started(os.getpid()) == house.state["started"] != 0
    assert reload.started(2**22 + 1) == 0


@pytest.mark.parametrize("problem", [ConfigError(["it is owed 3", "and more"]), JobsError("down")])
def test_one_that_refuses_keeps_the_old_one_in_force_in_all(house: House, problem: Exception) -> None:
    one, two = Child(), Child(refusing(problem))
    house.write("MR_1")
    assert house.look(one=one, two=two) == []
    assert (one.prepared, one.callers, two.callers) == (1, [], [])
    assert house.configuration.config.caller[0].ae_title == "CT_1"
    assert house.state["version"] == 1
    assert house.state["rejected"] == [f"two: {line}" for line in str(problem).splitlines()]
    # What was prepared is forgotten: a late order to take it does nothing.
    orders.send(one.channel, orders.TAKE, 1)
    house.write("XA_1")
    two._refuses = lambda: None
    assert house.look(one=one, two=two) == []
    assert (one.callers, two.callers) == (["XA_1"], ["XA_1"])
    assert len(versions(house.folder)) == 2


def test_a_wrong_file_reaches_nobody(house: House) -> None:
    child = Child()
    house.place.write_text("[receive]\nprot = 1\n")
    assert house.look(child=child) == []
    assert child.prepared == 0
    assert "did you mean port?" in str(house.state["rejected"])
    house.place.unlink()
    house.look(child=child)
    assert "can't be read" in str(house.state["rejected"])
    assert house.configuration.version == 1


def test_one_that_hangs_is_waited_for_only_so_long_and_tried_again(
    house: House,
) -> None:
    house.configuration._prepare_seconds = 0.5
    going_on = threading.Event()
    good, hanging = Child(), Child(lambda: going_on.wait(30) and None)
    house.write("MR_1")
    house.look(good=good, hanging=hanging)
    assert "hanging process does not answer" in str(house.state["rejected"])
    assert good.callers == []
    assert house.configuration.wait_seconds() > 20, "not at once"
    house.configuration._look_at = 0.0
    assert house.configuration.is_due(), "it was no fault of the file"
    going_on.set()
    # Its late answer to the first round counts for nothing in the second.
    house.configuration._prepare_seconds = 10.0
    assert house.look(good=good, hanging=hanging) == []
    assert (good.callers, hanging.callers) == (["MR_1"], ["MR_1"])


def test_one_that_reads_nothing_is_not_taken_for_dead(house: House) -> None:
    house.configuration._prepare_seconds = 0.2
    good, (channel, _end) = Child(), orders.pair()
    house.write("MR_1")
    for _ in range(300):
        if not orders.send(channel, orders.FORGET, 0):
            pytest.fail("it is there")
    assert house.configuration.look({"good": good.channel, "deaf": channel}) == []
    assert "deaf process does not answer" in str(house.state["rejected"])
    assert good.callers == []


def test_one_that_died_is_no_reason_to_refuse(house: House) -> None:
    good, dead = Child(), Child()
    dead.die()
    house.write("MR_1")
    # It is started again with what is in force, as is one that did not say that it took it.
    assert house.look(good=good, dead=dead) == ["dead"]
    assert good.callers == ["MR_1"]


def test_changed_files_are_due_once_they_have_settled(house: House) -> None:
    configuration = house.configuration
    configuration._look_at = 0.0
    assert not configuration.is_due()
    house.write("MR_1")
    assert not configuration.is_due(), "not its time yet"
    configuration._look_at = 0.0
    assert not configuration.is_due(), "somebody may still be writing"
    assert configuration.wait_seconds() <= 1.0
    configuration._look_at = 0.0
    assert configuration.is_due()
    configuration.look({})
    configuration._look_at = 0.0
    assert not configuration.is_due()
    assert configuration.wait_seconds() > 4.0


def test_versions_are_kept_whole_and_not_for_ever(tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        text = f"# {number}\r\nümlaut\n"
        assert record(tmp_path, [Source(Path("a.toml"), text)], tmp_path) == number + 1
        assert record(tmp_path, [Source(Path("elsewhere/a.toml"), text)], tmp_path) == number + 1
    kept = versions(tmp_path)
    assert [kept[0].number, kept[-1].number, len(kept)] == [6, KEPT + 5, KEPT]
    assert kept[-1].sources()[0].text == f"# {KEPT + 4}\r\nümlaut\n"
    (kept[-1].folder / "version.json").unlink()
    assert versions(tmp_path)[-1].number == KEPT + 4
    assert record(tmp_path, [Source(Path("a.toml"), "new")], tmp_path) == KEPT + 6
    assert (tmp_path / "config").stat().st_mode & 0o700 == 0o700


def test_the_log_level_is_taken(house: House) -> None:
    child = Child()
    house.place.write_text(house.place.read_text() + '[log]\nlevel = "error"\n')
    house.look(child=child)
    wait_until(lambda: log._sink.level == log.ERROR, "the level", 10)
