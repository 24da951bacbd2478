"""Plans to resources: golden files, determinism, sharing, and what must never be emitted.

`pytest tests/core/envoy --rewrite-golden` writes the golden files anew.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from envoy.config.rbac.v3 import rbac_pb2

from limen.core.envoy import cluster, endpoints, jwt_authn, listener, names, rbac, route
from limen.core.envoy import resources as resources_
from limen.core.envoy.encoded import decode, encode, merged
from limen.core.envoy.endpoints import endpoints_resource
from limen.core.envoy.resources import node_resources, to_json
from limen.core.model.names import WorkloadName
from limen.core.model.request_authentication import TokenHeader
from limen.core.plan.node import (
    Edge,
    Endpoint,
    EndpointsPlan,
    JwtPlan,
    LocalPortPlan,
    LocalSide,
    NodePlan,
)
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Effect,
    Header,
    Layer,
    LayerKind,
    Method,
    Not,
    Policy,
    Principal,
    Rule,
)
from limen.errors import InvalidInput

from .plans import (
    ALLOW_USERS,
    EDGE,
    FEATURES,
    ITEMS,
    TOKENS,
    USERS,
    exact,
    identity,
    plan,
    policy,
    rule,
    with_inbound,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"


def as_text(wanted: NodePlan) -> str:
    tree = {
        url.rpartition(".")[2]: {name: to_json(encoded) for name, encoded in found.items()}
        for url, found in node_resources(wanted).items()
        if found
    }
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("feature", FEATURES)
def test_resources_are_as_they_were(feature: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / f"{feature}.json"
    text = as_text(FEATURES[feature])
    if pytestconfig.getoption("rewrite_golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_header_that_carries_tokens_is_not_logged_though_a_rule_looks_at_it() -> None:
    looked_at = Header("x-token", StringMatch(How.PRESENT))
    other = Header("x-team", StringMatch(How.PRESENT))
    wanted = with_inbound(
        policy=policy(rule(Effect.ALLOW, AllOf((looked_at, other)))),
        tokens=(JwtPlan("https://id.example", from_headers=(TokenHeader("x-token", ""),)),),
    )
    text = as_text(wanted)
    assert "%REQ(X-TEAM)%" in text
    assert "%REQ(X-TOKEN)%" not in text


@pytest.mark.parametrize("name", ["authorization", "Cookie", "proxy-authorization", "set-cookie"])
def test_a_header_that_may_hold_a_secret_is_not_logged_though_a_rule_looks_at_it(name: str) -> None:
    wanted = with_inbound(policy=policy(rule(Effect.ALLOW, Header(name, StringMatch(How.PRESENT)))))
    assert f"%REQ({name.upper()})%" not in as_text(wanted)


def test_a_gateway_does_not_log_a_header_that_carries_tokens_either() -> None:
    looked_at = (
        Header("x-token", StringMatch(How.PRESENT)),
        Header("x-team", StringMatch(How.PRESENT)),
    )
    base = FEATURES["edge"]
    assert base.edge is not None
    (found,) = base.edge.listeners
    guarded = replace(
        found,
        policy=policy(rule(Effect.ALLOW, AllOf(looked_at))),
        tokens=(JwtPlan("https://id.example", from_headers=(TokenHeader("x-token", ""),)),),
    )
    text = as_text(replace(base, edge=replace(base.edge, listeners=(guarded,))))
    assert "%REQ(X-TEAM)%" in text
    assert "%REQ(X-TOKEN)%" not in text


def test_what_stays_when_a_right_is_withdrawn_is_not_made_again() -> None:
    """Clusters and routes of thousands of proxies: another cutover shares their bytes."""
    for name in ("outbound", "inbound", "edge"):
        before = FEATURES[name]
        edge = before.edge
        if edge is not None:
            edge = replace(edge, listeners=tuple(replace(x, cutover=7) for x in edge.listeners))
        inbounds = tuple(replace(i, cutover=7) for i in before.inbounds)
        after = node_resources(replace(before, inbounds=inbounds, edge=edge))
        for kind in (names.CLUSTER, names.ROUTES):
            for key, encoded in node_resources(before)[kind].items():
                assert after[kind][key] is encoded


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(FEATURES)


@pytest.mark.parametrize("feature", FEATURES)
def test_equal_plans_give_equal_bytes(feature: str) -> None:
    first = node_resources(FEATURES[feature])
    for module in (cluster, endpoints, jwt_authn, listener, rbac, resources_, route):
        for part in vars(module).values():
            if hasattr(part, "cache_clear"):
                part.cache_clear()
    assert node_resources(FEATURES[feature]) == first


def test_bytes_do_not_depend_on_the_order_in_which_a_map_was_filled() -> None:
    """Versions are hashes of bytes: the same content must not look like a change."""
    made = []
    for order in (range(50), reversed(range(50))):
        rules = rbac_pb2.RBAC()
        for number in order:
            rules.policies[f"p{number}"].permissions.add(any=True)
        made.append(encode("x", rules))
    assert made[0] == made[1]


def test_policy_shared_by_many_workloads_is_made_once() -> None:
    one = node_resources(plan())[names.EXTENSION]
    other = node_resources(plan(instance=replace(plan().instance, instance="vm-2")))
    for name, encoded in other[names.EXTENSION].items():
        assert encoded is one[name]


def test_names_are_those_of_the_architecture() -> None:
    wanted = plan(
        edges=(EDGE,),
        local=LocalSide(15001, "/run/out.sock"),
    )
    resources = node_resources(wanted)
    assert set(resources[names.LISTENER]) == {
        "inbound:8443",
        "outbound",
        "outbound-socket",
        "tunnel",
    }
    assert set(resources[names.CLUSTER]) == {"in:8443", "out:default/users", "tunnel"}
    assert set(resources[names.ROUTES]) == {"outbound"}
    assert set(resources[names.EXTENSION]) == {"permission.deny:8443", "permission.allow:8443"}


def test_body_is_a_response_with_the_resource() -> None:
    for resources in node_resources(plan()).values():
        for name, encoded in resources.items():
            resource = decode(encoded)
            assert (resource.name, resource.version) == (name, encoded.version)


def test_version_follows_content_only() -> None:
    before, after = node_resources(plan()), node_resources(with_inbound(cutover=1))
    assert before[names.EXTENSION] == after[names.EXTENSION]
    assert before[names.CLUSTER] == after[names.CLUSTER]
    assert before[names.LISTENER] != after[names.LISTENER]


def test_changed_permission_touches_no_listener() -> None:
    before, after = node_resources(plan()), node_resources(with_inbound(policy=Policy()))
    assert before[names.LISTENER] == after[names.LISTENER]
    assert before[names.EXTENSION] != after[names.EXTENSION]


def test_rotated_keys_touch_no_listener() -> None:
    before = with_inbound(tokens=TOKENS)
    first, *others = TOKENS
    rotated = (replace(first, jwks='{"keys":[{"kty":"EC","kid":"2"}]}', issuer="x"), *others)
    after = node_resources(with_inbound(tokens=rotated))
    assert node_resources(before)[names.LISTENER] == after[names.LISTENER]
    changed = {
        name
        for name, encoded in node_resources(before)[names.EXTENSION].items()
        if after[names.EXTENSION][name] != encoded
    }
    assert changed == {"tokens:8443"}


def test_port_without_tokens_and_reports_has_the_three_filters_only() -> None:
    (filters,) = every(
        to_json(node_resources(plan())[names.LISTENER]["inbound:8443"]), "http_filters"
    )
    assert [f["name"] for f in filters] == [
        "permission.deny:8443",
        "permission.standing:8443",
        "permission.allow:8443",
        "envoy.filters.http.router",
    ]
    assert not any(f.get("disabled") for f in filters), "routes leave out, nothing else does"


def test_order_of_all_filters() -> None:
    audited = policy(rule(Effect.AUDIT, Principal(exact("x"))))
    everything = node_resources(with_inbound(tokens=TOKENS, policy=audited))
    (filters,) = every(to_json(everything[names.LISTENER]["inbound:8443"]), "http_filters")
    parts = ("token-outputs", "token-places", "tokens", "token-claims", "audit", "permission.deny",
             "permission.standing", "permission.allow")  # fmt: skip
    assert [f["name"] for f in filters[:-1]] == [f"{part}:8443" for part in parts]
    discovered = {f["name"] for f in filters if "config_discovery" in f}
    assert discovered == set(everything[names.EXTENSION])


@pytest.mark.parametrize("jwks", ["", "{}", '{"keys":[]}', "no JSON", "[]"])
def test_issuer_without_keys_gets_no_key_at_all(jwks: str) -> None:
    """Unknown keys lead to no default key (CVE-2026-31837), and to no refused configuration."""
    resources = node_resources(with_inbound(tokens=(JwtPlan("https://a", jwks=jwks),)))
    config = to_json(resources[names.EXTENSION]["tokens:8443"])["typed_config"]
    provider = config["providers"]["0 https://a"]
    assert "local_jwks" not in provider
    assert provider["remote_jwks"]["http_uri"]["cluster"] == names.NO_KEYS
    assert names.NO_KEYS not in resources[names.CLUSTER]


def test_policy_that_moved_to_another_file_changes_nothing() -> None:
    (layer,) = ALLOW_USERS.layers
    moved = replace(layer.rules[0], ref=replace(layer.rules[0].ref, file="b.yaml", line=7))
    changed = Policy((replace(layer, rules=(moved,)),))
    assert node_resources(with_inbound(policy=changed)) == node_resources(plan())


def test_two_inbounds_on_one_port_are_refused() -> None:
    inbound = plan().inbounds[0]
    with pytest.raises(InvalidInput):
        node_resources(plan(inbounds=(inbound, replace(inbound, address="10.0.0.6"))))


def test_host_name_claimed_twice_goes_to_the_first_edge() -> None:
    other = Edge(
        WorkloadName("default", "x", "users"), ("users.mesh", "users.x.mesh"), (identity("x"),)
    )
    resources = node_resources(plan(edges=(EDGE, other), local=LocalSide(15001)))
    routes = to_json(resources[names.ROUTES]["outbound"])
    domains = {host["name"]: host["domains"] for host in routes["virtual_hosts"]}
    assert domains["default/users"] == ["users.mesh", "users.default.mesh"]
    assert domains["x/users"] == ["users.x.mesh"]


def test_edge_without_identities_trusts_nobody() -> None:
    """Envoy reads an empty list of names as any name."""
    resources = node_resources(plan(edges=(replace(EDGE, principals=()),)))
    text = json.dumps(to_json(resources[names.CLUSTER]["out:default/users"]))
    assert "spiffe://nobody.invalid/" in text


def test_port_without_trusted_domain_trusts_nobody() -> None:
    resources = node_resources(plan(trusted_domains=()))
    text = json.dumps(to_json(resources[names.LISTENER]["inbound:8443"]))
    assert "spiffe://nobody.invalid/" in text


def test_no_request_or_stream_is_cut_by_a_time_limit_but_headers_must_come() -> None:
    """Envoy's defaults would be 15 s for a request and 5 minutes for a silent stream."""
    everything = plan(
        edges=(EDGE,),
        local=LocalSide(15001, "/run/out.sock"),
        local_ports=(LocalPortPlan("127.0.0.1", 9001, USERS),),
    )
    built = node_resources(everything)
    routes = [to_json(r) for r in (*built[names.ROUTES].values(), *built[names.LISTENER].values())]
    actions = [found for tree in routes for found in every(tree, "route") if "cluster" in found]
    assert len(actions) == 7
    assert {action["timeout"] for action in actions} == {"0s"}
    for listener_ in built[names.LISTENER].values():
        (idle,) = every(to_json(listener_), "stream_idle_timeout")
        (headers,) = every(to_json(listener_), "request_headers_timeout")
        assert (idle, headers) == ("0s", "10s")
        assert not list(every(to_json(listener_), "request_timeout"))


