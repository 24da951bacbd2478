"""Documents of edge and routing that are understood, after the examples of the projects' pages."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import one
from tests.core.dialects.gateway_documents import document, edge_is_on, spec_of

from limen.core.model import resource
from limen.core.model.gateway import (
    ClientCheck,
    Family,
    Gateway,
    GrantSource,
    GrantTarget,
    HostGrant,
    Listener,
    ListenerProtocol,
    ReferenceGrant,
    SecretRef,
    ServerTls,
    ServerTlsMode,
    TlsVersion,
    host_covers,
    host_intersection,
    host_rank,
)
from limen.core.model.route import (
    Cors,
    Destination,
    DestinationRule,
    Forward,
    HeaderChange,
    HeaderChanges,
    HttpMatch,
    HttpRule,
    NamedMatch,
    ParentRef,
    PathChange,
    PathChangeKind,
    PathKind,
    PathMatch,
    Redirect,
    RedirectPort,
    Rewrite,
    Route,
    ServiceRef,
    Subset,
    TlsMatch,
    TlsRule,
    UnmatchedPreflight,
    ValueKind,
    ValueMatch,
)

pytestmark = pytest.mark.usefixtures(edge_is_on.__name__)

VS_KINDS = (resource.VIRTUAL_SERVICE,)
HTTP_KINDS = (resource.HTTP_ROUTE, resource.GRPC_ROUTE)
WEB = Destination(ServiceRef("shop", "web"))


def test_gateway_of_istios_page() -> None:
    found = one("""\
        apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata:
          name: my-gateway
          namespace: some-config-namespace
          creationTimestamp: "2026-01-02T03:04:05Z"
        spec:
          selector:
            app: my-gateway-controller
          servers:
          - port:
              number: 80
              name: http
              protocol: HTTP
            hosts:
            - uk.bookinfo.com
            - eu.bookinfo.com
            tls:
              httpsRedirect: true
          - port:
              number: 443
              name: https-443
              protocol: HTTPS
            hosts:
            - uk.bookinfo.com
            - "bookinfo-namespace/*.bookinfo.com"
            - "./EU.bookinfo.com"
            tls:
              mode: SIMPLE
              credentialName: bookinfo-secret
        """)
    assert str(found.key) == "Gateway default:some-config-namespace/my-gateway"
    assert found.origin.line("/spec/servers/1/tls/mode") == 29
    assert found.spec == Gateway(
        Family.ISTIO,
        (
            Listener(
                "http",
                80,
                ListenerProtocol.HTTP,
                (HostGrant("*", "uk.bookinfo.com"), HostGrant("*", "eu.bookinfo.com")),
                VS_KINDS,
                https_redirect=True,
            ),
            Listener(
                "https-443",
                443,
                ListenerProtocol.HTTPS,
                (
                    HostGrant("*", "uk.bookinfo.com"),
                    HostGrant("bookinfo-namespace", "*.bookinfo.com"),
                    HostGrant("some-config-namespace", "eu.bookinfo.com"),
                ),
                VS_KINDS,
                ServerTls(ServerTlsMode.SIMPLE, (SecretRef("", "bookinfo-secret"),)),
            ),
        ),
        selector=(("app", "my-gateway-controller"),),
        created="2026-01-02T03:04:05.000000Z",
    )


def listener(tls: str, protocol: str = "HTTPS", rest: str = "") -> Listener:
    spec = spec_of(
        "IG",
        f"{{selector: {{a: b}}, servers: [{{port: {{number: 443, name: x, protocol: {protocol}}},"
        f" hosts: ['*'], tls: {tls}{rest}}}]}}",
    )
    assert isinstance(spec, Gateway)
    return spec.listeners[0]


HEX = "ab" * 32


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("{mode: PASSTHROUGH}", ServerTls(ServerTlsMode.PASSTHROUGH)),
        ("{mode: ISTIO_MUTUAL}", ServerTls(ServerTlsMode.ISTIO_MUTUAL)),
        (
            "{mode: MUTUAL, credentialName: c}",
            ServerTls(ServerTlsMode.MUTUAL, (SecretRef("", "c"),), ClientCheck()),
        ),
        (
            (
                "{mode: OPTIONAL_MUTUAL, credentialNames: [rsa, ec], caCertCredentialName: ca,"
                " subjectAltNames: [spiffe://a/b], minProtocolVersion: TLSV1_3,"
                " verifyCertificateSpki: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=],"
                f" verifyCertificateHash: ['{':'.join(['AB'] * 32)}', {HEX}]}}"
            ),
            ServerTls(
                ServerTlsMode.OPTIONAL_MUTUAL,
                (SecretRef("", "rsa"), SecretRef("", "ec")),
                ClientCheck(
                    (SecretRef("", "ca"),),
                    ("spiffe://a/b",),
                    ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",),
                    (HEX, HEX),
                ),
                TlsVersion.V1_3,
            ),
        ),
        (
            (
                "{mode: SIMPLE, credentialName: c, minProtocolVersion: TLS_AUTO,"
                " maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}"
            ),
            ServerTls(
                ServerTlsMode.SIMPLE,
                (SecretRef("", "c"),),
                maximum=TlsVersion.V1_2,
                ciphers=("ECDHE-RSA-AES128-GCM-SHA256",),
            ),
        ),
    ],
)
def test_tls_of_istios_gateway(tls: str, expected: ServerTls) -> None:
    found = listener(tls)
    assert found.tls == expected
    through = expected.mode is ServerTlsMode.PASSTHROUGH
    assert found.protocol is (ListenerProtocol.TLS if through else ListenerProtocol.HTTPS)


def test_address_and_spelling_of_a_server() -> None:
    found = listener("{httpsRedirect: false}", "grpc", ", bind: '::1'")
    assert (found.protocol, found.bind, found.tls) == (ListenerProtocol.HTTP, "::1", None)
    assert found.https_redirect is False
    assert found.hosts == ("*",)


def test_virtual_service_of_istios_page() -> None:
    spec = spec_of(
        "VS",
        """
  hosts: [reviews.prod.example, UK.bookinfo.com]
  gateways: [some-config-namespace/my-gateway, own]
  http:
  - name: first
    match:
    - headers:
        cookie: {exact: "user=dev-123"}
        x-there: {}
      withoutHeaders: {x-not: {prefix: a}}
      queryParams: {v: {regex: '\\d+$'}}
      method: {exact: GET}
      scheme: {exact: https}
      authority: {prefix: UK.}
      port: 443
      gateways: [own]
      uri: {exact: /a}
      ignoreUriCase: true
    route:
    - destination: {port: {number: 7777}, host: reviews.qa.svc.cluster.local}
  - match:
    - uri: {prefix: /reviews/}
    - uri: {regex: '/v[0-9]+/.*'}
    rewrite: {uri: /v1/, authority: Reviews.example}
    headers:
      request: {set: {X-A: 100%%}, add: {x-b: c}, remove: [x-c]}
      response: {remove: [x-envoy-upstream-service-time]}
    route:
    - destination: {host: reviews.prod.svc.cluster.local}
      weight: 80
    - destination: {host: reviews.qa.mesh, subset: v2}
      weight: 20
      headers: {response: {set: {x-d: e}}}
  - redirect: {uri: /v1/bookRatings, authority: newratings.example, redirectCode: 308}
