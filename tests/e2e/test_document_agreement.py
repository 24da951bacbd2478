"""Random documents through reader, compiler and a real Envoy: three readers, one verdict.

Istio's and Kuma's documents are written as text and compiled. Envoy, `explain` and
`document_oracle.py` (which reads the mappings by itself) must say the same of each request;
Envoy and `explain` also name the same rule. `--agreement-cases N` tries more.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from tests.core.compiler import build as b
from tests.core.tokens.signing import ec_key, jwk

from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ANONYMOUS, ExplainQuery
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.paths import normalise_path
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Inbound, Protocol

from . import document_oracle
from .agreement import (
    CONSENTS,
    GONE,
    ISSUER,
    REFUSES,
    REQUESTS,
    RULE_HEADER,
    Asked,
    Edge,
    Providers,
    says_something,
    tried,
)
from .envoy_harness import DOMAIN, LOOPBACK, TestMesh, policy

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from limen.core.compiler.explanation import Explanation
    from limen.core.model.provider import ExtensionProvider

    from .agreement import Seen

KEYS = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})
PORT = "PORT"

FIXED = (
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "mesh", "namespace": "istio-system"},
        "spec": {"mtls": {"mode": "PERMISSIVE"}},
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "seen", "namespace": "default"},
        "spec": {"action": "AUDIT", "rules": [{}]},
    },
)


def some(*values: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


def both(name: str, values: st.SearchStrategy[list[Any]]) -> dict[str, Any]:
    """A field and its negation."""
    return {name: values, f"not{name[0].upper()}{name[1:]}": values}


def at_least_one(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One to three of the fields."""
    chosen = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({n: fields[n] for n in names}))


PRINCIPALS = some(
    "*", "cluster.local/ns/default/sa/users", f"{DOMAIN}/ns/shop/sa/users",
    "cluster.local/ns/shop/*", "*/sa/users", "*users2", "other.example/ns/default/sa/users",
    f"{DOMAIN}/ns/default/sa/u*",
)  # fmt: skip
NAMESPACES = some("default", "shop", "sh*", "*op", "*")
REQUEST_PRINCIPALS = some(
    "*", f"{ISSUER}/bob", f"{ISSUER}/*", "*/bob", f"{ISSUER}/b*", "https://x/*"
)
BLOCKS = some("127.0.0.1", "127.0.0.2/31", "127.8.0.0/16", "10.0.0.0/8")
CLAIM_VALUES = some("a", "a*", "*b", "*", "b")

SOURCES = st.one_of(
    at_least_one({
        **both("principals", PRINCIPALS), **both("namespaces", NAMESPACES),
        **both("requestPrincipals", REQUEST_PRINCIPALS), **both("ipBlocks", BLOCKS),
        **both("remoteIpBlocks", BLOCKS),
    }),
    at_least_one(both("serviceAccounts", some("users", "shop/users", "default/users2"))),
)  # fmt: skip
OPERATIONS = at_least_one({
    **both("hosts", some("items.mesh", "*.mesh", "items.*", "ITEMS.mesh", "items.mesh:1", "*")),
    **both("methods", some("GET", "POST", "P*", "*T", "*")),
    **both("paths", some("/", "/a", "/a*", "*b", "/a/b", "*", "/a/{*}", "/a/{**}", "/{*}/b",
                         "/~a")),
    **both("ports", some(PORT, "1")),
})  # fmt: skip
KEYS_OF_WHEN = {
    "request.headers[X-Tier]": some("gold", "g*", "*", "*silver"),
    "source.principal": PRINCIPALS,
    "source.namespace": NAMESPACES,
    "source.ip": BLOCKS,
    "destination.port": some(PORT, "1"),
    "request.auth.principal": REQUEST_PRINCIPALS,
    "request.auth.claims[g]": CLAIM_VALUES,
    "request.auth.claims[g][x]": CLAIM_VALUES,
    "request.auth.claims[scope]": CLAIM_VALUES,
}


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(KEYS_OF_WHEN)))
    values = KEYS_OF_WHEN[key]
    parts = draw(
        st.sampled_from((("values",), ("values",), ("notValues",), ("values", "notValues")))
    )
    return {"key": key, **{part: draw(values) for part in parts}}


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    parts = draw(st.sets(st.sampled_from(("from", "to", "when")), max_size=2))
    if "from" in parts:
        found["from"] = [{"source": s} for s in draw(st.lists(SOURCES, min_size=1, max_size=2))]
    if "to" in parts:
        found["to"] = [{"operation": o} for o in draw(st.lists(OPERATIONS, min_size=1, max_size=2))]
    if "when" in parts:
        found["when"] = draw(st.lists(conditions(), min_size=1, max_size=2))
    return found


