"""A file that only its key opens: AES-256-GCM, bound to a context such as the boot id.

The key lies in another directory than the data. This keeps private keys out of backups, core
images and stray copies of the runtime directory; it does not stop one who reads both as this uid.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.adapters.runtime_dir import write_atomic
from limen.errors import Untrusted

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"limen-sealed-1\n"
_NONCE_BYTES = 12
_KEY_BYTES = 32


def load_or_make_key(path: Path) -> bytes:
    """The 32-byte key at `path` (0600); made when absent. Raises Untrusted if malformed."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = os.urandom(_KEY_BYTES)
        write_atomic(path, key)
    if len(key) != _KEY_BYTES:
        raise Untrusted(f"{path} is not a sealing key", hint="remove it and start the agent again")
    return key


def seal(key: bytes, data: bytes, context: bytes) -> bytes:
    """Encrypt `data` so that only the same key and `context` open it."""
    nonce = os.urandom(_NONCE_BYTES)
    return _MAGIC + nonce + AESGCM(key).encrypt(nonce, data, _MAGIC + context)


def unseal(key: bytes, blob: bytes, context: bytes) -> bytes:
    """Decrypt what `seal` made. Raises Untrusted (code `sealed-broken`) if anything differs."""
    start = len(_MAGIC) + _NONCE_BYTES
    if not blob.startswith(_MAGIC) or len(blob) < start:
        raise Untrusted("the sealed file is not one of ours", code="sealed-broken")
    try:
        return AESGCM(key).decrypt(blob[len(_MAGIC) : start], blob[start:], _MAGIC + context)
    except InvalidTag:
        raise Untrusted(
            "the sealed file does not open: another boot, another key, or it was changed",
            code="sealed-broken",
        ) from None
