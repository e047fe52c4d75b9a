-- Limits of providers' accounts, shared by the replicas of a scheduler: one atomic step, on the server's clock.
-- The formulas of the buckets are those of bucket.py.
--
-- KEYS  1 clock (hash), 2 replicas (sorted set: name -> when it was last heard), 3.. one bucket for each account
-- ARGV  1 what to do, 2 this replica, 3 the server's time that it was last told, 4 how many replicas there are,
--       5 lease in seconds, 6.. by what is to be done:
--         beat
--         take   tokens, then for each account requests and tokens a minute (0: no limit)
--         give   requests, tokens to put back (negative: to charge), then requests and tokens a minute
--         block  seconds
-- Returns the number of the account that was taken (0: none), the seconds to wait, the server's time.
--
-- Buckets fill with *service time*, which passes at the share of the replicas that were heard within the lease.
-- A replica that is cut off uses its own share of the limits by itself, and only after nobody counts it here any
-- more: so all together never exceed the limit, however the network breaks. It is heard only if it knows a recent
-- time of this server, so that a request that was delivered late does not count. A bucket that is not there is as
-- if it had been empty when service time began: a server that lost its memory gives no second helping.

local said = redis.call('TIME')
local now = tonumber(said[1]) + tonumber(said[2]) / 1000000
local op, me, told = ARGV[1], ARGV[2], tonumber(ARGV[3])
local replicas, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local day = 86400

local function text(number) return string.format('%.17g', number) end

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(now - lease))
local heard = redis.call('ZCARD', KEYS[2])
local clock = redis.call('HMGET', KEYS[1], 'at', 'service')
local service = tonumber(clock[2] or nil) or 0
local since = math.max(0, now - (tonumber(clock[1] or nil) or now))
service = service + since * math.min(1, heard / replicas)
redis.call('HSET', KEYS[1], 'at', text(now), 'service', text(service))
redis.call('EXPIRE', KEYS[1], day)
if now - told <= lease then
  redis.call('ZADD', KEYS[2], text(now), me)
  redis.call('EXPIRE', KEYS[2], day)
  heard = redis.call('ZCARD', KEYS[2])
end
local share = math.min(1, math.max(1, heard) / replicas)

local function fill(level, limit, seconds) return math.min(limit, level + seconds * limit / 60) end

local function missing(level, limit, needed)
  if limit == 0 then return 0 end
  local lack = math.min(needed, limit) - level
  if lack <= limit * 1e-9 then return 0 end
  return lack * 60 / limit / share
end

local function read(key, rpm, tpm)
  local found = redis.call('HMGET', key, 'requests', 'tokens', 'service', 'blocked')
  local gone = math.max(0, service - (tonumber(found[3] or nil) or 0))
  return fill(tonumber(found[1] or nil) or 0, rpm, gone), fill(tonumber(found[2] or nil) or 0, tpm, gone),
    math.max(0, (tonumber(found[4] or nil) or 0) - now)
end

local function left(level, limit) if limit == 0 then return 1 else return level / limit end end

local function write(key, requests, tokens, rpm, tpm, blocked)
  redis.call('HSET', key, 'requests', text(requests), 'tokens', text(tokens), 'service', text(service))
  local emptiest = math.min(left(requests, rpm), left(tokens, tpm))
  local kept = 60 + blocked + replicas * 60 * (1 - emptiest)  -- until it is full again
  redis.call('EXPIRE', key, math.ceil(math.min(day, kept)))
end

if op == 'take' then
  local wanted, best, most, shortest = tonumber(ARGV[6]), 0, -math.huge, math.huge
  local found = {}
  for i = 3, #KEYS do
    local rpm, tpm = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
    local requests, tokens, blocked = read(KEYS[i], rpm, tpm)
    local wait = math.max(blocked, missing(requests, rpm, 1), missing(tokens, tpm, wanted))
    local room = math.min(left(requests, rpm), left(tokens, tpm))
    shortest = math.min(shortest, wait)
    if wait <= 0 and room > most then
      best, most = i, room
      found = {requests, tokens, rpm, tpm, blocked}
    end
  end
  if best == 0 then return {'0', text(shortest), text(now)} end
  write(KEYS[best], found[1] - 1, found[2] - wanted, found[3], found[4], found[5])
  return {tostring(best - 2), '0', text(now)}
end

if op == 'give' then
  local rpm, tpm = tonumber(ARGV[8]), tonumber(ARGV[9])
  local requests, tokens, blocked = read(KEYS[3], rpm, tpm)
  write(KEYS[3], math.min(rpm, requests + tonumber(ARGV[6])), math.min(tpm, tokens + tonumber(ARGV[7])), rpm, tpm, blocked)
elseif op == 'block' then
  local seconds = tonumber(ARGV[6])
  local blocked = tonumber(redis.call('HGET', KEYS[3], 'blocked') or nil) or 0
  redis.call('HSET', KEYS[3], 'blocked', text(math.max(blocked, now + seconds)))
  local kept = math.max(redis.call('TTL', KEYS[3]), 60 + replicas * 60) + seconds
  redis.call('EXPIRE', KEYS[3], math.ceil(math.min(day, kept)))
end
return {'0', '0', text(now)}
