"""The two scripts of rate limits: take a place in every window at once, and give it back.

A window's log is a list of the times of accepted requests, in microseconds by Redis's clock, oldest first. A request is
let through if fewer than the limit lie within the window: the limit is exact at every moment, and the log never holds
more entries than the limit.
"""

from typing import Final

MOST_TURNS: Final = 1_000_000
"""The highest limit of a window: its log takes about 11 bytes per request, so 11 MB."""

TAKE: Final = """
local time = redis.call('TIME')
local refused, longest = 0, -1
local found, answer = {}, {0}
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[i * 2 - 1]), tonumber(ARGV[i * 2])
  local now = time[1] * 1000000 + time[2]
  local newest = redis.call('LINDEX', key, -1)
  if newest and tonumber(newest) > now then
    if tonumber(newest) > now + window then redis.call('DEL', key) else now = tonumber(newest) end
  end
  local count, gone = redis.call('LLEN', key), 0
  if count > 0 and tonumber(redis.call('LINDEX', key, 0)) <= now - window then
    local kept = count
    while gone < kept do
      local middle = math.floor((gone + kept) / 2)
      if tonumber(redis.call('LINDEX', key, middle)) <= now - window then gone = middle + 1 else kept = middle end
    end
    redis.call('LTRIM', key, gone, -1)
    count = count - gone
  end
  found[i] = {limit = limit, window = window, now = now, count = count}
  if count >= limit then
    local wait = window
    if limit > 0 then wait = tonumber(redis.call('LINDEX', key, count - limit)) + window - now end
    found[i].wait = wait
    if wait > longest then refused, longest = i, wait end
  end
end
answer[1] = refused
for i, key in ipairs(KEYS) do
  local each = found[i]
  if refused == 0 then
    redis.call('RPUSH', key, string.format('%.0f', each.now))
    redis.call('PEXPIRE', key, math.ceil(each.window / 1000))
    each.count = each.count + 1
  end
  local resets = each.wait or 0
  if not each.wait and each.count > 0 then
    resets = tonumber(redis.call('LINDEX', key, 0)) + each.window - each.now
  end
  answer[#answer + 1] = math.max(0, each.limit - each.count)
  answer[#answer + 1] = resets
  answer[#answer + 1] = each.now
end
return answer
"""
"""Take a place in every window, or in none.

If the clock was set back, time counts from the newest entry on; if by more than a window, the log starts again. Expired
entries are found by binary search, so a million entries cost at most twenty look-ups.

KEYS: the windows' logs, in one hash slot. ARGV: limit and length of each, in requests and microseconds. Returns the
window that refuses, counted from 1 (the one with the longest wait), 0 if none does; then for each window how many more
requests it would take, the microseconds until it takes one more than now (or one at all, if it refuses) and the time
under which the request was written.
"""

GIVE_BACK: Final = """
for i, key in ipairs(KEYS) do redis.call('LREM', key, -1, ARGV[i]) end
"""
"""Remove requests from their windows. KEYS: the logs. ARGV: the time under which each was written."""
