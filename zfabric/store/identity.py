"""Another identity for a copied data directory: ``zfabric doctor --new-identity``.

A directory is known by its fabric id: in a mesh that is whose records these are, and the id of the member is made of
it. Two processes on copies of one directory claim to be one, and their logs go on differently under the same offsets;
readers and keepers are told that logs were set back, and cannot tell which one is meant. The copy that is given a new
id is another origin from then on. It keeps its topics, records and groups' offsets, and copies of others' partitions.

Both locks are taken. One transaction a volume changes the rows that hold the id, leader 0's last, and a leader refuses
assignments of another id than its volume's: if the change ends between two volumes, it is to be repeated. The ports of
a peer are forgotten, because the original may use them on the same machine.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.leader import keys
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.repair import replay
from zfabric.store.volume import Volume

_FACTS: Final = b"CF"
_decode_facts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def renew(directory: DataDirectory, fabric: str) -> str:
    """Give a directory the id ``fabric`` (16 hex digits); returns the one before, "" if it never had one.

    Raises:
        DirectoryLocked: somebody leads the directory.
        CorruptRow: the row with the id cannot be decoded. StorageFailed, StorageFull: the change was not committed.
    """
    before = ""
    with directory.lock("embedded", ""):
        for number in sorted(directory.volumes(), reverse=True):
            with Volume.open(directory.volume_path(number), LeaderSettings()) as volume:
                volume.grow_if_needed()
                txn = volume.write()
                if txn.get(keys.volume("fabric")) is not None:
                    txn.put(keys.volume("fabric"), fabric.encode())
                row = txn.get(_FACTS)
                if row is not None:
                    facts = rows.decode(_decode_facts, row, "the row with the fabric's id")
                    if not facts:
                        raise errors.CorruptRow(what="the row with the fabric's id", problem="it is empty")
                    before = msgspec.msgpack.decode(facts[0], type=str)
                    txn.put(_FACTS, msgspec.msgpack.encode([fabric, *facts[1:]]))
                replay(number, volume, txn)
                volume.commit()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory.port_path)
    return before
