"""Tokens around one issuer, each with what a verifier must say: good ones, and every known trick.

All are signed anew around JSON claims, so that any verifier of JWTs can be asked: our reader here,
Envoy's `jwt_authn` in tests/e2e. `code` is our reader's; empty: the token is accepted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.core.tokens.signing import (
    HASHES,
    b64,
    dumps,
    ec_key,
    ed_key,
    jwk,
    rsa_key,
    sign,
    signature,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ISSUER = "https://login.example.com/realms/shop"
AUDIENCE = "https://items.example.com"
SECRET = b"a shared secret that is long enough for every HMAC there is: 64+"


@dataclass(frozen=True)
class Case:
    """`mechanism` as in the list of known bypasses; empty for tokens that are accepted."""

    name: str
    mechanism: str
    token: str
    code: str = ""


@dataclass(frozen=True)
class Corpus:
    issuer: str
    audience: str
    jwks: str
    """As the issuer publishes it, unfit keys among the fit ones."""
    cases: tuple[Case, ...]


def build(now_s: float) -> Corpus:
    """The corpus at this time (seconds since 1970)."""
    made = Maker(int(now_s))
    groups = (
        accepted, algorithms, keys, key_sources, headers, encodings, serialisations, signatures,
        times, issuers, audiences, contents,
    )  # fmt: skip
    cases = tuple(case for group in groups for case in group(made))
    assert len({case.name for case in cases}) == len(cases)
    return Corpus(ISSUER, AUDIENCE, json.dumps(published()), cases)


def published() -> dict[str, Any]:
    return {
        "keys": [
            jwk(ec_key(), kid="ec", use="sig", alg="ES256"),
            jwk(ec_key("384"), kid="ec384", key_ops=["verify"]),
            jwk(ec_key("521"), kid="ec521"),
            jwk(rsa_key(), kid="rsa", use="sig"),
            jwk(rsa_key(2048, 2), kid="ps", alg="PS256"),
            jwk(ed_key(), kid="ed", alg="EdDSA"),
            jwk(ec_key(number=3), kid="enc", use="enc"),
            jwk(ec_key(number=4), kid="ops", key_ops=["encrypt"]),
            jwk(ec_key(number=5), kid="wrapping", alg="ECDH-ES"),
            jwk(rsa_key(1024), kid="weak"),
            jwk(SECRET, kid="oct", alg="HS256"),
        ]
    }


class Maker:
    """Tokens of the issuer: one thing different in each."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.claims: dict[str, Any] = {
            "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "iat": now - 10, "exp": now + 600,
            "scope": "items:read",
        }  # fmt: skip

    def token(
        self, *, alg: str = "ES256", key: Any = None, header: Any = None, without: str = "",
        payload: object = None, **claims: Any,
    ) -> str:  # fmt: skip
        full = {k: v for k, v in (self.claims | claims).items() if k != without}
        return sign(
            {"alg": alg, "kid": "ec"} | (header or {}) if not isinstance(header, bytes) else header,
            full if payload is None else payload,
            ec_key() if key is None else key,
            alg,
        )


def accepted(m: Maker) -> Iterator[Case]:
    yield Case("a good token", "", m.token())
    yield Case("ES384", "", m.token(alg="ES384", key=ec_key("384"), header={"kid": "ec384"}))
    yield Case("ES512", "", m.token(alg="ES512", key=ec_key("521"), header={"kid": "ec521"}))
    for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        yield Case(alg, "", m.token(alg=alg, key=rsa_key(), header={"kid": "rsa"}))
    yield Case("no kid", "", sign({"alg": "ES256"}, m.claims, ec_key(), "ES256"))
    for typ in ("JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt"):
        yield Case(f"typ {typ}", "", m.token(header={"typ": typ}))
    yield Case("a list of audiences", "", m.token(aud=["https://other.example.com", AUDIENCE]))
    yield Case("a fraction in exp", "", m.token(exp=m.now + 60.5))
    yield Case("nbf now", "", m.token(nbf=m.now))
    yield Case("iat within the leeway", "", m.token(iat=m.now + 20))
    yield Case("without iat", "", m.token(without="iat"))
    yield Case("without sub", "", m.token(without="sub"))
    yield Case("nested claims", "", m.token(realm={"roles": ["a", "b"]}, act={"sub": "x"}))
    yield Case("escaped and foreign letters", "", m.token(name="Zo\u00eb \U0001f600", sub="\u00e9"))
    yield Case("unknown header member", "", m.token(header={"x-note": ["any", {"thing": 1}]}))
    white = b'{ "alg" : "ES256" ,\n"kid":"ec" }'
    yield Case("white space in the header", "", m.token(header=white))


