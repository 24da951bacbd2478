"""On whose behalf: what a token from outside becomes, and what goes on to callees. Lua and ECDS.

Inbound, before any token is verified, `token-exchange` puts what the token service made of the
caller's token into `Authorization` and takes the caller's own out of the request; `jwt_authn` then
verifies it like any other. After that `user-context` writes the header that the application passes
on, if a verified token has filled the one that nobody else fills. On the way out `hop` takes that
header off and puts in what the callee accepts.

Each asks the agent's door on a Unix socket, and keeps answers per worker (`lua_text`). What cannot
be had refuses the request: 401 the token is not accepted, 503 nobody could say.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2
from google.protobuf import struct_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import Encoded, decode
from limen.core.envoy.lua_text import CACHE, HASH, literal, pairs_of, script
from limen.core.envoy.rbac import extension
from limen.core.model.user_context import USER_HEADER, HopStyle
from limen.core.plan.node import ExchangePlan, TokenServicePlan

if TYPE_CHECKING:
    from limen.core.model.request_authentication import TokenHeader
    from limen.core.plan.node import HopPlan

_BEARER = "Bearer "
_FACTS = ("issuer", "url", "generation")
_USUAL = ("authorization", _BEARER)
_INVALID = 'Bearer error="invalid_token"'

_EXCHANGE = f"""
local function refuse(handle, status, text)
  local headers = {{[":status"] = status}}
  if status == "401" then headers["www-authenticate"] = '{_INVALID}' end
  handle:respond(headers, text)
end

