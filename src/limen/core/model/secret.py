"""A certificate with its key, authorities, or a client's secret, given by hand in a `v1` Secret.

Neither `repr` nor `str` of anything here shows a key.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PrivateKeyPem:
    """A private key (PEM, PKCS #8, not encrypted). Only `reveal` gives it."""

    _pem: bytes = field(repr=False)

    def reveal(self) -> bytes:
        """The key itself: for the proxy that serves with it, and for nothing else."""
        return self._pem

    def __str__(self) -> str:
        return "PrivateKeyPem(hidden)"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """By which a client proves itself to a provider. Only `reveal` gives it."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """The secret itself: for the request to that provider, and for nothing else."""
        return self._text

    def __str__(self) -> str:
        return "ClientSecret(hidden)"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`chain_pem`: the leaf first, each certificate issued by the next; the key fits the leaf.

    Times in seconds since 1970: between them every certificate of the chain is valid. `names`: DNS
    names and IP addresses of the leaf. `key_kind`: `RSA` or `EC`. `fingerprint`: SHA-256 of the
    leaf, hexadecimal.
    """

    chain_pem: bytes = field(repr=False)
    key: PrivateKeyPem
    names: tuple[str, ...]
    key_kind: str
    not_before_s: int
    not_after_s: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Authorities:
    """CA certificates, PEM; `not_after_s` is when the last of them ends."""

    bundle_pem: bytes = field(repr=False)
    not_after_s: int


@dataclass(frozen=True, slots=True)
class Secret:
    """At least one of the three is there."""

    pair: KeyPair | None = None
    authorities: Authorities | None = None
    client_secret: ClientSecret | None = None
