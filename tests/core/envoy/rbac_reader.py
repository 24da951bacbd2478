"""What Envoy's RBAC filters say of a request, read from the messages as Envoy documents them.

Not Envoy (that is asked in `tests/e2e`), but enough of it to compare every condition with
`decide()` in a moment: a second reader of the messages that `core/envoy` writes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2

from limen.core.envoy import names
from limen.core.envoy.rbac import allow_filter, ask_filter, deny_filter, standing_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2

    from limen.core.policy.decision import Request
    from limen.core.policy.rule import Policy

RBAC = "envoy.filters.http.rbac"
Metadata = dict[str, dict[str, Any]]


def text_matches(matcher: Any, text: str) -> bool:
    """`StringMatcher`: regular expressions and folding as Envoy has them."""
    kind = matcher.WhichOneof("match_pattern")
    wanted = getattr(matcher, kind)
    if kind == "safe_regex":
        return re.fullmatch(wanted.regex.replace(r"\C", r"[\s\S]"), text) is not None
    if matcher.ignore_case:
        wanted, text = wanted.lower(), text.lower()
    compare: dict[str, Callable[[], bool]] = {
        "exact": lambda: text == wanted,
        "prefix": lambda: text.startswith(wanted),
        "suffix": lambda: text.endswith(wanted),
    }
    assert wanted or kind == "exact", "Envoy refuses an empty prefix or suffix"
    return compare[kind]()


def value_matches(matcher: Any, value: Any) -> bool:
    """`ValueMatcher` on a value of JSON; None: it is not there."""
    kind = matcher.WhichOneof("match_pattern")
    part = getattr(matcher, kind)
    if kind == "present_match":
        return (value is not None) is part
    if kind == "string_match":
        return isinstance(value, str) and text_matches(part, value)
    if kind == "or_match":
        return any(value_matches(m, value) for m in part.value_matchers)
    assert kind == "list_match"
    return isinstance(value, list) and any(value_matches(part.one_of, v) for v in value)


class Seen:
    """A request as the filters of a port see it; `metadata` is what filters before wrote."""

    def __init__(self, request: Request, metadata: Metadata) -> None:
        self.request = request
        self.metadata = metadata
        self.names = [] if request.principal is None else [str(request.principal)]
        self.headers: Mapping[str, tuple[str, ...]] = {
            **request.headers,
            ":method": (request.method,),
            ":path": (request.path,),
            **({":authority": (request.host,)} if request.host else {}),
        }

    def holds(self, principal: Any) -> bool:
        """Whether a principal of RBAC is true."""
        kind = principal.WhichOneof("identifier")
        return bool(getattr(self, f"_{kind}")(getattr(principal, kind)))

    def _any(self, wanted: bool) -> bool:  # noqa: FBT001 - as the message has it
        return wanted

    def _not_id(self, part: Any) -> bool:
        return not self.holds(part)

    def _and_ids(self, parts: Any) -> bool:
        return all(self.holds(part) for part in parts.ids)

    def _or_ids(self, parts: Any) -> bool:
        return any(self.holds(part) for part in parts.ids)

    def _authenticated(self, part: Any) -> bool:
        assert part.HasField("principal_name"), "any certificate at all is no identity"
        return any(text_matches(part.principal_name, name) for name in self.names)

    def _custom(self, part: Any) -> bool:
        config = mtls_authenticated_pb2.Config()
        assert part.typed_config.Unpack(config)
        assert config.san_matcher.san_type == config.san_matcher.URI
        return any(text_matches(config.san_matcher.matcher, name) for name in self.names)

    def _metadata(self, part: Any) -> bool:
        value: Any = self.metadata.get(part.filter)
        for segment in part.path:
            value = value.get(segment.key) if isinstance(value, dict) else None
        return value_matches(part.value, value)

    def _header(self, part: Any) -> bool:
        values = self.headers.get(part.name, ())
        if part.WhichOneof("header_match_specifier") == "present_match":
            return bool(values) is part.present_match
        return any(text_matches(part.string_match, value) for value in values)

    def _url_path(self, part: Any) -> bool:
        return text_matches(part.path, self.request.path)

    def _direct_remote_ip(self, part: Any) -> bool:
        return _in_range(self.request.source_ip, part)

    def _remote_ip(self, part: Any) -> bool:
        return _in_range(self.request.remote_ip, part)

    def _filter_state(self, part: Any) -> bool:
        if part.key == names.REACHED_ADDRESS:
            return any(_in_range(self.request.destination_ip, r) for r in part.address_match.ranges)
        assert part.key == names.SERVER_NAME
        return bool(self.request.sni) and text_matches(part.string_match, self.request.sni)


def _in_range(address: str, cidr: Any) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    return known in ipaddress.ip_network(f"{cidr.address_prefix}/{cidr.prefix_len.value}")


def first_match(rules: Any, seen: Seen) -> str | None:
    """The first policy in the order of names that matches."""
    for name in sorted(rules.policies):
        policy = rules.policies[name]
        assert all(p.any for p in policy.permissions)
        if any(seen.holds(p) for p in policy.principals):
            return name
    return None


def filtered(message: filter_pb2.RBAC, seen: Seen) -> tuple[bool, str]:
    """Whether a filter lets the request pass, and the rule that decided."""
    if not message.HasField("rules"):
        return True, ""
    name = first_match(message.rules, seen)
    if message.rules.action == message.rules.ALLOW:
        return name is not None, name or ""
    assert message.rules.action == message.rules.DENY
    return name is None, name or ""


def verdict(policy: Policy, request: Request, asked: Iterable[str]) -> tuple[bool, str]:
    """What the filters of a port say, all providers of `asked` consenting; and which rule did."""
    metadata: Metadata = {RBAC: {}}
    if request.claims is not None:
        metadata[names.JWT_METADATA] = {names.JWT_PAYLOAD: dict(request.claims)}
    seen = Seen(request, metadata)
    for provider in asked:
        marking = ask_filter(policy, provider, request.port)
        assert not marking.HasField("rules"), "a filter that marks enforces nothing"
        if first_match(marking.shadow_rules, seen) is not None:
            metadata[RBAC][f"{marking.shadow_rules_stat_prefix}shadow_engine_result"] = "denied"
    for denying in (deny_filter(policy, request.port), standing_filter()):
        passed, name = filtered(denying, seen)
        if not passed:
            return False, name
    return filtered(allow_filter(policy, request.port), seen)
