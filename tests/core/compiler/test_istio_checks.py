"""What is said about Istio's documents together: errors that refuse, warnings that explain."""

from __future__ import annotations

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import PEOPLE, istio_is_on, peer, policy, tokens

from limen.core.compiler.checks import check
from limen.core.model.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("istio_is_on")
__all__ = ["istio_is_on"]

JWT = "{jwtRules: [{issuer: https://id.example}]}"
ALL = "{rules: [{}]}"
CLAIM = "{rules: [{when: [{key: 'request.auth.claims[iss]', values: ['https://id.example']}]}]}"


def ports(*numbers: str) -> str:
    return f"{{rules: [{{to: [{{operation: {{ports: [{', '.join(map(repr, numbers))}]}}}}]}}]}}"


def source(fields: str, action: str = "ALLOW") -> str:
    return f"{{action: {action}, rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"


def codes(*resources, people=PEOPLE) -> list[str]:
    snapshot = Snapshot({r.key: r for r in (*people, *resources)})
    return sorted({f"{d.severity.value[0]}:{d.code}" for d in check(snapshot)})


OPEN = b.settings(default_allow=True)
LOUD = "w:default-allow"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (lambda: (policy(ALL, namespace="istio-system"),), []),
        (lambda: (policy(ALL),), ["w:nothing-allowed"]),
        (lambda: (policy(ALL), OPEN), [LOUD]),
        (
            lambda: (policy("{selector: {matchLabels: {app: none}}, rules: [{}]}"), OPEN),
            [LOUD, "w:matches-no-workload"],
        ),
        (lambda: (policy(ALL, namespace="elsewhere"), OPEN), [LOUD, "w:matches-no-workload"]),
        (
            lambda: (policy("{action: CUSTOM, provider: {name: opa}, rules: [{}]}"), OPEN),
            ["e:unknown-provider", LOUD],
        ),
        (lambda: (policy(CLAIM), OPEN), ["w:claims-not-verified", LOUD]),
        (lambda: (policy(CLAIM), tokens(JWT), OPEN), [LOUD]),
        (
            lambda: (policy(CLAIM), tokens(JWT, namespace="bank"), OPEN),
            ["w:claims-not-verified", LOUD],
        ),
        (
            lambda: (
                policy("{rules: [{from: [{source: {requestPrincipals: ['x/y']}}]}]}"),
                tokens(JWT),
                OPEN,
            ),
            ["w:claims-not-verified", LOUD],
        ),
        (
            lambda: (
                policy(
                    "{action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]}", "forbid"
                ),
                policy("{rules: [{from: [{source: {namespaces: [bank]}}]}]}"),
                OPEN,
            ),
            [LOUD, "w:never-applies"],
        ),
        (
            lambda: (
                policy("{action: DENY, rules: [{}]}", "trial", notes="{istio.io/dry-run: 'true'}"),
                policy(ALL),
                OPEN,
            ),
            [LOUD],
        ),
        (
            lambda: (
                policy("{rules: [{from: [{source: {principals: [x.example/ns/a/sa/b]}}]}]}"),
                OPEN,
            ),
            [LOUD, "w:foreign-trust-domain"],
        ),
        (
            lambda: (policy(CLAIM), tokens("{jwtRules: [{issuer: https://else.example}]}"), OPEN),
            ["w:claims-not-verified", LOUD],
        ),
        (lambda: (policy(ports("9")), OPEN), [LOUD, "w:never-applies"]),
        (lambda: (policy(ports("8080")), OPEN), [LOUD]),
        (lambda: (policy(ports("8080", "9")), OPEN), [LOUD]),
        (lambda: (policy(source("notPrincipals: ['*']")), OPEN), [LOUD, "w:never-applies"]),
        (lambda: (policy(source("notPrincipals: ['*']", "DENY")), OPEN), [LOUD]),
        (
            lambda: (
                policy(source("principals: [cluster.local/ns/a/sa/b], namespaces: [c, d]")),
                OPEN,
            ),
            [LOUD, "w:never-applies"],
        ),
        (
            lambda: (
                policy(source("principals: [cluster.local/ns/a/sa/b], namespaces: [c, a]")),
                OPEN,
            ),
            [LOUD],
        ),
        (lambda: (peer("{mtls: {mode: PERMISSIVE}}"), OPEN), [LOUD, "w:mtls-not-strict"]),
        (lambda: (peer("{mtls: {mode: DISABLE}}"), OPEN), [LOUD, "w:mtls-not-strict"]),
        (lambda: (peer("{mtls: {mode: STRICT}}"), OPEN), [LOUD]),
        (
            lambda: (peer("{mtls: {mode: STRICT}}"), peer("{mtls: {mode: STRICT}}", "later"), OPEN),
            [LOUD, "w:shadowed-policy"],
        ),
        (
            lambda: (
                peer("{selector: {matchLabels: {app: items}}, portLevelMtls: {9: {mode: STRICT}}}"),
                OPEN,
            ),
            [LOUD, "w:unknown-port"],
        ),
        (
            lambda: (peer("{mtls: {mode: STRICT}}"), b.mesh(mtls=False), OPEN),
            ["e:mtls-contradiction", LOUD, "w:mtls-off"],
        ),
    ],
)
def test_findings(rows, expected):
    assert codes(*rows()) == expected
