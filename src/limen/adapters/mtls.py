"""Contexts for mutual TLS from certificates and keys in memory: no key is written to a disk."""

from __future__ import annotations

import os
import ssl


def client_context(chain_pem: str, key_pem: str, roots_pem: str) -> ssl.SSLContext:
    """A client that shows `chain_pem` and believes servers of these roots for their own names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=roots_pem)
    load_chain(context, chain_pem, key_pem)
    return context


def load_chain(context: ssl.SSLContext, chain_pem: str, key_pem: str) -> None:
    """Give a context its own certificate; `ssl` reads keys from files only, this one in memory."""
    descriptor = os.memfd_create("limen-identity", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key_pem.encode() + chain_pem.encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
