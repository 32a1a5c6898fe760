"""The steps that Redis must take as one, in Lua, and the names of the keys; see "Keys in Redis" in PROTOCOL.md.

All keys of a namespace carry one hash tag: they lie in one slot of a cluster, and each script names all it touches.
"""

from __future__ import annotations

from twinwire.log.base import SessionKey
from twinwire.log.redis.script import Script
from twinwire.protocol.events import dump

RELEASED = "-"
"""The owner of a run that its worker has released, until another one claims it: no worker has this name."""


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._tag = f"{{{namespace}}}"
        self.live = f"{self._tag}:live"
        self.waiting = f"{self._tag}:waiting"
        self.sessions = f"{self._tag}:sessions"
        self.logged_out = f"{self._tag}:logged-out"
        self.log_outs = f"{self._tag}:log-outs"
        self.released = f"{self._tag}:released"
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


_EVENTS = """
local function id(seq) return string.format('%.0f-0', seq) end
-- Whether the events after number `after` are the `count` that ARGV has after `at`.
local function has(after, count, at)
  local there = redis.call('XRANGE', events, id(after + 1), id(after + count))
  if #there ~= count then return false end
  for i = 1, count do
    if there[i][2][4] ~= ARGV[at + 4 * i - 2] then return false end
  end
  return true
end
-- Adds them. Returns their bytes.
local function add(after, count, at)
  local bytes = 0
  for i = 1, count do
    local kind, body, start, stop = unpack(ARGV, at + 4 * i - 3, at + 4 * i)
    redis.call('XADD', events, id(after + i), 'type', kind, 'body', body, 'start', start, 'stop', stop)
    bytes = bytes + #body
  end
  return bytes
end
"""

CREATE = Script("""
-- KEYS: run:hash live:hash waiting:hash started:zset mine:zset all:zset key:string; the last only with an idempotency
-- key.
-- ARGV: run_id info owner place user beginning; then, of a user with a quota, its runs, starts, longest run in ms,
-- waiting, and for how many ms the starts are kept at least.
-- `beginning` is what another worker needs to begin the run, or empty.
-- Returns the info of the run that the idempotency key stands for, if there is a key. Over the quota:
-- {ms until a run has ended, ms until a start is a minute old}, 0 for the one that is no hindrance; both 0 if too many
-- runs wait. A start counts as long as its run is live, or it is recent: each is a run, and how many ms it may go on.
-- Lists have the run at its `place`; `user` is JSON, null for nobody.
local known = key and redis.call('GET', key)
if known then return known end
if redis.call('EXISTS', run) == 1 then return info end
if ARGV[7] then
  local runs, starts, longest, minute = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), 60000
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local most = tonumber(ARGV[10])
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
  local life = math.max(longest, minute, tonumber(ARGV[11]))
  if redis.call('PTTL', started) < life then redis.call('PEXPIRE', started, string.format('%.0f', life)) end
end
redis.call('ZADD', all, 0, place .. ' ' .. user)
if user ~= 'null' then redis.call('ZADD', mine, 0, place) end
redis.call('HSET', run, 'info', info, 'owner', owner, 'first', 1, 'last', 0, 'bytes', 0, 'ended', 0, 'key', key or '')
if beginning ~= '' then redis.call('HSET', run, 'start', beginning) end
redis.call('HSET', live, run_id, owner)
if key then redis.call('SET', key, info) end
return info
""")

APPEND = Script(
    _EVENTS
    + """
-- KEYS: run events live waiting inbox followers key; the last one only with an idempotency key.
-- ARGV: run_id expected_last outcome max_events max_bytes retention_ms slowest patient excess; then type, body, start,
-- stop of each event, and last of all the checkpoint, if there is one. An empty one says that no other worker can go on
-- with the run: then none is kept, nor in a run without a start. `outcome` is empty unless the last event ends the run.
-- `slowest` is the lowest cursor of the owner's followers. If `patient` is 1, followers elsewhere count as well, up to
-- `excess` bytes over the bound.
-- Returns {'ok', first, due, worker, cursor, ...}, {'stale', last} or {'gone'}. `due` is the number up to which the run
-- is to be trimmed, but has followers behind it; or 0.
-- The fence is `last`: the ids of a stream alone are none. The owner need not be compared, since CLAIM appends an event
-- at least: whoever had the run before it is stale.
local kept = redis.call('HMGET', run, 'first', 'last', 'bytes', 'ended')
if not kept[2] then return {'gone'} end
local first, last, bytes = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
local expected, fixed = tonumber(expected_last), 9
local count = math.floor((#ARGV - fixed) / 4)
if last ~= expected or kept[4] == '1' then
  if count > 0 and last >= expected + count and has(expected, count, fixed) then return {'ok', first, 0} end
  return {'stale', last}
end
bytes = bytes + add(last, count, fixed)
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
local ends, checkpoint = outcome ~= '', ARGV[fixed + 4 * count + 1]
redis.call('HSET', run, 'first', first, 'last', last, 'bytes', bytes, 'ended', ends and 1 or 0)
if ends or checkpoint == '' then
  redis.call('HDEL', run, 'start', 'checkpoint')
elseif checkpoint and redis.call('HEXISTS', run, 'start') == 1 then
  redis.call('HSET', run, 'checkpoint', checkpoint, 'claims', 0)
end
if ends then
  redis.call('HSET', run, 'outcome', outcome)
  redis.call('HDEL', live, run_id)
  redis.call('HDEL', waiting, run_id)
  for _, name in ipairs(KEYS) do
    if name ~= live and name ~= waiting then redis.call('PEXPIRE', name, retention_ms) end
  end
end
return {'ok', first, due, unpack(cursors)}
"""
)