local function starts(value, prefix)
  return string.lower(string.sub(value, 1, #prefix)) == string.lower(prefix)
end

local function take(headers)
  local token, found = nil, 0
  for number = 1, #PLACES do
    local name, prefix = PLACES[number][1], PLACES[number][2]
    for index = 0, headers:getNumValues(name) - 1 do
      local value = headers:getAtIndex(name, index)
      if string.sub(value, 1, #prefix) == prefix or starts(value, prefix) then
        found = found + 1
        token = string.sub(value, #prefix + 1)
      end
    end
  end
  if not OTHERS then return token, found end
  for index = 0, headers:getNumValues("authorization") - 1 do
    if starts(headers:getAtIndex("authorization", index), "{_BEARER}") then
      headers:remove("authorization")
      break
    end
  end
  return token, found
end

function envoy_on_request(handle)
  local token, found = take(handle:headers())
  if found == 0 then return end
  if found > 1 or token == "" or #token > 16384 or string.find(token, "[^%w%-%._~%+/=]") then
    return refuse(handle, "401", "One token, in one place.\\n")
  end
  local entry = ask(handle, ABOUT, token)
  if entry.status == 200 then
    local headers = handle:headers()
    for number = 1, #PLACES do
      local name = PLACES[number][1]
      if name ~= "authorization" then headers:remove(name) end
    end
    headers:replace("authorization", "{_BEARER}" .. entry.body)
  elseif entry.status >= 500 then
    refuse(handle, "503", "The token cannot be checked now. Try again.\\n")
  else
    refuse(handle, "401", "The token is not accepted.\\n")
  end
end
"""

_CONTEXT = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("{USER_HEADER}") == nil then return end
  local value = headers:get(PLACE)
  if value == nil or string.sub(value, 1, #PREFIX) ~= PREFIX then return end
  headers:replace(HEADER, string.sub(value, #PREFIX + 1))
end
"""

_HOP = f"""
local function refuse(handle, status, text)
  handle:respond({{[":status"] = status}}, text)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:getNumValues(HEADER)
  if given == 0 then return end
  local token = string.gsub(headers:get(HEADER), "^{_BEARER}", "")
  headers:remove(HEADER)
  local audience = handle:metadata():get("audience")
  if audience == nil then return end
  if given > 1 or token == "" or #token > 16384 or string.find(token, "[^%w%-%._]") then
    return refuse(handle, "400", "One user context, as it was received.\\n")
  end
  if STYLE == "{HopStyle.SAME_TOKEN.value}" then
    headers:replace("authorization", "{_BEARER}" .. token)
    return
  end
  local entry = ask(handle, ABOUT .. " " .. audience, token)
  if entry.status == 200 then
    handle:headers():replace(TARGET, PREFIX .. entry.body)
  elseif entry.status >= 500 then
    refuse(handle, "503", "The user context cannot be exchanged now. Try again.\\n")
  else
    refuse(handle, "403", "The user context is not exchanged for this callee: " .. entry.body)
  end
end
"""


@lru_cache(maxsize=1024)
def exchange_resource(plan: ExchangePlan, generation: str, port: int) -> Encoded:
    """ExtensionConfig `token-exchange:<port>`."""
    places = [(h.name.lower(), h.prefix) for h in plan.headers] or [_USUAL]
    others = all(name != "authorization" for name, _ in places)
    about = _about(HopStyle.EXCHANGED, plan)
    audiences = " ".join(plan.audiences)
    constants = (
        f"local PLACES = {pairs_of(places)}\n"
        f"local OTHERS = {str(others).lower()}\n"
        f"local ABOUT = {literal(f'{about} {audiences}')}\n"
    )
    text = script(_of(generation), HASH, CACHE, constants, _EXCHANGE)
    return _lua(names.token_exchange(port), text)


@lru_cache(maxsize=1024)
def context_resource(header: str, places: tuple[TokenHeader, ...], port: int) -> Encoded:
    """ExtensionConfig `user-context:<port>`. `places`: where the token is, else the usual one."""
    name, prefix = (places[0].name.lower(), places[0].prefix) if places else _USUAL
    constants = (
        f"local HEADER = {literal(header)}\n"
        f"local PLACE = {literal(name)}\n"
        f"local PREFIX = {literal(prefix)}\n"
    )
    return _lua(names.user_context(port), script(constants, _CONTEXT))


@lru_cache(maxsize=1024)
def hop_resource(plan: HopPlan, generation: str) -> Encoded:
    """ExtensionConfig `hop`."""
    transaction = plan.style is HopStyle.TRANSACTION_TOKEN
    constants = (
        f"local HEADER = {literal(plan.context_header)}\n"
        f"local STYLE = {literal(plan.style.value)}\n"
        f"local ABOUT = {literal(_about(plan.style, plan))}\n"
        f"local TARGET = {literal('txn-token' if transaction else 'authorization')}\n"
        f"local PREFIX = {literal('' if transaction else _BEARER)}\n"
    )
    return _lua(names.HOP, script(_of(generation), HASH, CACHE, constants, _HOP))


@lru_cache(maxsize=1024)
def token_service_resource(plan: TokenServicePlan) -> Encoded:
    """ExtensionConfig `token-service`: for the agent, which passes it on. No request meets it."""
    facts = struct_pb2.Struct()
    facts.update({"generation": plan.generation, "url": plan.url, "issuer": plan.issuer})
    entry = set_metadata_pb2.Metadata(metadata_namespace=names.TOKEN_METADATA, value=facts)
    return extension(names.TOKEN_SERVICE, set_metadata_pb2.Config(metadata=[entry]))


def read_token_service(body: bytes) -> TokenServicePlan | None:
    """The plan that `token_service_resource` made this `Encoded.body` from; None if it did not."""
    found = decode(Encoded(names.TOKEN_SERVICE, "", body))
    config, typed = set_metadata_pb2.Config(), extension_pb2.TypedExtensionConfig()
    if not found.resource.Unpack(typed) or not typed.typed_config.Unpack(config):
        return None
    facts = config.metadata[0].value if config.metadata else struct_pb2.Struct()
    said = {name: str(facts[name]) if name in facts else "" for name in _FACTS}
    return TokenServicePlan(said["issuer"], said["url"], said["generation"])


def _of(generation: str) -> str:
    """What makes the script another one."""
    return f"local GENERATION = {literal(generation)}\n"


def _about(style: HopStyle, plan: ExchangePlan | HopPlan) -> str:
    """What the door is told besides the token, and what an answer is kept under."""
    scopes = ",".join(plan.scopes)
    issuers = ",".join(plan.issuers) if isinstance(plan, ExchangePlan) else ""
    times = f"{plan.lifetime_s} {plan.cache_s} {plan.negative_cache_s}"
    return f"{style.value} {issuers or '-'} {scopes or '-'} {times}"


def _lua(name: str, text: str) -> Encoded:
    code = base_pb2.DataSource(inline_string=text)
    return extension(name, lua_pb2.Lua(default_source_code=code))
