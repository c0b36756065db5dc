"""A disk that is really full: refused in time with a reserve, final without one, and never damage."""

import os
import subprocess

import pytest

from zfabric import errors
from zfabric.settings import MIB, LeaderSettings
from zfabric.store.volume import Volume

BATCH = bytes(20_000)


def mount_tmpfs(place):
    return ["mount", "-t", "tmpfs", "-o", "size=8m", "zfabric-test", str(place)]


def mount_ext4(place):
    image = f"{place}.img"
    with open(image, "wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    return ["mount", "-o", "loop", image, str(place)]


@pytest.fixture(params=[mount_tmpfs, mount_ext4], ids=["tmpfs", "ext4"])
def small_disk(request, tmp_path):
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(request.param(place), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def append(volume, number):
    volume.check_room()
    volume.write().put(number.to_bytes(8, "big"), BATCH)
    volume.commit()
    volume.refresh_room()


def count(volume):
    """Return how many batches there are, having read each of them."""
    with volume.read() as txn:
        cursor, found = txn.cursor(), 0
        there = cursor.set_range(b"\0")
        while there:
            assert bytes(cursor.value()) == BATCH
            found += 1
            there = cursor.next()
        return found


def fill(volume, number=0):
    """Append until that is refused; return how many batches there are and the refusal."""
    while True:
        try:
            append(volume, number)
        except errors.ZFabricError as error:
            return number, error
        number += 1


def test_appends_end_at_the_reserve_and_retention_makes_room(small_disk):
    with Volume.open(small_disk / "volume", LeaderSettings(disk_reserve_bytes=2 * MIB)) as volume:
        stored, refusal = fill(volume)
        assert isinstance(refusal, errors.StorageFull)
        assert count(volume) == stored > 0
        # Two windows of everything that fits, so the file has to reuse its pages.
        oldest = 0
        for number in range(stored, 3 * stored):
            while True:
                try:
                    append(volume, number)
                    break
                except errors.StorageFull:
                    volume.write().delete(oldest.to_bytes(8, "big"))
                    volume.commit()
                    volume.refresh_room()
                    oldest += 1
        assert count(volume) == 3 * stored - oldest > stored // 4


def test_a_disk_that_fills_up_in_spite_of_all_ends_the_leader_and_damages_nothing(small_disk):
    settings = LeaderSettings(disk_reserve_bytes=0)
    with Volume.open(small_disk / "volume", settings) as volume:
        stored, failure = fill(volume)
        assert isinstance(failure, errors.StorageFailed)
        with pytest.raises(errors.StorageFailed):
            volume.write()
    with Volume.open(small_disk / "volume", settings) as volume:
        assert count(volume) == stored
        # Retention on the full disk, from then on appends again.
        for number in range(stored):
            volume.write().delete(number.to_bytes(8, "big"))
            volume.commit()
        assert fill(volume, stored)[0] > stored


def test_a_journal_on_a_full_disk_refuses_and_keeps_what_it_has(small_disk):
    with Volume.open(small_disk / "volume", LeaderSettings(disk_reserve_bytes=0)) as volume:
        kept = 0
        with pytest.raises(errors.StorageFull) as refused:  # noqa: PT012 - how many fit is what is counted
            while True:
                volume.journal(BATCH)
                kept += 1
        assert refused.value.retriable
        assert list(volume.journaled()) == [BATCH] * kept
    with Volume.open(small_disk / "volume", LeaderSettings(disk_reserve_bytes=0)) as volume:
        assert list(volume.journaled()) == [BATCH] * kept
