"""The steps that Redis must take as one, in Lua, and the names of the keys; see "Keys in Redis" in PROTOCOL.md.

All keys of a namespace carry one hash tag: they lie in one slot of a cluster, and each script names all it touches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from twinwire.log.base import SessionKey
from twinwire.protocol.events import dump


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._tag = f"{{{namespace}}}"
        self.live = f"{self._tag}:live"
        self.waiting = f"{self._tag}:waiting"
        self.sessions = f"{self._tag}:sessions"
        self.logged_out = f"{self._tag}:logged-out"
        self.log_outs = f"{self._tag}:log-outs"
        self.runs = f"{self._tag}:runs"

    def run(self, run_id: str) -> str:
        """A run's hash."""
        return f"{self._tag}:run:{run_id}"

    def events(self, run_id: str) -> str:
        """A run's stream."""
        return f"{self._tag}:run:{run_id}:events"

    def inbox(self, run_id: str) -> str:
        """Return the key of what is said to a run on other workers than its owner."""
        return f"{self._tag}:run:{run_id}:inbox"

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

    def runs_of(self, user_id: str | None) -> str:
        """A user's runs."""
        return f"{self.runs}:{dump(user_id).decode()}"

    def session(self, session: SessionKey) -> str:
        """A conversation."""
        return f"{self._tag}:session:{dump(session).decode()}"

    def sessions_of(self, user_id: str) -> str:
        """Return what the names of a user's conversations begin with, and no others."""
        return f"{self._tag}:session:[{dump(user_id).decode()},"

    def busy(self, session: SessionKey) -> str:
        """The run that goes on in a conversation."""
        return f"{self._tag}:busy:{dump(session).decode()}"


_DECLARED = re.compile(r"-- (KEYS|ARGV): ([a-z_: ]+)")
_OWN = """
local replaced = 0
for i, right in ipairs({%s}) do
  local found = KEYS[i] and redis.call('TYPE', KEYS[i]).ok or 'none'
  if found ~= 'none' and found ~= right then
    redis.call('DEL', KEYS[i])
    replaced = replaced + 1
  end
end
"""


class Script:
    """A script, called by its digest. It declares the names of its keys and arguments, which are local variables in it.

    If a key is declared with its type, it is deleted if another program has given it another type: else whoever needs
    it would be refused for ever. `replaced` is the number of those.
    """

    def __init__(self, source: str) -> None:
        declared = {kind: names.split() for kind, names in _DECLARED.findall(source)}
        keys = [name.partition(":") for name in declared["KEYS"]]
        self._arguments = declared.get("ARGV", [])
        lines = [f"local {', '.join(name for name, _, _ in keys)} = unpack(KEYS, 1, {len(keys)})"]
        if self._arguments:
            lines.append(f"local {', '.join(self._arguments)} = unpack(ARGV, 1, {len(self._arguments)})")
        if keys[0][2]:
            lines.append(_OWN % ", ".join(f"'{kind}'" for _, _, kind in keys))
        self.source = "\n".join([*lines, source])
        self._digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, *keys: str, rest: Iterable[Any] = (), **arguments: Any) -> tuple[Any, ...]:
        """Return the command that runs it on these keys with all its `arguments`, and then the `rest`."""
        values = [arguments.pop(name) for name in self._arguments]
        if arguments:
            raise TypeError(f"The script has no argument {', '.join(arguments)}.")
        return ("EVALSHA", self._digest, len(keys), *keys, *values, *rest)