def algorithms(m: Maker) -> Iterator[Case]:
    body = b64(dumps(m.claims))
    for alg in ("none", "None", "NONE", "nOnE", " none", "none "):
        head = b64(dumps({"alg": alg, "kid": "ec"}))
        yield Case(f"alg {alg!r}, no signature", "alg none", f"{head}.{body}.", "alg-none")
        signed = m.token(header={"alg": alg})
        yield Case(f"alg {alg!r}, signed", "alg none", signed, "alg-none")
    public = rsa_key().public_key()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "PKCS 1": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "JWK": dumps(jwk(rsa_key(), kid="rsa", use="sig")),
        "n": public.public_numbers().n.to_bytes(256, "big"),
        "empty": b"",
    }
    for how, secret in secrets.items():
        token = m.token(alg="HS256", key=secret, header={"kid": "rsa"})
        name = f"HS256 with the public key as secret: {how}"
        yield Case(name, "RS to HS confusion", token, "alg-not-pinned")
    ours = ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    token = m.token(alg="HS256", key=ours)
    yield Case("HS256 with the EC point", "RS to HS confusion", token, "alg-not-pinned")
    token = m.token(alg="HS256", key=SECRET, header={"kid": "oct"})
    yield Case("HS256 with a published secret", "RS to HS confusion", token, "alg-not-pinned")
    token = m.token(alg="EdDSA", key=ed_key(), header={"kid": "ed"})
    yield Case("EdDSA, not asked for", "algorithm not pinned", token, "alg-not-pinned")
    for alg in ("es256", "ES256K", "RS1", "HS256 ", "ES256\u0000", ""):
        token = m.token(header={"alg": alg})
        yield Case(f"alg {alg!r}", "algorithm not pinned", token, "alg-not-pinned")
    for alg in (None, 256, ["ES256"], {"ES256": 1}, True):
        yield Case(f"alg {alg!r}", "wrong type", m.token(header={"alg": alg}), "alg-malformed")
    token = sign({"kid": "ec"}, m.claims, ec_key(), "ES256")
    yield Case("no alg", "algorithm not pinned", token, "alg-malformed")
    for alg in ("RS256", "PS256", "HS256", "EdDSA", "ES384"):
        code = "key-unknown" if alg in ("RS256", "PS256", "ES384") else "alg-not-pinned"
        token = m.token(header={"alg": alg})
        yield Case(f"says {alg}, is ES256", "key of another kind", token, code)
    token = m.token(alg="RS256", key=rsa_key(2048, 2), header={"kid": "ps"})
    yield Case("RS256 by a key for PS256", "key of another algorithm", token, "key-unknown")
    token = m.token(alg="PS256", key=rsa_key(), header={"kid": "rsa", "alg": "RS256"})
    yield Case("says RS256, is PS256", "key of another algorithm", token, "signature-invalid")
    token = m.token(key=ec_key("384"), header={"kid": "ec384"})
    yield Case("ES256 by a P-384 key", "key of another algorithm", token, "key-unknown")


