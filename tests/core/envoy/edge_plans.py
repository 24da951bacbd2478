"""Plans of gateways and of ports whose rules ask providers, one per feature."""

from __future__ import annotations

from dataclasses import replace

from limen.core.model.gateway import SecretRef, ServerTlsMode, TlsVersion
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.provider import (
    ExtensionProvider,
    HeaderPatterns,
    ProviderBody,
    ProviderProtocol,
    Stage,
)
from limen.core.model.route import (
    Cors,
    HeaderChange,
    HeaderChanges,
    HttpMatch,
    NamedMatch,
    PathChange,
    PathChangeKind,
    PathKind,
    PathMatch,
    Rewrite,
    UnmatchedPreflight,
    ValueKind,
    ValueMatch,
)
from limen.core.model.secret import PrivateKeyPem
from limen.core.plan.edge import (
    AnswerPlan,
    AuthoritiesPlan,
    CertificatePlan,
    ClientCheckPlan,
    EdgeListener,
    EdgePlan,
    EdgeTls,
    ForwardPlan,
    HostPlan,
    HttpChain,
    Missing,
    PartPlan,
    RedirectPlan,
    RoutePlan,
    RouteRef,
    Share,
    TunnelChain,
)
from limen.core.plan.node import Edge, Endpoint, JwtPlan, LocalSide, NodePlan
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    Always,
    Claim,
    Effect,
    Header,
    Layer,
    LayerKind,
    Method,
    Path,
    Policy,
    Principal,
    Rule,
    RuleRef,
)

DOMAIN = "default.mesh.local"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nbm8ga2V5\n-----END PRIVATE KEY-----\n"
GATE = WorkloadName("default", "istio-system", "gate")
ITEMS = WorkloadName("default", "shop", "items")
USERS = WorkloadName("default", "shop", "users")
REF = RuleRef("AuthorizationPolicy", "default", "istio-system", "gate", 0)
CERT, CLIENTS = SecretRef("istio-system", "cert"), SecretRef("istio-system", "clients")
OPEN = Policy((
    Layer(LayerKind.AUTHORIZATION, (Rule(Effect.ALLOW, Always(), "all", REF),), allows=True),
))  # fmt: skip
WAY = Edge(ITEMS, ("items.shop.mesh",), (SpiffeId(DOMAIN, "shop", "items"),))


def value(kind: ValueKind, text: str = "") -> ValueMatch:
    return ValueMatch(kind, text)


def path(kind: PathKind, text: str, *, ignore_case: bool = False) -> HttpMatch:
    return HttpMatch(path=PathMatch(kind, text, ignore_case))


def to(*shares: Share, rewrite: Rewrite | None = None) -> ForwardPlan:
    return ForwardPlan(shares or (Share(ITEMS, 1),), rewrite)


def change(kind: PathChangeKind, text: str, pattern: str = "") -> Rewrite:
    return Rewrite(path=PathChange(kind, text, pattern))


def routes(*pairs: tuple[HttpMatch | None, ForwardPlan | RedirectPlan | AnswerPlan]):
    return tuple(
        RoutePlan(RouteRef("networking.istio.io/VirtualService", "shop", "r", n), match, action)
        for n, (match, action) in enumerate(pairs)
    )


def host(*plans: RoutePlan, domain: str = "a.example") -> HostPlan:
    return HostPlan(domain, plans)


def chain(
    *hosts: HostPlan, tls: EdgeTls | None = None, name: str = "web", sni: tuple[str, ...] = ()
) -> HttpChain:
    return HttpChain(name, sni, tls, hosts or (host(*routes((None, to()))),))


def tls(
    mode: ServerTlsMode = ServerTlsMode.SIMPLE,
    client: ClientCheckPlan | None = None,
    **more: object,
) -> EdgeTls:
    certificates = () if mode is ServerTlsMode.ISTIO_MUTUAL else (CERT,)
    made = EdgeTls(mode, certificates, client, TlsVersion.V1_2, TlsVersion.V1_3)
    return replace(made, **more)  # type: ignore[arg-type] # names are checked by replace


def listener(*chains: HttpChain | TunnelChain, **more: object) -> EdgeListener:
    return replace(EdgeListener("", 8443, chains, OPEN), **more)  # type: ignore[arg-type] # as above


def gateway(*listeners: EdgeListener, **more: object) -> NodePlan:
    edge = replace(EdgePlan(listeners), **more)  # type: ignore[arg-type] # as above
    return NodePlan(
        InstanceName(GATE, "edge-1"),
        SpiffeId(DOMAIN, "istio-system", "gate"),
        (DOMAIN,),
        (),
        (WAY,),
        LocalSide(),
        edge=edge,
    )


