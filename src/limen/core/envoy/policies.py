"""The set of policies that the decision point beside a proxy holds: one resource, all or nothing.

Its body is JSON, `{"policies": [...]}`, each with `path`, `language`, `epoch`, `on_stale`,
`stale_after_s`, `root`, with `texts` and `data` as `[{"name", "text"}]`, and `sources` where there
are any (`model/source_json`). What it means stands in `services/pdp/hosted`.
On its way to an agent a line of JSON stands before it: `store`, `signature` (hex), `chain` (PEM).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import wrappers_pb2

from limen.core.envoy.encoded import Encoded, encode
from limen.core.model.source_json import source_to_json

if TYPE_CHECKING:
    from limen.core.plan.node import HeldPolicy

SET = "policies"
"""The name of the resource."""


@lru_cache(maxsize=1024)
def policy_set(held: tuple[HeldPolicy, ...]) -> Encoded:
    """The set as a resource; the same bytes for all proxies that hold the same."""
    body = json.dumps({"policies": [policy_to_json(one) for one in held]}, separators=(",", ":"))
    return encode(SET, wrappers_pb2.BytesValue(value=body.encode("utf-8", "surrogatepass")))


def signed_set(encoded: Encoded, header: bytes) -> Encoded:
    """The same resource, in the same version, with a line before its body that says whose it is."""
    value = wrappers_pb2.BytesValue(value=header + b"\n" + content_of(encoded.body))
    return encode(SET, value, encoded.version)


def statement(store: str, content: bytes) -> bytes:
    """What a server signs: the set, and the history of the store that its epochs belong to."""
    return b"limen policies\n" + store.encode() + b"\n" + content


def content_of(body: bytes) -> bytes:
    """The bytes in a resource that `policy_set` or `signed_set` made."""
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
    found = wrappers_pb2.BytesValue()
    response.resources[0].resource.Unpack(found)
    return found.value


def policy_to_json(held: HeldPolicy) -> dict[str, Any]:
    """One policy of a set."""
    policy = held.policy
    sources = [source_to_json(source) for source in held.sources]
    return {
        "path": held.path,
        "language": policy.language.value,
        "epoch": policy.epoch,
        "on_stale": policy.on_stale.value,
        "stale_after_s": held.stale_after_s,
        "root": policy.root,
        "texts": [{"name": one.name, "text": one.text} for one in policy.texts],
        "data": [{"name": one.name, "text": one.text} for one in policy.data],
        **({"sources": sources} if sources else {}),
    }
