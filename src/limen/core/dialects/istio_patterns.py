"""The texts that Istio's rules compare: what each may look like, and which covers which.

Any value is exact, `prefix*`, `*suffix` or `*` (present); a `*` elsewhere is refused. So is a value
that no request can ever have: in a DENY it would be a hole that nobody sees.

Source: istio/api `security/v1/authorization_policy.proto`, istio/istio `pkg/config/security` and
`pilot/pkg/security/authz/matcher`, page "Authorization Policy Normalization".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limen.core.dialects.document import show
from limen.core.dialects.schema import Text
from limen.core.model.names import parse_name, parse_spiffe_id
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 2048


class Wild(Enum):
    """Where the `*` of a pattern stands."""

    NONE = "exact"
    END = "prefix"
    START = "suffix"
    ALONE = "present"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern taken apart: `text` without its `*`."""

    wild: Wild
    text: str

    def covers(self, other: Pattern) -> bool:
        """Whether every text that `other` matches is matched by this one too."""
        match self.wild:
            case Wild.ALONE:
                return True
            case Wild.NONE:
                return other == self
            case Wild.END:
                fits = other.text.startswith(self.text)
                return fits and other.wild in (Wild.NONE, Wild.END)
            case Wild.START:
                fits = other.text.endswith(self.text)
                return fits and other.wild in (Wild.NONE, Wild.START)


def parse_pattern(text: str) -> Pattern:
    """Raises InvalidInput (code `bad-wildcard`) for a `*` that is neither first nor last."""
    if text == "*":
        return Pattern(Wild.ALONE, "")
    wild = Wild.START if text.startswith("*") else Wild.END if text.endswith("*") else Wild.NONE
    rest = text.removeprefix("*") if wild is Wild.START else text.removesuffix("*")
    if "*" in rest:
        raise InvalidInput(
            f"the * in {show(text)} stands where it has no meaning",
            code="bad-wildcard",
            hint="write prefix*, *suffix or * alone",
        )
    return Pattern(wild, rest)


