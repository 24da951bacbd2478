"""Plans of tests, one per feature."""

from __future__ import annotations

from dataclasses import replace

from limen.core.model.decision import DecisionPolicy, Language, OnStale, PolicyRef, PolicyText
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.request_authentication import ClaimHeader, TokenHeader
from limen.core.model.user_context import HopStyle
from limen.core.model.workload import Probe, Protocol
from limen.core.plan.node import (
    Edge,
    ExchangePlan,
    HeldPolicy,
    HopPlan,
    InboundPlan,
    JwtPlan,
    LocalPortPlan,
    LocalSide,
    NodePlan,
    PortMode,
    ProbePlan,
    TokenServicePlan,
)
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Rule,
    RuleRef,
    Sni,
    SourceIp,
)

from .edge_plans import CUSTOM, EDGES, PROVIDERS

DOMAIN = "default.mesh.local"
ITEMS = WorkloadName("default", "default", "items")
USERS = WorkloadName("default", "default", "users")
REF = RuleRef("MeshTrafficPermission", "default", "default", "to-items", 0)


def identity(name: str) -> SpiffeId:
    return SpiffeId(DOMAIN, "default", name)


def exact(value: object) -> StringMatch:
    return StringMatch(How.EXACT, str(value))


def rule(effect: Effect, condition: Condition, name: str = "to-items/0") -> Rule:
    return Rule(effect, condition, name, REF)


def policy(
    *rules: Rule, allows: bool = True, default_allow: bool = False, trial: tuple[Rule, ...] = ()
) -> Policy:
    return Policy((Layer(LayerKind.PERMISSION, rules, allows, trial),), default_allow)


ALLOW_USERS = policy(rule(Effect.ALLOW, Principal(exact(identity("users")))))

EVERY_CONDITION: tuple[Condition, ...] = (
    Always(),
    Authenticated(),
    Principal(exact(identity("users"))),
    Principal(StringMatch(How.PREFIX, f"spiffe://{DOMAIN}/ns/default/")),
    Principal(StringMatch(How.PATH_PREFIX, f"spiffe://{DOMAIN}/ns/default")),
    Principal(StringMatch(How.SUFFIX, "/sa/users")),
    Principal(StringMatch(How.PRESENT)),
    Principal(StringMatch(How.EXACT, "items.default.mesh")),
    Method(exact("GET")),
    Method(StringMatch(How.PRESENT)),
    Path(StringMatch(How.PATH_PREFIX, "/api/")),
    Path(StringMatch(How.PRESENT)),
    Header("x-tier", StringMatch(How.EXACT, "gold", ignore_case=True)),
    Header("x-tier", StringMatch(How.PRESENT)),
    Port(8443),
    Port(1),
    AllOf((Authenticated(), Not(Path(exact("/admin"))))),
    AllOf(()),
    AnyOf((Method(exact("GET")), Method(exact("HEAD")))),
    AnyOf(()),
    PrincipalNamespace(exact("shop")),
    PrincipalNamespace(StringMatch(How.PREFIX, "shop.")),
    PrincipalNamespace(StringMatch(How.EXACT, "a/sa/b")),
    HasToken(),
    RequestPrincipal(exact("https://login.example.com"), StringMatch(How.PRESENT)),
    *(
        RequestPrincipal(StringMatch(how, issuer), StringMatch(how, subject))
        for how in How
        for issuer, subject in (("", ""), ("i", ""), ("i/", "s"))
    ),
    Claim(("scope",), exact("items:read")),
    Claim(("realm", "roles"), StringMatch(How.PREFIX, "")),
    Host(exact("items.mesh")),
    Host(StringMatch(How.SUFFIX, ".mesh"), any_port=True),
    PathTemplate("/v1/{*}/items/{**}"),
    SourceIp(("10.1.2.3/8", "fd00::1")),
    RemoteIp(("192.0.2.1",)),
    DestinationIp(("10.0.0.5", "fd00::/8")),
    Sni(exact("items.default.mesh")),
    *(
        kind(StringMatch(how, "Items.Mesh", ignore_case=True))
        for how in How
        if how is not How.PRESENT
        for kind in (Host, Sni)
    ),
    *(Header("x-tier", StringMatch(how, "Gold/", ignore_case=True)) for how in How),
)


def plan(**changes: object) -> NodePlan:
    inbound = InboundPlan("10.0.0.5", 8443, "127.0.0.1", 8080, Protocol.HTTP, ALLOW_USERS)
    base = NodePlan(
        InstanceName(ITEMS, "vm-1"),
        identity("items"),
        (DOMAIN,),
        (inbound,),
        (),
        LocalSide(),
    )
    return replace(base, **changes)  # type: ignore[arg-type] # names are checked by replace


def with_inbound(**changes: object) -> NodePlan:
    base = plan()
    return replace(base, inbounds=(replace(base.inbounds[0], **changes),))  # type: ignore[arg-type] # as above


EDGE = Edge(USERS, ("users.mesh", "users.default.mesh"), (identity("users"),))

TOKENS = (
    JwtPlan(
        "https://login.example.com",
        audiences=("https://items.example.com",),
        jwks='{"keys":[{"alg":"ES256","crv":"P-256","kid":"1","kty":"EC","x":"x","y":"y"}]}',
        output_payload_to_header="x-token",
        output_claims=(ClaimHeader("X-User", "sub"),),
    ),
    JwtPlan(
        "https://other.example.com",
        from_headers=(TokenHeader("X-Token-Of", "Token "), TokenHeader("x-bare")),
        from_params=("token",),
        from_cookies=("session",),
        forward=True,
        required=True,
    ),
)

