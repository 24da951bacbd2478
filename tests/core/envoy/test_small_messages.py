"""Messages that no golden file shows in every form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.route.v3 import route_pb2 as config_pb2

from limen.core.envoy.edge_match import to_string_matcher
from limen.core.envoy.encoded import decode
from limen.core.envoy.expressions import ANY
from limen.core.envoy.policies import content_of, policy_set, signed_set
from limen.core.envoy.route import outbound_routes
from limen.core.model.names import MESH_DOMAIN
from limen.core.model.route import ValueKind, ValueMatch

from .plans import EDGE, identity


@pytest.mark.parametrize("match", [ValueMatch(ValueKind.PRESENT), ValueMatch(ValueKind.PREFIX, "")])
def test_what_is_only_to_be_there_may_be_any_text(match: ValueMatch) -> None:
    assert to_string_matcher(match).safe_regex.regex == ANY


def test_no_callee_takes_the_host_names_that_stand_for_all() -> None:
    greedy = replace(EDGE, hostnames=("*", f"*.{MESH_DOMAIN}", "users.mesh"))
    config = config_pb2.RouteConfiguration()
    routes = outbound_routes((greedy,), identity("items"), hop=False)
    assert decode(routes).resource.Unpack(config)
    assert list(config.virtual_hosts[0].domains) == ["users.mesh"]
    domains = [domain for host in config.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains))


def test_a_signed_set_is_the_set_after_the_line_that_says_whose_it_is() -> None:
    plain = policy_set(())
    signed = signed_set(plain, b"signed by gate")
    assert content_of(plain.body) == b'{"policies":[]}'
    assert content_of(signed.body) == b'signed by gate\n{"policies":[]}'
    assert (signed.name, signed.version) == (plain.name, plain.version)
    assert signed_set(plain, b"another").version == plain.version
