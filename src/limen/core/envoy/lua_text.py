"""The Lua that the token filters are made of. Scripts of Envoy's Lua filter, one state per worker.

`CACHE` keeps what the agent's door answered, by what was asked and the SHA-256 of the token: a
worker's memory holds no outside token that it has seen before, only its hash. An entry is never
older than the agent said. A script begins with the generation of the token service: when something
is revoked it is another script, and its state begins empty; an answer that was under way stays with
the old one. What a script asks in its first `SETTLING_MS` it keeps no longer than that, for the
token service may hear of a revocation later than this proxy.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from limen.core.envoy import names

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHED = 10_000
SETTLING_MS = 2000
CALL_MS = 5000

HASH = """
local band, bxor, bnot, bor = bit.band, bit.bxor, bit.bnot, bit.bor
local ror, rshift, lshift = bit.ror, bit.rshift, bit.lshift
local K, H = {}, {}

local function fraction(value)
  return bit.tobit(math.floor((value - math.floor(value)) * 4294967296))
end

local candidate, primes = 2, 0
while primes < 64 do
  local prime = true
  for divisor = 2, math.floor(math.sqrt(candidate)) do
    if candidate % divisor == 0 then prime = false end
  end
  if prime then
    primes = primes + 1
    K[primes] = fraction(candidate ^ (1 / 3))
    if primes <= 8 then H[primes] = fraction(math.sqrt(candidate)) end
  end
  candidate = candidate + 1
end

local function big_endian(value)
  return string.char(
    band(rshift(value, 24), 255), band(rshift(value, 16), 255),
    band(rshift(value, 8), 255), band(value, 255))
end

function sha256(text)
  local length = #text
  local padded = text .. "\\128" .. string.rep("\\0", (55 - length) % 64) ..
    big_endian(math.floor(length / 536870912)) .. big_endian(bit.tobit(length * 8))
  local a0, b0, c0, d0, e0, f0, g0, h0 = H[1], H[2], H[3], H[4], H[5], H[6], H[7], H[8]
  local w = {}
  for chunk = 1, #padded, 64 do
    for t = 0, 15 do
      local p, q, r, s = string.byte(padded, chunk + 4 * t, chunk + 4 * t + 3)
      w[t] = bor(lshift(p, 24), lshift(q, 16), lshift(r, 8), s)
    end
    for t = 16, 63 do
      local x, y = w[t - 15], w[t - 2]
      local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
      local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      w[t] = bit.tobit(w[t - 16] + s0 + w[t - 7] + s1)
    end
    local a, b, c, d, e, f, g, h = a0, b0, c0, d0, e0, f0, g0, h0
    for t = 0, 63 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local choice = bxor(band(e, f), band(bnot(e), g))
      local one = bit.tobit(h + s1 + choice + K[t + 1] + w[t])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local majority = bxor(band(a, b), band(a, c), band(b, c))
      h, g, f, e = g, f, e, bit.tobit(d + one)
      d, c, b, a = c, b, a, bit.tobit(one + s0 + majority)
    end
    a0, b0 = bit.tobit(a0 + a), bit.tobit(b0 + b)
    c0, d0 = bit.tobit(c0 + c), bit.tobit(d0 + d)
    e0, f0 = bit.tobit(e0 + e), bit.tobit(f0 + f)
    g0, h0 = bit.tobit(g0 + g), bit.tobit(h0 + h)
  end
  return big_endian(a0) .. big_endian(b0) .. big_endian(c0) .. big_endian(d0) ..
    big_endian(e0) .. big_endian(f0) .. big_endian(g0) .. big_endian(h0)
end
"""

CACHE = f"""
local kept, count, settled = {{}}, 0, nil

function ask(handle, about, token)
  local now = handle:timestamp(EnvoyTimestampResolution.MILLISECOND)
  if settled == nil then settled = now + {SETTLING_MS} end
  local answers = kept[about]
  local key = sha256(token)
  local entry = answers and answers[key]
  if entry ~= nil and now < entry.ends then return entry end
  local reply, body = handle:httpCall("{names.TOKEN_DOOR}", {{
    [":method"] = "POST", [":path"] = "/hop", [":authority"] = "agent", ["x-about"] = about,
  }}, token, {CALL_MS})
  local found = {{ status = tonumber(reply[":status"]) or 503, body = body or "", ends = 0 }}
  local lasts = tonumber(reply["x-cache-ms"]) or 0
  if lasts > 0 then
    found.ends = now + lasts
    if now < settled and found.ends > settled then found.ends = settled end
    if count >= {CACHED} then kept, count = {{}}, 0 end
    if kept[about] == nil then kept[about] = {{}} end
    kept[about][key], count = found, count + 1
  end
  return found
end
"""


def literal(value: str) -> str:
    """A Lua string. JSON's escapes are Lua's for what is ASCII here and no control character."""
    if not value.isascii() or not value.isprintable():
        raise ValueError("not a text for a script")
    return json.dumps(value)


def pairs_of(values: Sequence[tuple[str, str]]) -> str:
    """A Lua list of pairs of strings."""
    inner = ", ".join(f"{{{literal(one)}, {literal(other)}}}" for one, other in values)
    return f"{{{inner}}}"


def script(*parts: str) -> str:
    """One script."""
    return "".join(parts)
