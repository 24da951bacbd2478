"""What the demo applies: whose tokens count, who may exchange them for whom, who may call whom."""

from __future__ import annotations

from dataclasses import dataclass

TRUST = "spiffe://default.mesh.local/ns"
GATEWAY = f"{TRUST}/istio-system/sa/ingress"


def spiffe(service: str) -> str:
    """The identity of one of the services."""
    return f"{TRUST}/default/sa/{service}"


@dataclass(frozen=True, slots=True)
class Places:
    """What is known when the demo runs. `jwks`: of the machine client, JSON text."""

    provider: str
    edge_port: int
    secret_base64: str
    jwks: str


def documents(at: Places) -> str:
    """All of it in one file."""
    return f"""
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec: {{mtls: {{enabledBackend: ca-1, backends: [{{name: ca-1, type: builtin}}]}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: login, namespace: default}}
type: Opaque
data: {{client-secret: {at.secret_base64}}}
---
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {{name: login}}
spec:
  issuer: {at.provider}/o
  subjectClaim: username
  introspection:
    url: {at.provider}/o/introspect/
    clientId: limen
    clientSecretRef: {{name: login, namespace: default}}
---
apiVersion: limen.dev/v1
kind: TokenExchangePolicy
metadata: {{name: edge, namespace: istio-system}}
spec:
  from: [{{serviceAccount: ingress}}]
  subjects: [{{issuer: login}}, {{issuer: mesh}}]
  audiences: ['{spiffe("orders")}']
  scopes: [orders.read, stock.read]
---
apiVersion: limen.dev/v1
kind: TokenExchangePolicy
metadata: {{name: orders, namespace: default}}
spec:
  from: [{{serviceAccount: orders}}]
  subjects: [{{issuer: mesh}}]
  audiences: ['{spiffe("stock")}']
  scopes: [stock.read]
---
apiVersion: limen.dev/v1
kind: TokenExchangePolicy
metadata: {{name: machine, namespace: default}}
spec:
  from: [{{clientId: nightly, jwks: '{at.jwks}'}}]
  clientCredentials: true
  audiences: ['{GATEWAY}']
  scopes: [orders.read, stock.read]
---
apiVersion: limen.dev/v1
kind: UserContext
metadata: {{name: edge, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  accept: [{{issuer: login}}, {{issuer: mesh}}]
  required: true
  exchange: {{audiences: ['{spiffe("orders")}']}}
---
apiVersion: limen.dev/v1
kind: UserContext
metadata: {{name: orders, namespace: default}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  accept: [{{issuer: mesh}}]
  required: true
  hop: {{style: Exchanged}}
---
apiVersion: limen.dev/v1
kind: UserContext
metadata: {{name: stock, namespace: default}}
spec:
  selector: {{matchLabels: {{app: stock}}}}
  accept: [{{issuer: mesh}}]
  required: true
  hop: {{style: SameToken}}
---
apiVersion: limen.dev/v1
kind: UserContext
metadata: {{name: archive, namespace: default}}
spec:
  selector: {{matchLabels: {{app: archive}}}}
  accept: [{{issuer: mesh, audiences: ['{spiffe("stock")}']}}]
  required: true
---
{_policy("orders", ("orders.read", _rule(GATEWAY, GATEWAY)))}
---
{
        _policy(
            "stock",
            ("stock.read", _rule(spiffe("orders"), spiffe("orders"))),
            ("stock.read", _rule(spiffe("archive"), spiffe("archive"))),
        )
    }
---
{_policy("archive", ("stock.read", _rule(spiffe("stock"), spiffe("orders"))))}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {at.edge_port}, name: http, protocol: HTTP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: default}}
spec:
  hosts: ['*']
  gateways: [istio-system/edge]
  http: [{{route: [{{destination: {{host: orders}}}}]}}]
"""


def _rule(caller: str, actor: str) -> tuple[str, str]:
    """Who calls, and which workload the token was made for: whoever stole it is another one."""
    return caller.removeprefix("spiffe://"), actor


def _policy(service: str, *rules: tuple[str, tuple[str, str]]) -> str:
    listed = "".join(
        f"""
  - from: [{{source: {{principals: ['{caller}']}}}}]
    when:
    - {{key: 'request.auth.claims[scope]', values: [{scope}]}}
    - {{key: 'request.auth.claims[act][sub]', values: ['{actor}']}}"""
        for scope, (caller, actor) in rules
    )
    return f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {service}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: {service}}}}}
  action: ALLOW
  rules:{listed}"""
