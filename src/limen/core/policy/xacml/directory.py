"""rfc822Name and x500Name (core, A.2): parsed, normalised for comparison, printed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|(?:OID\.)?\d+(?:\.\d+)*", re.ASCII | re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_HEX = frozenset("0123456789abcdefABCDEF")

_OIDS = {
    "2.5.4.3": "cn",
    "2.5.4.4": "sn",
    "2.5.4.5": "serialnumber",
    "2.5.4.6": "c",
    "2.5.4.7": "l",
    "2.5.4.8": "st",
    "2.5.4.9": "street",
    "2.5.4.10": "o",
    "2.5.4.11": "ou",
    "2.5.4.12": "title",
    "2.5.4.42": "givenname",
    "0.9.2342.19200300.100.1.1": "uid",
    "0.9.2342.19200300.100.1.25": "dc",
    "1.2.840.113549.1.9.1": "emailaddress",
}
_SYNONYMS = {"s": "st", "email": "emailaddress", "e": "emailaddress", "surname": "sn"}


@dataclass(frozen=True, slots=True)
class Rfc822Name:
    """`local@domain`: the local part is case-sensitive, the domain compares in lower case.

    `text` is how it was written.
    """

    local: str
    domain: str
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


def parse_rfc822_name(text: str) -> Rfc822Name:
    """`local-part@domain`. Raises ValueError."""
    local, at, domain = text.rpartition("@")
    if not at or not local or "@" in local or not domain or any(c.isspace() for c in text):
        raise ValueError("not local-part@domain")
    return Rfc822Name(local, domain.lower(), text)


def rfc822_name_matches(pattern: str, name: Rfc822Name) -> bool:
    """`rfc822Name-match` (core, A.3.14): a full address, a domain, or `.domain` for all below it.

    Raises ValueError if the pattern is none of them.
    """
    if "@" in pattern:
        return parse_rfc822_name(pattern) == name
    domain = pattern.lower()
    if not _DOMAIN.fullmatch(domain.removeprefix(".")):
        raise ValueError("not an address, a domain, or a dot and a domain")
    return name.domain.endswith(domain) if domain.startswith(".") else name.domain == domain


Rdn = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class X500Name:
    """A distinguished name: one set of (type, value) per RDN, in the order written.

    Types are lower case (known OIDs by name); values compare without case and repeated spaces
    (RFC 3280, 4.1.2.4). `text` is how it was written.
    """

    rdns: tuple[Rdn, ...]
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text

    def ends_with(self, tail: X500Name) -> bool:
        """Whether `tail` is a terminal sequence of the RDNs (`x500Name-match`)."""
        count = len(tail.rdns)
        return count <= len(self.rdns) and self.rdns[len(self.rdns) - count :] == tail.rdns


def parse_x500_name(text: str) -> X500Name:
    """RFC 2253 with the RFC 1779 forms that it allows to read. Raises ValueError."""
    rdns: list[Rdn] = []
    if not text.strip():
        return X500Name((), text)
    position = 0
    pairs: list[tuple[str, str]] = []
    while True:
        kind, position = _read_type(text, position)
        value, position = _read_value(text, position)
        pairs.append((kind, value))
        end = text[position : position + 1]
        position += 1
        if end == "+":
            continue
        rdns.append(frozenset(pairs))
        pairs = []
        if not end:
            return X500Name(tuple(rdns), text)


def _read_type(text: str, position: int) -> tuple[str, int]:
    end = text.find("=", position)
    kind = text[position:end].strip() if end >= 0 else ""
    if not _TYPE.fullmatch(kind):
        raise ValueError("an RDN is not type=value")
    name = kind.lower().removeprefix("oid.")
    name = _OIDS.get(name, name)
    return _SYNONYMS.get(name, name), end + 1


def _read_value(text: str, position: int) -> tuple[str, int]:
    """The value that begins at `position`, normalised, and where its separator stands."""
    while position < len(text) and text[position].isspace():
        position += 1
    if text[position : position + 1] == '"':
        raw, position = _read_quoted(text, position + 1)
    else:
        raw, position = _read_plain(text, position)
    if position < len(text) and text[position] not in ",;+":
        raise ValueError("text after the end of a quoted value")
    return _SPACES.sub(" ", raw).strip().casefold(), position


def _read_quoted(text: str, position: int) -> tuple[str, int]:
    out = bytearray()
    while position < len(text) and text[position] != '"':
        piece, position = _read_character(text, position)
        out += piece
    if position >= len(text):
        raise ValueError("a quoted value does not end")
    position += 1
    while position < len(text) and text[position].isspace():
        position += 1
    return _decoded(out), position


def _read_plain(text: str, position: int) -> tuple[str, int]:
    out = bytearray()
    while position < len(text) and text[position] not in ",;+":
        if text[position] in '"<>':
            raise ValueError(f"an unescaped {text[position]} in a value")
        piece, position = _read_character(text, position)
        out += piece
    return _decoded(out), position


def _read_character(text: str, position: int) -> tuple[bytes, int]:
    if text[position] != "\\":
        return text[position].encode("utf-8", "surrogatepass"), position + 1
    pair = text[position + 1 : position + 3]
    if len(pair) == 2 and set(pair) <= _HEX:
        return bytes([int(pair, 16)]), position + 3
    if not pair:
        raise ValueError("a value ends with a backslash")
    return pair[0].encode("utf-8", "surrogatepass"), position + 2


def _decoded(raw: bytearray) -> str:
    return raw.decode("utf-8", "replace")
