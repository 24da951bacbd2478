"""AuthorizationPolicy: every field, action, scope and law, through the reader and `explain`."""

from __future__ import annotations

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import FILE, ask, istio_is_on, peer, policy, read, tokens

from limen.core.compiler.graph import MeshGraph
from limen.core.model.workload import Inbound, Protocol
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request

pytestmark = pytest.mark.usefixtures("istio_is_on")
__all__ = ["istio_is_on"]

ISSUER = "https://id.example"
JWT = "{jwtRules: [{issuer: https://id.example}]}"
PERMISSIVE = "{mtls: {mode: PERMISSIVE}}"


def allow(rule: str) -> str:
    return f"{{rules: [{rule}]}}"


def deny(rule: str) -> str:
    return f"{{action: DENY, rules: [{rule}]}}"


def source(fields: str) -> str:
    return f"{{from: [{{source: {fields}}}]}}"


def operation(fields: str) -> str:
    return f"{{to: [{{operation: {fields}}}]}}"


def when(fields: str) -> str:
    return f"{{when: [{fields}]}}"


def claims(**more) -> dict:
    return {"iss": ISSUER, "sub": "ann", **more}


def test_the_documented_example_with_line_and_rule():
    resources = read(
        """
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata:
          name: httpbin
        spec:
          action: ALLOW
          rules:
          - from:
            - source:
                principals: ["cluster.local/ns/default/sa/sleep"]
            - source:
                namespaces: ["test"]
            to:
            - operation:
                methods: ["GET"]
                paths: ["/info*"]
            - operation:
                methods: ["POST"]
                paths: ["/data"]
            when:
            - key: request.auth.claims[iss]
              values: ["https://id.example"]
        """
    )
    world = [*resources, tokens(JWT), b.dataplane("sleep"), b.dataplane("robot", namespace="test")]
    good = ask(*world, caller="sleep", path="/info/x", claims=claims())
    assert good.allowed
    assert (good.rule.name, good.rule.index, good.rule.file, good.rule.line) == (
        "httpbin",
        0,
        FILE,
        8,
    )
    assert ask(*world, caller="test/robot", method="POST", path="/data", claims=claims()).allowed
    refused = {
        "principal": ask(*world, path="/info", claims=claims()),
        "method": ask(*world, caller="sleep", method="PUT", path="/info", claims=claims()),
        "path": ask(*world, caller="sleep", method="GET", path="/data", claims=claims()),
        "claim iss": ask(*world, caller="sleep", path="/info"),
    }
    for field, answer in refused.items():
        assert not answer.allowed
        assert answer.status == 403
        assert [miss.field for miss in answer.near_misses] == [field]
    assert refused["claim iss"].near_misses[0].seen == "(no token)"


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ("{}", False),
        ("{action: ALLOW}", False),
        (allow("{}"), True),
        (deny("{}"), False),
        ("{action: AUDIT, rules: [{}]}", False),
        (allow(source("{principals: ['*']}")), True),
        (allow(source("{principals: [cluster.local/ns/default/sa/users]}")), True),
        (allow(source("{principals: [default.mesh.local/ns/default/sa/users]}")), True),
        (allow(source("{principals: [old.example/ns/default/sa/users]}")), True),
        (allow(source("{principals: [other.example/ns/default/sa/users]}")), False),
        (allow(source("{principals: [cluster.local/ns/default/*]}")), True),
        (allow(source("{principals: [cluster.local/ns/bank/*]}")), False),
        (allow(source("{principals: ['*/sa/users']}")), True),
        (allow(source("{principals: ['*/sa/user']}")), False),
        (allow(source("{notPrincipals: [cluster.local/ns/default/sa/users]}")), False),
        (allow(source("{notPrincipals: [cluster.local/ns/default/sa/items]}")), True),
        (allow(source("{namespaces: [default]}")), True),
        (allow(source("{namespaces: [def*]}")), True),
        (allow(source("{namespaces: ['*ult']}")), True),
        (allow(source("{namespaces: [efault]}")), False),
        (allow(source("{notNamespaces: [bank]}")), True),
        (allow(source("{notNamespaces: [default]}")), False),
        (allow(source("{serviceAccounts: [users]}")), True),
        (allow(source("{serviceAccounts: [bank/users]}")), False),
        (allow(source("{notServiceAccounts: [users]}")), False),
        (allow(source("{ipBlocks: [10.0.0.7]}")), True),
        (allow(source("{ipBlocks: [10.0.0.9/24]}")), True),
        (allow(source("{ipBlocks: [10.1.0.0/16]}")), False),
        (allow(source("{notIpBlocks: [10.0.0.0/8]}")), False),
        (allow(source("{remoteIpBlocks: [192.0.2.0/24]}")), True),
        (allow(source("{notRemoteIpBlocks: [192.0.2.0/24]}")), False),
        (allow(source("{requestPrincipals: ['*']}")), True),
        (allow(source("{requestPrincipals: ['https://id.example/ann']}")), True),
        (allow(source("{requestPrincipals: ['https://id.example/*']}")), True),
        (allow(source("{requestPrincipals: ['https://id.example/an*']}")), True),
        (allow(source("{requestPrincipals: ['*/ann']}")), True),
        (allow(source("{requestPrincipals: ['*nn']}")), True),
        (allow(source("{requestPrincipals: ['https*']}")), True),
        (allow(source("{requestPrincipals: ['https://id/example/ann']}")), False),
        (allow(source("{notRequestPrincipals: ['*/ann']}")), False),
        (allow(source("{notRequestPrincipals: ['*/bob']}")), True),
        (allow(operation("{hosts: [items.mesh]}")), True),
        (allow(operation("{hosts: [ITEMS.mesh]}")), True),
        (allow(operation("{hosts: ['*.mesh']}")), True),
        (allow(operation("{hosts: [other.mesh]}")), False),
        (allow(operation("{notHosts: [items.mesh]}")), False),
        (allow(operation("{ports: ['8081']}")), True),
        (allow(operation("{ports: ['8080']}")), True),
        (allow(operation("{ports: ['80']}")), False),
        (allow(operation("{notPorts: ['8081']}")), False),
        (allow(operation("{methods: [POST]}")), True),
        (allow(operation("{methods: ['*']}")), True),
        (allow(operation("{notMethods: [GET, POST]}")), False),
        (allow(operation("{paths: [/data/7/x]}")), True),
        (allow(operation("{paths: ['/data/*']}")), True),
        (allow(operation("{paths: ['*/x']}")), True),
        (allow(operation("{paths: ['/data/{*}/x']}")), True),
        (allow(operation("{paths: ['/data/{*}']}")), False),
        (allow(operation("{paths: ['/data/{**}']}")), True),
        (allow(operation("{notPaths: ['/data/{**}']}")), False),
        (allow(when("{key: 'request.headers[X-Tier]', values: [gold]}")), True),
        (allow(when("{key: 'request.headers[x-tier]', values: ['*']}")), True),
        (allow(when("{key: 'request.headers[x-tier]', notValues: [g*]}")), False),
        (allow(when("{key: 'request.headers[x-none]', notValues: ['*']}")), True),
        (allow(when("{key: source.ip, values: [10.0.0.0/24]}")), True),
        (allow(when("{key: remote.ip, notValues: [192.0.2.0/24]}")), False),
        (allow(when("{key: source.namespace, values: [default]}")), True),
        (allow(when("{key: source.principal, values: ['*/sa/users']}")), True),
        (allow(when("{key: source.serviceAccount, values: [users]}")), True),
        (allow(when("{key: request.auth.principal, values: ['*']}")), True),
        (allow(when("{key: request.auth.audiences, values: [shop]}")), True),
        (allow(when("{key: request.auth.audiences, notValues: [web]}")), False),
        (allow(when("{key: request.auth.presenter, values: [app]}")), True),
        (allow(when("{key: 'request.auth.claims[groups]', values: [b]}")), True),
        (allow(when("{key: 'request.auth.claims[org][unit]', values: [x*]}")), True),
        (allow(when("{key: 'request.auth.claims[org]', values: ['*']}")), False),
        (allow(when("{key: 'request.auth.claims[age]', values: ['7']}")), False),
        (allow(when("{key: 'request.auth.claims[scope]', values: [read]}")), True),
        (allow(when("{key: 'request.auth.claims[scope]', values: ['read write']}")), False),
        (allow(when("{key: destination.port, values: ['8081']}")), True),
    ],
)
def test_every_field(spec: str, allowed: bool):  # noqa: FBT001 - a row of the table
    answer = ask(
        policy(spec),
        tokens(JWT),
        b.settings(trust_domain_aliases=("old.example",)),
        method="POST",
        path="/data/7/x?admin",
        headers=(("host", "Items.mesh:8080"), ("X-Tier", "silver"), ("x-tier", "gold")),
        claims=claims(
            aud=["shop", "web"],
            azp="app",
            groups=["a", "b"],
            org={"unit": "x1"},
            age=7,
            scope="read write",
        ),
        source_ip="10.0.0.7",
        remote_ip="192.0.2.9",
    )
    assert answer.allowed is allowed, answer
    assert answer.status == (200 if allowed else 403)


