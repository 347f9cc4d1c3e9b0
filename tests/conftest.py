"""Options and fixtures every test may use: `--long`, and factories of real peers that end with the test."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from relaypacs import log
from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run crash, fuzz and soak tests at their full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):  # not `keywords`, which has the names of all folders above
            item.add_marker(pytest.mark.skip(reason="long: run with --long"))


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether this is a full-size run, for tests that only scale themselves."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """What a test makes of the log of this process ends with it: a later one may wait for a line."""
    before = dict(vars(log._sink))
    yield
    vars(log._sink).update(before)


_DESCRIPTORS_LEFT = 64
_DESCRIPTORS = 300
"""Above so many, garbage that has some is collected after each test that leaves more."""


@pytest.fixture(autouse=True)
def few_descriptors_left() -> Iterator[None]:
    """A test that leaves many files or sockets open fails, not the later one whose stock pynetdicom peer selects on a
    descriptor above 1023 and goes deaf."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    for _ in range(20):
        now = len(os.listdir("/proc/self/fd"))
        left = now - before
        if left <= _DESCRIPTORS_LEFT and (now <= _DESCRIPTORS or not left):
            return
        gc.collect()
        if left <= _DESCRIPTORS_LEFT:
            return
        time.sleep(0.1)
    pytest.fail(f"{left} descriptors were left open")


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """What was entered here ends with the test, last started first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def orthanc(tmp_path: Path, peers: ExitStack) -> Callable[..., Orthanc]:
    """`orthanc(name="orthanc", **settings)`: start a real Orthanc."""

    def start(name: str = "orthanc", **settings: Any) -> Orthanc:
        return peers.enter_context(Orthanc(tmp_path / name, **settings))

    return start


@pytest.fixture
def storescp(tmp_path: Path, peers: ExitStack) -> Callable[..., StoreScp]:
    """`storescp(name="storescp", **settings)`: start DCMTK's bit-preserving storage SCP."""

    def start(name: str = "storescp", **settings: Any) -> StoreScp:
        return peers.enter_context(StoreScp(tmp_path / name, **settings))

    return start


@pytest.fixture
def node(tmp_path: Path, peers: ExitStack) -> Callable[..., Node]:
    """`node(name="node", destinations=[…], …)`: start a RelayPACS node and wait until it is ready."""

    def start(name: str = "node", **settings: Any) -> Node:
        return peers.enter_context(Node(tmp_path / name, **settings))

    return start
