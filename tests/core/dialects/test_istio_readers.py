"""Istio documents that are understood, after the examples of Istio's pages, and what they mean."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest
from tests.core.dialects.documents import one, read
from tests.core.dialects.istio_documents import document, found, istio_is_on, spec_of

from limen.core.dialects import document_from_stored, parse_documents, stored_form, to_resource
from limen.core.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    AuthorizationSource,
    ConditionKey,
    ConditionKind,
    Operation,
    When,
)
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.model.request_authentication import (
    ClaimHeader,
    JwtRule,
    RequestAuthentication,
    TokenHeader,
)
from limen.core.model.selector import PolicyTarget, Scope, TargetKind

pytestmark = pytest.mark.usefixtures(istio_is_on.__name__)

SHOP = Scope("shop")
ED25519 = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


def test_documented_example_of_a_policy() -> None:
    resource = one("""\
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata:
          name: httpbin
          namespace: foo
        spec:
          action: ALLOW
          rules:
          - from:
            - source:
                principals: ["cluster.local/ns/default/sa/curl"]
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
              values: ["https://accounts.example.com"]
        """)
    assert str(resource.key) == "AuthorizationPolicy default:foo/httpbin"
    assert resource.origin.line("/spec/rules/0/when/0/key") == 22
    assert resource.spec == AuthorizationPolicy(
        Scope("foo"),
        Action.ALLOW,
        (
            AuthorizationRule(
                (
                    AuthorizationSource(principals=("cluster.local/ns/default/sa/curl",)),
                    AuthorizationSource(namespaces=("test",)),
                ),
                (
                    Operation(methods=("GET",), paths=("/info*",)),
                    Operation(methods=("POST",), paths=("/data",)),
                ),
                (When("request.auth.claims[iss]", ("https://accounts.example.com",)),),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", AuthorizationPolicy(SHOP)),
        ("{rules: [{}]}", AuthorizationPolicy(SHOP, rules=(AuthorizationRule(),))),
        (
            "{action: DENY, rules: [{}]}",
            AuthorizationPolicy(SHOP, Action.DENY, (AuthorizationRule(),)),
        ),
        (
            "{selector: {matchLabels: {version: v1, app: web}}}",
            AuthorizationPolicy(Scope("shop", (("app", "web"), ("version", "v1")))),
        ),
        (
            (
                "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: edge},"
                " {kind: Service, group: '', name: web}]}"
            ),
            AuthorizationPolicy(
                Scope(
                    "shop",
                    (),
                    (
                        PolicyTarget(TargetKind.GATEWAY, "edge"),
                        PolicyTarget(TargetKind.SERVICE, "web"),
                    ),
                )
            ),
        ),
        (
            "{targetRef: {kind: Service, group: core, name: web}}",
            AuthorizationPolicy(Scope("shop", (), (PolicyTarget(TargetKind.SERVICE, "web"),))),
        ),
        (
            (
                "{action: CUSTOM, provider: {name: opa},"
                " rules: [{from: [{source: {principals: ['*']}}]}]}"
            ),
            AuthorizationPolicy(
                SHOP,
                Action.CUSTOM,
                (AuthorizationRule((AuthorizationSource(principals=("*",)),)),),
                "opa",
            ),
        ),
        (
            (
                "{action: AUDIT,"
                " rules: [{to: [{operation: {methods: [GET], paths: [/user/profile/*]}}]}]}"
            ),
            AuthorizationPolicy(
                SHOP,
                Action.AUDIT,
                (
                    AuthorizationRule(
                        (), (Operation(methods=("GET",), paths=("/user/profile/*",)),)
                    ),
                ),
            ),
        ),
    ],
)
def test_policies(spec: str, expected: AuthorizationPolicy) -> None:
    assert spec_of("A", spec) == expected


def test_every_field_of_a_rule_arrives() -> None:
    spec = """{rules: [{from: [{source: {
        principals: [p.td/ns/a/sa/b], notPrincipals: ['*/sa/c'], requestPrincipals: ['i/*'],
        notRequestPrincipals: ['*/s'], namespaces: [n*], notNamespaces: ['*m'],
        ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.1.1], remoteIpBlocks: ['2001:db8::/32'],
        notRemoteIpBlocks: ['2001:db8::1']}},
      {source: {serviceAccounts: [web, other/api], notServiceAccounts: [x]}}],
      to: [{operation: {hosts: ['*.Example.com'], notHosts: ['a.example.com:*'], ports: ['8080'],
        notPorts: ['1', '65535'], methods: ['*'], notMethods: [TRACE, P*], paths: ['/{*}/b/{**}'],
        notPaths: ['*.txt', /]}}],
      when: [{key: source.serviceAccount, values: [web], notValues: [other/api]}]}]}"""
    policy = AuthorizationPolicy(
        SHOP,
        rules=(
            AuthorizationRule(
                (
                    AuthorizationSource(
                        ("p.td/ns/a/sa/b",), ("*/sa/c",), ("i/*",), ("*/s",), ("n*",), ("*m",),
                        (), (), ("10.0.0.0/8",), ("10.1.1.1",), ("2001:db8::/32",),
                        ("2001:db8::1",),
                    ),
                    AuthorizationSource(
                        service_accounts=("shop/web", "other/api"), not_service_accounts=("shop/x",)
                    ),
                ),
                (
                    Operation(
                        ("*.Example.com",), ("a.example.com:*",), (8080,), (1, 65535), ("*",),
                        ("TRACE", "P*"), ("/{*}/b/{**}",), ("*.txt", "/"),
                    ),
                ),
                (When("source.serviceAccount", ("shop/web",), ("other/api",)),),
            ),
        ),
    )  # fmt: skip
    (resource,), diagnostics = read(document("A", spec))
    assert resource.spec == policy
    assert [d.code for d in diagnostics] == ["deny-by-path"]


@pytest.mark.parametrize(
    ("key", "value", "kind", "names"),
    [
        ("request.headers[User-Agent]", "Mozilla/*", ConditionKind.HEADER, ("User-Agent",)),
        ("source.ip", "10.1.2.3", ConditionKind.SOURCE_IP, ()),
        ("remote.ip", "10.2.0.0/16", ConditionKind.REMOTE_IP, ()),
        ("source.namespace", "default", ConditionKind.SOURCE_NAMESPACE, ()),
        ("source.principal", "*/ns/a/sa/b", ConditionKind.SOURCE_PRINCIPAL, ()),
        ("source.serviceAccount", "a/b", ConditionKind.SOURCE_SERVICE_ACCOUNT, ()),
        ("request.auth.principal", "https://i.example/s", ConditionKind.REQUEST_PRINCIPAL, ()),
        ("request.auth.audiences", "app", ConditionKind.AUDIENCES, ()),
        ("request.auth.presenter", "*", ConditionKind.PRESENTER, ()),
        ("request.auth.claims[groups]", "admin*", ConditionKind.CLAIM, ("groups",)),
        ("request.auth.claims[a.b/c][d e]", "x", ConditionKind.CLAIM, ("a.b/c", "d e")),
        ("destination.ip", "::1", ConditionKind.DESTINATION_IP, ()),
        ("destination.port", "443", ConditionKind.DESTINATION_PORT, ()),
        ("connection.sni", "*.example.com", ConditionKind.SNI, ()),
    ],
)
def test_every_documented_condition(
    key: str, value: str, kind: ConditionKind, names: tuple[str, ...]
) -> None:
    entry = f"{{rules: [{{when: [{{key: {json.dumps(key)}, values: [{json.dumps(value)}]}}]}}]}}"
    policy = spec_of("A", entry)
    assert isinstance(policy, AuthorizationPolicy)
    (when,) = policy.rules[0].when
    assert when == When(key, (value,))
    assert when.condition == ConditionKey(kind, names)


PRINCIPALS = [
    "*", "td/ns/a/sa/b", "cluster.local/ns/a/sa/b", "cluster.local/*", "cluster.local/ns/*",
    "cluster.local/ns/team-*", "cluster.local/ns/a/*", "cluster.local/ns/a/sa/*",
    "cluster.local/ns/a/sa/b*", "*b", "*/b", "*/sa/b", "*/a/sa/b", "*-x/sa/b", "*/ns/a/sa/b",
]  # fmt: skip


@pytest.mark.parametrize("value", PRINCIPALS)
def test_principals(value: str) -> None:
    spec_of("A", f"{{rules: [{{from: [{{source: {{principals: ['{value}']}}}}]}}]}}")


@pytest.mark.parametrize(
    "path",
    [
        "*", "/", "/*", "*/", "/info", "/info*", "*.html", "/a.b/..c", "/a/..*", "/pkg.Service/Get",
        "/a%20b", "/{*}", "/{**}", "/{*}/", "/a/{*}/b", "/a/{*}/{**}", "/{**}/b", "/a;v=1", "/%E4",
    ],
)  # fmt: skip
def test_paths(path: str) -> None:
    spec_of("A", f"{{rules: [{{to: [{{operation: {{paths: ['{path}']}}}}]}}]}}")


@pytest.mark.parametrize(("value", "expected"), [('"true"', True), ('"false"', False)])
def test_dry_run(value: str, expected: bool) -> None:  # noqa: FBT001 - a row of the table
    policy = spec_of("A", "{rules: [{}]}", f"{{istio.io/dry-run: {value}, other.org/x: y}}")
    assert policy == AuthorizationPolicy(SHOP, rules=(AuthorizationRule(),), dry_run=expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", PeerAuthentication(SHOP)),
        ("{mtls: {}}", PeerAuthentication(SHOP)),
        ("{mtls: {mode: UNSET}}", PeerAuthentication(SHOP)),
        ("{mtls: {mode: STRICT}}", PeerAuthentication(SHOP, MtlsMode.STRICT)),
        ("{mtls: {mode: PERMISSIVE}}", PeerAuthentication(SHOP, MtlsMode.PERMISSIVE)),
        (
            (
                "{selector: {matchLabels: {app: finance}}, mtls: {mode: STRICT},"
                " portLevelMtls: {8080: {mode: DISABLE}, '443': {}}}"
            ),
            PeerAuthentication(
                Scope("shop", (("app", "finance"),)),
                MtlsMode.STRICT,
                ((443, MtlsMode.UNSET), (8080, MtlsMode.DISABLE)),
            ),
        ),
    ],
)
def test_peer_authentication(spec: str, expected: PeerAuthentication) -> None:
    assert spec_of("P", spec) == expected


def test_time_of_creation_is_kept_where_age_decides() -> None:
    written = document("P", "{}").replace(
        "name: p,", "name: p, creationTimestamp: 2024-02-01T01:00:00+01:00,"
    )
    assert one(written).spec == PeerAuthentication(SHOP, created="2024-02-01T00:00:00.000000Z")


def test_every_field_of_a_token_rule_arrives() -> None:
    keys = json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": ED25519, "kid": "1"}]})
    spec = f"""{{jwtRules: [{{issuer: me, audiences: [a, b], jwks: '{keys}',
        fromHeaders: [{{name: Authorization, prefix: 'Bearer '}}, {{name: x-token}}],
        fromParams: [token], fromCookies: [auth_token], outputPayloadToHeader: x-jwt,
        outputClaimToHeaders: [{{header: x-group, claim: nested.group}}],
        forwardOriginalToken: true, timeout: 1.5s, spaceDelimitedClaims: [roles]}}]}}"""
    assert spec_of("R", spec, '{limen.dev/token-required: "true"}') == RequestAuthentication(
        SHOP,
        (
            JwtRule(
                "me",
                ("a", "b"),
                "",
                keys,
                (TokenHeader("Authorization", "Bearer "), TokenHeader("x-token")),
                ("token",),
                ("auth_token",),
                "x-jwt",
                (ClaimHeader("x-group", "nested.group"),),
                forward=True,
                timeout_s=1.5,
                space_delimited=("roles",),
            ),
        ),
        required=True,
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{issuer: 'https://idp.example'}", JwtRule("https://idp.example")),
        (
            "{issuer: issuer-foo, jwksUri: https://example.com/.well-known/jwks.json}",
            JwtRule("issuer-foo", jwks_uri="https://example.com/.well-known/jwks.json"),
        ),
        (
            "{issuer: testing@secure.istio.io, jwksUri: 'https://[2001:db8::1]:8443/k?v=1'}",
            JwtRule("testing@secure.istio.io", jwks_uri="https://[2001:db8::1]:8443/k?v=1"),
        ),
    ],
)
def test_token_rules(rule: str, expected: JwtRule) -> None:
    assert spec_of("R", f"{{jwtRules: [{rule}]}}") == RequestAuthentication(SHOP, (expected,))


@pytest.mark.parametrize(
    "rule",
    ["{issuer: me, jwksUri: 'http://10.0.0.1/k'}", "{issuer: 'http://idp.example'}"],
)
def test_keys_without_tls_only_where_the_document_says_so(rule: str) -> None:
    spec = f"{{jwtRules: [{rule}]}}"
    assert [d.code for d in found("R", spec)] == ["insecure-jwks-uri"]
    spec_of("R", spec, '{limen.dev/insecure-jwks: "true"}')


def test_keys_for_encryption_may_stand_beside_others() -> None:
    point = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43, "use": "enc"}
    modulus = {"kty": "RSA", "n": "A" * 342, "e": "AQAB", "key_ops": ["verify"], "alg": "RS256"}
    keys = json.dumps({"keys": [point, modulus]})
    spec_of("R", f"{{jwtRules: [{{issuer: me, jwks: '{keys}'}}]}}")


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ("{name: p}", ("default", "default")),
        ("{name: p, namespace: foo}", ("default", "foo")),
        ("{name: p, namespace: foo, labels: {kuma.io/mesh: m, app: x}}", ("m", "foo")),
    ],
)
def test_mesh_and_namespace(metadata: str, key: tuple[str, str]) -> None:
    resource = one(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {metadata}\nspec: {{}}\n"
    )
    assert (resource.key.mesh, resource.key.namespace) == key
    assert resource.spec == AuthorizationPolicy(Scope(key[1]))


def test_what_kubectl_prints_is_read() -> None:
    plain = one(document("P", "{mtls: {mode: STRICT}}"))
    printed = """\
        apiVersion: v1
        kind: List
        metadata:
          resourceVersion: ""
        items:
        - apiVersion: security.istio.io/v1
          kind: PeerAuthentication
          metadata:
            annotations:
              kubectl.kubernetes.io/last-applied-configuration: |
                {"apiVersion":"security.istio.io/v1"}
            creationTimestamp: "2024-01-01T00:00:00Z"
            generation: 2
            managedFields:
            - {apiVersion: security.istio.io/v1, manager: kubectl, operation: Update}
            name: p
            namespace: shop
            resourceVersion: "123"
            uid: 7a1c0b52-0000-4000-8000-000000000000
          spec:
            mtls:
              mode: STRICT
          status:
            observedGeneration: "2"
        """
    listed = one(printed)
    assert listed.key == plain.key
    assert listed.spec == PeerAuthentication(
        SHOP, MtlsMode.STRICT, created="2024-01-01T00:00:00.000000Z"
    )


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_what_a_server_stores_is_read_back(version: str) -> None:
    text = document("A", "{action: DENY, rules: [{}]}", version=version)
    (parsed,), _ = parse_documents(dedent(text).encode(), "f.yaml")
    again = document_from_stored(json.loads(json.dumps(stored_form(parsed))))
    resource, findings = to_resource(again)
    assert not findings
    assert resource == to_resource(parsed)[0]
    assert again.api_version == "security.istio.io/v1"