def every(tree: Any, key: str) -> Iterator[Any]:
    """All values under `key`, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from every(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from every(value, key)


def allow_rules(wanted: Policy) -> dict[str, object]:
    resources = node_resources(with_inbound(policy=wanted))
    config = to_json(resources[names.EXTENSION]["permission.allow:8443"])["typed_config"]
    config = config.get("extension_config", {"typed_config": config})["typed_config"]
    rules: dict[str, object] = config["rules"]
    return rules


A, B = str(identity("a")), str(identity("b"))


@pytest.mark.parametrize(
    ("rules", "short"),
    [
        ([rule(Effect.ALLOW, Principal(exact(A)))], [A]),
        ([rule(Effect.ALLOW, AnyOf((Principal(exact(B)), Principal(exact(A)))))], [A, B]),
        ([rule(Effect.ALLOW, AllOf((Principal(exact(A)), Method(exact("GET")))))], []),
        ([rule(Effect.ALLOW, AnyOf((Principal(exact(A)), Method(exact("GET")))))], [A]),
        ([rule(Effect.ALLOW, Not(Principal(exact(A))))], []),
        ([rule(Effect.ALLOW, Principal(StringMatch(How.EXACT, A, ignore_case=True)))], []),
        ([rule(Effect.ALLOW, Principal(StringMatch(How.PREFIX, A)))], []),
        ([rule(Effect.ALLOW, Principal(exact(f"{A},{B}")))], []),
        ([rule(Effect.ALLOW, Principal(exact("a")))], []),
        ([rule(Effect.ALLOW, Always())], []),
        ([rule(Effect.DENY, Principal(exact(A))), rule(Effect.AUDIT, Principal(exact(B)))], []),
        ([rule(Effect.ALLOW, Principal(exact(identity(f"w{n}")))) for n in range(129)], []),
    ],
)  # fmt: skip
def test_short_way_is_for_callers_allowed_by_their_exact_name_alone(
    rules: list[Rule], short: list[str]
) -> None:
    resources = node_resources(with_inbound(policy=policy(*rules)))
    config = to_json(resources[names.EXTENSION]["permission.allow:8443"])["typed_config"]
    tree = config.get("xds_matcher", {}).get("matcher_tree", {"exact_match_map": {"map": {}}})
    assert sorted(tree["exact_match_map"]["map"]) == short
    asked = allow_rules(policy(*rules)).get("policies", {})
    allowing = [r for r in rules if r.effect is Effect.ALLOW]
    assert len(asked) == len(allowing), "everybody is asked where the fact is missing"  # type: ignore[arg-type] # JSON


def test_nobody_takes_the_short_way_where_the_deciding_rule_is_read() -> None:
    for asked in ({"log_all": True}, {"rule_header": "x-rule"}):
        resources = node_resources(with_inbound(policy=ALLOW_USERS, **asked))
        config = to_json(resources[names.EXTENSION]["permission.allow:8443"])["typed_config"]
        assert config["@type"].endswith("rbac.v3.RBAC")


def test_standing_denials_are_left_out_by_one_route_only() -> None:
    tree = to_json(node_resources(plan())[names.LISTENER]["inbound:8443"])
    (routes,) = every(tree, "routes")
    plain, rest = routes
    assert list(plain["typed_per_filter_config"]) == ["permission.standing:8443"]
    assert plain["match"]["headers"] == [
        {"name": ":path", "string_match": {"contains": ";"}, "invert_match": True}
    ]
    (fact,) = plain["match"]["filter_state"]
    assert fact == {"key": names.CALLER, "string_match": {"safe_regex": {"regex": "[^,]+"}}}
    assert rest["match"] == {"prefix": "/"}
    assert "typed_per_filter_config" not in rest


@pytest.mark.parametrize(
    "nothing",
    [Policy(), policy(), policy(rule(Effect.DENY, Principal(exact("x"))), allows=False)],
    ids=["no layer", "layer without rules", "only denials"],
)
def test_nothing_allowed_is_an_enforcing_filter_without_policies(nothing: Policy) -> None:
    """`rules` absent would mean no enforcement; empty `rules` with action ALLOW refuses all."""
    resources = node_resources(with_inbound(policy=nothing))
    (config,) = [to_json(resources[names.EXTENSION]["permission.allow:8443"])["typed_config"]]
    assert config["rules"] == {}


def test_allow_without_its_layer_allowing_does_not_count() -> None:
    ignored = policy(rule(Effect.ALLOW, Principal(exact("x"))), allows=False)
    assert allow_rules(ignored) == {}


def test_every_allowing_layer_must_allow() -> None:
    first = rule(Effect.ALLOW, Principal(exact(identity("a"))), "first")
    second = rule(Effect.ALLOW, Principal(exact(identity("b"))), "second")
    both = Policy(
        (Layer(LayerKind.PERMISSION, (first,), True), Layer(LayerKind.PERMISSION, (second,), True))
    )
    assert list(allow_rules(both)["policies"]) == ["000000 first"]  # type: ignore[call-overload] # JSON
    assert "nothing-allows 1 permission" in deny_rules(both)
    third = Policy((*both.layers, Layer(LayerKind.PERMISSION, (), True)))
    denials = deny_rules(third)
    assert {"nothing-allows 1 permission", "nothing-allows 2 permission"} <= set(denials)
    everybody = {"not_id": {"not_id": {"any": True}}}
    assert denials["nothing-allows 2 permission"]["principals"] == [everybody]


def deny_rules(wanted: Policy) -> dict[str, Any]:
    resources = node_resources(with_inbound(policy=wanted))
    config = to_json(resources[names.EXTENSION]["permission.deny:8443"])["typed_config"]
    policies: dict[str, Any] = config["rules"]["policies"]
    return policies


def test_rules_keep_their_order_beyond_ten() -> None:
    many = policy(
        *(rule(Effect.ALLOW, Principal(exact(identity(f"w{n}"))), f"r{n}") for n in range(1200))
    )
    ordered = sorted(allow_rules(many)["policies"])  # type: ignore[call-overload] # JSON
    assert [names.rule_name(name) for name in ordered] == [f"r{n}" for n in range(1200)]


def test_rule_names_survive_what_envoy_reports() -> None:
    assert names.rule_name(names.policy_id(3, "a b 7")) == "a b 7"
    assert names.rule_name("[none]") == "[none]"
    assert names.rule_name(names.ONE_IDENTITY) == names.ONE_IDENTITY


def test_endpoints_are_shared_and_named_as_their_cluster() -> None:
    wanted = EndpointsPlan(USERS, (Endpoint("10.0.0.7", 8443), Endpoint("fd00::1", 8443)))
    encoded = endpoints_resource(wanted)
    assert encoded.name == names.callee_cluster(USERS)
    assert endpoints_resource(replace(wanted)) is encoded
    assert endpoints_resource(EndpointsPlan(USERS, ())).version != encoded.version


def test_only_an_address_without_mutual_tls_says_so() -> None:
    mixed = EndpointsPlan(USERS, (Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2, mtls=False)))
    (group,) = to_json(endpoints_resource(mixed))["endpoints"]
    first, second = group["lb_endpoints"]
    assert "metadata" not in first
    assert second["metadata"] == {
        "filter_metadata": {"envoy.transport_socket_match": {"plaintext": True}}
    }


def test_name_that_only_looks_numbered_stays() -> None:
    assert [names.rule_name(n) for n in ("12", "a b", "000001 a b", names.NO_RULE)] == [
        "12",
        "a b",
        "a b",
        names.NO_RULE,
    ]


def test_merged_keeps_all_and_the_last_wins() -> None:
    first = node_resources(plan())
    second = node_resources(with_inbound(cutover=1))
    both = merged(first, second)
    assert both[names.LISTENER] == second[names.LISTENER]
    assert first[names.LISTENER] != second[names.LISTENER]
    assert str(ITEMS) in json.dumps(to_json(both[names.LISTENER]["inbound:8443"]))