CREATE = Script("""
-- KEYS: run:hash live:hash waiting:hash started:zset mine:zset all:zset key:string; the last only with an idempotency
-- key.
-- ARGV: run_id info owner place user; then, of a user with a quota, its runs, starts, longest run in ms, waiting.
-- Returns the info of the run that the idempotency key stands for, if there is a key. Over the quota:
-- {ms until a run has ended, ms until a start is a minute old}, 0 for the one that is no hindrance; both 0 if too many
-- runs wait. A start counts as long as its run is live, or it is recent: each is a run, and how many ms it may go on.
-- Lists have the run at its `place`; `user` is JSON, null for nobody.
local known = key and redis.call('GET', key)
if known then return known end
if redis.call('EXISTS', run) == 1 then return info end
if ARGV[6] then
  local runs, starts, longest, minute = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), 60000
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local most = tonumber(ARGV[9])
  if redis.call('ZCARD', started) >= math.min(runs, starts, most) then
    local going, recent, waits = {}, {}, 0
    local entries = redis.call('ZRANGE', started, 0, -1, 'WITHSCORES')
    for i = 1, #entries, 2 do
      local id, life = string.match(entries[i], '^(%w+):?(%d*)$')
      local at, goes_on = tonumber(entries[i + 1]), redis.call('HEXISTS', live, id or '') == 1
      local young = now - minute < at and at <= now  -- the clock may have been set back
      local noted = goes_on and redis.call('HGET', waiting, id)
      if noted and string.sub(noted, 1, 1) == '1' then
        waits = waits + 1
      elseif goes_on then
        going[#going + 1] = at + (tonumber(life) or longest)
      end
      if young then recent[#recent + 1] = at end
      if not goes_on and not young then redis.call('ZREM', started, entries[i]) end
    end
    if waits >= most then return {0, 0} end
    table.sort(going)
    local ends = going[#going - runs + 1]
    local frees = recent[#recent - starts + 1]
    if ends or frees then
      return {ends and math.max(ends - now, 1) or 0, frees and frees + minute - now or 0}
    end
  end
  redis.call('ZADD', started, now, run_id .. ':' .. string.format('%.0f', longest))
  if redis.call('PTTL', started) < math.max(longest, minute) then
    redis.call('PEXPIRE', started, math.max(longest, minute))
  end
end
redis.call('ZADD', all, 0, place .. ' ' .. user)
if user ~= 'null' then redis.call('ZADD', mine, 0, place) end
redis.call('HSET', run, 'info', info, 'owner', owner, 'first', 1, 'last', 0, 'bytes', 0, 'ended', 0, 'key', key or '')
redis.call('HSET', live, run_id, owner)
if key then redis.call('SET', key, info) end
return info
""")

APPEND = Script("""
-- KEYS: run events live waiting inbox followers key; the last one only with an idempotency key.
-- ARGV: run_id expected_last outcome max_events max_bytes retention_ms slowest patient excess; then type, body, start,
-- stop of each event. `outcome` is empty unless the last event ends the run. `slowest` is the lowest cursor of the
-- owner's followers. If `patient` is 1, followers elsewhere count as well, up to `excess` bytes over the bound.
-- Returns {'ok', first, due, worker, cursor, ...}, {'stale', last} or {'gone'}. `due` is the number up to which the run
-- is to be trimmed, but has followers behind it; or 0. The fence is `last`: the ids of a stream alone are none.
local kept = redis.call('HMGET', run, 'first', 'last', 'bytes', 'ended')
if not kept[2] then return {'gone'} end
local first, last, bytes = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
local expected, fixed = tonumber(expected_last), 9
local count = (#ARGV - fixed) / 4
local function id(seq) return string.format('%.0f-0', seq) end
if last ~= expected or kept[4] == '1' then
  local there = {}
  if last >= expected + count then
    there = redis.call('XRANGE', events, id(expected + 1), id(expected + count))
  end
  if #there ~= count then return {'stale', last} end
  for i = 1, count do
    if there[i][2][4] ~= ARGV[fixed + 4 * i - 2] then return {'stale', last} end
  end
  return {'ok', first, 0}
end
for i = 1, count do
  local kind, body, start, stop = unpack(ARGV, fixed + 4 * i - 3, fixed + 4 * i)
  redis.call('XADD', events, id(last + i), 'type', kind, 'body', body, 'start', start, 'stop', stop)
  bytes = bytes + #body
end
last = last + count
-- Trimmed to an eighth below the bound, so that a run at its bound is not trimmed at each event.
local length = last - first + 1
local keep = length
if length > tonumber(max_events) then keep = math.floor(max_events * 7 / 8) end
if bytes > tonumber(max_bytes) then keep = math.min(keep, math.floor(length * max_bytes / bytes * 7 / 8)) end
local due, cursors = 0, {}
if keep < length then
  keep = math.max(keep, 1)
  due = last - keep
  local lowest = tonumber(slowest)
  if patient == '1' then
    cursors = redis.pcall('HGETALL', followers)
    if cursors.err then cursors = {} end
    for i = 2, #cursors, 2 do
      local cursor = tonumber(cursors[i])
      if cursor and cursor >= first - 1 then lowest = math.min(lowest, cursor) end
    end
  end
  if due <= lowest or bytes > max_bytes + excess then
    redis.call('XTRIM', events, 'MAXLEN', keep)
    first, bytes, due = due + 1, math.floor(bytes * keep / length), 0
  end
end
local ends = outcome ~= ''
redis.call('HSET', run, 'first', first, 'last', last, 'bytes', bytes, 'ended', ends and 1 or 0)
if ends then
  redis.call('HSET', run, 'outcome', outcome)
  redis.call('HDEL', live, run_id)
  redis.call('HDEL', waiting, run_id)
  for _, name in ipairs(KEYS) do
    if name ~= live and name ~= waiting then redis.call('PEXPIRE', name, retention_ms) end
  end
end
return {'ok', first, due, unpack(cursors)}
""")

