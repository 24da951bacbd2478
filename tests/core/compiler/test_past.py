"""Lines of access logs: read as questions; what they do not say is never guessed."""

from __future__ import annotations

import json

import pytest
from tests.core.compiler.test_edge import ALLOW, GATE, GATEWAY_POD, ITEMS, ROUTE

from limen.core.compiler.explain import Explainer
from limen.core.compiler.past import PastRequest, parse_line, replay
from limen.core.dialects import read_resources
from limen.core.model.snapshot import Snapshot
from limen.errors import InvalidInput

LINE = {
    "edge": "inbound",
    "callee": "default/items",
    "peer": "spiffe://default.mesh.local/ns/default/sa/web",
    "peer_address": "192.0.2.7:4711",
    "client": "192.0.2.7",
    "port": 20000,
    "method": "GET",
    "authority": "items.mesh",
    "path": "/info",
    "status": 200,
    "details": "via_upstream",
    "request_id": "id-1",
    "rule": "AuthorizationPolicy/default/items/00000",
    "looked_at": "x-team",
    "header.x-team": "blue",
}


def line(**changes: object) -> PastRequest:
    values = {k: v for k, v in {**LINE, **changes}.items() if v is not None}
    found = parse_line(json.dumps(values))
    assert found is not None
    return found


def policy(when: str = "", to: str = "", more: str = "") -> Explainer:
    rule = "from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]"
    text = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: items}\n"
        f"spec:\n  selector: {{matchLabels: {{app: items}}}}\n  rules:\n  - {rule}\n{when}{to}"
    )
    text += more
    resources, _, findings = read_resources(text.encode())
    assert not findings, [str(f) for f in findings]
    return Explainer(Snapshot({r.key: r for r in resources}))


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"status": 403}, True),  # the application's own
        ({"status": 403, "details": "rbac_access_denied_matched_policy[none]"}, False),
        ({"status": 403, "details": "ext_authz_denied", "flags": "UAEX"}, False),
        ({"status": 403, "details": "ext_authz_error", "flags": "UAEX"}, False),
        ({"status": "401", "details": "jwt_authn_access_denied{Jwt_is_expired}"}, False),
        ({"status": 503, "details": "upstream_reset", "flags": "UF"}, True),
        ({"status": 400, "details": "path_normalization_failed", "flags": "DPE"}, None),
    ],
)
def test_what_the_proxy_decided_then(
    changes: dict[str, object],
    allowed: bool | None,  # noqa: FBT001 - a verdict
) -> None:
    assert line(**changes).allowed is allowed


def test_a_line_is_the_question_that_was_asked() -> None:
    query = line().query
    assert (query.caller, query.callee, query.method, query.path) == (
        LINE["peer"],
        "default/items",
        "GET",
        "/info",
    )
    assert dict(query.headers) == {"x-team": "blue", "host": "items.mesh"}
    assert (query.source_ip, query.remote_ip, query.port) == ("192.0.2.7", "192.0.2.7", 20000)
    assert line(peer=None).query.caller == "anonymous"
    assert line(peer_address="[2001:db8::1]:9").query.source_ip == "2001:db8::1"
    assert line(claims={"sub": "ann"}).query.claims == {"sub": "ann"}


def test_a_request_that_found_no_way_out_is_about_its_host() -> None:
    found = line(
        edge="outbound",
        callee=None,
        peer=None,
        caller="spiffe://default.mesh.local/ns/shop/sa/web",
        details="direct_response",
        status=403,
        authority="Items.mesh:80",
    )
    assert (found.allowed, found.query.callee) == (False, "shop/items")
    assert found.query.caller == "spiffe://default.mesh.local/ns/shop/sa/web"


@pytest.mark.parametrize("text", ["", "[2026-01-01] envoy starts", '{"edge": "other"}', "{}"])
def test_other_lines_are_passed_over(text: str) -> None:
    assert parse_line(text) is None


