"""CUSTOM policies and the providers of MeshSettings: what is read, compiled, explained, refused."""

from __future__ import annotations

import json

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import PEOPLE, ask, istio_is_on, policy, tokens

from limen.core.compiler.checks import check
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.provider import ProviderProtocol, Stage
from limen.core.model.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("istio_is_on")
__all__ = ["istio_is_on"]


def settings(*providers: str):
    text = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{defaultAction: Allow, extensionProviders: [{', '.join(providers)}]}}\n"
    )
    resources, _, findings = read_resources(text.encode(), "settings.yaml")
    errors = [f"{f.code} {f.message}" for f in findings if f.severity.value == "error"]
    assert not errors, errors
    return resources[0]


def refusals(provider: str) -> list[str]:
    text = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{extensionProviders: [{provider}]}}\n"
    )
    _, _, findings = read_resources(text.encode(), "settings.yaml")
    return [f.code for f in findings if f.severity.value == "error"]


LOCAL = "{name: opa, envoyExtAuthzHttp: {service: 127.0.0.1, port: 9000}}"
AFTER = "{name: opa, envoyExtAuthzGrpc: {service: 127.0.0.1, port: 9000, stage: AfterTokens}}"
PARTIAL = "includeRequestBodyInCheck: {maxRequestBytes: 1, allowPartialMessage: true}"
MESHED = "{name: opa, envoyExtAuthzHttp: {service: authz.default.mesh}}"
CUSTOM = "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/a]}}]}]}"


def test_every_field_of_a_provider_is_read() -> None:
    http = """{name: web, envoyExtAuthzHttp: {service: unix:///run/authz.sock, timeout: 500ms,
      failOpen: false, statusOnError: "503", pathPrefix: /check, stage: AfterTokens,
      includeRequestHeadersInCheck: [X-A, x-b-*], headersToUpstreamOnAllow: [X-Ext-User],
      includeAdditionalHeadersInCheck: {X-Fixed: one}, headersToDownstreamOnDeny: [set-cookie],
      headersToDownstreamOnAllow: [x-c],
      includeRequestBodyInCheck: {maxRequestBytes: 100, packAsBytes: true}}}"""
    read = settings(http, LOCAL, MESHED.replace("opa", "m")).spec.providers
    meshed, opa, web = read
    assert meshed.service == ("default", "authz")
    assert (opa.address, opa.port, opa.timeout_s, opa.stage, opa.status_on_error) == (
        "127.0.0.1", 9000, 2.0, Stage.BEFORE_TOKENS, 403,
    )  # fmt: skip
    assert web.protocol is ProviderProtocol.HTTP
    assert (web.address, web.timeout_s, web.status_on_error) == ("/run/authz.sock", 0.5, 503)
    assert (web.path_prefix, web.stage) == ("/check", Stage.AFTER_TOKENS)
    assert web.request_headers.names == ("x-a", "x-b-*")
    assert web.to_upstream == ("x-ext-user",)
    assert web.additional_headers == (("x-fixed", "one"),)
    assert (web.on_deny.names, web.on_allow.names) == (("set-cookie",), ("x-c",))
    assert web.body is not None
    assert (web.body.max_bytes, web.body.as_bytes) == (100, True)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("service: 127.0.0.1", "missing-field"),
        ("service: 10.0.0.1, port: 1", "bad-value"),
        ("service: authz.example.com", "bad-value"),
        ("service: 'unix://relative'", "bad-value"),
        ("service: 'unix:///x', port: 1", "conflicting-fields"),
        ("service: a, failOpen: true", "refused-value"),
        ("service: a, failureModeAllow: true", "unknown-field"),
        ("service: a, timeout: 31s", "out-of-range"),
        ("service: a, statusOnError: '200'", "unknown-value"),
        ("service: a, headersToUpstreamOnAllow: [x-forwarded-client-cert]", "bad-value"),
        ("service: a, headersToUpstreamOnAllow: [x-limen-caller]", "bad-value"),
        ("service: a, headersToUpstreamOnAllow: [Authorization]", "bad-value"),
        ("service: a, headersToUpstreamOnAllow: [x-*]", "bad-value"),
        ("service: a, includeRequestHeadersInCheck: ['x-*-y']", "bad-value"),
        ("service: a, includeAdditionalHeadersInCheck: {x-limen-caller: me}", "bad-value"),
        (f"service: a, {PARTIAL}", "refused-value"),
    ],
)
def test_a_provider_that_could_let_something_through_is_refused(fields: str, code: str) -> None:
    assert refusals(f"{{name: opa, envoyExtAuthzHttp: {{{fields}}}}}") == [code]