APPEND_ALL = Script("""
-- KEYS: run events; and those of each other run.
-- ARGV: max_events max_bytes; then of each run the number of its last event, how many come, and of each of them type,
-- body, start, stop.
-- Does for many runs what APPEND does for one, if that is no more than to add events: a run must be as it is expected,
-- go on, and stay within its bounds. Returns of each run the number of the first event that is kept, or 0 if APPEND has
-- to look at it. One run's fault is not the others'.
local most, bound, at, firsts = tonumber(max_events), tonumber(max_bytes), 2, {}
for key = 1, #KEYS, 2 do
  local last, count, size = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), 0
  at = at + 2
  for i = at + 2, at + 4 * count, 4 do size = size + #ARGV[i] end
  local kept = redis.pcall('HMGET', KEYS[key], 'first', 'last', 'bytes', 'ended')
  local first, bytes = tonumber(kept[1]), tonumber(kept[3])
  local good = first and bytes and kept[4] == '0' and tonumber(kept[2]) == last
  if good and last + count - first < most and bytes + size <= bound then
    for i = 1, count do
      local stop = at + 4 * i
      local added = redis.pcall('XADD', KEYS[key + 1], string.format('%.0f-0', last + i), 'type', ARGV[stop - 3],
        'body', ARGV[stop - 2], 'start', ARGV[stop - 1], 'stop', ARGV[stop])
      if type(added) == 'table' and added.err then good = false break end
    end
  else
    good = false
  end
  if good then redis.call('HSET', KEYS[key], 'last', last + count, 'bytes', bytes + size) end
  firsts[#firsts + 1] = good and first or 0
  at = at + 4 * count
end
return firsts
""")

CLAIM = Script(
    _EVENTS
    + """
-- KEYS: run events live followers lease
-- ARGV: run_id claimer owner last epoch; then type, body, start, stop of each event.
-- Makes `claimer` the owner of a run that is the orphan of `owner`: that one's `lease` is gone, or it is the claimer,
-- which has lost the run; nobody has appended or claimed since. Returns {the first number kept, the idempotency key's
-- name}, or nothing if that is not so. Claimed twice is claimed once: the reply to the first may have been lost.
local fixed, expected, turn = 5, tonumber(last), tonumber(epoch)
local count = (#ARGV - fixed) / 4
local kept = redis.call('HMGET', run, 'owner', 'last', 'epoch', 'ended', 'first', 'bytes', 'claims', 'key')
if kept[4] ~= '0' then return false end
local newest, now = tonumber(kept[2]), tonumber(kept[3] or 0)
if kept[1] == claimer and now == turn + 1 and newest == expected + count and has(expected, count, fixed) then
  return {tonumber(kept[5]), kept[8] or ''}
end
if kept[1] ~= owner or now ~= turn or newest ~= expected then return false end
if owner ~= claimer and redis.call('EXISTS', lease) == 1 then return false end
local bytes = tonumber(kept[6]) + add(expected, count, fixed)
redis.call('HSET', run, 'owner', claimer, 'last', expected + count, 'bytes', bytes)
redis.call('HSET', run, 'epoch', turn + 1, 'claims', tonumber(kept[7] or 0) + 1)
redis.call('HSET', live, run_id, claimer)
redis.call('HDEL', followers, claimer)
return {tonumber(kept[5]), kept[8] or ''}
"""
)