""",
    )
    own = ParentRef("shop", "own")
    assert spec == Route(
        Family.ISTIO,
        resource.VIRTUAL_SERVICE,
        ("reviews.prod.example", "uk.bookinfo.com"),
        (ParentRef("some-config-namespace", "my-gateway"), own),
        (
            HttpRule(
                Forward((Destination(ServiceRef("qa", "reviews"), 7777),)),
                (
                    HttpMatch(
                        PathMatch(PathKind.EXACT, "/a", ignore_case=True),
                        ValueMatch(ValueKind.EXACT, "GET"),
                        ValueMatch(ValueKind.PREFIX, "uk."),
                        "https",
                        (
                            NamedMatch("cookie", ValueMatch(ValueKind.EXACT, "user=dev-123")),
                            NamedMatch("x-there", ValueMatch(ValueKind.PRESENT)),
                            NamedMatch("x-not", ValueMatch(ValueKind.PREFIX, "a"), negated=True),
                        ),
                        (NamedMatch("v", ValueMatch(ValueKind.REGEX, "\\d+$")),),
                        443,
                        (own,),
                    ),
                ),
                name="first",
            ),
            HttpRule(
                Forward(
                    (
                        Destination(ServiceRef("prod", "reviews"), weight=80),
                        Destination(
                            ServiceRef("qa", "reviews"),
                            weight=20,
                            subset="v2",
                            headers=HeaderChanges(response=HeaderChange((("x-d", "e"),))),
                        ),
                    ),
                    Rewrite("reviews.example", PathChange(PathChangeKind.MATCHED, "/v1/")),
                ),
                (
                    HttpMatch(PathMatch(PathKind.PREFIX, "/reviews/")),
                    HttpMatch(PathMatch(PathKind.REGEX, "/v[0-9]+/.*")),
                ),
                HeaderChanges(
                    HeaderChange((("x-a", "100%"),), (("x-b", "c"),), ("x-c",)),
                    HeaderChange(remove=("x-envoy-upstream-service-time",)),
                ),
            ),
            HttpRule(
                Redirect(
                    "",
                    "newratings.example",
                    PathChange(PathChangeKind.WHOLE, "/v1/bookRatings"),
                    RedirectPort.REQUEST,
                    308,
                )
            ),
        ),
    )


def test_server_names_of_a_virtual_service() -> None:
    spec = spec_of(
        "VS",
        "{hosts: ['*.bookinfo.com'], gateways: [g], exportTo: [., other], tls: [{match: [{port:"
        " 443, sniHosts: [Login.bookinfo.com]}], route: [{destination: {host: web}, weight: 0}]}]}",
    )
    assert isinstance(spec, Route)
    assert spec.tls == (TlsRule((TlsMatch(("login.bookinfo.com",), 443),), (WEB,)),)
    assert spec.exported_to == ("shop", "other")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{derivePort: FROM_REQUEST_PORT}", Redirect(port=RedirectPort.LISTENER, status=301)),
        (
            "{scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}",
            Redirect("https", port=RedirectPort.SCHEME, status=301),
        ),
        ("{port: 8443, authority: 'A.example'}", Redirect("", "a.example", port=8443, status=301)),
    ],
)
def test_redirect_of_istio(written: str, expected: Redirect) -> None:
    spec = spec_of("VS", f"{{hosts: ['*'], gateways: [g], http: [{{redirect: {written}}}]}}")
    assert isinstance(spec, Route)
    assert spec.http[0].action == expected


def test_cors_of_istios_page() -> None:
    spec = spec_of(
        "VS",
        "{hosts: [a.example], gateways: [g], http: [{route: [{destination: {host: web}}],"
        " corsPolicy: {allowOrigins: [{exact: https://example.com}, {regex: 'https://.*'}],"
        " allowMethods: [POST, GET], allowCredentials: false, allowHeaders: [X-Foo-Bar],"
        " exposeHeaders: ['*'], maxAge: 24h, unmatchedPreflights: IGNORE}}]}",
    )
    assert isinstance(spec, Route)
    assert spec.http[0].cors == Cors(
        (
            ValueMatch(ValueKind.EXACT, "https://example.com"),
            ValueMatch(ValueKind.REGEX, "https://.*"),
        ),
        ("POST", "GET"),
        ("X-Foo-Bar",),
        ("*",),
        86400,
        credentials=False,
        unmatched=UnmatchedPreflight.ANSWER,
    )


def test_regular_expression_rewrites_of_istios_page() -> None:
    spec = spec_of(
        "VS",
        "{hosts: [a.example], gateways: [g], http: [{route: [{destination: {host: web}}], rewrite:"
        " {uriRegexRewrite: {match: '^/service/([^/]+)(/.*)$', rewrite: '/customprefix/\\2/\\1'}}}"
        "]}",
    )
    assert isinstance(spec, Route)
    assert spec.http[0].action == Forward(
        (WEB,),
        Rewrite(
            path=PathChange(
                PathChangeKind.REGEX, "/customprefix/\\2/\\1", "^/service/([^/]+)(/.*)$"
            )
        ),
    )


@pytest.mark.parametrize(
    ("host", "namespace", "name"),
    [
        ("reviews", "shop", "reviews"),
        ("Reviews.prod.svc.cluster.local", "prod", "reviews"),
        ("reviews.prod.svc.cluster.local.", "prod", "reviews"),
        ("reviews.prod.mesh", "prod", "reviews"),
        ("reviews.mesh", "shop", "reviews"),
        ("a.b.prod.mesh", "prod", "a.b"),
    ],
)
def test_destination_names_a_workload(host: str, namespace: str, name: str) -> None:
    spec = spec_of("DR", f"{{host: {host}, subsets: [{{name: v1, labels: {{b: c, a: b}}}}]}}")
    assert spec == DestinationRule(
        ServiceRef(namespace, name), (Subset("v1", (("a", "b"), ("b", "c"))),)
    )


def test_gateway_of_the_gateway_api() -> None:
    spec = spec_of(
        "KG",
        """
  gatewayClassName: istio
  addresses: [{type: Hostname, value: ingress.edge.svc.cluster.local}, {value: 10.0.0.1}]
  tls:
    frontend:
      default: {}
      perPort: [{port: 8443, tls: {validation: {caCertificateRefs: [{name: ca, group: ''}]}}}]
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - name: https
    hostname: "*.example.com"
    port: 443
    protocol: HTTPS
    tls: {mode: Terminate, certificateRefs: [{kind: Secret, group: "", name: c, namespace: other}]}
    allowedRoutes:
      kinds: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
      namespaces:
        from: Selector
        selector:
          matchExpressions:
          - {key: kubernetes.io/metadata.name, operator: In, values: [b, a]}
  - {name: mutual, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}
  - name: option
    port: 9443
    protocol: HTTPS
    tls:
      certificateRefs: [{name: c}]
      options:
        gateway.istio.io/tls-terminate-mode: OPTIONAL_MUTUAL
        limen.dev/minimum-tls-version: "1.3"
  - {name: sni, port: 6443, protocol: TLS, tls: {mode: Passthrough}}
