"""Every code that a finding about documents can have: what it means and what to do.

Codes are stable: scripts may rely on them. `docs/reference/diagnostics.md` is printed from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One code. `warning`: it does not refuse the document, unless `--strict` asks for it."""

    name: str
    meaning: str
    action: str
    warning: bool = False


READING = (
    Code("file-too-large", "The file is larger than is read.", "Split it."),
    Code("not-utf8", "The file is not UTF-8 text.", "Save it as UTF-8."),
    Code(
        "control-character",
        "A control character, a NUL byte or half of a surrogate pair stands in the file.",
        "Remove it.",
    ),
    Code("yaml-syntax", "The file is not valid YAML or JSON.", "Mend the line that is named."),
    Code(
        "yaml-alias",
        "An anchor or an alias is used; they can hide what a policy says, or expand without end.",
        "Write the values out.",
    ),
    Code("yaml-merge", "A merge key (<<) is used.", "Write the fields out."),
    Code("yaml-tag", "A YAML tag is used.", "Remove it."),
    Code("duplicate-key", "A key stands twice in one mapping.", "Keep one of them."),
    Code("bad-key", "A key is not a plain text, or too long.", "Put it in quotes, or shorten it."),
    Code("too-deep", "Values are nested too deeply.", "This is no policy document."),
    Code("too-many-values", "The file has too many values.", "Split it."),
    Code("too-many-findings", "There are more findings than are shown.", "Mend the first ones."),
    Code(
        "ambiguous-number",
        "YAML readers take this number differently (octal, hexadecimal, 1_000).",
        "Write it in decimal, or quote it.",
    ),
    Code("not-finite", "A number is infinite or not a number.", "Write a finite number."),
    Code("number-too-large", "A number has more than 63 bits.", "Write a smaller one."),
)

SHAPE = (
    Code(
        "not-a-resource",
        "A document or an item of a List is not a mapping.",
        "Write apiVersion, kind, metadata and spec, or Kuma's type.",
    ),
    Code("unknown-kind", "The kind is not known.", "Use one of the kinds that are named."),
    Code("unknown-version", "The kind has no such version.", "Use the version that is named."),
    Code(
        "later-kind",
        "The kind is not supported yet; it would not be enforced.",
        "Leave the document out, or wait for the version that reads it.",
    ),
    Code("refused-kind", "Kuma has this kind and Limen does not.", "Leave the document out."),
    Code("unknown-field", "The field is not known.", "Correct its name, or remove it."),
    Code(
        "refused-field",
        "The field is known and not supported.",
        "Do what the hint says; the compatibility page lists all.",
    ),
    Code("refused-value", "The value is known and not supported.", "Do what the hint says."),
    Code(
        "from-not-supported",
        "MeshTrafficPermission with the older `from` is not supported yet.",
        "Write `rules` with spiffeID entries.",
    ),
    Code("missing-field", "A field that is needed is absent.", "Write it."),
    Code("null-value", "A field is there without a value.", "Give it one, or remove it."),
    Code("empty-value", "A list or mapping is empty, which could mean all or none.", "Remove it."),
    Code("wrong-type", "The value has the wrong type.", "Write what is asked for; quote texts."),
    Code("unknown-value", "The value is not one of those allowed.", "Use one that is named."),
    Code("bad-value", "The value does not have the form that is needed.", "Correct it."),
    Code("bad-duration", "The value is not a duration.", "Write it like 24h or 1d12h."),
    Code("bad-address", "The value is not a usable IP address.", "Write an IP address."),
    Code("out-of-range", "The value is too small or too large.", "Choose one in the range."),
    Code("unknown-label", "A label under Kuma's or Limen's prefix is not known.", "Remove it."),
    Code("refused-label", "A label would change what the policy does.", "Do what the hint says."),
    Code(
        "unknown-annotation",
        "An annotation under Kuma's or Limen's prefix is not known, or has no meaning here.",
        "Remove it.",
    ),
    Code(
        "bad-wildcard",
        "A * stands where it has no meaning.",
        "Write prefix*, *suffix or * alone.",
    ),
    Code(
        "unknown-condition",
        "The key of a when entry is not known; without it the rule would mean something else.",
        "Use one that is named.",
    ),
    Code(
        "conflicting-fields",
        "Two fields stand together that exclude each other.",
        "Keep one of them.",
    ),
    Code(
        "bad-certificate",
        "A certificate cannot be read, or is not fit for its purpose.",
        "Do what the hint says.",
    ),
    Code(
        "bad-chain",
        "Certificates are not in the order in which they issued each other.",
        "Put the server's first, then each one's issuer.",
    ),
    Code(
        "bad-private-key",
        "A private key cannot be read, is encrypted, or is of an unfit kind.",
        "Use EC P-256 or RSA-2048 in PEM, not encrypted.",
    ),
    Code(
        "key-mismatch",
        "A private key does not belong to the certificate beside it.",
        "Put the two that were made together into the Secret.",
    ),
    Code("expired-certificate", "A certificate is not valid at this time.", "Renew it."),
    Code("bad-jwks", "The key set cannot be used, or is not public.", "Do what the hint says."),
    Code(
        "insecure-jwks-uri",
        "Keys would be fetched without TLS, so they could be anybody's.",
        "Use https.",
    ),
    Code(
        "unsafe-header",
        "A header that identity, routing, framing or tracing needs would be written.",
        "Choose a name of your own.",
    ),
    Code(
        "bad-regex",
        "The regular expression is not one that every proxy reads alike, or is too large.",
        "Use RE2's syntax without look-around and back-references.",
    ),
)

