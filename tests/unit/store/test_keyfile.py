"""Files that hold a mesh key."""

from __future__ import annotations

import os
import stat

import pytest

from zfabric import errors
from zfabric.store import keyfile


def test_a_new_key_is_its_owners_alone_and_read_back(tmp_path):
    path = str(tmp_path / "key")
    keyfile.create_key(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    key = keyfile.read_key(path)
    assert len(key) == keyfile.KEY_BYTES
    keyfile.create_key(str(tmp_path / "other"))
    assert keyfile.read_key(str(tmp_path / "other")) != key


def test_keys_are_told_from_each_other_by_what_does_not_tell_them(tmp_path):
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        keyfile.create_key(path)
    first, second = map(keyfile.fingerprint, paths)
    assert first == keyfile.fingerprint(paths[0]) != second
    assert first not in keyfile.read_key(paths[0]).hex()
    assert keyfile.fingerprint("") == ""


def test_a_key_is_never_overwritten(tmp_path):
    path = str(tmp_path / "key")
    keyfile.create_key(path)
    key = keyfile.read_key(path)
    with pytest.raises(errors.AlreadyExists):
        keyfile.create_key(path)
    assert keyfile.read_key(path) == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    keyfile.create_key(str(path))
    path.chmod(mode)
    with pytest.raises(errors.ConfigurationError, match="chmod 600"):
        keyfile.read_key(str(path))


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"00" * 15, b"00" * 65, b"0" * 33, b"no key at all, but long enough to be one", b"\xff" * 32,
     b"00" * 20 + b"\n" + b"00" * 20],
)  # fmt: skip
def test_what_is_no_key_is_refused_with_the_allowed_range(tmp_path, text):
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(errors.ConfigurationError, match=r"hex digits where 32 to 128 are wanted"):
        keyfile.read_key(str(path))


@pytest.mark.parametrize("size", [16, 64])
def test_the_shortest_and_the_longest_key_are_taken(tmp_path, size):
    path = tmp_path / "key"
    path.write_bytes(b" " + b"Ab" * size + b"\r\n")
    path.chmod(0o600)
    assert keyfile.read_key(str(path)) == b"\xab" * size


def test_a_key_file_that_is_not_there_or_no_file_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(errors.ConfigurationError) as caught:
            keyfile.read_key(str(path))
        assert str(path) in caught.value.source


def test_a_key_that_cannot_be_written_is_an_error_of_configuration(tmp_path):
    with pytest.raises(errors.ConfigurationError):
        keyfile.create_key(str(tmp_path / "none" / "key"))