def keys(m: Maker) -> Iterator[Case]:
    token = m.token(key=ec_key(number=3), header={"kid": "enc"})
    yield Case("signed with a key for encryption", "use: enc verifies", token, "key-unknown")
    token = m.token(key=ec_key(number=4), header={"kid": "ops"})
    yield Case("signed with a key whose key_ops lack verify", "use: enc verifies", token,
               "key-unknown")  # fmt: skip
    token = m.token(key=ec_key(number=5), header={"kid": "wrapping"})
    yield Case("signed with a key for key agreement", "use: enc verifies", token, "key-unknown")
    token = sign({"alg": "ES256"}, m.claims, ec_key(number=3), "ES256")
    yield Case("the key for encryption, no kid", "use: enc verifies", token, "signature-invalid")
    token = m.token(alg="RS256", key=rsa_key(1024), header={"kid": "weak"})
    yield Case("signed with RSA of 1024 bits", "weak key", token, "key-unknown")
    token = m.token(key=ec_key(number=9))
    yield Case("signed with a stranger's key", "wrong key", token, "signature-invalid")
    token = m.token(key=ec_key(number=9), header={"kid": "removed"})
    yield Case("signed with a key removed from the set", "removed key", token, "key-unknown")
    kids = {
        "a path": "../../../../dev/null",
        "SQL": "x' UNION SELECT 'secret' --",
        "a URL": "https://evil.example/key",
        "NUL": "ec\u0000",
        "case": "EC",
        "white space": "ec ",
        "format": "%s%n${jndi:ldap://evil}",
    }
    for what, kid in kids.items():
        token = m.token(alg="HS256", key=b"", header={"kid": kid, "alg": "ES256"})
        yield Case(f"kid with {what}", "kid as path or SQL", token, "key-unknown")
    for kid in (None, 1, 1.5, True, ["ec"], {"ec": "ec"}):
        token = m.token(header={"kid": kid})
        yield Case(f"kid {kid!r}", "kid of a wrong type", token, "header-kid")
    yield Case("kid empty", "kid of a wrong type", m.token(header={"kid": ""}), "header-kid")
    token = m.token(header={"kid": "k" * 5000})
    yield Case("kid of 5000 characters", "kid flood", token, "header-kid")


def key_sources(m: Maker) -> Iterator[Case]:
    mine = ec_key(number=9)
    public = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    sources = {
        "jwk": jwk(mine, kid="mine", alg="ES256"),
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/chain.pem",
        "x5c": [b64(public)],
        "x5t": b64(b"x" * 20),
    }
    for name, value in sources.items():
        trust = "key source in the token trusted"
        token = m.token(key=mine, header={name: value})
        yield Case(f"{name} of an attacker", trust, token, "signature-invalid")
        token = m.token(key=mine, header={name: value, "kid": "mine"})
        yield Case(f"{name} of an attacker under another kid", trust, token, "key-unknown")
        yield Case(f"{name} beside a good signature", trust, m.token(header={name: value}))
    token = m.token(key=mine, header={"jku": "file:///etc/passwd"})
    yield Case("jku of a file", "key source in the token trusted", token, "signature-invalid")


def headers(m: Maker) -> Iterator[Case]:
    for crit in (["exp"], ["unknown"], [], ["b64"], "unknown", None, {}, ["alg"]):
        token = m.token(header={"crit": crit, "unknown": True})
        yield Case(f"crit {crit!r}", "unknown crit accepted", token, "header-crit")
    for b64_value in (False, None, "false", 0):
        token = m.token(header={"b64": b64_value})
        yield Case(f"b64 {b64_value!r}", "payload not encoded", token, "header-b64")
    yield Case("b64 true", "", m.token(header={"b64": True}))
    token = m.token(header={"zip": "DEF"})
    yield Case("zip", "zip bomb", token, "header-zip")
    token = m.token(header={"enc": "A128GCM"})
    yield Case("enc beside a signature", "encrypted", token, "token-encrypted")
    kinds = (
        "logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "txntoken+jwt", "jwk+jwt", "JOSE",
        "id_token+jwt", "application/logout+jwt", "text/jwt", "JWT ", "", "x/at+jwt",
        "application/application/jwt",
    )  # fmt: skip
    for typ in kinds:
        token = m.token(header={"typ": typ})
        yield Case(f"typ {typ!r}", "typ of another token kind", token, "header-typ")
    for typ in (None, 1, ["JWT"], {"JWT": 1}, False):
        token = m.token(header={"typ": typ})
        yield Case(f"typ {typ!r}", "typ of another token kind", token, "header-typ")
    twice = {
        "alg": b'{"alg":"none","alg":"ES256","kid":"ec"}',
        "kid": b'{"alg":"ES256","kid":"x","kid":"ec"}',
        "typ": b'{"alg":"ES256","kid":"ec","typ":"logout+jwt","typ":"JWT"}',
        "alg, escaped": b'{"\\u0061lg":"none","alg":"ES256","kid":"ec"}',
    }
    for what, raw in twice.items():
        token = m.token(header=raw)
        yield Case(f"header with two {what}", "duplicate header keys", token, "header-malformed")
    broken = {
        "a list": b'["ES256"]', "a text": b'"ES256"', "null": b"null", "a number": b"1",
        "nothing": b" ", "invalid UTF-8": b'{"alg":"ES256","kid":"ec","a":"\xff"}',
        "a byte order mark": b'\xef\xbb\xbf{"alg":"ES256","kid":"ec"}',
        "a comment": b'{"alg":"ES256","kid":"ec"/* */}',
        "a trailing comma": b'{"alg":"ES256","kid":"ec",}',
        "single quotes": b"{'alg':'ES256'}",
        "two values": b'{"alg":"ES256","kid":"ec"}{}',
        "NaN": b'{"alg":"ES256","kid":"ec","a":NaN}',
        "deep nesting": b'{"alg":"ES256","kid":"ec","a":' + b"[" * 2000 + b"]" * 2000 + b"}",
        "half a surrogate pair": b'{"alg":"ES256","kid":"ec","a":"\\ud800"}',
    }  # fmt: skip
    for what, raw in broken.items():
        token = m.token(header=raw)
        yield Case(f"header with {what}", "malformed header", token, "header-malformed")


