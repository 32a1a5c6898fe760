"""The steps that Redis must take as one, in Lua, and the names of the keys; see "Keys in Redis" in PROTOCOL.md.

All keys of a namespace carry one hash tag: they lie in one slot of a cluster, and each script names all it touches.
"""

from __future__ import annotations

import hashlib
from typing import Any

from twinwire.log.base import SessionKey
from twinwire.protocol.events import dump


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._tag = f"{{{namespace}}}"
        self.live = f"{self._tag}:live"
        self.sessions = f"{self._tag}:sessions"
        self.logged_out = f"{self._tag}:logged-out"
        self.log_outs = f"{self._tag}:log-outs"

    def run(self, run_id: str) -> str:
        """A run's hash."""
        return f"{self._tag}:run:{run_id}"

    def events(self, run_id: str) -> str:
        """A run's stream."""
        return f"{self._tag}:run:{run_id}:events"

    def followers(self, run_id: str) -> str:
        """The workers that have followers of a run they do not own."""
        return f"{self._tag}:followers:{run_id}"

    def worker(self, worker: str) -> str:
        """A worker's lease."""
        return f"{self._tag}:worker:{worker}"

    def commands(self, worker: str) -> str:
        """Return the key of the stream of commands to a worker."""
        return f"{self._tag}:worker:{worker}:commands"

    def idempotency(self, user_id: str | None, key: str) -> str:
        """Return the key of the run that a user started with this idempotency key."""
        return f"{self._tag}:key:{dump([user_id, key]).decode()}"

    def starts(self, user_id: str | None) -> str:
        """Return the key of a user's starts."""
        return f"{self._tag}:starts:{dump(user_id).decode()}"

    def recent(self, user_id: str | None) -> str:
        """A user's newest runs."""
        return f"{self._tag}:recent:{dump(user_id).decode()}"

    def session(self, session: SessionKey) -> str:
        """A conversation."""
        return f"{self._tag}:session:{dump(session).decode()}"

    def busy(self, session: SessionKey) -> str:
        """The run that goes on in a conversation."""
        return f"{self._tag}:busy:{dump(session).decode()}"


class Script:
    """A script, called by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, *keys: str) -> tuple[Any, ...]:
        """The command that runs it on these keys; its arguments follow."""
        return ("EVALSHA", self._digest, len(keys), *keys)


_OWN = """
-- Deletes a key that another program has given another type: else whoever needs it would be refused for ever.
local function own(kinds)
  for i, right in ipairs(kinds) do
    local found = KEYS[i] and redis.call('TYPE', KEYS[i]).ok or 'none'
    if found ~= 'none' and found ~= right then redis.call('DEL', KEYS[i]) end
  end
end
"""

CREATE = Script(
    _OWN
    + """
