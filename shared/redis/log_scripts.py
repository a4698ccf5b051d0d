"""The scripts that write a turn's log: each append and its publication are one step.

Ids are `<attempt>-<seq>`, and Redis refuses one that is not larger than the last, so a retried append changes
nothing and a worker that lost its lease cannot write (I3). Since the publication is in the same script,
nothing that was refused has been shown.
"""

import hashlib
from enum import IntEnum
from typing import Final


def sha_of(script: str) -> str:
    """Return the SHA-1 by which Redis calls a loaded script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Appended(IntEnum):
    """What `APPEND` returns."""

    WRITTEN = 1
    """All events are in the log, from this call or from an earlier one whose reply was lost."""
    LOG_GONE = 0
    """There is no log: Redis lost it. Nothing was written or published."""
    FENCED = -1
    """A newer attempt has written; this attempt is void."""


OPEN: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  for i = 3, #ARGV, 2 do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[i], 'e', ARGV[i + 1])
    redis.call('PUBLISH', KEYS[2], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #last == 0 then return '0-0' end
return last[1][1]
"""
"""Start a turn's log with the events of its acceptance, unless it already exists.

KEYS: log, channel. ARGV: most entries, seconds to live, then alternately an id and an event. Returns the id
of the log's last entry, `0-0` if it has none.
"""

TAKE_OVER: Final = """
local fence = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', ARGV[1] .. '-0', 'e', '')
if not fence then return 1 end
if type(fence) == 'table' and fence.err then
  if not string.find(fence.err, 'equal or smaller', 1, true) then return fence end
else
  redis.call('XDEL', KEYS[1], fence)
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 64)
for _, entry in ipairs(newest) do
  local field, event = entry[2][1], entry[2][2]
  if field == 's' then return 1 end
  local kind = string.match(event, '^{"type":"([a-z_]+)"')
  if kind == 'message_reset' then return 0 end
  if kind == 'content_delta' or kind == 'reasoning_delta' then return 1 end
end
if #newest == 64 then return 1 end
return 0
"""
"""Refuse from now on what earlier attempts sent and Redis has not executed yet.

An entry that is deleted again leaves its id behind as the log's last one. KEYS: log. ARGV: the attempt that
begins. Returns 1 if the log contains, or may have contained, text of an earlier attempt; 0 if there was none
or it was reset.
"""

APPEND: Final = """
local seq = tonumber(ARGV[2])
for i = 5, #ARGV do
  local id = ARGV[1] .. '-' .. string.format('%d', seq)
  local reply = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], id, 'e', ARGV[i])
  if not reply then return 0 end
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'equal or smaller', 1, true) then return reply end
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
    if #last > 0 and tonumber(string.match(last[1][1], '^%d+')) > tonumber(ARGV[1]) then return -1 end
  else
    redis.call('PUBLISH', KEYS[2], ARGV[i])
  end
  seq = seq + 1
end
if ARGV[4] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
"""Append consecutive events of one attempt to the log and publish those that are new.

KEYS: log, channel. ARGV: attempt, seq of the first event, most entries, seconds to live or 0 to leave it
unchanged, then the events. Returns a value of `Appended`.
"""

RESTART: Final = """
local reply = redis.pcall('XADD', KEYS[1], ARGV[1], 's', ARGV[2])
if type(reply) == 'table' and reply.err then
  if not string.find(reply.err, 'equal or smaller', 1, true) then return reply end
  return -1
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""
"""Start a lost log again, with a snapshot of the text so far.

KEYS: log, channel. ARGV: the id `<attempt>-<seq>` up to which the snapshot goes, the snapshot, seconds to
live. Returns 1, or -1 if the log has moved past it.
"""

ALL_SCRIPTS: Final = (OPEN, TAKE_OVER, APPEND, RESTART)
"""The scripts that a connection to Redis loads, to call them by their SHA-1."""