def encodings(m: Maker) -> Iterator[Case]:
    good = m.token(pad="x")
    head, body, seal = good.split(".")
    changed = {
        "padding in the signature": f"{head}.{body}.{seal}==",
        "padding in the payload": f"{head}.{body}=.{seal}",
        "white space before": f" {good}",
        "white space after": f"{good} ",
        "a line break": f"{head}.\n{body}.{seal}",
        "a line break in the signature": f"{head}.{body}.{seal[:10]}\n{seal[10:]}",
        "Bearer": f"Bearer {good}",
        "the other alphabet": f"{head}.{body}.{seal[:-1]}+",
        "a slash": f"{head}.{body}.{seal[:-1]}/",
        "a percent escape": f"{head}.{body}.{seal}%3D",
        "quotes": f'"{good}"',
        "NUL": f"{good}\u0000",
        "a letter that is not ASCII": f"{head}.{body}.{seal[:-1]}\u00e9",
        "a wide letter": f"{head}.{body}.{seal[:-1]}\uff21",
    }
    for what, token in changed.items():
        yield Case(f"token with {what}", "other encodings", token, "token-encoding")
    for part, (a, b, c) in {
        "signature": (head, body, unused_bits(seal)),
    }.items():
        token = f"{a}.{b}.{c}"
        yield Case(f"unused bits of the {part}", "other encodings", token, "token-encoding")
    raw = dumps(m.claims)
    raw += b" " * ((1 - len(raw)) % 3)
    body = unused_bits(b64(raw))
    seal = b64(signature("ES256", ec_key(), f"{head}.{body}".encode()))
    token = f"{head}.{body}.{seal}"
    yield Case("unused bits of the payload, signed", "other encodings", token, "token-encoding")
    body = f"{b64(raw)}=="
    seal = b64(signature("ES256", ec_key(), f"{head}.{body}".encode()))
    token = f"{head}.{body}.{seal}"
    yield Case("padding in the payload, signed", "other encodings", token, "token-encoding")


def unused_bits(text: str) -> str:
    """The same bytes in a text whose unused bits are not zero."""
    assert len(text) % 4 == 2
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def serialisations(m: Maker) -> Iterator[Case]:
    good = m.token()
    head, body, seal = good.split(".")
    flat = json.dumps({"protected": head, "payload": body, "signature": seal})
    general = json.dumps({"payload": body, "signatures": [{"protected": head, "signature": seal}]})
    form = "JSON against compact"
    yield Case("flattened JSON", form, flat, "token-not-compact")
    yield Case("general JSON", form, general, "token-not-compact")
    inside = json.dumps({"protected": head, "payload": body, "signature": seal, "x": "a.b.c"})
    yield Case("JSON with two dots in it", form, inside, "token-encoding")
    yield Case("detached payload", "detached", f"{head}..{seal}", "token-detached")
    for token, what in (
        ("", "nothing"), (".", "one dot"), ("..", "two dots"), (head, "a header"),
        (f"{head}.{body}", "no signature part"), (f".{body}.{seal}", "no header"),
        (f"{good}.", "a dot after it"), (f".{good}", "a dot before it"),
        (f"{good}.{seal}", "two signatures"),
    ):  # fmt: skip
        yield Case(f"{what}", "other serialisations", token, "token-not-compact")
    jwe = b64(dumps({"alg": "RSA-OAEP", "enc": "A128GCM", "cty": "JWT"}))
    token = f"{jwe}.{'A' * 342}.{'A' * 16}.{'A' * 40}.{'A' * 22}"
    yield Case("JWE", "nested JWE without an inner signature", token, "token-encrypted")
    jwe = b64(dumps({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31, "p2s": "AAAA"}))
    token = f"{jwe}.{'A' * 32}.{'A' * 16}.{'A' * 40}.{'A' * 22}"
    yield Case("JWE with a huge p2c", "huge p2c", token, "token-encrypted")
    jwe = b64(dumps({"alg": "dir", "enc": "A128GCM", "zip": "DEF"}))
    token = f"{jwe}..{'A' * 16}.{'A' * 400}.{'A' * 22}"
    yield Case("JWE with zip", "zip bomb", token, "token-encrypted")
    token = sign({"alg": "ES256", "kid": "ec", "cty": "JWT"}, good.encode(), ec_key(), "ES256")
    yield Case("a token in a token", "nested", token, "claims-malformed")