MEANING = (
    Code("invalid-name", "A name has characters that names may not have.", "Rename it."),
    Code("conflicting-mesh", "The document names two meshes.", "Name one."),
    Code("conflicting-names", "Two fields that say the same thing differ.", "Keep one."),
    Code("duplicate-name", "Two entries of one document have the same name.", "Rename one."),
    Code(
        "duplicate-resource", "Two documents define the same resource.", "Keep one, or rename one."
    ),
    Code(
        "dangling-reference",
        "The value names something that is not in the document.",
        "Correct the name, or add what it names.",
    ),
    Code("port-conflict", "A port is used twice on one address.", "Use another port."),
    Code(
        "invalid-spiffe-id",
        "No workload can have this identity.",
        "Write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT.",
    ),
    Code(
        "invalid-spiffe-prefix",
        "The prefix ends inside a part of an identity and would match nothing.",
        "End it after the trust domain or after the namespace.",
    ),
    Code(
        "prefix-is-exact",
        "The prefix is a whole identity: it matches that one only.",
        "Write type: Exact.",
        warning=True,
    ),
    Code(
        "protocol-assumed",
        "An inbound has no kuma.io/protocol; http is assumed.",
        "Write http, http2 or grpc.",
        warning=True,
    ),
    Code(
        "namespace-no-effect",
        "The kind belongs to a whole mesh; its namespace limits nothing.",
        "Remove the namespace.",
        warning=True,
    ),
    Code(
        "no-effect",
        "The document says nothing that could have an effect.",
        "Complete it, or remove it.",
        warning=True,
    ),
    Code(
        "never-matches",
        "A rule excludes what it asks for, so that it never applies.",
        "Correct one of the two fields.",
        warning=True,
    ),
    Code(
        "deny-by-path",
        "Something is refused by its path; another spelling of the path gets round that.",
        "Allow the paths that are needed instead; everything else is then refused.",
        warning=True,
    ),
    Code(
        "address-masked",
        "A CIDR has bits behind its length; it means the whole range.",
        "Write the range, or a single address.",
        warning=True,
    ),
    Code(
        "issuer-twice",
        "Two rules of one document have the same issuer; a token passes if one accepts it.",
        "Join them, unless they differ on purpose.",
        warning=True,
    ),
    Code(
        "unknown-parameter",
        "An attribute source uses a parameter that it does not declare.",
        "Add it to parameters, or correct its name.",
    ),
    Code(
        "unused-parameter",
        "An attribute source declares a parameter that it does not use.",
        "Use it, or remove it.",
    ),
)

