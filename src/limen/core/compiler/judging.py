"""What one guarded port answers to a request, step by step as its proxy does it.

Handshake, path, token, policy: the first step that refuses ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limen.core.plan.node import PortMode
from limen.core.policy.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.compiler.doors import Door
    from limen.core.compiler.environment import Environment
    from limen.core.compiler.paths import NormalPath
    from limen.core.plan.node import JwtPlan
    from limen.core.policy.decide import Decider
    from limen.core.policy.decision import Json, Request

OK, UNAUTHORIZED, FORBIDDEN = 200, 401, 403
NO_CONNECTION = 0
"""As a status: the caller is refused before HTTP begins."""

NOT_READ = "no rule of this workload reads the claims of a token"


@dataclass(frozen=True, slots=True)
class TokenVerdict:
    """What becomes of a token. `claims` as policy sees them, None if it sees none.

    `status` is what a refused request gets, 200 if it goes on; `reason` is one sentence.
    """

    reason: str
    status: int = OK
    claims: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision of one port, the status that the caller gets, and what was said of a token."""

    decision: Decision
    status: int
    token: TokenVerdict
    notes: tuple[str, ...] = ()


def judge_token(plans: Iterable[JwtPlan], claims: Mapping[str, Json] | None) -> TokenVerdict:
    """Judge the claims of a token whose signature and times are good; None: no token came."""
    known = tuple(plans)
    required = [plan for plan in known if plan.required]
    if claims is None:
        if required:
            issuers = " or ".join(dict.fromkeys(plan.issuer for plan in required))
            return TokenVerdict(f"a token of {issuers} is required and none came", UNAUTHORIZED)
        return TokenVerdict("no token")
    if not known:
        return TokenVerdict("no RequestAuthentication concerns this port: no token is looked at")
    issuer = claims.get("iss")
    ours = [plan for plan in known if plan.issuer == issuer]
    if not ours:
        reason = f"no RequestAuthentication of this port knows the issuer {issuer!r}"
        return TokenVerdict(reason, UNAUTHORIZED)
    fitting = [
        plan for plan in ours if not plan.audiences or _audiences(claims) & {*plan.audiences}
    ]
    if not fitting:
        wanted = " or ".join(dict.fromkeys(a for plan in ours for a in plan.audiences))
        reason = f"the token of {issuer} is not for {wanted}"
        return TokenVerdict(reason, UNAUTHORIZED)
    if required and not any(plan.required for plan in fitting):
        issuers = " or ".join(dict.fromkeys(plan.issuer for plan in required))
        return TokenVerdict(f"a token of {issuers} is required", UNAUTHORIZED)
    words = {name for plan in fitting for name in plan.space_delimited}
    read = dict(claims)
    for name in words:
        value = read.get(name)
        if isinstance(value, str):
            read[name] = [word for word in value.split(" ") if word]
    return TokenVerdict(f"verified token of {issuer}", claims=read)


def _audiences(claims: Mapping[str, Json]) -> set[str]:
    value = claims.get("aud")
    listed = value if isinstance(value, list) else [value]
    return {item for item in listed if isinstance(item, str)}


def judge(
    env: Environment,
    door: Door,
    decider: Decider,
    request: Request,
    claims: Mapping[str, Json] | None,
    *,
    bad_path: NormalPath | None = None,
) -> Judgement:
    """What a port answers; `decider` is that of the door's policy.

    `claims` are those of a token that has been verified, None: no token. `bad_path`: a
    path that is refused by itself.
    """
    unread = TokenVerdict("not looked at")
    refusal = _handshake(env, door, request)
    if refusal:
        return Judgement(Decision(False, refusal), NO_CONNECTION, unread)
    if bad_path is not None and bad_path.refused and bad_path.status != FORBIDDEN:
        return Judgement(_answered(bad_path.refused, bad_path.status), bad_path.status, unread)
    notes: list[str] = []
    if door.anonymous and env.mtls and request.principal is not None:
        notes.append("the port speaks plaintext (PeerAuthentication DISABLE): nobody is known here")
    token = judge_token(door.tokens, claims)
    if token.status != OK:
        return Judgement(_answered(token.reason, token.status), token.status, token, tuple(notes))
    if bad_path is not None and bad_path.refused:
        return Judgement(_answered(bad_path.refused, FORBIDDEN), FORBIDDEN, token, tuple(notes))
    if claims is not None and token.claims is None:
        notes.append(NOT_READ)
    seen = replace(request, principal=None) if door.anonymous else request
    if seen.claims is not token.claims:
        seen = replace(seen, claims=token.claims)
    decision = decider.decide(seen)
    if not env.mtls and decision.allowed and decision.rule is None:
        reason = f"mTLS is off in mesh {env.mesh}: everything is let through"
        decision = replace(decision, reason=reason)
    return Judgement(decision, OK if decision.allowed else FORBIDDEN, token, tuple(notes))


def _answered(reason: str, status: int) -> Decision:
    """A refusal before policy is asked."""
    return Decision(False, f"{reason}: the callee's proxy answers {status}")


def _handshake(env: Environment, door: Door, request: Request) -> str:
    """Why the connection is refused, "" if it is not."""
    who = request.principal
    if door.anonymous:
        return ""
    if who is None and door.mode is PortMode.STRICT:
        return "a caller without a certificate is refused at the handshake: mTLS is strict"
    if who is not None and not env.trusts(who):
        return (
            f"the caller's trust domain {who.trust_domain} is not {env.trust_domain}, that of mesh "
            f"{env.mesh}: refused at the handshake"
        )
    return ""