def signatures(m: Maker) -> Iterator[Case]:
    good = m.token()
    signed, _, seal = good.rpartition(".")
    raw = ec_key().sign(signed.encode(), ec.ECDSA(HASHES["256"]))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    made = signature("ES256", ec_key(), signed.encode())
    forged = {
        "empty": b"",
        "zeros": bytes(64),
        "r of zero": bytes(32) + made[32:],
        "s of zero": made[:32] + bytes(32),
        "r and s of n": order.to_bytes(32, "big") * 2,
        "of 63 bytes": made[:-1],
        "of 66 bytes": made + b"\0\0",
        "padded": b"\0" + made[:32] + b"\0" + made[32:],
        "turned around": made[32:] + made[:32],
        "in DER": raw,
        "one bit off": made[:-1] + bytes([made[-1] ^ 1]),
    }
    for what, value in forged.items():
        token = f"{signed}.{b64(value)}"
        yield Case(f"signature {what}", "forged signature", token, "signature-invalid")
    token = f"{signed}.{b64(made + bytes(1))}"
    yield Case("signature of 65 bytes", "forged signature", token, "signature-invalid")
    other = m.token(sub="bob").rpartition(".")[0]
    yield Case("signature of another token", "forged signature", f"{other}.{seal}",
               "signature-invalid")  # fmt: skip
    token = m.token(alg="RS256", key=rsa_key(2048, 9), header={"kid": "rsa"})
    yield Case("RSA signature of a stranger", "forged signature", token, "signature-invalid")
    token = m.token(alg="RS512", key=rsa_key(), header={"kid": "rsa", "alg": "RS256"})
    yield Case("RS256 with SHA-512", "forged signature", token, "signature-invalid")


def times(m: Maker) -> Iterator[Case]:
    far = m.now + 3600
    yield Case("expired", "expired", m.token(exp=m.now - 3600), "token-expired")
    yield Case("exp missing", "exp missing", m.token(without="exp"), "claim-exp")
    yield Case("exp of 0", "exp missing", m.token(exp=0), "token-expired")
    wrong: tuple[Any, ...] = (None, str(far), "", True, [far], {"exp": far}, -1, 1e99, 2**62, 1e18)
    for value in wrong:
        token = m.token(exp=value)
        yield Case(f"exp {value!r}", "exp of a wrong type or size", token, "claim-exp")
    for raw in (b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"+1", b"0x7fffffff", b"01"):
        token = m.token(payload=dumps(m.claims)[:-1] + b',"x":' + raw + b"}")
        code = "claims-malformed"
        yield Case(f"a claim of {raw[:10]!r}", "not a JSON number", token, code)
    yield Case("iat in the future", "future iat", m.token(iat=far), "token-future")
    yield Case("nbf in the future", "not yet valid", m.token(nbf=far), "token-early")
    for name in ("iat", "nbf"):
        for value in ("now", None, [1], True, -5, 1e99):
            token = m.token(**{name: value})
            yield Case(f"{name} {value!r}", f"{name} of a wrong type", token, f"claim-{name}")