FEATURES: dict[str, NodePlan] = {
    "inbound": plan(),
    "inbound-grpc": with_inbound(protocol=Protocol.GRPC),
    "inbound-cutover": with_inbound(cutover=41),
    "inbound-plaintext": with_inbound(mode=PortMode.DISABLE),
    "inbound-permissive": with_inbound(mode=PortMode.PERMISSIVE),
    "inbound-tokens": with_inbound(tokens=TOKENS),
    "inbound-token-in-header": with_inbound(
        tokens=(replace(TOKENS[1], from_params=(), from_cookies=()),)
    ),
    "inbound-token-in-parameter": with_inbound(
        tokens=(replace(TOKENS[1], from_headers=(), from_cookies=()),)
    ),
    "inbound-token-in-cookie": with_inbound(
        tokens=(replace(TOKENS[1], from_headers=(), from_params=()),)
    ),
    "inbound-rule-header": with_inbound(rule_header="x-limen-rule"),
    "inbound-two-layers": with_inbound(
        policy=Policy(
            (
                *ALLOW_USERS.layers,
                Layer(
                    LayerKind.AUTHORIZATION,
                    (
                        rule(Effect.ALLOW, Method(exact("GET")), "ns[a]-policy[b]-rule[0]"),
                        rule(Effect.AUDIT, Path(exact("/secret")), "ns[a]-policy[c]-rule[0]"),
                    ),
                    allows=True,
                    dry_run=(
                        rule(Effect.ALLOW, Always(), "ns[a]-policy[d]-rule[0]"),
                        rule(Effect.DENY, Always(), "ns[a]-policy[e]-rule[0]"),
                    ),
                ),
            )
        )
    ),
    "inbound-denied-to-all": with_inbound(policy=Policy()),
    "inbound-default-allow": with_inbound(policy=Policy(default_allow=True)),
    "inbound-every-condition": with_inbound(
        policy=policy(
            *(rule(Effect.ALLOW, c, f"allow {n}") for n, c in enumerate(EVERY_CONDITION)),
            rule(Effect.DENY, Principal(exact(identity("evil"))), "deny"),
            trial=(rule(Effect.DENY, Principal(exact(identity("users"))), "shadow"),),
        )
    ),
    "outbound": plan(
        inbounds=(), edges=(EDGE,), local=LocalSide(15001, "/run/limen/items/out.sock")
    ),
    "outbound-plaintext": plan(
        inbounds=(), edges=(replace(EDGE, mtls=False),), local=LocalSide(15001)
    ),
    "outbound-mixed": plan(inbounds=(), edges=(replace(EDGE, mixed=True),), local=LocalSide(15001)),
    "outbound-local-port": plan(
        inbounds=(), edges=(EDGE,), local_ports=(LocalPortPlan("127.0.0.1", 9001, USERS),)
    ),
    "probes": plan(probes=ProbePlan("0.0.0.0", 9000, (Probe("/live", 8443, "/healthz"),))),  # noqa: S104 - a plan of a test
    "connection-age": plan(edges=(EDGE,), max_connection_age_s=600),
    "inbound-providers": with_inbound(policy=CUSTOM, providers=PROVIDERS, tokens=TOKENS),
    "inbound-providers-named": with_inbound(
        policy=CUSTOM,
        providers=(replace(PROVIDERS[0], policy=PolicyRef("XacmlPolicySet", "p")), *PROVIDERS[1:]),
        rule_header="x-limen-rule",
    ),
    "inbound-connections": with_inbound(protocol=Protocol.TLS),
    "decisions": plan(
        decisions=tuple(
            HeldPolicy(
                f"limen.dev/{kind}",
                "default",
                name,
                DecisionPolicy(
                    language,
                    (PolicyText("a.txt", "first"), PolicyText("b.txt", "second")),
                    root,
                    (PolicyText("d.json", "{}"),),
                    on_stale=stale,
                    epoch=epoch,
                ),
            )
            for kind, name, language, root, stale, epoch in (
                ("RegoPolicy", "r", Language.REGO, "a/allow", OnStale.KEEP, 7),
                ("XacmlPolicy", "x", Language.XACML, "", OnStale.REFUSE, 1),
            )
        )
    ),
    "user-context": with_inbound(
        tokens=TOKENS,
        context_header="x-user-token",
        exchange=ExchangePlan(
            ("https://items.example.com", "items"),
            ("people",),
            (TokenHeader("X-Old", "Old "), TokenHeader("x-bare")),
            ("items:read", "items:write"),
            300,
            30,
            3,
        ),
    ),
    "user-context-in-authorization": with_inbound(
        exchange=ExchangePlan(("items",), headers=(TokenHeader("Authorization", "Token "),))
    ),
    "user-context-as-usual": with_inbound(exchange=ExchangePlan(("items",))),
    **{
        f"hop-{style.value}": plan(
            inbounds=(),
            edges=(EDGE,),
            local=LocalSide(15001, "/run/out.sock"),
            hop=HopPlan(style, "x-user-token", ("items:read",), 120, 20, 2),
            token_service=TokenServicePlan("https://sts.example", "https://127.0.0.1:9", "7"),
        )
        for style in HopStyle
    },
    "edge-user-context": replace(
        EDGES["edge"],
        edge=replace(
            EDGES["edge"].edge,
            listeners=tuple(
                replace(x, exchange=ExchangePlan(("items",)), context_header="x-user-token")
                for x in EDGES["edge"].edge.listeners
            ),
        ),
    ),
    "inbound-log-all": with_inbound(log_all=True),
    **EDGES,
}