@st.composite
def authorizations(draw: st.DrawFn) -> dict[str, Any]:
    action = draw(st.sampled_from(("ALLOW",) * 3 + ("DENY", "CUSTOM")))
    spec: dict[str, Any] = {"action": action}
    if action == "CUSTOM":
        spec["provider"] = {
            "name": draw(st.sampled_from((CONSENTS, CONSENTS, REFUSES, REFUSES, GONE)))
        }
    if action != "ALLOW" or draw(st.sampled_from((True,) * 9 + (False,))):
        spec["rules"] = draw(st.lists(rules(), min_size=1, max_size=3))
    if label := draw(st.sampled_from((None, None, "items", "other"))):
        spec["selector"] = {"matchLabels": {"app": label}}
    namespace = draw(st.sampled_from(("default", "default", "default", "istio-system", "shop")))
    trial = draw(st.sampled_from((False,) * 5 + (True,)))
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": "p",
            "namespace": namespace,
            **({"annotations": {"istio.io/dry-run": "true"}} if trial else {}),
        },
        "spec": spec,
    }


IDS = st.lists(
    st.sampled_from(
        (
            {"type": "Exact", "value": f"spiffe://{DOMAIN}/ns/default/sa/users"},
            {"type": "Exact", "value": f"spiffe://{DOMAIN}/ns/shop/sa/users"},
            {"type": "Prefix", "value": f"spiffe://{DOMAIN}/ns/default"},
            {"type": "Prefix", "value": f"spiffe://{DOMAIN}/ns/default/sa/users"},
            {"type": "Prefix", "value": f"spiffe://{DOMAIN}"},
        )
    ).map(lambda match: {"spiffeID": match}),
    min_size=1,
    max_size=2,
)
PERMISSIONS = at_least_one({"allow": IDS, "deny": IDS, "allowWithShadowDeny": IDS}).map(
    lambda default: {
        "apiVersion": "kuma.io/v1alpha1",
        "kind": "MeshTrafficPermission",
        "metadata": {
            "name": "k",
            "namespace": "kuma-system",
            "labels": {"kuma.io/mesh": "default"},
        },
        "spec": {"rules": [{"default": default}]},
    }
)


@dataclass(frozen=True)
class Written:
    """Documents that decide; what the mesh does by default; whether a token is required."""

    documents: tuple[dict[str, Any], ...]
    default_allow: bool
    required: bool

    def text(self, port: int, providers: tuple[ExtensionProvider, ...]) -> bytes:
        declared = [
            {
                "name": p.name,
                p.protocol.value: {
                    "service": p.address,
                    "port": p.port,
                    "stage": p.stage.value,
                    "timeout": f"{p.timeout_s}s",
                },
            }
            for p in providers
        ]
        settings = {
            "apiVersion": "limen.dev/v1",
            "kind": "MeshSettings",
            "metadata": {"name": "default"},
            "spec": {
                "ruleHeader": RULE_HEADER,
                "extensionProviders": declared,
                "defaultAction": "Allow" if self.default_allow else "Deny",
            },
        }
        notes = {"limen.dev/token-required": "true"} if self.required else {}
        tokens = {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": "login", "namespace": "default", "annotations": notes},
            "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": KEYS}]},
        }
        parts = [settings, tokens, *FIXED, *self.documents]
        text = "\n---\n".join(json.dumps(part) for part in parts)
        return text.replace(PORT, str(port)).encode()


def numbered(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {**d, "metadata": {**d["metadata"], "name": f"{d['metadata']['name']}{n}"}}
        for n, d in enumerate(documents)
    )


SETS = st.builds(
    Written,
    st.tuples(st.lists(authorizations(), max_size=4), st.lists(PERMISSIONS, max_size=1))
    .map(lambda pair: numbered([*pair[0], *pair[1]])),
    st.booleans(),
    st.sampled_from((False, False, False, True)),
)  # fmt: skip


