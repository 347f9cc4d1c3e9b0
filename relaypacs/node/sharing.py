"""What nodes do together: chosen here, by whether a Redis is configured. All but `load` after the fork: threads start.

A node without Redis does not load its client: that is 6 MiB.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from relaypacs.config import Config
from relaypacs.wake.local import LocalWake
from relaypacs.wake.protocol import Wake, Windows
from relaypacs.wake.windows import LocalWindows, SharedWindows

if TYPE_CHECKING:
    from relaypacs.wake.keeper import Keeper


def load(config: Config) -> None:
    """Before the fork: load what all processes will need, so that they share it."""
    if config.redis.configured:
        importlib.import_module("relaypacs.wake.keeper")


def keeper_of(config: Config, process: str) -> Keeper | None:
    """What keeps a process in touch with Redis; None where there is none."""
    if not config.redis.configured:
        return None
    from relaypacs.wake.keeper import Keeper

    keeper = Keeper(config.redis, node=config.node.name, process=process)
    keeper.start()
    return keeper


def wake_of(keeper: Keeper | None) -> Wake:
    """Wake-ups of forward workers."""
    if keeper is None:
        return LocalWake()
    from relaypacs.wake.remote import RedisWake

    wake = RedisWake(keeper)
    wake.start()
    return wake


def windows_of(config: Config, keeper: Keeper | None) -> Windows:
    """Windows of destinations."""
    if keeper is None:
        return LocalWindows()
    return SharedWindows(keeper, _bounds(config))


def rebound(windows: Windows, config: Config) -> None:
    """Bound windows as another configuration says."""
    if isinstance(windows, SharedWindows):
        windows.bound(_bounds(config))


def _bounds(config: Config) -> dict[str, int]:
    return {one.name: one.associations_all_nodes for one in config.destination}