@pytest.mark.parametrize("text", ['{"edge": "inb', "{" * 100_000])
def test_a_line_that_is_cut_off_is_an_error(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_line(text)
    assert caught.value.code == "bad-log-line"


def test_a_changed_verdict_is_found_and_an_unchanged_one_is_not() -> None:
    post = "    to: [{operation: {methods: [POST]}}]\n"
    assert not replay(policy(), line()).changed
    changed = replay(policy(to=post), line())
    assert changed.changed
    assert changed.now is not None
    assert not changed.now.allowed


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"header.x-team": "a,b"}, ("a,b",)),
        ({"header.x-team": "a,b", "headers.x-team": "a,b"}, ("a,b",)),
        ({"header.x-team": "a", "headers.x-team": "a,b"}, ("a", "b")),
        ({"header.x-team": "a", "headers.x-team": "a,b,c"}, None),
        ({"header.x-team": None}, ()),
    ],
)
def test_all_values_of_a_header_count_and_unclear_ones_are_not_guessed(
    fields: dict[str, object], values: tuple[str, ...] | None
) -> None:
    past = line(**fields)
    looked = policy("    when: [{key: 'request.headers[x-team]', values: [b]}]\n")
    if values is None:
        assert past.unclear == {"x-team"}
        assert "more than once" in replay(looked, past).why
        return
    assert tuple(v for name, v in past.query.headers if name == "x-team") == values
    now = replay(looked, past).now
    assert now is not None
    assert now.allowed is ("b" in values)


def test_what_a_provider_would_say_is_not_guessed() -> None:
    text = """
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec:
  extensionProviders:
  - name: asked
    envoyExtAuthzHttp: {service: 127.0.0.1, port: 9000}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec:
  action: CUSTOM
  provider: {name: asked}
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec: {rules: [{}]}
"""
    resources, _, findings = read_resources(text.encode())
    assert not findings, [str(f) for f in findings]
    explainer = Explainer(Snapshot({r.key: r for r in resources}))
    found = replay(explainer, line())
    assert found.now is None
    assert "provider" in found.why
    consented = replay(explainer, line(**{"asked asked": "rule"}))
    assert (consented.why, consented.changed) == ("", False)
    refusal = {"status": 403, "details": "ext_authz_denied", "asked asked": "rule"}
    refused = replay(explainer, line(**refusal))
    assert (refused.why, refused.changed) == ("", False)
    which = replay(explainer, line(**refusal, **{"asked other": "rule"}))
    assert which.now is None  # one of two refused


