"""The scripts that count the bytes of turns' logs, by organization: running ones by worker, ended ones by log.

None of them is on the path of a delta: a worker reports about once a second, and notes each log once, when its turn has
ended. Counts are sums of what is kept beside them, so nothing leaks when a worker dies or Redis loses everything.
The field `*` of a count is its sum.
"""

from typing import Final

REPORT: Final = """
for i = 4, #ARGV, 2 do
  local delta = tonumber(ARGV[i + 1]) - tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0')
  if delta ~= 0 then
    redis.call('HINCRBY', KEYS[1], ARGV[i], delta)
    redis.call('HINCRBY', KEYS[1], '*', delta)
  end
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', KEYS[2], ARGV[i])
    if tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') <= 0 then redis.call('HDEL', KEYS[1], ARGV[i]) end
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[3], 'LIMIT', 0, 10)) do
  local of = string.sub(KEYS[2], 1, -#ARGV[1] - 1) .. worker
  local held = redis.call('HGETALL', of)
  for i = 1, #held, 2 do
    if redis.call('HINCRBY', KEYS[1], held[i], -held[i + 1]) <= 0 then redis.call('HDEL', KEYS[1], held[i]) end
    redis.call('HINCRBY', KEYS[1], '*', -held[i + 1])
  end
  redis.call('DEL', of)
  redis.call('ZREM', KEYS[3], worker)
end
local answer = {
  redis.call('ZCARD', KEYS[3]),
  math.max(1, redis.call('HLEN', KEYS[1]) - 1),
  tonumber(redis.call('HGET', KEYS[1], '*') or '0'),
  tonumber(redis.call('HGET', KEYS[4], '*') or '0'),
}
for i = 4, #ARGV, 2 do answer[#answer + 1] = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') end
return answer
"""
"""Say what a worker's running logs hold, and learn what those of all workers do.

What a worker last said is kept; of one that said nothing for long it is taken back. KEYS: the running logs' count, what
this worker said, the workers, the ended logs' count. ARGV: the worker, the time, the time before which a worker counts
as dead, then alternately an organization and the bytes of its logs. Returns how many workers there are, how many
organizations have running logs, the bytes of all running and of all ended logs, then the bytes of each organization's
running logs, in order.
"""

NOTE_ENDED: Final = """
if redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[4])
redis.call('HINCRBY', KEYS[2], '*', ARGV[4])
return 1
"""
"""Note that a log ended. KEYS: the organization's ended logs, the ended logs' count. ARGV: the organization, the time,
`<session>/<turn>/<bytes>`, the bytes, seconds after which no log of now lives."""

FORGET_ENDED: Final = """
local freed, forgotten = 0, {0}
while #forgotten <= tonumber(ARGV[4]) do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if #oldest == 0 or (freed >= tonumber(ARGV[2]) and tonumber(oldest[2]) > tonumber(ARGV[3])) then break end
  redis.call('ZREM', KEYS[1], oldest[1])
  freed = freed + tonumber(string.match(oldest[1], '%d+$'))
  forgotten[#forgotten + 1] = oldest[1]
end
local is_empty = redis.call('EXISTS', KEYS[1], KEYS[3]) == 0
if is_empty then freed = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0') end
redis.call('HINCRBY', KEYS[2], ARGV[1], -freed)
redis.call('HINCRBY', KEYS[2], '*', -freed)
if is_empty then redis.call('HDEL', KEYS[2], ARGV[1]) end
forgotten[1] = freed
return forgotten
"""
"""Forget an organization's oldest ended logs. KEYS: a list of its ended logs, the ended logs' count, the other list
(of joined logs, or of those that are not). ARGV: the organization, how
many bytes to free, a time up to which logs are forgotten anyway, and most of them. Returns the bytes freed, then what
`NOTE_ENDED` noted of each."""

NOTE_JOINED: Final = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not score then return 0 end
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[3], score, ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[4])
redis.call('HINCRBY', KEYS[2], '*', ARGV[4])
return 1
"""
"""Note that an ended log was joined. KEYS: the organization's ended logs, the ended logs' count, its joined logs. ARGV:
the organization, what `NOTE_ENDED` noted, what stands for it from now on, how many bytes it became larger by (less than
0), seconds after which no log of now lives. Returns 1; 0 if it was forgotten meanwhile."""

REPLACE_BY_JOINED: Final = """
local lives = redis.call('TTL', KEYS[1])
if lives <= 0 then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'EX', lives)
redis.call('UNLINK', KEYS[1])
return 1
"""
"""Put a log's joined form in its place, unless it was removed meanwhile, as by an erasure. KEYS: the log, its joined
form. ARGV: the joined log. Returns 1, or 0 if there was no log."""