""",
    )
    own = (HostGrant("shop", "*"),)
    secret = (SecretRef("shop", "c"),)
    https = ListenerProtocol.HTTPS
    assert spec == Gateway(
        Family.GATEWAY_API,
        (
            Listener("http", 80, ListenerProtocol.HTTP, (HostGrant("*", "*"),), HTTP_KINDS),
            Listener(
                "https",
                443,
                https,
                (HostGrant("a", "*.example.com"), HostGrant("b", "*.example.com")),
                (resource.HTTP_ROUTE,),
                ServerTls(ServerTlsMode.SIMPLE, (SecretRef("other", "c"),)),
            ),
            Listener(
                "mutual",
                8443,
                https,
                own,
                HTTP_KINDS,
                ServerTls(ServerTlsMode.MUTUAL, secret, ClientCheck((SecretRef("shop", "ca"),))),
            ),
            Listener(
                "option",
                9443,
                https,
                own,
                HTTP_KINDS,
                ServerTls(ServerTlsMode.OPTIONAL_MUTUAL, secret, ClientCheck(), TlsVersion.V1_3),
            ),
            Listener(
                "sni",
                6443,
                ListenerProtocol.TLS,
                own,
                (resource.TLS_ROUTE,),
                ServerTls(ServerTlsMode.PASSTHROUGH),
            ),
        ),
        workload="edge/ingress",
        addresses=("10.0.0.1",),
    )


def test_http_route_as_kubectl_prints_it() -> None:
    found = one("""\
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata:
          name: reviews
          namespace: shop
          uid: 0e8b1ee4-5b0c-4c62-8a5f-6a8d1c0b9b5e
          creationTimestamp: "2026-01-01T00:00:00Z"
        spec:
          hostnames: [www.example.com]
          parentRefs:
          - {group: gateway.networking.k8s.io, kind: Gateway, name: edge, namespace: infra,
             sectionName: https, port: 443}
          rules:
          - matches:
            - path: {type: PathPrefix, value: /}
            backendRefs:
            - {group: "", kind: Service, name: web, port: 8080, weight: 1}
        status:
          parents: []
        """)
    assert found.spec == Route(
        Family.GATEWAY_API,
        resource.HTTP_ROUTE,
        ("www.example.com",),
        (ParentRef("infra", "edge", "https", 443),),
        (
            HttpRule(
                Forward((Destination(ServiceRef("shop", "web"), 8080),)),
                (HttpMatch(PathMatch(PathKind.SEGMENTS, "/")),),
            ),
        ),
        created="2026-01-01T00:00:00.000000Z",
    )


def http_rule(rule: str) -> HttpRule:
    spec = spec_of("HR", f"{{parentRefs: [{{name: e}}], rules: [{rule}]}}")
    assert isinstance(spec, Route)
    return spec.http[0]


BACKEND = "backendRefs: [{name: web, port: 80}]"
TO_WEB = Destination(ServiceRef("shop", "web"), 80)


def test_rule_of_an_http_route() -> None:
    found = http_rule(
        "{name: r, matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: X-A,"
        " value: b}, {name: c, type: RegularExpression, value: 'd.*'}], queryParams: [{name: Q,"
        " value: ' '}]}, {path: {value: /foo/}}, {path: {type: RegularExpression, value: '/b+'}}],"
        " filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-H, value:"
        " 5%}]}}], backendRefs: [{name: web, port: 80, weight: 0, filters: [{type:"
        " ResponseHeaderModifier, responseHeaderModifier: {remove: [Server]}}]},"
        " {name: api, namespace: other, port: 81}]}"
    )
    assert found == HttpRule(
        Forward(
            (
                Destination(
                    ServiceRef("shop", "web"),
                    80,
                    0,
                    headers=HeaderChanges(response=HeaderChange(remove=("server",))),
                ),
                Destination(ServiceRef("other", "api"), 81),
            )
        ),
        (
            HttpMatch(
                PathMatch(PathKind.EXACT, "/a"),
                ValueMatch(ValueKind.EXACT, "GET"),
                headers=(
                    NamedMatch("x-a", ValueMatch(ValueKind.EXACT, "b")),
                    NamedMatch("c", ValueMatch(ValueKind.REGEX, "d.*")),
                ),
                query=(NamedMatch("Q", ValueMatch(ValueKind.EXACT, " ")),),
            ),
            HttpMatch(PathMatch(PathKind.SEGMENTS, "/foo")),
            HttpMatch(PathMatch(PathKind.REGEX, "/b+")),
        ),
        HeaderChanges(HeaderChange((("x-h", "5%"),))),
        name="r",
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", Redirect()),
        ("{scheme: https, statusCode: 301}", Redirect("https", "", None, RedirectPort.SCHEME, 301)),
        ("{hostname: b.example, port: 8080}", Redirect("", "b.example", port=8080)),
        (
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}",
            Redirect(path=PathChange(PathChangeKind.SEGMENTS, "")),
        ),
    ],
)
def test_redirect_of_the_gateway_api(written: str, expected: Redirect) -> None:
    rule = f"{{filters: [{{type: RequestRedirect, requestRedirect: {written}}}]}}"
    assert http_rule(rule).action == expected


def test_rewrite_and_cors_of_the_gateway_api() -> None:
    found = http_rule(
        "{filters: [{type: URLRewrite, urlRewrite: {hostname: b.example, path: {type:"
        " ReplaceFullPath, replaceFullPath: /x}}}, {type: CORS, cors: {allowOrigins:"
        " ['https://*.example.com:8443', 'http://a.example'], allowMethods: ['*'],"
        f" allowCredentials: true}}}}], {BACKEND}}}"
    )
    assert found.action == Forward(
        (TO_WEB,), Rewrite("b.example", PathChange(PathChangeKind.WHOLE, "/x"))
    )
    assert found.cors == Cors(
        (
            ValueMatch(ValueKind.REGEX, r"https://[A-Za-z0-9.-]+\.example\.com:8443"),
            ValueMatch(ValueKind.EXACT, "http://a.example"),
        ),
        ("*",),
        max_age_s=5,
        credentials=True,
        unmatched=UnmatchedPreflight.ANSWER,
    )


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ("{}", None),
        ("{method: {service: foo.Bar, method: Do}}", PathMatch(PathKind.EXACT, "/foo.Bar/Do")),
        ("{method: {service: .foo.Bar}}", PathMatch(PathKind.SEGMENTS, "/foo.Bar")),
        ("{method: {method: Do}}", PathMatch(PathKind.REGEX, "/[^/]+/Do")),
        (
            "{method: {type: RegularExpression, service: 'foo|bar'}}",
            PathMatch(PathKind.REGEX, "/(?:foo|bar)/(?:[^/]+)"),
        ),
    ],
)
def test_method_of_a_grpc_route(match: str, path: PathMatch | None) -> None:
    spec = spec_of(
        "GR", f"{{parentRefs: [{{name: e}}], rules: [{{matches: [{match}], {BACKEND}}}]}}"
    )
    assert isinstance(spec, Route)
    assert spec.kind == resource.GRPC_ROUTE
    assert spec.http[0].matches == (HttpMatch(path),)


def test_tls_route() -> None:
    spec = spec_of(
        "TR", f"{{parentRefs: [{{name: e}}], hostnames: ['*.a.example'], rules: [{{{BACKEND}}}]}}"
    )
    assert spec == Route(
        Family.GATEWAY_API,
        resource.TLS_ROUTE,
        ("*.a.example",),
        (ParentRef("shop", "e"),),
        tls=(TlsRule((TlsMatch(("*.a.example",)),), (TO_WEB,)),),
    )


def test_reference_grant_permits_what_it_names_and_nothing_else() -> None:
    spec = spec_of(
        "RG",
        "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a},"
        " {group: gateway.networking.k8s.io, kind: Gateway, namespace: b}],"
        " to: [{group: '', kind: Service}, {group: '', kind: Secret, name: c}]}",
    )
    route = GrantSource(resource.HTTP_ROUTE, "a")
    assert spec == ReferenceGrant(
        (route, GrantSource(resource.GATEWAY, "b")),
        (GrantTarget(resource.SERVICE), GrantTarget(resource.SECRET, "c")),
    )
    assert isinstance(spec, ReferenceGrant)
    assert spec.permits(route, resource.SERVICE, "anything")
    assert spec.permits(route, resource.SECRET, "c")
    assert not spec.permits(route, resource.SECRET, "d")
    assert not spec.permits(GrantSource(resource.HTTP_ROUTE, "b"), resource.SERVICE, "x")
    assert not spec.permits(GrantSource(resource.GATEWAY, "a"), resource.SERVICE, "x")


@pytest.mark.parametrize(
    ("one_host", "other", "both"),
    [
        ("foo.com", "foo.com", "foo.com"),
        ("foo.com", "bar.com", None),
        ("*.com", "foo.com", "foo.com"),
        ("*.foo.com", "foo.com", None),
        ("*.foo.com", "a.b.foo.com", "a.b.foo.com"),
        ("*.foo.com", "*.b.foo.com", "*.b.foo.com"),
        ("*.foo.com", "newfoo.com", None),
        ("*.foo.com", "*.newfoo.com", None),
        ("*", "*.com", "*.com"),
        ("*", "*", "*"),
        ("*.foo.com", "*.bar.com", None),
    ],
)
def test_hosts_that_two_patterns_mean(one_host: str, other: str, both: str | None) -> None:
    assert host_intersection(one_host, other) == both
    assert host_intersection(other, one_host) == both


def test_the_most_specific_host_decides() -> None:
    patterns = ["*", "*.example.com", "a.b.example.com", "*.b.example.com"]
    covering = [p for p in patterns if host_covers(p, "a.b.example.com")]
    assert sorted(covering, key=host_rank) == [
        "*", "*.example.com", "*.b.example.com", "a.b.example.com"
    ]  # fmt: skip


def test_document_may_name_its_mesh() -> None:
    text = document("DR", "{host: web, subsets: [{name: a, labels: {a: b}}]}").replace(
        "namespace: shop}", "namespace: shop, labels: {kuma.io/mesh: blue}}"
    )
    assert str(one(text).key) == "DestinationRule blue:shop/p"