NEGATED = [
    source("{notPrincipals: [cluster.local/ns/x/sa/x]}"),
    source("{notNamespaces: [x]}"),
    source("{notServiceAccounts: [x/x]}"),
    when("{key: source.principal, notValues: [cluster.local/ns/x/sa/x]}"),
    when("{key: source.namespace, notValues: [x]}"),
    when("{key: source.serviceAccount, notValues: [x/x]}"),
]
NEGATED_TOKEN = [
    source("{notRequestPrincipals: ['*/x']}"),
    when("{key: request.auth.principal, notValues: ['*/x']}"),
    when("{key: 'request.auth.claims[a]', notValues: [x]}"),
    when("{key: request.auth.audiences, notValues: [x]}"),
]


@pytest.mark.parametrize("rule", NEGATED)
def test_plaintext_peer_satisfies_no_negated_identity_of_an_allow(rule: str):
    assert not ask(policy(allow(rule)), peer(PERMISSIVE), caller="anonymous").allowed
    assert ask(policy(allow(rule)), peer(PERMISSIVE)).allowed


@pytest.mark.parametrize("rule", NEGATED)
def test_negated_identity_in_deny_matches_a_caller_without_one(rule: str):
    both = policy(deny(rule)), policy(allow("{}"), "all"), peer(PERMISSIVE)
    assert not ask(*both, caller="anonymous").allowed