def issuers(m: Maker) -> Iterator[Case]:
    near = {
        "a prefix": ISSUER[:-1],
        "longer": f"{ISSUER}s",
        "a slash": f"{ISSUER}/",
        "the host alone": "https://login.example.com",
        "case": ISSUER.upper(),
        "userinfo": "https://login.example.com@evil.example/realms/shop",
        "a suffix": f"https://evil.example/{ISSUER}",
        "http": ISSUER.replace("https", "http"),
        "white space": f"{ISSUER} ",
        "NUL": f"{ISSUER}\u0000",
        "dot segments": ISSUER.replace("/shop", "/x/../shop"),
        "an escape": ISSUER.replace("shop", "sho%70"),
        "nothing": "",
    }
    for what, issuer in near.items():
        token = m.token(iss=issuer)
        yield Case(f"issuer with {what}", "partial issuer match", token, "issuer-unknown")
    for issuer in (None, 1, [ISSUER], {"iss": ISSUER}, True):
        token = m.token(iss=issuer)
        yield Case(f"issuer {issuer!r}", "issuer of a wrong type", token, "claim-iss")
    token = m.token(without="iss")
    yield Case("no issuer", "issuer unknown under may be missing", token, "claim-iss")
    token = m.token(iss="https://other.example.com", key=ec_key(number=9))
    yield Case("another issuer", "issuer unknown under may be missing", token, "issuer-unknown")


def audiences(m: Maker) -> Iterator[Case]:
    other = "audience ignored"
    yield Case("no audience", other, m.token(without="aud"), "audience-other")
    for value in (
        "https://other.example.com", "", [], [""], ["a", "b"], AUDIENCE[:-1], f"{AUDIENCE}.evil",
        AUDIENCE.upper(), f"{AUDIENCE} ", f"{AUDIENCE} x", "*", "*.example.com", [f"{AUDIENCE},x"],
    ):  # fmt: skip
        yield Case(f"audience {value!r}", other, m.token(aud=value), "audience-other")
    for value in (None, 1, True, {"aud": AUDIENCE}, [AUDIENCE, 1], [[AUDIENCE]], [None]):
        token = m.token(aud=value)
        yield Case(f"audience {value!r}", "audience of a wrong type", token, "claim-aud")


def contents(m: Maker) -> Iterator[Case]:
    good = dumps(m.claims)
    twice = {
        "sub": b'{"sub":"root",' + good[1:],
        "aud": good[:-1] + b',"aud":"x"}',
        "exp": b'{"exp":1,' + good[1:],
        "iss": good[:-1] + b',"iss":"https://evil.example"}',
        "a nested name": good[:-1] + b',"a":{"b":1,"b":2}}',
        "sub, escaped": b'{"\\u0073ub":"root",' + good[1:],
    }
    for what, raw in twice.items():
        token = m.token(payload=raw)
        yield Case(f"claims with two {what}", "duplicate claims", token, "claims-malformed")
    broken = {
        "a list": b"[]", "a text": b'"x"', "null": b"null", "nothing": b"", "white space": b"  ",
        "a JWT's text": b"e30.e30.", "an open object": good[:-1], "more behind": good + b"{}",
        "invalid UTF-8": good[:-1] + b',"a":"\xc3\x28"}',
        "an encoded surrogate": good[:-1] + b',"a":"\xed\xa0\x80"}',
        "half a surrogate pair": good[:-1] + b',"a":"\\udc00"}',
        "a raw NUL": good[:-1] + b',"a":"\x00"}',
        "UTF-16": good.decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "deep objects": good[:-1] + b',"a":' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
        "deep lists": good[:-1] + b',"a":' + b"[" * 3000 + b"]" * 3000 + b"}",
        "300 claims": dumps(m.claims | {f"c{n}": n for n in range(300)}),
        "6000 values": good[:-1] + b',"a":[' + b",".join([b"1"] * 6000) + b"]}",
    }  # fmt: skip
    for what, raw in broken.items():
        code = "token-detached" if not raw else "claims-malformed"
        token = m.token(payload=raw)
        yield Case(f"payload with {what}", "malformed claims", token, code)
    for value in (None, 1, True, ["alice"], {"sub": "alice"}):
        yield Case(f"sub {value!r}", "sub of a wrong type", m.token(sub=value), "claim-sub")
    for value in (None, 1, ["x"]):
        yield Case(f"jti {value!r}", "jti of a wrong type", m.token(jti=value), "claim-jti")
    token = m.token(pad="x" * 17_000)
    yield Case("a token of 23 KB", "oversized token", token, "token-too-large")
    token = m.token(pad="x" * 375_000)
    yield Case("a token of 500 KB", "oversized token", token, "token-too-large")
    token = m.token(header={"pad": "x" * 8000})
    yield Case("a header of 8 KB", "oversized token", token, "token-too-large")