def snapshot(written: Written, port: int, providers: tuple[ExtensionProvider, ...]) -> Snapshot:
    found, _, findings = read_resources(written.text(port, providers), "documents.yaml")
    assert not has_errors(findings), findings
    inbound = Inbound(port, port, Protocol.HTTP, ((SERVICE_TAG, "items"),))
    people = (
        b.dataplane("items", address=LOOPBACK, inbounds=(inbound,)),
        b.dataplane("users", address="127.0.0.2"),
        b.dataplane("users2", address="127.0.0.3"),
        b.dataplane("buyers", namespace="shop", account="users", address="127.0.0.4"),
    )
    return Snapshot({r.key: r for r in (*found, *people)})


async def enforce(edge: Edge, world: Snapshot) -> None:
    """Guard the port as the compiler says; any loopback address leads there."""
    graph = MeshGraph("default", world.resources.values())
    workload = WorkloadName("default", "default", "items")
    (wanted,) = graph.plan(InstanceName(workload, "items-1")).inbounds
    kept = edge.workload.plan.inbounds[0]
    service = {"service_address": kept.service_address, "service_port": kept.service_port}
    await edge.enforce((replace(wanted, address="0.0.0.0", **service),))  # noqa: S104 - of a test


def explained(explainer: Explainer, asked: Asked, port: int) -> Explanation:
    claims = None
    if asked.claims is not None:
        claims = {"iss": "https://elsewhere" if asked.bad else ISSUER, **asked.claims}
    return explainer.explain(
        ExplainQuery(
            caller=str(asked.caller) if asked.caller else ANONYMOUS,
            callee="items",
            method=asked.method,
            path=asked.target,
            headers=(
                ("host", asked.host.format(port=port)),
                *(("x-tier", value) for value in asked.values),
            ),
            claims=claims,
            source_ip=asked.source,
            consents=(CONSENTS,),
        )
    )


def read_by_oracle(written: Written, asked: Asked, port: int) -> int:
    """The status, by the documents as they stand."""
    path = normalise_path(asked.target)
    if path.refused:
        return path.status
    if (asked.claims is not None and asked.bad) or (asked.claims is None and written.required):
        return 401
    call = document_oracle.Call(
        caller=str(asked.caller).removeprefix("spiffe://") if asked.caller else "",
        namespace=asked.caller.namespace if asked.caller else "",
        method=asked.method,
        path=path.path,
        host=asked.host.format(port=port).removesuffix("."),
        tiers=asked.values,
        claims=None if asked.claims is None else {"iss": ISSUER, **asked.claims},
        source=asked.source,
        port=port,
    )
    documents = json.loads(json.dumps(written.documents).replace(PORT, str(port)))
    return 200 if document_oracle.allows(documents, written.default_allow, call) else 403


def check(written: Written, asked: Asked, seen: Seen, explainer: Explainer) -> None:
    answer = explained(explainer, asked, seen.port)
    oracle = read_by_oracle(written, asked, seen.port)
    said = f"\n{written}\n{asked}\n{answer}\n{oracle}\n{seen}"
    if oracle == 403 and "%2e%2e;" in asked.target and seen.status == 401:
        return  # the token is looked at first: refused either way
    assert seen.status == oracle, said
    assert seen.status == answer.status, said
    rule = answer.rule
    if rule is not None and REFUSES not in {name for name, _ in answer.asked}:
        place = f"{rule.kind}/{rule.namespace}/{rule.name}/{rule.index:05d}"
        assert place in seen.rule, said
    if seen.status == 200:
        assert answer.allowed, said


def test_documents_mean_one_thing_to_all_readers(pytestconfig: pytest.Config) -> None:
    with asyncio.Runner() as runner:
        mesh, providers = TestMesh(), Providers()
        try:
            known = runner.run(providers.start())
            edge = Edge(mesh, runner.run(mesh.start("items", policy=policy())))
            agreement(runner, edge, known, pytestconfig.getoption("agreement_cases"))()
            says_something(edge, 400, 401, 403)
            assert min(providers.asked()) > 20
        finally:
            runner.run(mesh.__aexit__())
            runner.run(providers.stop())


def agreement(
    runner: asyncio.Runner, edge: Edge, providers: tuple[ExtensionProvider, ...], cases: int
) -> Callable[[], None]:
    @tried(cases)
    @given(SETS, REQUESTS)
    def agree(written: Written, requests: list[Asked]) -> None:
        (port,) = edge.ports
        world = snapshot(written, port, providers)
        runner.run(enforce(edge, world))
        explainer = Explainer(world)
        for asked in requests:
            check(written, asked, runner.run(edge.ask(asked)), explainer)

    return agree