def _bad(text: str, what: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{show(text, 120)} {what}", code="bad-value", hint=hint)


_PART = r"[a-zA-Z0-9._-]+"
_DOMAIN = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"
_PRINCIPAL_START = re.compile(
    rf"{_DOMAIN}/(?:n|ns(?:/(?:{_PART}(?:/(?:s|sa(?:/(?:{_PART})?)?)?)?)?)?)?", re.ASCII
)
_PRINCIPAL_END = re.compile(
    rf"(?:(?:(?:(?:/?n)?s)?/)?{_PART})?/sa/{_PART}|(?:s?a)?/{_PART}|{_PART}", re.ASCII
)
_PRINCIPAL_HINT = (
    "write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT; cluster.local is this mesh's trust domain"
)
_PRINCIPAL_PATTERN_HINT = (
    "write the beginning or the end of TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, "
    "the trust domain whole or not at all, and * for the rest"
)


def _check_principal(text: str) -> None:
    pattern = parse_pattern(text)
    if pattern.text.lower().startswith("spiffe:"):
        raise _bad(text, "begins with a scheme and would never match", "leave spiffe:// out")
    try:
        if pattern.wild is Wild.NONE:
            parse_spiffe_id(f"spiffe://{text}")
    except InvalidInput:
        raise _bad(text, "is not an identity that a workload can have", _PRINCIPAL_HINT) from None
    ends = {Wild.END: _PRINCIPAL_START, Wild.START: _PRINCIPAL_END}.get(pattern.wild)
    if ends is not None and not ends.fullmatch(pattern.text):
        raise _bad(text, "matches no identity that a workload can have", _PRINCIPAL_PATTERN_HINT)


def _check_namespace(text: str) -> None:
    pattern = parse_pattern(text)
    if pattern.wild is Wild.NONE:
        parse_name(text, "namespace")
    elif pattern.wild is not Wild.ALONE and not re.fullmatch(r"[a-z0-9._-]+", pattern.text):
        raise _bad(text, "matches no namespace", "use lower-case letters, digits, '-', '_' and '.'")


def _check_service_account(text: str) -> None:
    if "*" in text:
        raise InvalidInput(
            f"{show(text)} has a wildcard, which service accounts may not have",
            code="bad-wildcard",
            hint="name each account, or use principals",
        )
    namespace, slash, name = text.rpartition("/")
    if "/" in namespace or (slash and not (namespace and name)):
        raise _bad(text, "is not a service account", "write NAME, or NAMESPACE/NAME")
    if slash:
        parse_name(namespace, "namespace")
    parse_name(name, "service account")


def _check_request_principal(text: str) -> None:
    pattern = parse_pattern(text)
    issuer, slash, subject = text.rpartition("/")
    wild = pattern.wild is not Wild.NONE
    if (not slash and not wild) or (slash and not (issuer and subject)):
        raise _bad(
            text,
            "matches no token",
            "write ISSUER/SUBJECT, where either may be *; the last / separates them",
        )


def _check_host(text: str) -> None:
    parse_pattern(text)
    if "/" in text:
        raise _bad(text, "is not a host", "write the name only, without scheme and path")
    if not re.fullmatch(r"[A-Za-z0-9._:*\[\]-]+", text):
        raise _bad(text, "is not a host", "use ASCII letters, digits, '-' and '.'")


def _check_method(text: str) -> None:
    parse_pattern(text)
    if text != text.upper():
        raise _bad(text, "never matches: methods are upper case", f"write {text.upper()}")
    if not re.fullmatch(r"[A-Z0-9_*-]+", text):
        raise _bad(text, "is not a method", "write it like GET")


_TEMPLATES = ("{*}", "{**}")
_TEMPLATE_HINT = "{*} is one whole part and {**} any number of parts; other braces have no meaning"
_LITERAL = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+", re.ASCII)
_NEVER_IN_PATH = (
    (re.compile(r"[?#]"), "the query and the fragment are no part of a path", "leave it out"),
    (re.compile(r"[^!-~]"), "a path holds such characters encoded", "write them as %XX of UTF-8"),
    (re.compile(r'["<>^`|]'), "a path holds such characters encoded", "write them as %XX"),
    (re.compile(r"\\"), "a backslash is read as a slash", "write /"),
    (re.compile(r"//"), "slashes that follow each other are merged", "write one /"),
    (
        re.compile(r"%(?:2[fF]|5[cC]|00)"),
        "requests with an escaped slash, backslash or NUL are refused",
        "write the path as the application means it",
    ),
    (
        re.compile(r"%(?:2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])"),
        "such a character is decoded before policy is asked",
        "write the character itself",
    ),
    (re.compile(r"/\.\.?(?:;[^/]*)?/"), "dot segments are resolved", "write the path without them"),
)
_DOTS_AT_END = re.compile(r"/\.\.?(?:;[^/]*)?")


def is_template(path: str) -> bool:
    """Whether `{*}` or `{**}` stands in it."""
    return any(template in path for template in _TEMPLATES)


def _check_path(text: str) -> None:
    if is_template(text):
        _check_template(text)
        return
    if "{" in text or "}" in text:
        raise _bad(text, "has braces that are no path template", _TEMPLATE_HINT)
    pattern = parse_pattern(text)
    if pattern.wild in (Wild.NONE, Wild.END) and not pattern.text.startswith("/"):
        raise _bad(text, "never matches: a path begins with /", "begin it with /")
    check_spelling(text, pattern.text)
    if pattern.wild is not Wild.END and re.search(rf"{_DOTS_AT_END.pattern}$", pattern.text):
        raise _bad(text, "never matches: dot segments are resolved", "write the path without them")


def check_spelling(text: str, literal: str) -> None:
    """A path that no request has after normalisation raises InvalidInput (code `bad-value`)."""
    for never, why, hint in _NEVER_IN_PATH:
        if never.search(literal):
            raise _bad(text, f"never matches: {why}", hint)


def _check_template(text: str) -> None:
    if not text.startswith("/"):
        raise _bad(text, "never matches: a path begins with /", "begin it with /")
    any_number = False
    for segment in text.strip("/").split("/"):
        if segment in _TEMPLATES:
            if any_number:
                raise _bad(text, "has a template after {**}", "{**} must be the last one")
            any_number = segment == "{**}"
            continue
        if "{" in segment or "}" in segment:
            raise _bad(text, "has braces that are no path template", _TEMPLATE_HINT)
        if "*" in segment:
            raise InvalidInput(
                f"{show(text, 120)} mixes a path template with *",
                code="bad-wildcard",
                hint="write {*} for one part, or {**} for any number of parts",
            )
        if not _LITERAL.fullmatch(segment):
            hint = "use letters, digits, and -._~%!$&'()+,;:@="
            raise _bad(text, f"has the part {show(segment)}, which no template may have", hint)
    check_spelling(text, re.sub(r"\{\*\*?\}", "x", text))
    if re.search(rf"{_DOTS_AT_END.pattern}$", text):
        raise _bad(text, "never matches: dot segments are resolved", "write the path without them")


def parse_addresses(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or a CIDR, host bits cut off. Raises InvalidInput (code `bad-address`)."""
    address, slash, length = text.partition("/")
    try:
        one = ipaddress.ip_address(address)
        network = ipaddress.ip_network(text, strict=False)
        good = not slash or re.fullmatch(r"0|[1-9][0-9]{0,2}", length, re.ASCII)
    except ValueError:
        good = None
    if not good:
        raise InvalidInput(
            f"{show(text)} is not an IP address or CIDR",
            code="bad-address",
            hint="write it like 10.1.2.3 or 10.1.0.0/16 or 2001:db8::/32",
        )
    if isinstance(one, ipaddress.IPv6Address) and (one.scope_id or one.ipv4_mapped):
        raise InvalidInput(
            f"{show(text)} never matches",
            code="bad-address",
            hint="write an IPv4 address in its own form, and no zone",
        )
    return network


def _check_port(text: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise _bad(text, "is not a port", 'write a number from 1 to 65535, in quotes: "8080"')


def _check_header_value(text: str) -> None:
    pattern = parse_pattern(text)
    if pattern.text != pattern.text.strip():
        raise _bad(text, "never matches: blanks around a header are cut off", "remove the blanks")


def _check_server_name(text: str) -> None:
    parse_pattern(text)
    if not re.fullmatch(r"[a-z0-9._*-]+", text):
        raise _bad(text, "is not a server name", "use lower-case letters, digits, '-' and '.'")


def _text(what: str, parse: Callable[[str], object]) -> Text:
    return Text(what, max_length=MAX_LENGTH, parse=parse)


PRINCIPAL = _text("an identity", _check_principal)
NAMESPACE = _text("a namespace", _check_namespace)
SERVICE_ACCOUNT = Text("a service account", max_length=320, parse=_check_service_account)
REQUEST_PRINCIPAL = _text("a token's issuer and subject", _check_request_principal)
HOST = _text("a host", _check_host)
METHOD = _text("a method", _check_method)
PATH = _text("a path", _check_path)
ADDRESS = _text("an IP address or CIDR", parse_addresses)
PORT = _text("a port", _check_port)
HEADER_VALUE = _text("a header's value", _check_header_value)
CLAIM_VALUE = _text("a claim's value", parse_pattern)
SERVER_NAME = _text("a server name", _check_server_name)