def plain(*plans: RoutePlan) -> NodePlan:
    return gateway(listener(chain(host(*plans))))


PATHS = (
    path(PathKind.EXACT, "/exact"),
    path(PathKind.EXACT, "/Exact", ignore_case=True),
    path(PathKind.PREFIX, "/pre"),
    path(PathKind.PREFIX, "/Pre", ignore_case=True),
    path(PathKind.SEGMENTS, "/"),
    path(PathKind.SEGMENTS, "/seg"),
    path(PathKind.SEGMENTS, "/Seg", ignore_case=True),
    path(PathKind.REGEX, "/[a-z]+"),
)
VALUES = (
    value(ValueKind.EXACT, "a.b"),
    value(ValueKind.PREFIX, "a.b"),
    value(ValueKind.PREFIX),
    value(ValueKind.REGEX, "a.*"),
    value(ValueKind.PRESENT),
)
MATCHES = (
    None,
    *PATHS,
    *(HttpMatch(method=match) for match in VALUES),
    *(HttpMatch(authority=match) for match in VALUES),
    *(HttpMatch(headers=(NamedMatch("x-a", match),)) for match in VALUES),
    *(HttpMatch(headers=(NamedMatch("x-a", match, negated=True),)) for match in VALUES),
    *(HttpMatch(query=(NamedMatch("q", match),)) for match in VALUES),
    HttpMatch(
        PathMatch(PathKind.PREFIX, "/all"),
        value(ValueKind.EXACT, "GET"),
        value(ValueKind.EXACT, "a.example"),
        headers=(NamedMatch("x-a", VALUES[0]), NamedMatch("x-b", VALUES[1])),
        query=(NamedMatch("q", VALUES[0]),),
    ),
)
REWRITES = (
    Rewrite(host="inside.example"),
    change(PathChangeKind.WHOLE, ""),
    change(PathChangeKind.WHOLE, r"/all\1"),
    change(PathChangeKind.REGEX, r"/b/\1", "^/a/(.*)$"),
    change(PathChangeKind.MATCHED, "/new"),
    change(PathChangeKind.MATCHED, ""),
    change(PathChangeKind.SEGMENTS, "/new/"),
    change(PathChangeKind.SEGMENTS, "/"),
    change(PathChangeKind.SEGMENTS, ""),
)
REDIRECTS = (
    RedirectPlan(),
    RedirectPlan("https", "b.example", PathChange(PathChangeKind.WHOLE, "/x"), 8443, 301),
    RedirectPlan(path=PathChange(PathChangeKind.MATCHED, "/x"), status=303),
    RedirectPlan(path=PathChange(PathChangeKind.SEGMENTS, "/x"), status=307),
    RedirectPlan(status=308),
)
SET = HeaderChange((("x-set", "100%"),), (("x-add", ""),), ("x-gone",))
BACK = HeaderChange((("x-back", "1"),), (), ("server",))
SHARES = (
    (),
    (Share(ITEMS, 0),),
    (Share(ITEMS, 3), Share(USERS, 1), Share(USERS, 0)),
    (Share(ITEMS, 1, part="v1"),),
    (Share(ITEMS, 1, headers=HeaderChanges(SET, BACK)),),
    *((Share(ITEMS, 1, missing=missing), Share(USERS, 1)) for missing in Missing),
)
CORS = (
    Cors((value(ValueKind.EXACT, "https://a.example"),)),
    Cors(
        (value(ValueKind.PREFIX, "https://"), value(ValueKind.REGEX, "https://.*")),
        ("GET", "PUT"),
        ("x-a", "x-b"),
        ("x-c",),
        600,
        credentials=True,
        unmatched=UnmatchedPreflight.ANSWER,
    ),
)
CHECK = ClientCheckPlan(CLIENTS, required=True)
SPKI = "YW4gU1BLSSdzIFNIQS0yNTYgaXMgb2YgMzIgYnl0ZSE="  # of 32 bytes
PINNED = ClientCheckPlan(CLIENTS, False, ("partner.example",), (SPKI,), ("ab" * 32,))
TUNNEL = TunnelChain(
    "raw", ("raw.example", "*.raw.example"), (Share(ITEMS, 2), Share(USERS, 1), Share(USERS, 0)),
    RouteRef("networking.istio.io/VirtualService", "shop", "raw", 0),
)  # fmt: skip
TOKENS = (JwtPlan("https://id.example", from_headers=(), required=True),)
REPORTING = Policy((
    Layer(
        LayerKind.AUTHORIZATION,
        (
            Rule(Effect.ALLOW, Header("x-tier", StringMatch(How.EXACT, "gold")), "gold", REF),
            Rule(Effect.AUDIT, Always(), "seen", REF),
        ),
        allows=True,
    ),
))  # fmt: skip

