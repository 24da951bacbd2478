"""The datatypes of core, A.2: how a text becomes a value and a value a text.

Values are plain Python (`str`, `bool`, `int`, `float`, `bytes`) or the small types of the modules
beside; two values of one datatype are equal to Python exactly if XACML says so (but NaN). A bag is
a tuple. The static types keep apart what Python would mix.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import names, temporal
from limen.core.policy.xacml.directory import parse_rfc822_name, parse_x500_name
from limen.core.policy.xacml.limits import MAX_INTEGER_DIGITS
from limen.core.policy.xacml.network import parse_dns_name, parse_ip_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_XML_SPACE = " \t\r\n"
_SPECIAL = {"INF": math.inf, "+INF": math.inf, "-INF": -math.inf, "NaN": math.nan}


@dataclass(frozen=True, slots=True)
class XPathValue:
    """`xpathExpression`: an XPath over the `Content` of a category, with its namespaces."""

    path: str
    category: str
    namespaces: Mapping[str, str] = field(compare=False, hash=False)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class DataType:
    """One datatype: `uri`, short `name`, `parse` (raises ValueError) and `text`.

    `keeps_space`: white space belongs to the value (string only).
    """

    uri: str
    name: str
    parse: Callable[[str], Any]
    text: Callable[[Any], str]
    keeps_space: bool = False

    def read(self, text: str) -> Any:
        """`text` as a value. Raises ValueError."""
        return self.parse(text if self.keeps_space else text.strip(_XML_SPACE))

    def __str__(self) -> str:
        return self.name


def _parse_boolean(text: str) -> bool:
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ValueError("not true or false")


def _parse_integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS or not _INTEGER.fullmatch(text):
        raise ValueError("not an integer")
    return int(text)


def _parse_double(text: str) -> float:
    if text in _SPECIAL:
        return _SPECIAL[text]
    if len(text) > MAX_INTEGER_DIGITS or not _DOUBLE.fullmatch(text):
        raise ValueError("not a double")
    return float(text)


def _double_text(value: float) -> str:
    """Canonical `xs:double`: mantissa with one digit before the point, `E`, exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "INF" if value > 0 else "-INF"
    mantissa, _, exponent = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return f"{sign}0.0E0"
    shift = len(whole.lstrip("0")) - 1 if whole.strip("0") else -1 - _leading_zeros(fraction)
    rest = digits[1:].rstrip("0") or "0"
    return f"{sign}{digits[0]}.{rest}E{int(exponent or 0) + shift}"


def _leading_zeros(text: str) -> int:
    return len(text) - len(text.lstrip("0"))


def _parse_any_uri(text: str) -> str:
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise ValueError("a control character in a URI")
    return text


def _parse_hex(text: str) -> bytes:
    if not text.isascii() or any(c.isspace() for c in text):
        raise ValueError("not hexadecimal")
    return bytes.fromhex(text)


def _parse_base64(text: str) -> bytes:
    packed = "".join(text.split())
    if not _BASE64.fullmatch(packed):
        raise ValueError("not base64")
    try:
        return base64.b64decode(packed, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _base64_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _no_bare_xpath(text: str) -> Any:
    del text
    raise ValueError("an xpathExpression needs its XPathCategory")


def _boolean_text(value: bool) -> str:  # noqa: FBT001 - the value itself
    return "true" if value else "false"


def _hex_text(value: bytes) -> str:
    return value.hex().upper()


STRING = DataType(names.STRING, "string", str, str, keeps_space=True)
BOOLEAN = DataType(names.BOOLEAN, "boolean", _parse_boolean, _boolean_text)
INTEGER = DataType(names.INTEGER, "integer", _parse_integer, str)
DOUBLE = DataType(names.DOUBLE, "double", _parse_double, _double_text)
TIME = DataType(names.TIME, "time", temporal.parse_time, temporal.time_text)
DATE = DataType(names.DATE, "date", temporal.parse_date, temporal.date_text)
DATE_TIME = DataType(names.DATE_TIME, "dateTime", temporal.parse_date_time, temporal.date_time_text)
DAY_TIME_DURATION = DataType(
    names.DAY_TIME_DURATION,
    "dayTimeDuration",
    temporal.parse_day_time_duration,
    temporal.day_time_duration_text,
)
YEAR_MONTH_DURATION = DataType(
    names.YEAR_MONTH_DURATION,
    "yearMonthDuration",
    temporal.parse_year_month_duration,
    temporal.year_month_duration_text,
)
ANY_URI = DataType(names.ANY_URI, "anyURI", _parse_any_uri, str)
HEX_BINARY = DataType(names.HEX_BINARY, "hexBinary", _parse_hex, _hex_text)
BASE64_BINARY = DataType(names.BASE64_BINARY, "base64Binary", _parse_base64, _base64_text)
RFC822_NAME = DataType(names.RFC822_NAME, "rfc822Name", parse_rfc822_name, str)
X500_NAME = DataType(names.X500_NAME, "x500Name", parse_x500_name, str)
IP_ADDRESS = DataType(names.IP_ADDRESS, "ipAddress", parse_ip_address, str)
DNS_NAME = DataType(names.DNS_NAME, "dnsName", parse_dns_name, str)
XPATH_EXPRESSION = DataType(names.XPATH_EXPRESSION, "xpathExpression", _no_bare_xpath, str)

ALL = (
    STRING,
    BOOLEAN,
    INTEGER,
    DOUBLE,
    TIME,
    DATE,
    DATE_TIME,
    DAY_TIME_DURATION,
    YEAR_MONTH_DURATION,
    ANY_URI,
    HEX_BINARY,
    BASE64_BINARY,
    RFC822_NAME,
    X500_NAME,
    IP_ADDRESS,
    DNS_NAME,
    XPATH_EXPRESSION,
)

BY_URI: dict[str, DataType] = {
    **{t.uri: t for t in ALL},
    **{old: t for old, new in names.DEPRECATED_DATATYPES.items() for t in ALL if t.uri == new},
}
"""Identifier to datatype; deprecated identifiers too."""

BY_NAME: dict[str, DataType] = {t.name: t for t in ALL}
"""Short name (as the JSON profile has it) to datatype."""
