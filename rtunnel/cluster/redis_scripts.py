"""What the directory does in Redis, as Lua: each script is done as a whole, and nothing else in between.

What is kept there; all names have the prefix in front::

    nodes        set        the names of all nodes
    node:NODE    hash       a node's lease: ``session`` and ``about`` (JSON); Redis deletes it when the lease ends
    held:NODE    set        what the node has: ``key:KEY`` and ``tally:NAME``
    key:KEY      hash       a claim: ``owner``, ``number``, and a field ``@NODE`` for each node that holds it
    tally:NAME   hash       ``@NODE``: how much the node has
    agreed:NAME  string     what all agree on
    number       string     the last fencing number

A node in a claim or a tally counts only while its lease is there. Each script has as its arguments the prefix, the node
and its session: a number that grows whenever the node connects, so that what is late from an old connection is refused.

Redis refuses what needs memory when it has none left. Renewing and releasing need none.
"""

from __future__ import annotations

from hashlib import sha1

#: What a script returns if the lease has ended, or a later session has begun.
GONE = b"gone"
#: What :data:`RENEW` returns if the nodes are the same as before.
SAME = b"same"

_PRELUDE = """
local prefix, me, session = ARGV[1], ARGV[2], ARGV[3]
local seen = {}

local function lease(node) return prefix .. 'node:' .. node end
local function held(node) return prefix .. 'held:' .. node end

local function is_there(node)
    if seen[node] == nil then seen[node] = redis.call('EXISTS', lease(node)) == 1 end
    return seen[node]
end

local function is_ours()
    local found = redis.pcall('HGET', lease(me), 'session')
    return found == session
end

local function fields_of(name)
    local fields = redis.pcall('HGETALL', prefix .. name)
    -- What another program has written there is none of ours, and gives way.
    if fields.err then return {} end
    return fields
end

local function let_go(node, name)
    redis.pcall('HDEL', prefix .. name, '@' .. node)
    if string.sub(name, 1, 4) == 'key:' and redis.pcall('HLEN', prefix .. name) == 2 then
        redis.call('DEL', prefix .. name)
    end
    redis.call('SREM', held(node), name)
end
"""

_JOIN = """
-- 4: the lease in ms; 5: about. Returns what the node has held in earlier sessions.
local before = redis.pcall('HGET', lease(me), 'session')
if type(before) == 'string' and (tonumber(before) or 0) > tonumber(session) then return 'gone' end
redis.call('SADD', prefix .. 'nodes', me)
redis.call('HSET', lease(me), 'session', session, 'about', ARGV[5])
redis.call('PEXPIRE', lease(me), ARGV[4])
redis.call('PUBLISH', prefix .. 'nodes', me)
return cjson.encode({held = redis.call('SMEMBERS', held(me))})
"""

_ANNOUNCE = """
-- 4: about
if not is_ours() then return 'gone' end
redis.call('HSET', lease(me), 'about', ARGV[4])
redis.call('PUBLISH', prefix .. 'nodes', me)
return 'done'
"""

_RENEW = """
-- 4: the lease in ms; 5: the digest of the nodes as they were. Returns the new digest (40 bytes) and the nodes.
if not is_ours() then return 'gone' end
redis.call('PEXPIRE', lease(me), ARGV[4])
local nodes, there = redis.call('SMEMBERS', prefix .. 'nodes'), {}
table.sort(nodes)
for _, node in ipairs(nodes) do
    if not is_there(node) then
        -- Clear away what is left of it, a part at a time.
        for _, name in ipairs(redis.call('SPOP', held(node), 200)) do let_go(node, name) end
        if redis.call('EXISTS', held(node)) == 0 then redis.call('SREM', prefix .. 'nodes', node) end
    elseif node ~= me then
        local about = redis.pcall('HGET', lease(node), 'about')
        there[#there + 1] = {node, type(about) == 'string' and about or ''}
    end
end
local text = cjson.encode({nodes = there})
local digest = redis.sha1hex(text)
if digest == ARGV[5] then return 'same' end
return digest .. text
"""

