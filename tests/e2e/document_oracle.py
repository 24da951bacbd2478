"""A third reader: what Istio's and Kuma's documents say, straight from the mappings as written.

Shares nothing with `core/compiler` but the spelling of a path. It knows the fields that
`test_document_agreement.py` writes, and fails on any other.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .envoy_harness import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = "istio-system"
Document = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A request whose token, if any, is verified. `path` is normal, `host` has no final dot."""

    caller: str
    namespace: str
    method: str
    path: str
    host: str
    tiers: tuple[str, ...]
    claims: dict[str, Any] | None
    source: str
    port: int


def allows(documents: Iterable[Document], default_allow: bool, call: Call) -> bool:  # noqa: FBT001 - a setting
    """The verdict of all documents: any provider or denial that refuses, an ALLOW of each family.

    Of providers only `consents` does.
    """
    istio = [d for d in documents if d["kind"] == "AuthorizationPolicy" and concerns(d)]
    kuma = [d for d in documents if d["kind"] == "MeshTrafficPermission"]
    enforced = [d for d in istio if not d["metadata"].get("annotations")]
    denials = [d for d in enforced if d["spec"].get("action") == "DENY"]
    asking = [d for d in enforced if d["spec"].get("action") == "CUSTOM"]
    denials += [d for d in asking if d["spec"]["provider"]["name"] != "consents"]
    permits = [d for d in enforced if d["spec"].get("action", "ALLOW") == "ALLOW"]
    if any(hits(d, call, allow=False) for d in denials) or any(
        listed(d, "deny", call) for d in kuma
    ):
        return False
    if permits and not any(hits(d, call, allow=True) for d in permits):
        return False
    if kuma and not any(
        listed(d, "allow", call) or listed(d, "allowWithShadowDeny", call) for d in kuma
    ):
        return False
    return bool(permits or kuma) or default_allow


def concerns(document: Document) -> bool:
    """Whether it is about `items` in `default`."""
    labels = document["spec"].get("selector", {}).get("matchLabels", {"app": "items"})
    return document["metadata"]["namespace"] in (ROOT, "default") and labels == {"app": "items"}


def listed(document: Document, effect: str, call: Call) -> bool:
    """Whether a list of SPIFFE IDs of a MeshTrafficPermission has the caller."""
    entries = [e for r in document["spec"]["rules"] for e in r["default"].get(effect, ())]
    return any(_spiffe(entry["spiffeID"], call.caller) for entry in entries)


def _spiffe(match: dict[str, str], caller: str) -> bool:
    identity = f"spiffe://{caller}"
    if not caller:
        return False
    if match["type"] == "Exact":
        return identity == match["value"]
    return identity == match["value"] or identity.startswith(match["value"] + "/")


def hits(document: Document, call: Call, *, allow: bool) -> bool:
    """Whether any rule of an AuthorizationPolicy holds."""
    reader = Reader(call, document["metadata"]["namespace"], allow=allow)
    return any(reader.rule(rule) for rule in document["spec"].get("rules", ()))


