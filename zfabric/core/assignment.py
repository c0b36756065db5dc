"""Who reads which partition: one pure function of the partitions and of the members of a group that live.

Rendezvous hashing (Thaler and Ravishankar, 1998): a partition belongs to the member for which a hash of both is the
highest. Everybody who knows the members computes the same, nobody has to decide; and when a member comes or goes, only
the partitions move that it gets or had, about one in as many as there are members. The price is balance: members have
about the same number of partitions only where there are many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from xxhash import xxh3_64_intdigest


def owner(partition: int, members: Collection[int]) -> int | None:
    """Return the member, of those given by numbers below 2**64, to which a partition belongs; None without members."""
    name = partition.to_bytes(8, "big")
    return max(members, key=lambda member: (xxh3_64_intdigest(name, member), member), default=None)


def assign(partitions: Iterable[int], members: Collection[int]) -> dict[int, list[int]]:
    """Return the partitions of each member, in the order given."""
    shares: dict[int, list[int]] = {member: [] for member in members}
    for partition in partitions:
        chosen = owner(partition, members)
        if chosen is not None:
            shares[chosen].append(partition)
    return shares