_CLAIM = """
-- 4, 5, and so on: keys and owners. Returns for each its number, or the nodes that hold it for another owner.
if not is_ours() then return 'gone' end

local function next_number()
    local time, last = redis.call('TIME'), redis.pcall('GET', prefix .. 'number')
    last = type(last) == 'string' and tonumber(last) or 0
    -- The time makes it grow also after the last number was lost.
    local text = string.format('%.0f', math.max(time[1] * 1000000 + time[2], last + 1))
    redis.call('SET', prefix .. 'number', text)
    return text
end

local answers = {}
for i = 4, #ARGV, 2 do
    local name, owner = 'key:' .. ARGV[i], ARGV[i + 1]
    local fields, record, nodes = fields_of(name), {}, {}
    for j = 1, #fields, 2 do
        if string.sub(fields[j], 1, 1) ~= '@' then
            record[fields[j]] = fields[j + 1]
        elseif is_there(string.sub(fields[j], 2)) then
            nodes[#nodes + 1] = string.sub(fields[j], 2)
        end
    end
    if #nodes > 0 and record.owner ~= owner then
        table.sort(nodes)
        answers[#answers + 1] = nodes
    else
        -- First what may be refused for want of memory.
        redis.call('SADD', held(me), name)
        if #nodes == 0 then
            record.number = next_number()
            redis.call('DEL', prefix .. name)
            redis.call('HSET', prefix .. name, 'owner', owner, 'number', record.number)
        end
        redis.call('HSET', prefix .. name, '@' .. me, '')
        answers[#answers + 1] = string.format('%.0f', tonumber(record.number) or 0)
    end
end
return cjson.encode({answers = answers})
"""

_RELEASE = """
-- 4 and so on: what is held
if not is_ours() then return 'gone' end
for i = 4, #ARGV do let_go(me, ARGV[i]) end
return 'done'
"""

_FIND = """
-- 4: the key
local fields, nodes = fields_of('key:' .. ARGV[4]), {}
for j = 1, #fields, 2 do
    local node = string.sub(fields[j], 2)
    if string.sub(fields[j], 1, 1) == '@' and is_there(node) then nodes[#nodes + 1] = node end
end
table.sort(nodes)
return cjson.encode({nodes = nodes})
"""

_TALLY = """
-- 4, 5, and so on: names and amounts. Returns the sums.
if not is_ours() then return 'gone' end
local sums = {}
for i = 4, #ARGV, 2 do
    local name, sum = 'tally:' .. ARGV[i], 0
    if ARGV[i + 1] == '0' then
        let_go(me, name)
    else
        redis.call('SADD', held(me), name)
        redis.call('HSET', prefix .. name, '@' .. me, ARGV[i + 1])
    end
    local fields = fields_of(name)
    for j = 1, #fields, 2 do
        if is_there(string.sub(fields[j], 2)) then sum = sum + (tonumber(fields[j + 1]) or 0) end
    end
    sums[#sums + 1] = string.format('%.0f', sum)
end
return cjson.encode({sums = sums})
"""

_LEAVE = """
for _, name in ipairs(redis.call('SMEMBERS', held(me))) do let_go(me, name) end
redis.call('DEL', lease(me), held(me))
redis.call('SREM', prefix .. 'nodes', me)
redis.call('PUBLISH', prefix .. 'nodes', me)
return 'done'
"""

JOIN, ANNOUNCE, RENEW, CLAIM, RELEASE, FIND, TALLY, LEAVE = ALL = tuple(
    _PRELUDE + text for text in (_JOIN, _ANNOUNCE, _RENEW, _CLAIM, _RELEASE, _FIND, _TALLY, _LEAVE)
)


def digest(script: str) -> str:
    """Return the name by which Redis knows a script that it has been given."""
    return sha1(script.encode()).hexdigest()