TOGETHER = (
    Code(
        "source-overlap",
        "Two attribute sources of a namespace give one attribute.",
        "Take it out of one of them.",
    ),
    Code(
        "source-circle",
        "Attribute sources of a namespace need one another.",
        "Ask one of them with what the request has.",
    ),
    Code(
        "source-not-here",
        "An attribute source gives labels, which the decision point beside a proxy does not know.",
        "Use rules over labels, or limen pdp serve --registered.",
    ),
    Code("unknown-mesh", "The document names a mesh that does not exist.", "Declare the Mesh."),
    Code(
        "trust-domain-taken",
        "Two meshes claim one trust domain, so each could vouch for the other's workloads.",
        "Give each mesh a trust domain of its own.",
    ),
    Code(
        "mtls-off",
        "The mesh turns mutual TLS off: no identities, no permissions.",
        "Name a backend in enabledBackend.",
        warning=True,
    ),
    Code(
        "default-allow",
        "Workloads that no permission concerns may be called by every workload of the mesh.",
        "Write permissions, then remove defaultAction: Allow.",
        warning=True,
    ),
    Code(
        "both-permission-kinds",
        "A TrafficPermission and a MeshTrafficPermission concern the same workload.",
        "Say it in one kind.",
    ),
    Code(
        "equal-permissions",
        "Two TrafficPermissions are equally specific for a workload; only one counts.",
        "Put all sources into one document.",
        warning=True,
    ),
    Code(
        "shadowed-permission",
        "A more specific TrafficPermission counts everywhere in place of this one.",
        "Put all sources into the most specific one.",
        warning=True,
    ),
    Code(
        "matches-no-workload",
        "The permission concerns no workload that is declared.",
        "Check its names, or declare the workload.",
        warning=True,
    ),
    Code(
        "split-identity",
        "A source means some instances of an identity and not others; they look the same.",
        "Name tags that all its instances have, or give them service accounts of their own.",
    ),
    Code(
        "foreign-trust-domain",
        "A SPIFFE ID has the trust domain of no caller of this mesh and never matches.",
        "Write the mesh's trust domain.",
        warning=True,
    ),
    Code(
        "never-applies",
        "What an entry allows is denied, or no request can have all that it asks for.",
        "Remove one of the two, or correct its identities or ports.",
        warning=True,
    ),
    Code(
        "unknown-policy",
        "A CUSTOM policy asks a decision point for a policy that is not there.",
        "Apply the XacmlPolicy or RegoPolicy first, or in the same files.",
    ),
    Code(
        "policy-elsewhere",
        "A policy of the decision point may not decide at the workload that asks for it.",
        "It must be of the workload's namespace or of the root namespace; `enforcedAt` says "
        "whether services or gateways hold it.",
    ),
    Code(
        "unknown-provider",
        "A CUSTOM policy asks a provider that MeshSettings does not declare.",
        "Declare it in extensionProviders.",
    ),
    Code(
        "provider-before-tokens",
        "A CUSTOM rule looks at a token, and its provider is asked before tokens are verified.",
        "Write stage: AfterTokens at the provider.",
    ),
    Code(
        "provider-out-of-reach",
        "A provider is a workload that is not there, or that refuses who would ask it.",
        "Register it, and allow the workloads that ask it.",
        warning=True,
    ),
    Code(
        "mtls-contradiction",
        "A PeerAuthentication asks for mTLS in a mesh that has turned it off.",
        "Turn mTLS on in the Mesh, or remove the document.",
    ),
    Code(
        "mtls-not-strict",
        "A PeerAuthentication lets callers in without identity and encryption.",
        "Use STRICT as soon as every caller is in the mesh.",
        warning=True,
    ),
    Code(
        "shadowed-policy",
        "An older PeerAuthentication of the same scope counts in place of this one.",
        "Keep one for each scope.",
        warning=True,
    ),
    Code(
        "unknown-port",
        "The document names a port that none of its workloads has.",
        "Write the port of the application.",
        warning=True,
    ),
    Code(
        "claims-not-verified",
        "A rule looks at a token where no RequestAuthentication verifies one of that issuer.",
        "Add a RequestAuthentication for the same workload.",
        warning=True,
    ),
    Code(
        "nothing-allowed",
        "No document allows anything there: refused, where Istio would let everybody in.",
        "Write an ALLOW policy, or set defaultAction: Allow in MeshSettings.",
        warning=True,
    ),
    Code("not-a-gateway", "A Gateway means a workload that is none.", "Run it as a gateway."),
    Code(
        "no-matching-host",
        "A route is served nowhere: no listener of its gateways has its hosts, or lets it attach.",
        "Compare the hosts, and whom the Gateway lets attach.",
        warning=True,
    ),
    Code("route-conflict", "Two routes claim one host or server name.", "Keep one of them."),
    Code(
        "missing-grant",
        "A reference leads into another namespace, which does not permit it.",
        "Write the ReferenceGrant that the hint names.",
    ),
    Code(
        "missing-secret",
        "A listener names a Secret that is not there; it does not open until it is (a warning "
        "where no Secret at all is known). Or a TrustedIssuer does.",
        "Apply the Secret, in the namespace of the gateway's workload, or the one named.",
    ),
    Code(
        "policy-on-tunnel",
        "A policy concerns a gateway's port that passes connections on unopened.",
        "Decide at the service; keep policies of the gateway away from that port.",
    ),
    Code(
        "wrong-secret",
        "A Secret does not hold what a listener or a TrustedIssuer needs.",
        "Name another one.",
    ),
    Code(
        "unknown-issuer",
        "A TrustedIssuer is named that the mesh does not have.",
        "Apply it, or correct the name.",
    ),
    Code(
        "issuer-taken",
        "Two TrustedIssuers are the same issuer.",
        "Write both ways of judging its tokens into one document.",
    ),
    Code(
        "client-taken",
        "A client that is known by its key has two sets of keys.",
        "Write the same keys wherever it is named.",
    ),
    Code(
        "foreign-client",
        "A TokenExchangePolicy names a client that it cannot give rights to.",
        "Write it in the client's own namespace, or in the root namespace.",
    ),
    Code(
        "two-user-contexts",
        "Two UserContexts concern one workload.",
        "Write one for each workload.",
    ),
    Code(
        "hop-at-gateway",
        "A UserContext of a gateway says how an application passes the user on.",
        "Leave hop out: a gateway sends on the token that it got by exchange.",
    ),
    Code(
        "hop-style-later",
        "A UserContext asks for a style that proxies do not enforce yet.",
        "Choose a style that is named in the message.",
    ),
    Code(
        "audiences-at-exchange",
        "A UserContext limits the audience of tokens that are exchanged.",
        "Write audiences in the TrustedIssuer, or in the TokenExchangePolicy.",
    ),
    Code(
        "several-places",
        "A UserContext reads a token of the mesh from several headers.",
        "Name one header.",
    ),
    Code(
        "any-audience",
        "Opaque tokens of an issuer are accepted whomever they are meant for.",
        "Write audiences, if the issuer says aud when it is asked.",
        warning=True,
    ),
    Code(
        "missing-authorities",
        "A listener asks clients for certificates, and nothing says whose are good.",
        "Add ca.crt to its Secret, or a Secret of its name and -cacert.",
    ),
    Code(
        "duplicate-certificate",
        "Two certificates of a listener have the same names and kind of key.",
        "Give one with an RSA key and one with an EC key, or only one.",
    ),
    Code(
        "certificate-name",
        "The certificate of a listener is not for one of its hosts.",
        "Name a Secret with a certificate for this host.",
        warning=True,
    ),
    Code(
        "unknown-service",
        "A route leads to a service of which no instance is known.",
        "Start it, declare it, or correct the name.",
        warning=True,
    ),
    Code(
        "wrong-protocol",
        "A route leads to a port that it cannot speak to: by SNI only to one that ends TLS itself.",
        "Tag the port kuma.io/protocol: tls, or use the other sort of route.",
    ),
    Code(
        "empty-subset",
        "No instance of a service has the labels of a subset.",
        "Start one, or correct the labels.",
        warning=True,
    ),
    Code(
        "gateway-not-allowed",
        "A route leads to a service none of whose policies lets the gateway in.",
        "Allow the gateway's identity to call it.",
        warning=True,
    ),
    Code(
        "rewrite-without-path",
        "A rewrite of the prefix stands under a match without a path.",
        "Match a prefix, or end the text with /.",
        warning=True,
    ),
    Code("duplicate-port", "A Dataplane uses a port twice.", "Give each a port of its own."),
    Code(
        "instance-taken",
        "A Dataplane takes the name of another service's instance.",
        "Choose another name, or delete the other one first.",
    ),
    Code(
        "address-in-use",
        "Two instances are at one address and port.",
        "Give each its own, or delete the one that is gone.",
        warning=True,
    ),
    Code(
        "hostname-clash",
        "Two services would be called by one host name.",
        "Rename a service or a namespace: dots in them make names that clash.",
    ),
)
"""Found by `core/compiler` in documents that are valid each by itself."""

CODES = (*READING, *SHAPE, *MEANING, *TOGETHER)
BY_CODE = {code.name: code for code in CODES}
