"""What nodes do together: chosen here, by whether a Redis is configured. Call it after the fork: threads start."""

from __future__ import annotations

from relaypacs.config import Config
from relaypacs.wake.keeper import Keeper
from relaypacs.wake.local import LocalWake
from relaypacs.wake.protocol import Wake, Windows
from relaypacs.wake.remote import RedisWake
from relaypacs.wake.windows import LocalWindows, SharedWindows


def keeper_of(config: Config, process: str) -> Keeper | None:
    """What keeps a process in touch with Redis; None where there is none."""
    if not config.redis.configured:
        return None
    keeper = Keeper(config.redis, node=config.node.name, process=process)
    keeper.start()
    return keeper


def wake_of(keeper: Keeper | None) -> Wake:
    """Wake-ups of forward workers."""
    if keeper is None:
        return LocalWake()
    wake = RedisWake(keeper)
    wake.start()
    return wake


def windows_of(config: Config, keeper: Keeper | None) -> Windows:
    """Windows of destinations."""
    if keeper is None:
        return LocalWindows()
    return SharedWindows(keeper, {one.name: one.associations_all_nodes for one in config.destination})