-- KEYS: run, live, starts, recent [, idempotency key].
-- ARGV: run id, info, owner, how many recent runs to keep and for how many ms [, runs, starts, longest run in ms].
-- Returns the info of the run that the key stands for; or, over the quota, {ms until a run has ended, ms until a start
-- is a minute old}, 0 for the one that is no hindrance. A start counts as long as its run is live, or it is recent.
own({'hash', 'hash', 'zset', 'list', 'string'})
local known = KEYS[5] and redis.call('GET', KEYS[5])
if known then return known end
if redis.call('EXISTS', KEYS[1]) == 1 then return ARGV[2] end
if ARGV[6] then
  local runs, starts, longest, minute = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), 60000
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCARD', KEYS[3]) >= math.min(runs, starts) then
    local going, recent = {}, {}
    local kept = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
    for i = 1, #kept, 2 do
      local at, live = tonumber(kept[i + 1]), redis.call('HEXISTS', KEYS[2], kept[i]) == 1
      local young = now - minute < at and at <= now  -- the clock may have been set back
      if live then going[#going + 1] = at end
      if young then recent[#recent + 1] = at end
      if not live and not young then redis.call('ZREM', KEYS[3], kept[i]) end
    end
    local ends = going[#going - runs + 1]
    local frees = recent[#recent - starts + 1]
    if ends or frees then
      return {ends and math.max(ends + longest - now, 1) or 0, frees and frees + minute - now or 0}
    end
  end
  redis.call('ZADD', KEYS[3], now, ARGV[1])
  redis.call('PEXPIRE', KEYS[3], math.max(longest, minute))
end
if tonumber(ARGV[4]) > 0 then
  redis.call('LPUSH', KEYS[4], ARGV[1])
  redis.call('LTRIM', KEYS[4], 0, ARGV[4] - 1)
  redis.call('PEXPIRE', KEYS[4], ARGV[5])
end
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'owner', ARGV[3], 'first', 1, 'last', 0, 'bytes', 0, 'ended', 0,
           'key', KEYS[5] or '')
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if KEYS[5] then redis.call('SET', KEYS[5], ARGV[2]) end
return ARGV[2]
"""
)

APPEND = Script("""
-- KEYS: run, events, live, followers [, idempotency key].
-- ARGV: run id, expected last, the outcome if it ends (else empty), max events, max bytes, retention in ms; type, body,
-- start, stop of each.
-- Returns {'ok', first}, {'stale', last} or {'gone'}. The fence is `last`: the ids of a stream alone are none.
local run = redis.call('HMGET', KEYS[1], 'first', 'last', 'bytes', 'ended')
if not run[2] then return {'gone'} end
local first, last, bytes = tonumber(run[1]), tonumber(run[2]), tonumber(run[3])
local expected, count = tonumber(ARGV[2]), (#ARGV - 6) / 4
local function id(seq) return string.format('%.0f-0', seq) end
if last ~= expected or run[4] == '1' then
  local kept = {}
  if last >= expected + count then
    kept = redis.call('XRANGE', KEYS[2], id(expected + 1), id(expected + count))
  end
  if #kept ~= count then return {'stale', last} end
  for i = 1, count do
    if kept[i][2][4] ~= ARGV[4 * i + 4] then return {'stale', last} end
  end
  return {'ok', first}
end
for i = 1, count do
  local at = 4 * i + 3
  redis.call('XADD', KEYS[2], id(last + i), 'type', ARGV[at], 'body', ARGV[at + 1], 'start', ARGV[at + 2],
             'stop', ARGV[at + 3])
  bytes = bytes + #ARGV[at + 1]
end
last = last + count
-- Trimmed to an eighth below the bound, so that a run at its bound is not trimmed at each event.
local kept = last - first + 1
local keep = kept
if kept > tonumber(ARGV[4]) then keep = math.floor(ARGV[4] * 7 / 8) end
if bytes > tonumber(ARGV[5]) then keep = math.min(keep, math.floor(kept * ARGV[5] / bytes * 7 / 8)) end
if keep < kept then
  keep = math.max(keep, 1)
  redis.call('XTRIM', KEYS[2], 'MAXLEN', keep)
  first, bytes = last - keep + 1, math.floor(bytes * keep / kept)
end
local ends = ARGV[3] ~= ''
redis.call('HSET', KEYS[1], 'first', first, 'last', last, 'bytes', bytes, 'ended', ends and 1 or 0)
if ends then
  redis.call('HSET', KEYS[1], 'outcome', ARGV[3])
  redis.call('HDEL', KEYS[3], ARGV[1])
  for i, key in ipairs(KEYS) do
    if i ~= 3 then redis.call('PEXPIRE', key, ARGV[6]) end
  end
end
return {'ok', first}
""")

OCCUPY = Script(
    _OWN
    + """
-- KEYS: busy; ARGV: run id. Returns the run that holds the session.
own({'string'})
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
)

VACATE = Script(
    _OWN
    + """
-- KEYS: busy; ARGV: run id.
own({'string'})
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
)

RECALL = Script(
    _OWN
    + """
-- KEYS: session, sessions; ARGV: idle in ms. Returns the session's turns; reading is use.
own({'list', 'zset'})
local time = redis.call('TIME')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 'XX', time[1] * 1000000 + time[2], KEYS[1])
return redis.call('LRANGE', KEYS[1], 0, -1)
"""
)

REMEMBER = Script(
    _OWN
    + """
-- KEYS: session, sessions; ARGV: turn ("<bytes> <json>"), max bytes, max sessions, idle in ms.
-- Returns the sessions that are too many. The time is Redis's: workers' clocks may differ.
own({'list', 'zset'})
local time = redis.call('TIME')
if redis.call('LINDEX', KEYS[1], -1) == ARGV[1] then return {} end
redis.call('RPUSH', KEYS[1], ARGV[1])
local turns, bytes = redis.call('LRANGE', KEYS[1], 0, -1), 0
local function size(turn) return tonumber(string.match(turn, '^%d+')) end
for _, turn in ipairs(turns) do bytes = bytes + size(turn) end
for _, turn in ipairs(turns) do
  if bytes <= tonumber(ARGV[2]) then break end
  redis.call('LPOP', KEYS[1])
  bytes = bytes - size(turn)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], time[1] * 1000000 + time[2], KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local excess, gone = redis.call('ZCARD', KEYS[2]) - ARGV[3], {}
if excess > 0 then
  for i, name in ipairs(redis.call('ZPOPMIN', KEYS[2], excess)) do
    if i % 2 == 1 then gone[#gone + 1] = name end
  end
end
return gone
"""
)

FOLLOW = Script(
    _OWN
    + """
-- KEYS: followers; ARGV: worker, for how many ms.
own({'hash'})
redis.call('HSET', KEYS[1], ARGV[1], 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)

CHECK = Script("""
-- KEYS: live, sessions, logged-out, log-outs, the worker's commands; then of each run its hash, its stream, and its
-- idempotency key (or the hash again, if it has none).
-- ARGV: of each run its id and the last number that the worker knows.
-- Returns how many shared keys were of another type and are deleted, then for each run: 'ok'; 'ended'; 'gone', if it
-- cannot be read or go on, and then no worker has it any more; 'older', if its last number is lower; 'lost', if the
-- stream lacks events that the hash counts. No event is read: it may be large.
-- What the runs that go on have lost beside their events is put back: the entry in `live`, the idempotency key.
local function kind(key) return redis.call('TYPE', key).ok end
local verdicts = {0}
for i, right in ipairs({'hash', 'zset', 'zset', 'stream', 'stream'}) do
  local found = kind(KEYS[i])
  if found ~= 'none' and found ~= right then
    redis.call('DEL', KEYS[i])
    verdicts[1] = verdicts[1] + 1
  end
end
local texts = {string = true, ['nil'] = true}
local names = {string = true, ['nil'] = true, userdata = true}  -- which JSON's null is
local function sound(info, id)
  local good, run = pcall(cjson.decode, info)
  return good and type(run) == 'table' and run.run_id == id
    and type(run.agent) == 'string' and type(run.created) == 'string'
    and texts[type(run.fingerprint)] and texts[type(run.owner)]
    and names[type(run.user_id)] and names[type(run.session_id)]
end
local function verdict(id, known, run, events, key)
  if kind(run) ~= 'hash' then return 'gone' end
  local kept = redis.call('HMGET', run, 'first', 'last', 'bytes', 'ended', 'owner', 'info', 'key')
  local first, last = tonumber(kept[1]), tonumber(kept[2])
  if not (first and last and tonumber(kept[3]) and kept[4] and kept[5] and kept[6] and kept[7]) then return 'gone' end
  if not sound(kept[6], id) then return 'gone' end
  local stream, count = kind(events), 0
  if stream == 'stream' then
    count = redis.call('XLEN', events)
    local beyond = string.format('(%.0f-0', last)
    if #redis.call('XRANGE', events, beyond, '+', 'COUNT', 1) > 0 then return 'gone' end
  elseif stream ~= 'none' then
    return 'gone'
  end
  if last < known then return 'older' end
  if kept[4] == '1' then return 'ended' end
  if redis.call('HEXISTS', KEYS[1], id) == 0 then redis.call('HSET', KEYS[1], id, kept[5]) end
  if key ~= run and redis.call('EXISTS', key) == 0 then redis.call('SET', key, kept[6]) end
  if count ~= last - first + 1 then return 'lost' end
  return 'ok'
end
for i = 1, #ARGV / 2 do
  local id, run, events = ARGV[2 * i - 1], KEYS[3 * i + 3], KEYS[3 * i + 4]
  verdicts[i + 1] = verdict(id, tonumber(ARGV[2 * i]), run, events, KEYS[3 * i + 5])
  if verdicts[i + 1] == 'gone' then
    redis.call('UNLINK', run, events)
    redis.call('HDEL', KEYS[1], id)
  end
end
return verdicts
""")

OWNED = Script("""
-- KEYS: run, events. ARGV: user, 1 to have the newest event too, fields of the run.
-- Returns {fields, newest event}; nothing, whether the run is another user's or there is none.
local info = redis.pcall('HGET', KEYS[1], 'info')
local good, run = pcall(cjson.decode, type(info) == 'string' and info or '{}')
if not good or type(run) ~= 'table' or run.user_id ~= ARGV[1] then return false end
local newest = ARGV[2] == '1' and redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1) or {}
if newest.err then return false end
return {redis.call('HMGET', KEYS[1], unpack(ARGV, 3)), newest}
""")

SOURCES = tuple(script.source for script in (CREATE, APPEND, OCCUPY, VACATE, RECALL, REMEMBER, FOLLOW, CHECK, OWNED))
