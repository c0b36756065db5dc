"""A fabric as the SDK shows it: topics, groups, producers, consumers, status."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import msgspec

from zfabric import errors, modes
from zfabric.aio.calls import Calling
from zfabric.aio.consumer import Consumer, Deserializer, start_of
from zfabric.aio.groups import Groups
from zfabric.aio.producer import Producer, Serializer
from zfabric.aio.pump import Pump
from zfabric.aio.topics import Topics
from zfabric.aio.waiting import Waiting
from zfabric.aio.watch import MemberWatch
from zfabric.core.client import members
from zfabric.core.client.client import Client
from zfabric.core.client.consumer import Consumer as CoreConsumer
from zfabric.core.client.partitioner import key_hash
from zfabric.core.client.pending import Pending, gather_all
from zfabric.core.client.producer import Producer as CoreProducer
from zfabric.core.client.watch import Watch
from zfabric.model import (
    Acks,
    Codec,
    LeaderInfo,
    MemberInfo,
)
from zfabric.net.driver import Driver
from zfabric.settings import (
    GROUP_BYTES_MAX,
    TOPIC_PARTITIONS_MAX,
    LeaderSettings,
    ProducerSettings,
    check_callable,
    check_flag,
    check_iterable,
    check_name,
    check_range,
    check_timeout,
)
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata, TopicMeta

if TYPE_CHECKING:
    from zfabric.modes.peerurl import PeerOptions

SOFTWARE = "zfabric-python"


def connect(
    url: str | None = None,
    *,
    timeout: float = 10.0,
    settings: LeaderSettings | None = None,
    **options: Unpack[PeerOptions],
) -> Fabric:
    """Return a fabric; nothing is waited for until it is used.

    Args:
        url: ``zf://host:port``, ``zf+file:///directory``, ``zf+peer://mesh``; None: ``ZFABRIC_URL``, else embedded in
            ./zfabric-data.
        timeout: seconds that calls wait for an answer.
        settings: for a leader that this process may have to start (embedded, peer).
        options: of a peer: ``data``, ``listen``, ``seed`` (or a list), ``beacon``, ``key``, ``zone``, ``advertise``,
            ``insecure``, ``keep``, ``keeper`` (or lists), ``leader``, ``role``; each may stand in the URL as well
            (``?data=…&seed=…``), see :mod:`zfabric.modes.peerurl`. Of a directory: ``leader``.

    Raises:
        ConfigurationError, NotSupported: the URL. InvalidArgument: an option. InsecureListen: it would let a peer
            listen beyond loopback. DirectoryFormat: the directory is something else. DirectoryUnusable: it cannot be
            made or written to.
    """
    check_range("timeout", timeout, 0.001, 86_400.0, "s")
    if settings is not None and not isinstance(settings, LeaderSettings):
        raise errors.InvalidArgument(name="settings", value=repr(settings)[:100], allowed="LeaderSettings or None")
    name, mode = modes.attach(url, settings, options, timeout=timeout)
    random = Random(int.from_bytes(os.urandom(16), "big"))
    core = Client(
        mode.endpoint,
        name,
        mode.host,
        random,
        software=SOFTWARE,
        locate=mode.locating,
        publish=mode.publish,
        mesh=mode.mesh,
        observed=mode.observed,
    )
    return Fabric(name, Pump(Driver(core, mode)), core, timeout)


class Fabric(Calling):
    """One connection to a fabric. A context manager; safe to share between threads, not between processes.

    Attributes:
        url: as errors name it. topics, groups: their administration. waiting: for several consumers, or for a time.
        mesh: whether it is a mesh of peers, each of which has a part of every topic.
    """

    def __init__(self, url: str, pump: Pump, core: Client, timeout: float) -> None:
        super().__init__(pump, core, timeout)
        self.url = url
        self.mesh = core.scattered
        self.topics = Topics(self)
        self.groups = Groups(self)
        self.waiting = Waiting(pump, core)
        self._open: list[tuple[Producer | Consumer, CoreProducer | CoreConsumer]] = []

    def __repr__(self) -> str:
        # No parameters: what is at the end of a URL is long, and names files with keys.
        mode = "a mesh" if self.mesh else "one fabric"
        return f"<Fabric {self.url.partition('?')[0]!r}, {mode}: {self._pump.state}>"

    def check_own(self, what: str, instead: str) -> None:
        """Make sure that this is somebody who has a fabric to write to.

        Raises:
            NotSupported: it only observes a mesh, through whichever member it has found.
        """
        if self._core.observer:
            raise errors.NotSupported(what=what, where="for role='client' of a mesh", instead=instead)

    def producer(
        self,
        *,
        name: str | None = None,
        acks: Acks = "all",
        linger: float = 0.0,
        batch_bytes: int = 512 << 10,
        buffer_bytes: int = 64 << 20,
        compression: Codec = "none",
        delivery_timeout: float = 120.0,
        block: bool = True,
        serializer: Serializer | None = None,
    ) -> Producer:
        """Return a new producer.

        Args:
            name: keeps its identity over restarts, and fences an earlier instance; allows ``sequence=``.
            acks: ``"all"``, ``"leader"`` or ``"none"`` (fire and forget).
            linger: seconds that a record may wait for company. batch_bytes: closes an open batch.
            buffer_bytes: unacknowledged bytes at which ``send`` waits, or raises BufferFull unless ``block``.
            delivery_timeout: seconds after which a record's outcome is given up as unknown.
            serializer: ``(topic, object) -> bytes`` for values.
        """
        check_range("linger", linger, 0, 60.0, "s")
        check_flag("block", block)
        check_callable("serializer", serializer)
        check_range("delivery_timeout", delivery_timeout, 0.001, 86_400.0, "s")
        settings = ProducerSettings(
            acks=acks,
            linger_ns=int(linger * 1e9),
            batch_bytes=batch_bytes,
            buffer_bytes=buffer_bytes,
            codec=compression,
            delivery_timeout_ns=int(delivery_timeout * 1e9),
        )
        self._pump.check()
        self.check_own("a producer", "be a peer, which has a leader to write to")
        if name is not None:
            identity = key_hash(check_name("producer", name).encode()) | 1
        else:
            identity = self._core.random.getrandbits(63) << 1 | 2
        kind = Producer.delivery(self._pump)
        core = CoreProducer(self._core, settings, identity, named=name is not None, delivery=kind)
        core.call_timeout_ns = int(self._timeout * 1e9)
        self._core.producers.append(core)
        producer = Producer(self._pump, core, serializer, block=block)
        self._keep(producer, core)
        return producer

    def consumer(
        self,
        topic: str,
        *,
        group: str | None = None,
        start: int | str | datetime = "earliest",
        partitions: Sequence[int] | None = None,
        missing: Literal["raise", "skip"] | None = None,
        buffer_bytes: int = 16 << 20,
        deserializer: Deserializer | None = None,
    ) -> Consumer:
        """Return a new consumer of one topic.

        Args:
            group: commits its positions under this name, and begins where it committed. Two consumers of one group
                both read everything they are assigned: share the work by giving each its ``partitions``.
            start: where a partition begins without a committed offset: "earliest", "latest", an offset, a datetime or
                an ISO time.
            partitions: numbers to read; all by default.
            missing: what to do when the position was removed by retention: ``"raise"`` or ``"skip"``; by default skip
                for memory topics only.
            buffer_bytes: read ahead per partition.
            deserializer: ``(topic, bytes) -> object`` for values of records.

        Where it begins is decided when it is opened: here if this is the synchronous SDK, on entering it or with the
        first call if not.
        """
        check_name("topic", topic)
        if group is not None:
            check_name("group", group, GROUP_BYTES_MAX)
        if missing not in (None, "raise", "skip"):
            raise errors.InvalidArgument(name="missing", value=repr(missing)[:100], allowed="'raise', 'skip', None")
        check_range("buffer_bytes", buffer_bytes, 1 << 10, 1 << 34, "bytes")
        check_callable("deserializer", deserializer)
        if partitions is not None:
            check_iterable("partitions", partitions, "numbers")
            partitions = list(partitions)
            check_range("number of partitions", len(partitions), 1, TOPIC_PARTITIONS_MAX)
            for number in partitions:
                check_range("partition", number, 0, self._core.partition_max)
        self._pump.check()
        core = CoreConsumer(
            self._core,
            topic,
            group=group,
            start=start_of(start),
            numbers=None if partitions is None else list(dict.fromkeys(partitions)),
            skip_missing=None if missing is None else missing == "skip",
            buffer_bytes=buffer_bytes,
        )
        self._core.add(core)
        consumer = Consumer(self._pump, core, deserializer, self._timeout)
        # sync-only: consumer.begin()
        self._keep(consumer, core)
        return consumer

    async def status(self) -> list[LeaderInfo]:
        """Return what each leader process says of itself."""
        await self.ask(Type.METADATA, Metadata([]), "metadata")
        answers = [await self.ask(Type.STATUS, messages.Empty(), "status", leader) for leader in self._core.leaders()]
        try:
            return [msgspec.convert(answer.values, LeaderInfo, strict=False) for answer in answers]
        except msgspec.ValidationError as error:
            raise errors.ProtocolViolation(problem=f"STATUS_IS: {error}", allowed="all counters of a leader") from error

    async def members(self) -> list[MemberInfo]:
        """Return the members of the mesh that this fabric belongs to, sorted by host and endpoint.

        They are those of which its leader 0 has heard, the failed ones included. Without a mesh there is one member:
        itself.
        """
        core, pump = self._core, self._pump
        with pump.lock:
            pump.check()
            now = pump.now()
            pending = core.members.fresh(now, now + int(self._timeout * 1e9))
        if not await pump.wait(pending, self._timeout + 1.0):
            raise errors.RequestTimeout(what="members of the mesh", seconds=self._timeout)
        pending.result()
        with pump.lock:
            known = core.members.all()
        return members.shown(known)

    async def lacking(self, topic: str) -> errors.UnknownTopic:
        """Return the error for a topic that this fabric does not have; it says which member of its mesh shows one."""
        core, pump = self._core, self._pump
        pending: Pending[Any] = Pending()
        with pump.lock:
            pump.check()
            core.members.lack(topic, pending, pump.now())
        await pump.wait(pending, self._timeout)
        with pump.lock:
            return core.members.lacking(topic)

    def watch_members(self, *, timeout: float | None = None) -> MemberWatch:
        """Return what tells of each change of the mesh, beginning with the members that there are.

        Args:
            timeout: seconds without a change after which an iteration over it ends; None for never.
        """
        check_timeout("timeout", timeout)
        with self._pump.lock:
            self._pump.check()
            core = Watch(self._core.members, self._pump.now())
        return MemberWatch(self._pump, core, timeout)

    async def ask(
        self, kind: int, body: Any, what: str, leader: int | None = None, timeout: float | None = None
    ) -> Any:
        """Send one command to a leader (to leader 0 by default) and return the body of its answer.

        Args:
            timeout: seconds to wait for it; None: the fabric's timeout.

        Raises:
            ZFabricError: what the leader answered, or that it did not.
        """
        core, pump = self._core, self._pump
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        with pump.lock:
            pump.check()
            now = pump.now()
            deadline_ns = now + int(seconds * 1e9)
            if leader is None:
                pending = core.control(kind, body, now, deadline_ns, what)
            else:
                pending = core.call_partition(leader, kind, body, now, deadline_ns, what)
        if not await pump.wait(pending, seconds + 1.0):
            raise errors.RequestTimeout(what=what, seconds=seconds)
        answer = pending.result().body
        if kind == Type.METADATA:
            with pump.lock:
                core.note(answer)
        return answer

    async def survey(self, names: list[str] | None) -> list[TopicMeta]:
        """Return topics (all for None) as they are now, sorted by name; in a mesh with the partitions of all members.

        Raises:
            ZFabricError: what leader 0 answered, or that it did not.
        """
        core, pump = self._core, self._pump
        with pump.lock:
            pump.check()
            now = pump.now()
            pending = core.survey(names, now, now + int(self._timeout * 1e9))
        if not await pump.wait(pending, self._timeout + 1.0):
            raise errors.RequestTimeout(what="list of topics", seconds=self._timeout)
        return pending.result()

    async def ask_origin(self, kind: int, body: Any, what: str, leader: int, patience: float | None = None) -> Any:
        """The same as :meth:`ask`, but None where the leader is of a member of a mesh that is away.

        Args:
            patience: seconds after which a member that does not answer is taken for away; None: the fabric's timeout.

        Raises:
            ZFabricError: what the leader answered; that it did not, if it is of the own fabric.
        """
        return (await self.ask_origins(kind, {leader: body}, what, patience))[leader]

    async def ask_origins(
        self, kind: int, bodies: Mapping[int, Any], what: str, patience: float | None = None
    ) -> dict[int, Any]:
        """Ask several leaders side by side, as :meth:`ask_origin` asks one; returns what each has answered.

        However many of them are away, that costs the patience once.
        """
        core, pump = self._core, self._pump
        calls = {}
        with pump.lock:
            pump.check()
            now = pump.now()
            for leader, body in bodies.items():
                if core.origins is None or core.origins.here(leader):
                    mine = patience is None or core.own(leader)
                    seconds = self._timeout if mine else min(patience or 0.0, self._timeout)
                    calls[leader] = core.call_partition(leader, kind, body, now, now + int(seconds * 1e9), what)
        if not await pump.wait(gather_all([*calls.values()]), self._timeout + 1.0):
            raise errors.RequestTimeout(what=what, seconds=self._timeout)
        answers: dict[int, Any] = dict.fromkeys(bodies)
        for leader, call in calls.items():
            if core.own(leader) or not isinstance(call.error, errors.Unreachable | errors.RequestTimeout):
                answers[leader] = call.result().body
        return answers

    def origin_of(self, leader: int) -> str:
        """Return the fabric id of the member of a mesh that has this leader; "" without a mesh."""
        return "" if self._core.origins is None else self._core.origins.fabric_of(leader)

    def _keep(self, made: Producer | Consumer, core: CoreProducer | CoreConsumer) -> None:
        """Note what :meth:`close` has to close, and forget what was closed before."""
        self._open = [entry for entry in self._open if not entry[1].closed]
        self._open.append((made, core))

    def token(self) -> int:
        """Return a random number by which a leader knows that a command is a repeat."""
        return self._core.random.getrandbits(62) + 1

    async def close(self) -> None:
        """Drain services, close consumers, flush and close producers, and leave.

        A second call does nothing, nor does a forked child's.

        Raises:
            DeliveryError: what a producer could not deliver; everything is closed all the same, also when the call is
                interrupted or cancelled.
        """
        if self._pump.forked:
            return
        failed: Exception | None = None
        opened, self._open = [entry for entry, _ in self._open], []
        try:
            await self._end_services()
            for entry in opened:
                try:
                    await entry.close()
                except errors.Closed:
                    continue
                except errors.ZFabricError as error:
                    failed = error
        finally:
            for entry in opened:
                entry.abandon()
            with self._pump.lock:
                self._core.requests.close()
            await self._pump.close()
        if failed is not None:
            raise failed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


__all__ = ["Fabric", "Groups", "Topics", "connect"]
