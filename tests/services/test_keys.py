import os
from pathlib import Path

import pytest

from limen.adapters.keys import (
    CREDENTIAL_NAME,
    CredentialKek,
    FileKek,
    MemoryKek,
    default_kek_path,
    find_kek,
    make_kek_file,
    seal,
    unseal,
)
from limen.errors import InvalidInput, Unavailable, Untrusted

KEK = MemoryKek(b"k" * 32)
SECRET = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_kek_file(tmp_path / "keys" / "kek")
    return tmp_path / "keys" / "kek"


async def code_of(kek) -> str:
    with pytest.raises((Untrusted, Unavailable, InvalidInput)) as caught:
        await kek.key_for(b"x")
    return caught.value.code


async def test_what_is_sealed_is_opened_again_and_reads_as_noise():
    body = await seal(KEK, "control", "state", SECRET)
    assert await unseal(KEK, "control", "state", body) == SECRET
    assert SECRET.decode() not in str(body)


async def test_sealing_twice_gives_two_texts():
    assert await seal(KEK, "a", "b", SECRET) != await seal(KEK, "a", "b", SECRET)


async def test_a_wrong_key_is_named_as_such():
    body = await seal(KEK, "control", "state", SECRET)
    with pytest.raises(Untrusted) as caught:
        await unseal(MemoryKek(b"j" * 32), "control", "state", body)
    assert caught.value.code == "wrong-kek"


@pytest.mark.parametrize(("name", "purpose"), [("mesh", "state"), ("control", "root-key")])
async def test_a_sealed_body_in_anothers_place_is_refused(name, purpose):
    body = await seal(KEK, "control", "state", SECRET)
    with pytest.raises(Untrusted) as caught:
        await unseal(KEK, name, purpose, body)
    assert caught.value.code == "sealed-broken"


@pytest.mark.parametrize(
    "change",
    [
        {"data": "AAAA"},
        {"data": "not base64"},
        {"data": None},
        {"nonce": "AAAA"},
        {"nonce": "AAAAAAAAAAAAAAAA"},
        {"version": 2},
        {"version": None},
        {"kek": 7},
    ],
)
async def test_an_altered_body_is_refused(change):
    body = {**await seal(KEK, "control", "state", SECRET), **change}
    with pytest.raises(Untrusted) as caught:
        await unseal(KEK, "control", "state", body)
    assert caught.value.code == "sealed-broken"


async def test_a_new_key_file_is_private_and_never_overwritten(path, data):
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    make_kek_file(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert await FileKek(path, data).key_for(b"x") == await FileKek(path, data).key_for(b"x")
    assert await FileKek(path, data).key_for(b"x") != await FileKek(path, data).key_for(b"y")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o4600])
async def test_a_file_that_others_may_read_or_change_is_refused(path, data, mode):
    path.chmod(mode)
    assert await code_of(FileKek(path, data)) == "kek-exposed"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give the file to another user")
async def test_a_file_of_another_user_is_refused(path, data):
    os.chown(path, 12345, 12345)
    assert await code_of(FileKek(path, data)) == "kek-exposed"


async def test_a_key_in_the_data_directory_is_refused(data, path, tmp_path):
    inside = data / "deep" / "kek"
    make_kek_file(inside)
    assert await code_of(FileKek(inside, data)) == "kek-misplaced"
    with pytest.raises(Untrusted):
        find_kek(data / "new", data, {})
    assert not (data / "new").exists()
    link = tmp_path / "link"
    link.symlink_to(inside)
    assert await code_of(FileKek(link, data)) == "kek-misplaced"


@pytest.mark.parametrize("content", ["", "ab" * 31, "zz" * 32, "ab" * 33, "\u00e4" * 64])
async def test_a_malformed_file_is_refused(path, data, content):
    path.write_text(content)
    assert await code_of(FileKek(path, data)) == "invalid-kek"


async def test_what_is_no_file_is_refused(tmp_path, data):
    assert await code_of(FileKek(tmp_path / "absent", data)) == "kek-unavailable"
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert await code_of(FileKek(tmp_path / "fifo", data)) == "kek-exposed"


async def test_the_credential_of_systemd_is_preferred_and_may_show_its_acl(tmp_path, data):
    credentials = tmp_path / "credentials"
    make_kek_file(credentials / CREDENTIAL_NAME)
    (credentials / CREDENTIAL_NAME).chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "HOME": str(tmp_path)}
    kek = find_kek(None, data, environ)
    assert isinstance(kek, CredentialKek)
    assert len(await kek.key_for(b"x")) == 32
    (credentials / CREDENTIAL_NAME).chmod(0o444)
    assert await code_of(kek) == "kek-exposed"


async def test_without_a_choice_the_users_own_file_is_made(tmp_path, data):
    kek = find_kek(None, data, {"HOME": str(tmp_path)})
    made = default_kek_path({"HOME": str(tmp_path)})
    assert made == tmp_path / ".config/limen/server.kek"
    assert made.stat().st_mode & 0o777 == 0o600
    assert await kek.key_for(b"x") == await find_kek(None, data, {"HOME": str(tmp_path)}).key_for(
        b"x"
    )


def test_a_place_that_cannot_be_written_is_unavailable(tmp_path, data):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        find_kek(tmp_path / "file" / "kek", data, {})


def test_a_key_of_another_size_is_refused():
    with pytest.raises(InvalidInput):
        MemoryKek(b"short")
