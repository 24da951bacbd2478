"""Plans of tests, one per feature."""

from __future__ import annotations

from dataclasses import replace

from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.workload import Probe, Protocol
from limen.core.plan.node import (
    Edge,
    InboundPlan,
    LocalPortPlan,
    LocalSide,
    NodePlan,
    PortMode,
    ProbePlan,
)
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Condition,
    Effect,
    Header,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    Policy,
    Port,
    Principal,
    Rule,
    RuleRef,
)

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

FEATURES: dict[str, NodePlan] = {
    "inbound": plan(),
    "inbound-grpc": with_inbound(protocol=Protocol.GRPC),
    "inbound-cutover": with_inbound(cutover=41),
    "inbound-plaintext": with_inbound(mode=PortMode.DISABLE),
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
    "outbound-local-port": plan(
        inbounds=(), edges=(EDGE,), local_ports=(LocalPortPlan("127.0.0.1", 9001, USERS),)
    ),
    "probes": plan(probes=ProbePlan("0.0.0.0", 9000, (Probe("/live", 8443, "/healthz"),))),  # noqa: S104 - a plan of a test
    "connection-age": plan(edges=(EDGE,), max_connection_age_s=600),
}
