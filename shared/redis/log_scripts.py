"""The scripts that write a turn's log, each append and its publication in one step.

Ids are `<attempt>-<seq>` and Redis refuses one that is not larger than the last, so a retried append
changes nothing and a worker that lost its lease cannot write (I3). Because the publication stands in
the same script, what was refused was not shown either.
"""

import hashlib
from enum import IntEnum
from typing import Final


def sha_of(script: str) -> str:
    """Return the name by which Redis knows a script that it was given."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Appended(IntEnum):
    """What `APPEND` answers."""

    WRITTEN = 1
    """All events are in the log, from this call or an earlier one whose reply was lost."""
    LOG_GONE = 0
    """There is no log: Redis lost it. Nothing was written or published."""
    FENCED = -1
    """A newer attempt has written; this one is void."""


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
"""Begin a turn's log with the events of its acceptance, unless it is there already.

KEYS: log, channel. ARGV: most entries, seconds to live, then an id and an event by turns.
Returns the id of the log's last entry, `0-0` when it has none.
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
"""Refuse from now on what earlier attempts sent and Redis has not yet executed.

An entry that is deleted again leaves its id behind as the log's last one.
KEYS: log. ARGV: the attempt that begins. Returns 1 when text of an earlier attempt stands in the log or may
have stood there, 0 when there is none or it was reset.
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

KEYS: log, channel. ARGV: attempt, seq of the first event, most entries, seconds to live or 0 to leave
it, then the events. Returns a value of `Appended`.
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
"""Begin a log that was lost again, with a snapshot of the text so far.

KEYS: log, channel. ARGV: the id `<attempt>-<seq>` that the snapshot reaches, the snapshot, seconds to
live. Returns 1, or -1 when the log has moved past it.
"""

ALL_SCRIPTS: Final = (OPEN, TAKE_OVER, APPEND, RESTART)
"""What a connection to Redis loads, to call it by name."""