def test_providers_have_one_protocol_and_a_name_of_their_own() -> None:
    both = "envoyExtAuthzHttp: {service: a}, envoyExtAuthzGrpc: {service: a}"
    assert refusals(f"{{name: opa, {both}}}") == ["conflicting-fields"]
    assert refusals("{name: opa}") == ["conflicting-fields"]
    assert refusals(f"{LOCAL}, {LOCAL}") == ["duplicate-name"]
    assert refusals("{name: opa, envoyExtAuthzGrpc: {service: a, pathPrefix: /a}}") == [
        "unknown-field"
    ]


def test_explain_does_not_allow_what_a_provider_may_refuse() -> None:
    documents = (settings(LOCAL), policy(CUSTOM))
    answer = ask(*documents, path="/a")
    assert (answer.allowed, answer.undecided, answer.status) == (False, True, 403)
    assert "asks the provider opa because of AuthorizationPolicy default/p rule 0" in answer.reason
    shown = json.loads(json.dumps(answer.to_json()))
    assert shown["allowed"] is False
    assert shown["undecided"] is True
    assert shown["asked"][0]["provider"] == "opa"
    assert ask(*documents, path="/a", consents=("opa",)).allowed
    assert not ask(*documents, path="/a", consents=("other",)).allowed
    assert ask(*documents, path="/b").allowed


def test_a_denial_decides_whatever_the_provider_says() -> None:
    deny = policy("{action: DENY, rules: [{}]}", name="closed")
    answer = ask(settings(LOCAL), policy(CUSTOM), deny, path="/a", consents=("opa",))
    assert (answer.allowed, answer.undecided) == (False, False)
    assert answer.rule is not None
    assert answer.rule.name == "closed"


def test_a_custom_policy_on_trial_asks_nobody() -> None:
    trial = policy(CUSTOM, notes="{istio.io/dry-run: 'true'}")
    answer = ask(settings(LOCAL), trial, path="/a")
    assert answer.allowed
    assert [effect.value for effect, _ in answer.dry_run] == ["custom"]


def codes(*resources) -> list[str]:
    snapshot = Snapshot({r.key: r for r in (*PEOPLE, *resources)})
    found = {f"{d.severity.value[0]}:{d.code}" for d in check(snapshot)}
    return sorted(found - {"w:default-allow"})


TOKEN_RULE = CUSTOM.replace(
    "{to: [{operation: {paths: [/a]}}]}", "{from: [{source: {requestPrincipals: ['*']}}]}"
)
JWT = "{jwtRules: [{issuer: https://id.example, jwksUri: https://id.example/keys}]}"


def test_what_is_wrong_with_a_provider_is_said() -> None:
    assert codes(policy(CUSTOM)) == ["e:unknown-provider", "w:nothing-allowed"]
    assert codes(settings(LOCAL), policy(CUSTOM)) == []
    assert codes(settings(LOCAL), policy(TOKEN_RULE), tokens(JWT)) == ["e:provider-before-tokens"]
    assert codes(settings(AFTER), policy(TOKEN_RULE), tokens(JWT)) == []
    assert codes(settings(MESHED), policy(CUSTOM)) == ["w:provider-out-of-reach"]
    authz = b.dataplane("authz", address="127.0.0.4")
    own = "{selector: {matchLabels: {app: items}}, " + CUSTOM[1:]
    assert codes(settings(MESHED), authz, policy(CUSTOM)) == ["w:provider-out-of-reach"]
    assert codes(settings(MESHED), authz, policy(own)) == []
    deny = policy("{action: DENY, rules: [{}]}", name="closed", namespace="istio-system")
    assert "w:provider-out-of-reach" in codes(settings(MESHED), authz, policy(CUSTOM), deny)


def test_the_plan_has_the_providers_that_its_rules_ask_and_no_others() -> None:
    unused = LOCAL.replace("opa", "unused")
    resources = [*PEOPLE, settings(LOCAL, unused), policy(CUSTOM)]
    graph = MeshGraph("default", resources)
    items = InstanceName(WorkloadName("default", "default", "items"), "1")
    name = next(n for n in graph.instances if n.workload == items.workload)
    (inbound,) = graph.plan(name).inbounds
    assert [p.name for p in inbound.providers] == ["opa"]
    other = next(n for n in graph.instances if n.workload.name == "teller")
    assert graph.plan(other).inbounds[0].providers == ()
    dirty = graph.update([settings(LOCAL.replace("9000", "9001"), unused)])
    assert name in dirty.instances
    (inbound,) = graph.plan(name).inbounds
    assert inbound.providers[0].port == 9001
    withdrawn = graph.update([policy(CUSTOM.replace("/a", "/b"))])
    assert items.workload in withdrawn.narrowed
