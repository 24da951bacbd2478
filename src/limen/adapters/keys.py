"""Private keys at rest: encrypted under a key that lies somewhere else.

A `KeyEncryption` derives one key per use; a file, a systemd credential and a KMS that can compute
a MAC all fit behind its one method. `seal` and `unseal` are AES-256-GCM with a random nonce; name
and purpose of what is sealed are authenticated: one sealed key cannot be put in another's place.

What this stops: a copied database or backup without the key. What it does not: somebody who reads
both, and somebody who puts an older sealed body back in its own place.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from limen.errors import InvalidInput, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue

CREDENTIAL_NAME = "limen-kek"
"""`LoadCredential=limen-kek:…` or `LoadCredentialEncrypted=` in the server's unit."""
KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = 1
_ID_CONTEXT = b"limen key-encryption key id"
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class KeyEncryption(Protocol):
    """A key-encryption key that can derive, and need not be readable itself."""

    async def key_for(self, context: bytes) -> bytes:
        """32 bytes, always the same for one `context`. Raises Untrusted, Unavailable."""
        ...


class MemoryKek:
    """A key given by the caller: tests, and the demo's model."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise InvalidInput(f"a key-encryption key has {KEY_BYTES} bytes", code="invalid-kek")
        self._key = key

    async def key_for(self, context: bytes) -> bytes:
        """See `KeyEncryption.key_for`."""
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"limen 1\0" + context).derive(
            self._key
        )


class FileKek:
    """A key in a file of 64 hex digits, mode 0600 or less, outside the data directory.

    Read at each use: an operator may mount it only while the server starts, or take it away.
    """

    def __init__(self, path: Path, data_dir: Path) -> None:
        self._path = path
        self._data_dir = data_dir

    async def key_for(self, context: bytes) -> bytes:
        """See `KeyEncryption.key_for`."""
        return await MemoryKek(self._load()).key_for(context)

    def _load(self) -> bytes:
        check_apart(self._path, self._data_dir)
        return _read_key(self._path, allowed_bits=0o600)


class CredentialKek:
    """systemd's credential `limen-kek`, same content as the file. `directory`: what systemd set."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CREDENTIAL_NAME

    async def key_for(self, context: bytes) -> bytes:
        """See `KeyEncryption.key_for`. Group bits show systemd's ACL for the service's user."""
        return await MemoryKek(_read_key(self._path, allowed_bits=0o440)).key_for(context)


def find_kek(path: Path | None, data_dir: Path, environ: Mapping[str, str]) -> KeyEncryption:
    """The key that the operator chose: `path`, else the systemd credential, else the default file.

    A file that does not exist is made (0600), never overwritten. Raises Untrusted if it lies in
    `data_dir`, Unavailable if it cannot be written.
    """
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if path is None and credentials and (Path(credentials) / CREDENTIAL_NAME).exists():
        return CredentialKek(Path(credentials))
    chosen = path or default_kek_path(environ)
    check_apart(chosen, data_dir)
    if not chosen.exists():
        make_kek_file(chosen)
    return FileKek(chosen, data_dir)


def default_kek_path(environ: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/limen/server.kek`, one per user."""
    config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '/root')}/.config"
    return Path(config) / "limen" / "server.kek"


def make_kek_file(path: Path) -> None:
    """Write a new random key, 0600, to a path where nothing is yet. Raises Unavailable.

    The file appears whole or not at all. Where one is already, that one stays and counts.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
                file.write(os.urandom(KEY_BYTES).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"cannot write {path}: {error.strerror}", code="kek-unavailable"
        ) from error


def check_apart(path: Path, data_dir: Path) -> None:
    """Raise Untrusted (`kek-misplaced`) if the key lies with what it protects."""
    if path.resolve().is_relative_to(data_dir.resolve()):
        raise Untrusted(
            f"the key-encryption key {path} lies in the data directory {data_dir}",
            code="kek-misplaced",
            hint="whoever copies the data would have its key: move it away, name it with --kek",
        )


async def seal(kek: KeyEncryption, name: str, purpose: str, secret: bytes) -> dict[str, JsonValue]:
    """`secret` as a JSON body that only `unseal` with the same key, name and purpose opens."""
    binding = _binding(name, purpose)
    nonce = os.urandom(_NONCE_BYTES)
    data = AESGCM(await kek.key_for(binding)).encrypt(nonce, secret, binding)
    return {
        "version": _VERSION,
        "kek": await _key_id(kek),
        "nonce": base64.b64encode(nonce).decode("ascii"),
        "data": base64.b64encode(data).decode("ascii"),
    }


async def unseal(
    kek: KeyEncryption, name: str, purpose: str, sealed: Mapping[str, JsonValue]
) -> bytes:
    """The secret. Raises Untrusted: `wrong-kek` (another key), `sealed-broken` (altered)."""
    nonce, data, key_id = _parse_sealed(name, sealed)
    if key_id != await _key_id(kek):
        raise Untrusted(
            f"{name} is encrypted under another key-encryption key than the one given",
            code="wrong-kek",
            hint="start the server with the --kek file or credential it was first started with; "
            "nothing was changed",
        )
    binding = _binding(name, purpose)
    try:
        return AESGCM(await kek.key_for(binding)).decrypt(nonce, data, binding)
    except InvalidTag:
        raise _broken(name) from None


async def _key_id(kek: KeyEncryption) -> str:
    return (await kek.key_for(_ID_CONTEXT))[:8].hex()


def _binding(name: str, purpose: str) -> bytes:
    return b"limen sealed 1\0" + name.encode() + b"\0" + purpose.encode()


def _parse_sealed(name: str, sealed: Mapping[str, JsonValue]) -> tuple[bytes, bytes, str]:
    nonce, data, key_id = sealed.get("nonce"), sealed.get("data"), sealed.get("kek")
    if (
        sealed.get("version") != _VERSION
        or not isinstance(nonce, str)
        or not isinstance(data, str)
        or not isinstance(key_id, str)
    ):
        raise _broken(name)
    try:
        raw = base64.b64decode(nonce, validate=True), base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _broken(name) from None
    if len(raw[0]) != _NONCE_BYTES:
        raise _broken(name)
    return *raw, key_id


def _broken(name: str) -> Untrusted:
    return Untrusted(
        f"the sealed body of {name} was altered, or is another record's",
        code="sealed-broken",
        hint="restore the store from a backup",
    )


def _read_key(path: Path, *, allowed_bits: int) -> bytes:
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        raise Unavailable(
            f"cannot read the key-encryption key {path}: {error.strerror}",
            code="kek-unavailable",
            hint="name the file with --kek, or give systemd's credential limen-kek",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        _check_private(path, os.fstat(descriptor), allowed_bits)
        text = file.read(4 * KEY_BYTES).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"{path} does not hold 64 hex digits", code="invalid-kek")
    return key


def _check_private(path: Path, info: os.stat_result, allowed_bits: int) -> None:
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISREG(info.st_mode):
        raise Untrusted(f"{path} is not a regular file", code="kek-exposed")
    if info.st_uid not in {os.geteuid(), 0}:
        raise Untrusted(f"{path} belongs to another user (uid {info.st_uid})", code="kek-exposed")
    if mode & 0o7077 & ~allowed_bits:
        raise Untrusted(
            f"{path} may be read or changed by others (mode {mode:04o})",
            code="kek-exposed",
            hint=f"look who could have read it, then: chmod 600 {path}",
        )