DELETE = Script("""
-- KEYS: run events inbox followers live waiting mine all key; the last one only with an idempotency key.
-- ARGV: run_id place user
-- Deletes what there is of a run, unless it goes on. Returns 'on' if it does, else 'ok'. `place` and `user` are as in
-- CREATE.
if redis.pcall('HGET', run, 'ended') == '0' then return 'on' end
redis.call('UNLINK', run, events, inbox, followers)
redis.pcall('HDEL', live, run_id)
redis.pcall('HDEL', waiting, run_id)
redis.pcall('ZREM', mine, place)
redis.pcall('ZREM', all, place .. ' ' .. user)
local known = key and redis.pcall('GET', key)
if type(known) == 'string' and string.find(known, run_id, 1, true) then redis.call('UNLINK', key) end
return 'ok'
""")

TRIM = Script("""
-- KEYS: run events
-- ARGV: upto
-- Trims the run's events up to this number. Returns the first number that it has then, or nothing if it is gone.
local kept = redis.call('HMGET', run, 'first', 'last', 'bytes')
if not kept[2] then return false end
local first, last, bytes = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
local length, keep = last - first + 1, last - upto
if keep > 0 and keep < length then
  redis.call('XTRIM', events, 'MAXLEN', keep)
  redis.call('HSET', run, 'first', upto + 1, 'bytes', math.floor(bytes * keep / length))
  first = upto + 1
end
return first
""")

KEEP = Script("""
-- KEYS: run
-- ARGV: folded
-- Keeps the state of a run that was trimmed, unless the run is gone.
if redis.call('EXISTS', run) == 1 then redis.call('HSET', run, 'folded', folded) end
""")

NOTE = Script("""
-- KEYS: live:hash waiting:hash started:zset
-- ARGV: run_id noted life_ms
-- Keeps what a run that goes on asks, if `noted` is not empty, and the starts of its user for as long as it may wait.
if noted == '' then
  redis.call('HDEL', waiting, run_id)
elseif redis.call('HEXISTS', live, run_id) == 1 then
  redis.call('HSET', waiting, run_id, noted)
  if redis.call('PTTL', started) < tonumber(life_ms) then redis.call('PEXPIRE', started, life_ms) end
end
""")

PUT = Script("""
-- KEYS: run inbox
-- ARGV: asker id said most most_bytes life_ms
-- Puts what is said to a run into its inbox. Returns 'ok', 'full', or 'ended' if the run has ended or is gone.
if redis.call('HGET', run, 'ended') ~= '0' then return 'ended' end
if redis.call('TYPE', inbox).ok ~= 'stream' then redis.call('DEL', inbox) end
if redis.call('XLEN', inbox) >= tonumber(most) then return 'full' end
local bytes = 0
for _, entry in ipairs(redis.call('XRANGE', inbox, '-', '+')) do bytes = bytes + #(entry[2][6] or '') end
if bytes >= tonumber(most_bytes) then return 'full' end
redis.call('XADD', inbox, '*', 'asker', asker, 'id', id, 'said', said)
redis.call('PEXPIRE', inbox, life_ms)
return 'ok'
""")

OCCUPY = Script("""
-- KEYS: busy:string
-- ARGV: run_id
-- Returns the run that holds the session.
redis.call('SET', busy, run_id, 'NX')
return redis.call('GET', busy)
""")

VACATE = Script("""
-- KEYS: busy:string
-- ARGV: run_id
if redis.call('GET', busy) == run_id then redis.call('DEL', busy) end
""")