RELEASE = Script("""
-- KEYS: run:hash live:hash released:stream
-- ARGV: run_id owner nobody life_ms
-- Makes `nobody` the owner of a run, whose owner gives it up, and says so to all workers. That its process ends is not
-- the run's doing: its claims count no more.
local kept = redis.call('HMGET', run, 'owner', 'ended')
if kept[1] ~= owner or kept[2] ~= '0' then return end
redis.call('HSET', run, 'owner', nobody, 'claims', 0)
redis.call('HSET', live, run_id, nobody)
redis.call('XADD', released, 'MAXLEN', 1, '*', 'op', 'released', 'run', run_id)
redis.call('PEXPIRE', released, life_ms)
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
-- ARGV: upto owner
-- Trims the run's events up to this number. Returns the first number that it has then, or nothing if it is gone or has
-- another owner.
local kept = redis.call('HMGET', run, 'first', 'last', 'bytes', 'owner')
if not kept[2] or kept[4] ~= owner then return false end
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
-- ARGV: folded owner
-- Keeps the state of a run that was trimmed, unless the run is gone or has another owner, who knows better.
if redis.call('HGET', run, 'owner') == owner then redis.call('HSET', run, 'folded', folded) end
""")

NOTE = Script("""
-- KEYS: live:hash waiting:hash started:zset
-- ARGV: run_id owner noted life_ms
-- Keeps what a run of this owner that goes on asks, if `noted` is not empty, and the starts of its user for as long as
-- it may wait.
local has = redis.call('HGET', live, run_id)
if noted == '' and (not has or has == owner) then
  redis.call('HDEL', waiting, run_id)
elseif noted ~= '' and has == owner then
  redis.call('HSET', waiting, run_id, noted)
  if redis.call('PTTL', started) < tonumber(life_ms) then redis.call('PEXPIRE', started, life_ms) end
end
""")

PUT = Script("""
-- KEYS: run inbox
-- ARGV: asker id said most most_bytes life_ms
-- Puts what is said to a run into its inbox. Without an `asker` it is said once, and there is always room for it.
-- Returns {'ok', the owner that the run has now}, {'full'}, or {'ended'} if the run has ended or is gone.
local kept = redis.call('HMGET', run, 'ended', 'owner')
if kept[1] ~= '0' then return {'ended'} end
if redis.call('TYPE', inbox).ok ~= 'stream' then redis.call('DEL', inbox) end
local bytes, entries = 0, redis.call('XRANGE', inbox, '-', '+')
for _, entry in ipairs(entries) do
  if asker == '' and entry[2][6] == said then return {'ok', kept[2] or ''} end
  bytes = bytes + #(entry[2][6] or '')
end
if asker ~= '' and (#entries >= tonumber(most) or bytes >= tonumber(most_bytes)) then return {'full'} end
redis.call('XADD', inbox, '*', 'asker', asker, 'id', id, 'said', said)
redis.call('PEXPIRE', inbox, life_ms)
return {'ok', kept[2] or ''}
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
-- KEYS: live:hash waiting:hash sessions:zset logged_out:zset log_outs:stream released:stream commands:stream; then of
-- each run its hash, its stream, and its idempotency key (or the hash again, if it has none). The arguments are each
-- run's id, the last number that the worker knows, and the worker if it writes the run, else an empty text.
-- Returns `replaced`, then for each run: 'ok'; 'ended'; 'gone', if it cannot be read or go on, and then no worker has
-- it any more; 'older', if its last number is lower; 'taken', if another worker has claimed it; 'lost', if the stream
-- lacks events that the hash counts. No event is read: it may be large.
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
local function verdict(id, known, writer, run, events, key)
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
  if redis.call('HGET', live, id) ~= kept[5] then redis.call('HSET', live, id, kept[5]) end
  if key ~= run and redis.call('EXISTS', key) == 0 then redis.call('SET', key, kept[6]) end
  if writer ~= '' and kept[5] ~= writer then return 'taken' end
  if count ~= last - first + 1 then return 'lost' end
  return 'ok'
end
for i = 1, #ARGV / 3 do
  local id, known, writer = unpack(ARGV, 3 * i - 2, 3 * i)
  local run, events, key = unpack(KEYS, 3 * i + 5, 3 * i + 7)
  verdicts[i + 1] = verdict(id, tonumber(known), writer, run, events, key)
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

SCRIPTS = (
    *(CREATE, APPEND, APPEND_ALL, CLAIM, RELEASE, DELETE, TRIM, KEEP, NOTE, PUT),
    *(OCCUPY, VACATE, RECALL, REMEMBER, FOLLOW, CHECK, OWNED),
)
SOURCES = tuple(script.source for script in SCRIPTS)
