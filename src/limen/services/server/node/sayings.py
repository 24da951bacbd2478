"""What of a `Register` message a node may say: the place. Who it is, is not its to say.

What is read here is what is stored, so nothing else of a message takes room. Unknown fields are
left aside (an agent may be one version newer), but a claim of identity is refused: whoever sends
one expects it to count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue

CLAIMS = ("tags", "labels", "service_account", "spiffe_id", "dns_names", "trust_domain", "node")
"""Fields that say who somebody is."""

_PORTS = ("port", "service_port", "protocol", "name")
_PROBES = ("path", "inbound_port", "inbound_path")
_LOCAL = ("outbound_port", "outbound_socket", "pdp_socket", "ports")
_TOP = ("service", "namespace", "instance", "address", "probe_port", "isolation", "gateway")


def said(message: Mapping[str, JsonValue], mesh: str) -> dict[str, JsonValue]:
    """The fields of a place in `message`, not yet judged. Raises Forbidden (`identity-claimed`)."""
    inbounds = message.get("inbounds")
    for part in (message, *(inbounds if isinstance(inbounds, list) else ())):
        _refuse_claims(part, mesh)
    place: dict[str, JsonValue] = {key: message[key] for key in _TOP if key in message}
    for key, fields in (("inbounds", _PORTS), ("probes", _PROBES)):
        if key in message:
            place[key] = _trimmed(message[key], fields)
    if "local" in message:
        local = _kept(message["local"], _LOCAL)
        if isinstance(local, dict) and "ports" in local:
            local["ports"] = _trimmed(local["ports"], ("port", "service"))
        place["local"] = local
    return place


def _refuse_claims(part: JsonValue, mesh: str) -> None:
    if not isinstance(part, dict):
        return
    claimed = [key for key in CLAIMS if part.get(key)]
    if part.get("mesh") not in {None, "", mesh}:
        claimed.append("mesh")
    if claimed:
        raise Forbidden(
            f"a node does not say {', '.join(claimed)} of its workloads",
            code="identity-claimed",
            hint="the join token or the operator's Dataplane says it; leave it out",
        )


def _trimmed(value: JsonValue, fields: tuple[str, ...]) -> JsonValue:
    return [_kept(item, fields) for item in value] if isinstance(value, list) else value


def _kept(value: JsonValue, fields: tuple[str, ...]) -> JsonValue:
    if not isinstance(value, dict):
        return value
    return {key: value[key] for key in fields if key in value}
