"""The uplink: follows topics of one fabric and stores them in another, exactly once, over a link that comes and goes.

For the edge: a device keeps its log whether there is a link or not, and the hub gets every record of it once, in order,
however often the link, the device or the hub fails.

Theory. For each source topic there is a named producer at the hub whose name is made of the ids of the source fabric
and of the topic; the sequence of a record is its offset at the source; and partition p of the source goes to partition
p of the hub. The hub stores a sequence in the transaction of the record, takes none twice, and tells the last one that
it has. So the hub is the authority on where to go on, whatever was lost: the uplink keeps no state, and all ways to
fail end in the same way to begin: ask the hub, seek there, go on.

- *Exactly once*: I8 at the hub, and a producer that never jumps over what was given up (``core/client/producer.py``).
- *Order*: of each source partition, as it is there.
- *A mesh* as source: each partition of each origin has a link and a named producer of its own, made of the origin's
  fabric id and the partition's id there, so one origin holds up no other; all of a topic are
  read through one consumer. It goes to the hub's partition that has some
  of it already, else to its mesh-wide number modulo the hub's partitions. What is away is read at a keeper. A copy
  that ends before what the hub has is no error: the rest is at the origin. What the hub itself leads as a member of
  the mesh is left out.
- *Fenced*: of two uplinks of a topic into the same place the later one works, the other ends with UplinkFenced.
- *Nothing in silence*: what retention removed at the source before it was shipped, or what is damaged there, is a gap,
  counted and told, and the rest goes on; damage that keepers may mend is waited for first (``damage.py``).
  A source that has fewer records than the hub got from it (it was restored from
  a backup) is an error, SourceRewound: its next records would be taken for those that the hub has. So is one that was
  set back and has grown past that since: each batch tells the hub in which batch of the source its last record was
  (leader epoch and append time, as in :mod:`zfabric.core.leader.lineage`), the hub tells it to who begins, and the
  source's leader says whether it has that one. The source cannot tell where retention has removed the batch, nor can
  the hub of a topic with ``durability="os"`` right after a crash. A source that was made anew has another id, and a
  topic that was made anew as well: nothing of them is mixed up.
- *A hub that was set back* (to a backup, or by a power cut under topics that are not synced) refuses what would leave a
  hole, for each batch says which record comes before it; it gets what it has lost again, as far as the source still has
  that, and a notice tells it.
- *On the disk first*: of a source topic with ``durability="os"`` only what a synced commit has covered is shipped, so
  that a power cut cannot give offsets that the hub has seen to other records.
- *Bounded*: what was read and is not acknowledged is at most ``buffer_bytes``, and one batch.

How long the hub remembers: 400 days since the last record of a source topic. The committed offsets of the uplink's
group at the source say what the hub has, for ``zfabric group describe``; nothing depends on them.

``zfabric.uplink.Uplink`` is for fabrics of ``zfabric.connect()``, ``zfabric.uplink.aio.Uplink`` for those of
``zfabric.aio.connect()``.
"""

from __future__ import annotations

from zfabric.uplink.model import Notice, PartitionStatus, UplinkStatus
from zfabric.uplink.sync.uplink import Uplink

__all__ = ["Notice", "PartitionStatus", "Uplink", "UplinkStatus"]