@pytest.mark.parametrize("rule", NEGATED_TOKEN)
def test_negated_token_fields_need_a_token_to_allow_and_none_to_deny(rule: str):
    assert not ask(policy(allow(rule)), tokens(JWT)).allowed
    assert ask(policy(allow(rule)), tokens(JWT), claims=claims()).allowed
    assert not ask(policy(deny(rule)), policy(allow("{}"), "all"), tokens(JWT)).allowed


def test_documented_deny_requires_mtls():
    rules = policy(deny(source("{notPrincipals: ['*']}"))), policy(allow("{}"), "all")
    assert not ask(*rules, peer(PERMISSIVE), caller="anonymous").allowed
    assert ask(*rules, peer(PERMISSIVE)).allowed


def test_documented_deny_requires_a_token():
    rules = (
        policy(deny(source("{notRequestPrincipals: ['*']}"))),
        policy(allow("{}"), "all"),
        tokens(JWT),
    )
    assert not ask(*rules).allowed
    assert ask(*rules, claims=claims()).allowed


def test_host_with_a_port_does_not_slip_past_a_deny():
    rules = policy(deny(operation("{hosts: [admin.example]}"))), policy(allow("{}"), "all")
    for host in ("admin.example", "admin.example:9", "ADMIN.example", "admin.example."):
        assert not ask(*rules, headers=(("host", host),)).allowed
    only = policy(allow(operation("{hosts: [shop.example]}")))
    assert ask(only, headers=(("host", "shop.example:8080"),)).allowed
    assert not ask(only, headers=(("host", "shop.example:9"),)).allowed


def test_deny_goes_before_allow_and_policies_add_up():
    one = policy(allow(source("{namespaces: [bank]}")), "one")
    two = policy(allow(operation("{paths: [/open]}")), "two")
    no = policy(deny(operation("{methods: [DELETE]}")), "zz")
    assert ask(one, two, no, caller="bank/teller").allowed
    assert ask(one, two, no, path="/open").allowed
    assert not ask(one, two, no).allowed
    refused = ask(one, two, no, caller="bank/teller", method="DELETE")
    assert not refused.allowed
    assert refused.rule.name == "zz"


def test_audit_is_reported_and_decides_nothing():
    audit = policy("{action: AUDIT, rules: [{}]}", "watch")
    answer = ask(audit, policy(allow("{}"), "all"))
    assert answer.allowed
    assert [ref.name for ref in answer.audited] == ["watch"]
    assert not ask(audit).allowed


@pytest.mark.parametrize("action", ["ALLOW", "DENY", "AUDIT"])
def test_dry_run_of_every_action_is_reported_and_enforced_nowhere(action: str):
    notes = '{istio.io/dry-run: "true"}'
    trial = policy(f"{{action: {action}, rules: [{{}}]}}", "trial", notes=notes)
    granted = policy(allow(operation("{methods: [GET]}")), "real")
    for method in ("GET", "PUT"):
        answer = ask(trial, granted, method=method)
        assert answer.allowed is (method == "GET")
        assert [(e.value, r.name) for e, r in answer.dry_run] == [(action.lower(), "trial")]
    assert not ask(trial).allowed
    assert ask(trial, b.settings(default_allow=True)).allowed


def test_unknown_provider_denies_what_its_rules_match():
    custom = policy("{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: "
                    "{paths: [/admin]}}]}]}", "c")  # fmt: skip
    assert not ask(custom, policy(allow("{}"), "all"), path="/admin").allowed
    assert ask(custom, policy(allow("{}"), "all")).allowed


GATEWAY = (
    "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: items}], rules: [{}]}"
)


