"""What is asked of Redis: a list of operations that one Lua script runs at once, by the server's clock.

Sorted sets hold who has taken what, with the time (milliseconds) at which each entry ends by itself: a node that died
is forgotten then. An evicted key is made again by the next renewal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple


class Op(NamedTuple):
    """One operation: its name in the script, the keys it touches, its arguments."""

    name: str
    keys: tuple[str, ...]
    arguments: tuple[str | int | tuple[str, ...], ...] = ()


def take(slots: str, refused: str, most: int, member: str) -> Op:
    """1: taken. 0: `most` are taken already. -1: the address is refused (`refused` exists)."""
    return Op("take", (slots, refused), (most, member))


def claim(slots: str, queue: str, most: int, member: str, who: str, *, waits: bool, wait_ms: int) -> Op:
    """As `take`, but first come, first served: 0 also while others stand in `queue` for what is free.

    `waits`: if it can't be taken, `who` stands in the queue for `wait_ms` from now.
    """
    return Op("claim", (slots, queue, f"{queue}:until"), (most, member, who, int(waits), wait_ms))


def keep(slots: str, queue: str, members: Sequence[str], who: str) -> Op:
    """Renew what is held. Answers how many others stand in `queue`."""
    return Op("keep", (slots, queue, f"{queue}:until"), (tuple(members), who))


def drop(slots: str, member: str) -> Op:
    """Give it back."""
    return Op("drop", (slots,), (member,))


def fail(failures: str, refused: str, most: int, window_ms: int, refuse_ms: int) -> Op:
    """Count a failure; the `most`-th within the window refuses. Answers for how many more ms it is refused, or 0."""
    return Op("fail", (failures, refused), (most, window_ms, refuse_ms))


def ring(channel: str, message: str) -> Op:
    """Publish."""
    return Op("ring", (), (channel, message))


def touch(key: str) -> Op:
    """Write something, to see whether it can be done."""
    return Op("touch", (key,))


def pack(ops: Sequence[Op], lease_ms: int) -> tuple[list[str], list[str]]:
    """Keys and arguments of the script."""
    keys: list[str] = []
    body = []
    for op in ops:
        body.append([op.name, len(keys), *op.arguments])
        keys += op.keys
    return keys, [str(lease_ms), json.dumps(body)]


SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = tonumber(ARGV[1])

local function tidy(slots)
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
end

local function add(slots, member)
  redis.call('ZADD', slots, now + lease, member)
  redis.call('PEXPIRE', slots, 2 * lease)
end

local function tidy_queue(queue, untils)
  for _, who in ipairs(redis.call('ZRANGEBYSCORE', untils, '-inf', now)) do
    redis.call('ZREM', queue, who)
    redis.call('ZREM', untils, who)
  end
end

local does = {}

function does.take(key, most, member)
  tidy(key(1))
  if redis.call('EXISTS', key(2)) == 1 then return -1 end
  if not redis.call('ZSCORE', key(1), member) and redis.call('ZCARD', key(1)) >= most then return 0 end
  add(key(1), member)
  return 1
end

function does.claim(key, most, member, who, waits, wait)
  local slots, queue, untils = key(1), key(2), key(3)
  tidy(slots)
  tidy_queue(queue, untils)
  local before = redis.call('ZRANK', queue, who) or redis.call('ZCARD', queue)
  if most - redis.call('ZCARD', slots) > before then
    add(slots, member)
    redis.call('ZREM', queue, who)
    redis.call('ZREM', untils, who)
    return 1
  end
  if waits == 1 then
    redis.call('ZADD', queue, 'NX', now, who)
    redis.call('ZADD', untils, now + wait, who)
    redis.call('PEXPIRE', queue, 2 * wait)
    redis.call('PEXPIRE', untils, 2 * wait)
  end
  return 0
end

function does.keep(key, members, who)
  tidy(key(1))
  for _, member in ipairs(members) do add(key(1), member) end
  tidy_queue(key(2), key(3))
  local waiting = redis.call('ZCARD', key(2))
  if redis.call('ZSCORE', key(2), who) then waiting = waiting - 1 end
  return waiting
end

function does.drop(key, member)
  redis.call('ZREM', key(1), member)
  return 0
end

function does.fail(key, most, window, refuse)
  local count = redis.call('INCR', key(1))
  if count == 1 then redis.call('PEXPIRE', key(1), window) end
  if count >= most then
    redis.call('SET', key(2), 1, 'PX', refuse)
    redis.call('DEL', key(1))
  end
  return math.max(0, redis.call('PTTL', key(2)))
end

function does.ring(key, channel, message)
  redis.call('PUBLISH', channel, message)
  return 0
end

function does.touch(key)
  redis.call('SET', key(1), 1, 'PX', 2 * lease)
  return 0
end

local said = {}
for number, op in ipairs(cjson.decode(ARGV[2])) do
  local function key(which) return KEYS[op[2] + which] end
  said[number] = does[op[1]](key, unpack(op, 3))
end
return said
"""