AT_GATE = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gate, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{to: [{operation: {paths: [/info*]}}]}]
"""


def at_gateway(**changes: object) -> PastRequest:
    found = {
        "edge": "gateway", "callee": "istio-system/ingress", "listener": "edge:443", "port": 443,
        "server_name": "a.example", "authority": "a.example", "peer": None, "mesh": "default",
    }  # fmt: skip
    return line(**{**found, **changes})


@pytest.mark.parametrize(
    ("policy", "changes", "result"),
    [
        (AT_GATE, {}, "same"),
        (AT_GATE.replace("/info*", "/else"), {}, "changed"),
        (AT_GATE, {"status": 403, "details": "rbac_access_denied_matched_policy[none]"}, "changed"),
        (AT_GATE.replace("/info*", "/*"), {"path": "/odd", "details": "route_not_found"}, "routes"),
        (AT_GATE, {"port": 8443}, "does not listen"),
        (AT_GATE.replace("paths: [/info*]", "hosts: [a.example]"), {}, "same"),
    ],
)
def test_requests_at_a_gateway_are_asked_again_and_routes_are_not_guessed(
    policy: str, changes: dict[str, object], result: str
) -> None:
    text = GATEWAY_POD + ITEMS + GATE + ROUTE + ALLOW + policy
    resources, _, findings = read_resources(text.encode())
    assert not findings, [str(f) for f in findings]
    found = replay(Explainer(Snapshot({r.key: r for r in resources})), at_gateway(**changes))
    if result in {"same", "changed"}:
        assert (found.why, found.changed) == ("", result == "changed")
    else:
        assert found.now is None
        assert result in found.why


VERIFIES = """
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: people}
spec: {selector: {matchLabels: {app: items}}, jwtRules: [{issuer: 'https://me'}]}
"""
READS = "    when: [{key: 'request.auth.claims[sub]', values: [ann]}]\n"
ELSEWHERE = VERIFIES.replace("'https://me'", "'https://me', fromHeaders: [{name: x-token}]")
NO_TOKEN = {"tokens": "verified", "token": "Jwt is missing"}
EXPIRED = {
    "tokens": "verified", "token": "Jwt is expired", "rule": "[none]", "status": 401,
    "details": "jwt_authn_access_denied{Jwt_is_expired}",
}  # fmt: skip
FORGED = {
    **EXPIRED, "token": "Jwt verification fails",
    "details": "jwt_authn_access_denied{Jwt_verification_fails}",
}  # fmt: skip
DOUBTFUL = {
    "tokens": "verified", "rule": "bad-token", "status": 401,
    "details": "rbac_access_denied_matched_policy[bad-token]",
}  # fmt: skip
REQUIRED = {
    **NO_TOKEN, "status": 401, "details": "jwt_authn_access_denied{Jwt_is_missing}"
}  # fmt: skip
GOOD = {"tokens": "verified", "claims": {"iss": "https://me", "sub": "ann"}}
AT_X = {"token_places": '["header x-token: "]'}
POST = "    to: [{operation: {methods: [POST]}}]\n"


@pytest.mark.parametrize(
    ("rule", "document", "changes", "now"),
    [
        ("", VERIFIES, NO_TOKEN, True),
        (READS, VERIFIES, NO_TOKEN, False),
        (READS, VERIFIES, GOOD, True),
        (READS.replace("ann", "bob"), VERIFIES, GOOD, False),
        ("", VERIFIES, REQUIRED, True),  # it was required then, and is no more
        ("", VERIFIES.replace("{name: people}", "{name: people, annotations: "
            "{limen.dev/token-required: 'true'}}"), NO_TOKEN, False),
        ("", VERIFIES, FORGED, "not logged"),
        (READS, VERIFIES, FORGED, "not logged"),
        ("", VERIFIES, EXPIRED, False),
        (READS, VERIFIES, EXPIRED, False),
        ("", ELSEWHERE, EXPIRED, "not logged"),
        ("", VERIFIES, DOUBTFUL, "not logged"),
        (POST, VERIFIES, EXPIRED, False),  # refused with whatever token
        (POST, VERIFIES, {}, False),
        ("", "", EXPIRED, True),  # nobody looks at tokens now
        (READS, "", GOOD, False),
        ("", VERIFIES, {}, "whether one came"),
        ("", ELSEWHERE, NO_TOKEN, "other places"),
        ("", ELSEWHERE, {**NO_TOKEN, **AT_X}, True),
        ("", VERIFIES, {**NO_TOKEN, **AT_X}, "other places"),
        (READS, ELSEWHERE, {**GOOD, **AT_X}, True),
        (READS, ELSEWHERE, GOOD, "other places"),
    ],
)  # fmt: skip
def test_of_tokens_is_known_that_none_came_what_a_good_one_said_and_no_more(
    rule: str,
    document: str,
    changes: dict[str, object],
    now: bool | str,  # noqa: FBT001 - a verdict, or why there is none
) -> None:
    found = replay(policy(rule, more=document), line(**changes))
    if isinstance(now, str):
        assert found.now is None
        assert now in found.why
    else:
        assert found.now is not None, found.why
        assert found.now.allowed is now


def test_the_mesh_of_old_lines_is_said_beside_them() -> None:
    explainer = policy()
    assert replay(explainer, line(), mesh="other").why == "there is no mesh other"
    assert replay(explainer, line(mesh="default"), mesh="other").why == ""


@pytest.mark.parametrize(
    ("when", "changes", "why"),
    [
        ("    when: [{key: 'request.headers[x-other]', values: [a]}]\n", {}, "x-other"),
        ("    when: [{key: destination.ip, values: [192.0.2.1]}]\n", {}, "address"),
        ("    to: [{operation: {ports: ['80']}}]\n", {}, "port"),
        ("", {"edge": "gateway"}, "no Gateway"),
        ("", {"details": "overload", "flags": "OM"}, "never decided"),
    ],
)
def test_what_a_line_does_not_say_is_not_guessed(
    when: str, changes: dict[str, object], why: str
) -> None:
    found = replay(policy(when), line(**changes))
    assert found.now is None
    assert why in found.why