EDGES: dict[str, NodePlan] = {
    "edge": gateway(listener(chain())),
    "edge-matches": plain(*routes(*((match, to()) for match in MATCHES))),
    "edge-rewrites": plain(
        *routes(
            *(
                (match, to(rewrite=rewrite))
                for rewrite in REWRITES
                for match in (None, HttpMatch(), *PATHS)
            )
        )
    ),
    "edge-redirects": plain(
        *routes(
            *((match, redirect) for redirect in REDIRECTS for match in (None, *PATHS)),
            (None, AnswerPlan(404)),
            (None, AnswerPlan(403, "100 % closed\n")),
        )
    ),
    "edge-shares": plain(*routes(*((None, to(*shares)) for shares in SHARES))),
    "edge-headers-and-cors": plain(
        *(replace(route, request=SET, response=BACK) for route in routes((None, to()))),
        *(replace(route, cors=cors) for cors in CORS for route in routes((None, to()))),
    ),
    "edge-hosts": gateway(
        listener(
            chain(host(*routes((None, to()))), host(domain="*.example"), host(domain="*")),
            chain(
                host(domain="b.example"),
                host(domain="a.example"),
                tls=tls(),
                sni=("*.b.example",),
                name="other",
            ),
        )
    ),
    "edge-tls": gateway(
        listener(
            chain(tls=tls(), sni=("a.example",), name="simple"),
            chain(tls=tls(ServerTlsMode.MUTUAL, CHECK), sni=("b.example",), name="mutual"),
            chain(
                tls=tls(
                    ServerTlsMode.OPTIONAL_MUTUAL,
                    PINNED,
                    minimum=TlsVersion.V1_3,
                    ciphers=("ECDHE-ECDSA-AES128-GCM-SHA256",),
                ),
                sni=("c.example",),
                name="optional",
            ),
            chain(tls=tls(ServerTlsMode.ISTIO_MUTUAL), sni=("d.example",), name="mesh"),
            TUNNEL,
            replace(TUNNEL, name="any", server_names=("*",), shares=()),
            bind="192.0.2.7",
            cutover=41,
        ),
        secrets=(
            CertificatePlan(CERT, CERTIFICATE, PrivateKeyPem(KEY)),
            AuthoritiesPlan(CLIENTS, CERTIFICATE),
        ),
    ),
    "edge-behind-proxies": replace(
        gateway(
            listener(
                chain(),
                proxy_protocol=True,
                log_all=True,
                rule_header="x-rule",
                tokens=TOKENS,
                policy=REPORTING,
            ),
            trusted_hops=2,
        ),
        max_connection_age_s=600,
    ),
    "edge-parts": gateway(
        listener(chain()),
        parts=(
            PartPlan("v1", WAY, (Endpoint("10.0.0.1", 8080), Endpoint("10.0.0.2", 80, mtls=False))),
            PartPlan("v2", replace(WAY, mtls=False), ()),
        ),
    ),
}

CUSTOM = Policy((
    Layer(
        LayerKind.AUTHORIZATION,
        (
            Rule(Effect.ALLOW, Always(), "all", REF),
            Rule(Effect.CUSTOM, Path(StringMatch(How.PREFIX, "/a")), "a", REF, "http"),
            Rule(Effect.CUSTOM, Method(StringMatch(How.EXACT, "PUT")), "b", REF, "grpc"),
            Rule(
                Effect.CUSTOM,
                Claim(("iss",), StringMatch(How.PRESENT)),
                "c",
                REF,
                "whole",
            ),
            Rule(Effect.CUSTOM, Principal(StringMatch(How.PRESENT)), "d", REF, "gone"),
        ),
        allows=True,
    ),
))  # fmt: skip
PROVIDERS = (
    ExtensionProvider(
        "grpc",
        ProviderProtocol.GRPC,
        address="127.0.0.1",
        port=9000,
        stage=Stage.AFTER_TOKENS,
        body=ProviderBody(100, as_bytes=True),
    ),
    ExtensionProvider("http", ProviderProtocol.HTTP, ("shop", "authz"), timeout_s=0.5),
    ExtensionProvider(
        "whole",
        ProviderProtocol.HTTP,
        address="/run/authz.sock",
        stage=Stage.AFTER_TOKENS,
        path_prefix="/check",
        status_on_error=503,
        request_headers=HeaderPatterns(("x-a", "x-b-*", "*-c")),
        additional_headers=(("x-fixed", "100%"),),
        body=ProviderBody(1000),
        to_upstream=("x-ext-user", "x-ext-role"),
        on_deny=HeaderPatterns(("set-cookie",)),
        on_allow=HeaderPatterns(("x-seen-*",)),
    ),
)
