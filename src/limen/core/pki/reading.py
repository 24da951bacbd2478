"""What `cryptography` raises for bytes that it cannot make sense of, in one place.

Parsing there is lazy: a certificate loads, and its key or an extension fails later. Readers put
all of their work into `strict_reading` and `except UNREADABLE`.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

if TYPE_CHECKING:
    from collections.abc import Iterator

UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,
)
"""Not `Exception`: a fault of ours must not pass for bad input."""

_MAX_SERIAL_OCTETS = 20


@contextmanager
def strict_reading() -> Iterator[None]:
    """Inside, what `cryptography` would only warn about is raised: odd names, odd numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def load_certificate(der: bytes) -> x509.Certificate:
    """Parse one certificate. Raises one of `UNREADABLE`.

    A serial number that is not positive is refused before `cryptography` warns about it
    (RFC 5280, 4.1.2.2).
    """
    serial = _serial_octets(der)
    if not serial or serial[0] & 0x80 or not any(serial) or len(serial) > _MAX_SERIAL_OCTETS:
        raise ValueError("the serial number is not positive, or too long")
    certificate = x509.load_der_x509_certificate(der)
    check_signature_bits(der, certificate.signature)
    return certificate


def check_signature_bits(der: bytes, signature: bytes) -> None:
    """Raise ValueError unless the signature ends `der` as whole octets.

    A BIT STRING may declare some of its last bits unused; `cryptography` drops that count, so one
    signature would fit two encodings (X.690, 11.2).
    """
    if not der.endswith(b"\0" + signature):
        raise ValueError("the signature has unused bits, or bytes follow it")


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
