"""The guard of the way out: only who knows the workload's secret may use its identity."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.type.matcher.v3 import string_pb2

from limen.core.envoy import names
from limen.core.envoy.rbac import extension
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded

MIN_SECRET_CHARS = 20


def guard_resource(user: str, secret: str) -> Encoded:
    """ExtensionConfig `local-guard`: requests need `Proxy-Authorization: Basic user:secret`.

    Raises InvalidInput if `user` is empty or has a colon (RFC 7617, section 2), or if `secret` is
    shorter than 20 characters. The result contains the secret: never log it.
    """
    if not user or ":" in user or len(secret) < MIN_SECRET_CHARS:
        raise InvalidInput("the way out needs a user without ':' and a long secret")
    token = base64.b64encode(f"{user}:{secret}".encode()).decode()
    header = route_components_pb2.HeaderMatcher(
        name="proxy-authorization", string_match=string_pb2.StringMatcher(exact=f"Basic {token}")
    )
    holder = rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(any=True)],
        principals=[rbac_pb2.Principal(header=header)],
    )
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW, policies={"holder": holder})
    return extension(names.LOCAL_GUARD, filter_pb2.RBAC(rules=rules))