@pytest.mark.parametrize(
    ("spec", "namespace", "items", "teller"),
    [
        ("{rules: [{}]}", "default", True, False),
        ("{rules: [{}]}", "bank", False, True),
        ("{rules: [{}]}", "istio-system", True, True),
        ("{selector: {matchLabels: {app: items}}, rules: [{}]}", "default", True, False),
        ("{selector: {matchLabels: {app: items}}, rules: [{}]}", "bank", False, False),
        ("{selector: {matchLabels: {app: teller}}, rules: [{}]}", "istio-system", False, True),
        ("{selector: {matchLabels: {app: items, tier: x}}, rules: [{}]}", "default", False, False),
        (
            "{selector: {matchLabels: {kuma.io/service: items}}, rules: [{}]}",
            "default",
            True,
            False,
        ),
        ("{targetRefs: [{kind: Service, name: items}], rules: [{}]}", "default", True, False),
        ("{targetRefs: [{kind: Service, name: items}], rules: [{}]}", "istio-system", False, False),
        (
            GATEWAY,
            "default",
            False,
            False,
        ),
    ],
)
def test_scopes(spec: str, namespace: str, items: bool, teller: bool):  # noqa: FBT001 - a row
    document = policy(spec, namespace=namespace)
    assert ask(document).allowed is items
    assert ask(document, callee="bank/teller").allowed is teller


def test_policy_of_one_namespace_never_reaches_another():
    closed = policy("{}", "nothing", namespace="bank")
    assert ask(closed, policy(allow("{}"), "all")).allowed


def test_each_family_must_allow():
    kuma = b.permission("k", [b.tags("users")], [b.tags("items")])
    only_reads = policy(allow(operation("{methods: [GET]}")))
    assert ask(kuma, only_reads).allowed
    assert not ask(kuma, only_reads, method="PUT").allowed
    assert not ask(kuma, only_reads, caller="bank/teller").allowed
    assert ask(kuma, policy(deny(operation("{methods: [PUT]}")))).allowed


def test_a_layer_of_denials_only_does_not_allow_unless_the_mesh_does():
    document = policy(deny(operation("{methods: [PUT]}")))
    assert not ask(document).allowed
    open_mesh = b.settings(default_allow=True)
    assert ask(document, open_mesh).allowed
    assert not ask(document, open_mesh, method="PUT").allowed
    assert not ask(policy("{}"), open_mesh).allowed


def test_rules_hold_in_a_mesh_without_mtls_too():
    document = policy(allow(operation("{methods: [GET]}")))
    assert ask(document, b.mesh(mtls=False)).allowed
    assert not ask(document, b.mesh(mtls=False), method="PUT").allowed
    named = policy(allow(source("{principals: ['*']}")))
    assert not ask(named, b.mesh(mtls=False)).allowed


def test_a_port_is_the_applications_or_else_the_guarded_one():
    ports = [(8443, 8080), (8080, 9000)]
    inbounds = tuple(Inbound(p, s, Protocol.HTTP, b.tags("items")) for p, s in ports)
    rule = policy(allow(operation("{ports: ['8080']}")))
    graph = MeshGraph("default", [b.dataplane("items", inbounds=inbounds), b.dataplane("u"), rule])

    def verdict(port: int) -> bool:
        guard = graph.policy_for(b.workload("items"), port)
        return decide(guard, Request(principal=b.who("u"), port=port)).allowed

    assert verdict(8443)
    assert not verdict(8080)


def test_callers_get_edges_only_where_a_rule_could_let_them_in():
    resources = [
        b.dataplane("items"),
        b.dataplane("users"),
        b.dataplane("teller", namespace="bank"),
        policy(allow(source("{namespaces: [bank]}"))),
    ]
    graph = MeshGraph("default", resources)
    assert graph.callees(b.who("teller", "bank")) == [b.workload("items"), b.workload("users")]
    assert graph.callees(b.who("users")) == []


def test_near_misses_say_what_was_wanted_and_seen():
    answer = ask(
        policy(allow("{from: [{source: {notNamespaces: [default]}}]}"), "a"),
        policy(allow(when("{key: 'request.auth.claims[groups]', values: [admin]}")), "b"),
        policy(allow(operation("{hosts: [x.example]}")), "c"),
        policy(allow(operation("{paths: ['/x/{*}']}")), "d"),
        policy(allow(source("{ipBlocks: [10.0.0.0/8]}")), "e"),
        tokens(JWT),
        claims=claims(groups=["dev"]),
        source_ip="192.0.2.1",
    )
    misses = {m.rule.ref.name: (m.field, m.wanted, m.seen) for m in answer.near_misses}
    assert misses == {
        "a": ("source namespace", "not default", "default"),
        "b": ("claim groups", "admin", "dev"),
        "c": ("host", "x.example", "items.default.mesh"),
        "d": ("path", "/x/{*}", "/"),
        "e": ("source ip", "10.0.0.0/8", "192.0.2.1"),
    }
