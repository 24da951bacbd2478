"""What `cryptography` raises for bytes that it cannot make sense of, in one place.

Parsing there is lazy: a certificate loads, and its key or an extension fails later. Readers wrap
all of their work in `except UNREADABLE`.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""Not `Exception`: a fault of ours must not pass for bad input."""

_MAX_SERIAL_OCTETS = 20


def load_certificate(der: bytes) -> x509.Certificate:
    """Parse one certificate. Raises one of `UNREADABLE`.

    A serial number that is not positive is refused before `cryptography` warns about it
    (RFC 5280, 4.1.2.2).
    """
    serial = _serial_octets(der)
    if not serial or serial[0] & 0x80 or not any(serial) or len(serial) > _MAX_SERIAL_OCTETS:
        raise ValueError("the serial number is not positive, or too long")
    return x509.load_der_x509_certificate(der)


def _serial_octets(der: bytes) -> bytes:
    """The serial number's content octets: Certificate, TBSCertificate, [0] version, INTEGER."""
    content = _content(der, 0, 0x30)
    content = _content(content, 0, 0x30)
    version = _content(content, 0, 0xA0)
    return _content(content, 2 + len(version), 0x02)


def _content(der: bytes, start: int, tag: int) -> bytes:
    """The content of the DER value at `start`, cut off if the bytes end early."""
    if len(der) < start + 2 or der[start] != tag:
        raise ValueError("the structure is not a certificate's")
    first = der[start + 1]
    if first < 0x80:
        return der[start + 2 : start + 2 + first]
    octets = first & 0x7F
    if octets not in {1, 2, 3}:
        raise ValueError("the structure has an impossible length")
    begin = start + 2 + octets
    length = int.from_bytes(der[start + 2 : begin], "big")
    return der[begin : begin + length]