RECALL = Script("""
-- KEYS: session:list sessions:zset
-- ARGV: idle_ms
-- Returns the session's turns; reading is use.
local time = redis.call('TIME')
redis.call('PEXPIRE', session, idle_ms)
redis.call('ZADD', sessions, 'XX', time[1] * 1000000 + time[2], session)
return redis.call('LRANGE', session, 0, -1)
""")

REMEMBER = Script("""
-- KEYS: session:list sessions:zset
-- ARGV: turn max_bytes max_sessions idle_ms
-- The turn is "<bytes> <json>". Returns the sessions that are too many. The time is Redis's: clocks of workers differ.
local time = redis.call('TIME')
if redis.call('LINDEX', session, -1) == turn then return {} end
redis.call('RPUSH', session, turn)
local turns, bytes = redis.call('LRANGE', session, 0, -1), 0
local function size(turn) return tonumber(string.match(turn, '^%d+')) end
for _, turn in ipairs(turns) do bytes = bytes + size(turn) end
for _, turn in ipairs(turns) do
  if bytes <= tonumber(max_bytes) then break end
  redis.call('LPOP', session)
  bytes = bytes - size(turn)
end
redis.call('PEXPIRE', session, idle_ms)
redis.call('ZADD', sessions, time[1] * 1000000 + time[2], session)
redis.call('PEXPIRE', sessions, idle_ms)
local excess, gone = redis.call('ZCARD', sessions) - max_sessions, {}
if excess > 0 then gone = redis.call('ZRANGE', sessions, 0, excess - 1) end
return gone
""")

FOLLOW = Script("""
-- KEYS: followers:hash
-- ARGV: worker cursor life_ms
-- `cursor` is the lowest one of the worker's followers, or empty.
redis.call('HSET', followers, worker, cursor)
redis.call('PEXPIRE', followers, life_ms)
""")

CHECK = Script("""
-- KEYS: live:hash waiting:hash sessions:zset logged_out:zset log_outs:stream commands:stream; then of each run its
-- hash, its stream, and its idempotency key (or the hash again, if it has none). The arguments are each run's id, and
-- the last number that the worker knows.
-- Returns `replaced`, then for each run: 'ok'; 'ended'; 'gone', if it cannot be read or go on, and then no worker has
-- it any more; 'older', if its last number is lower; 'lost', if the stream lacks events that the hash counts. No event
-- is read: it may be large.
-- What the runs that go on have lost beside their events is put back: the entry in `live`, the idempotency key.
local function kind(key) return redis.call('TYPE', key).ok end
local verdicts = {replaced}
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
  if redis.call('HEXISTS', live, id) == 0 then redis.call('HSET', live, id, kept[5]) end
  if key ~= run and redis.call('EXISTS', key) == 0 then redis.call('SET', key, kept[6]) end
  if count ~= last - first + 1 then return 'lost' end
  return 'ok'
end
for i = 1, #ARGV / 2 do
  local id, run, events = ARGV[2 * i - 1], KEYS[3 * i + 4], KEYS[3 * i + 5]
  verdicts[i + 1] = verdict(id, tonumber(ARGV[2 * i]), run, events, KEYS[3 * i + 6])
  if verdicts[i + 1] == 'gone' then
    redis.call('UNLINK', run, events)
    redis.call('HDEL', live, id)
    redis.call('HDEL', waiting, id)
  end
end
return verdicts
""")

OWNED = Script("""
-- KEYS: run events
-- ARGV: user_id with_newest; then fields of the run.
-- `with_newest` is 1 to have the newest event, too.
-- Returns {fields, newest event}; nothing, whether the run is another user's or there is none.
local info = redis.pcall('HGET', run, 'info')
local good, facts = pcall(cjson.decode, type(info) == 'string' and info or '{}')
if not good or type(facts) ~= 'table' or facts.user_id ~= user_id then return false end
local newest = with_newest == '1' and redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1) or {}
if newest.err then return false end
return {redis.call('HMGET', run, unpack(ARGV, 3)), newest}
""")

SCRIPTS = (CREATE, APPEND, DELETE, TRIM, KEEP, NOTE, PUT, OCCUPY, VACATE, RECALL, REMEMBER, FOLLOW, CHECK, OWNED)
SOURCES = tuple(script.source for script in SCRIPTS)