class Reader:
    """Rules of one policy, asked about one request. `allow`: negations need what they negate."""

    def __init__(self, call: Call, namespace: str, *, allow: bool) -> None:
        self.call, self.namespace, self.allow = call, namespace, allow

    def rule(self, rule: dict[str, Any]) -> bool:
        sources = [entry["source"] for entry in rule.get("from", ())]
        operations = [entry["operation"] for entry in rule.get("to", ())]
        return (
            (not sources or any(self.fields(s) for s in sources))
            and (not operations or any(self.fields(o) for o in operations))
            and all(self.when(w) for w in rule.get("when", ()))
        )

    def fields(self, fields: dict[str, list[Any]]) -> bool:
        """Every field of a source or an operation."""
        return all(self.field(name, values) for name, values in fields.items())

    def field(self, name: str, values: list[Any]) -> bool:
        negated = name.startswith("not")
        plain = name[3].lower() + name[4:] if negated else name
        return self.judge(plain, values, negated=negated)

    def when(self, entry: dict[str, Any]) -> bool:
        key = entry["key"]
        found = [self.judge(key, entry["values"], negated=False)] if "values" in entry else []
        if "notValues" in entry:
            found.append(self.judge(key, entry["notValues"], negated=True))
        return all(found)

    def judge(self, name: str, values: list[Any], *, negated: bool) -> bool:
        """One list; negated: none of it, and in an ALLOW only of somebody who has such a thing."""
        met = any(self.value(name, value, negated=negated) for value in values)
        if not negated:
            return met
        lacks = (name in PEER and not self.call.caller) or (
            name.startswith(TOKEN) and self.call.claims is None
        )
        return not met and not (self.allow and lacks)

    def value(self, name: str, value: Any, *, negated: bool) -> bool:
        """One value of one field."""
        call = self.call
        if name == "hosts":
            return self.host(value, negated=negated)
        if name.startswith("request.auth.claims"):
            texts = _texts(call.claims or {}, re.findall(r"\[([^]]+)]", name))
            return any(fits(value, text) for text in texts)
        simple: dict[str, Callable[[], bool]] = {
            "principals": lambda: _principal(value, call.caller),
            "source.principal": lambda: _principal(value, call.caller),
            "namespaces": lambda: bool(call.caller) and fits(value, call.namespace),
            "source.namespace": lambda: bool(call.caller) and fits(value, call.namespace),
            "serviceAccounts": lambda: self.account(value),
            "requestPrincipals": lambda: _request_principal(value, call.claims),
            "request.auth.principal": lambda: _request_principal(value, call.claims),
            "ipBlocks": lambda: _within(value, call.source),
            "remoteIpBlocks": lambda: _within(value, call.source),
            "source.ip": lambda: _within(value, call.source),
            "methods": lambda: fits(value, call.method),
            "paths": lambda: _path(value, call.path),
            "ports": lambda: value == str(call.port),
            "destination.port": lambda: value == str(call.port),
            "request.headers[X-Tier]": lambda: any(
                value == "*" or fits(value, t) for t in call.tiers
            ),
        }
        return simple[name]()

    def account(self, value: str) -> bool:
        namespace, _, name = value.rpartition("/")
        return self.call.caller == f"{DOMAIN}/ns/{namespace or self.namespace}/sa/{name}"

    def host(self, value: str, *, negated: bool) -> bool:
        """As written, or without a port: any in a denial or a negation, the port's own in ALLOW."""
        host, value = self.call.host.lower(), value.lower()
        name, _, port = host.rpartition(":")
        found = [host]
        if port.isdigit() and (negated or not self.allow or int(port) == self.call.port):
            found.append(name)
        return any(fits(value, h) for h in found)


PEER = ("principals", "namespaces", "serviceAccounts", "source.principal", "source.namespace")
TOKEN = ("requestPrincipals", "request.auth.")


def fits(value: str, text: str) -> bool:
    """`*`, `prefix*`, `*suffix` or exact."""
    if value == "*":
        return text != ""
    if value.startswith("*"):
        return text.endswith(value[1:])
    return text.startswith(value[:-1]) if value.endswith("*") else text == value


def _principal(value: str, caller: str) -> bool:
    domain, slash, rest = value.partition("/")
    known = f"{DOMAIN}{slash}{rest}" if domain == "cluster.local" else value
    return bool(caller) and fits(known, caller)


def _request_principal(value: str, claims: dict[str, Any] | None) -> bool:
    pair = [(claims or {}).get(name) for name in ("iss", "sub")]
    if not all(isinstance(text, str) for text in pair):
        pair = [text if isinstance(text, str) else "" for text in pair]
    issuer, subject = pair
    wanted_issuer, slash, wanted = value.rpartition("/")
    if not slash:
        wanted_issuer, wanted = "*", value
    return fits(wanted_issuer, issuer) and fits(wanted, subject)


def _texts(value: Any, names: list[str]) -> list[str]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.split() if names[0] == "scope" else [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _within(block: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(block, strict=False)


def _path(value: str, path: str) -> bool:
    if "{" not in value:
        return fits(value, path)
    parts = [
        {"{*}": r"[^/]+", "{**}": r".*"}.get(part, re.escape(part))
        for part in re.split(r"(\{\*\*?})", value)
    ]
    return re.fullmatch("".join(parts), path, re.DOTALL) is not None
