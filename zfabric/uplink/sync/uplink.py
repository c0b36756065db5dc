# Generated from zfabric/uplink/aio/uplink.py by tools/unasync; edit that file.
"""The uplink: all topics that match, in turn, within one bound of memory and one of bandwidth."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from zfabric import errors
from zfabric.core.client.routes import Place
from zfabric.model import Codec
from zfabric.settings import MIB, check_callable, check_flag, check_range
from zfabric.sync.fabric import Fabric
from zfabric.uplink import naming
from zfabric.uplink.model import Notice, UplinkSettings, UplinkStatus, check_patterns
from zfabric.uplink.pacing import SECOND, Backoff, Bucket, passes
from zfabric.uplink.sync.link import READ_AHEAD_MAX, READ_AHEAD_MIN, Link
from zfabric.uplink.sync.reader import Reader
from zfabric.uplink.sync.sources import Part, Whole
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata, TopicMeta

NOTICES_MAX = 1_000
TURN_SECONDS = 1.0
QUIET_NS = 100_000_000
PATIENCE_SECONDS = 0.001
PATIENCE_MAX_SECONDS = 0.064

Key = tuple[str, str, int]
"""Topic, and of a mesh an origin and the id of the partition there."""

log = logging.getLogger("zfabric.uplink")
log.addHandler(logging.NullHandler())


class Uplink:
    """Ships topics of one fabric to another, exactly once; see :mod:`zfabric.uplink` for what that means.

    The fabrics stay the caller's: they have to be open while it works, and it does not close them.

    Args:
        source, target: fabrics, not the same one. The target is no mesh: a record's place there has to be one place.
        topics: names, and patterns with ``*``, ``?`` and ``[…]``. New topics that match are found while it works.
        prefix: of the topics' names at the target.
        create: make topics that the target does not have, configured as at the source, and add partitions to those
            that have fewer; else that is a problem of that topic.
        group: at the source, whose committed offsets say what the target has; ``uplink.`` and the target's id.
        compression: of what goes over the link: ``"zstd"``, ``"lz4"`` or ``"none"``.
        bandwidth: bytes a second at most, counted as they are sent, repeats included; None: no bound.
        buffer_bytes: 64 KiB to 16 GiB that may be read and not acknowledged, all topics together.
        origin_headers: give each record a header ``zf-origin`` of ``fabric/topic/partition/offset``.
        rescan: seconds between two looks for new topics and partitions.
        delivery_timeout: seconds without an acknowledgement after which a topic asks the target anew.

    Raises:
        InvalidArgument: an argument is out of its range, or the target is a mesh.
    """

    def __init__(
        self,
        source: Fabric,
        target: Fabric,
        *,
        topics: str | Iterable[str],
        prefix: str = "",
        create: bool = True,
        group: str | None = None,
        compression: Codec = "zstd",
        bandwidth: float | None = None,
        buffer_bytes: int = 8 * MIB,
        origin_headers: bool = False,
        rescan: float = 5.0,
        delivery_timeout: float = 120.0,
    ) -> None:
        self._settings = UplinkSettings(
            patterns=check_patterns(topics),
            prefix=prefix,
            create=create,
            group=group,
            compression=compression,
            bandwidth=bandwidth,
            buffer_bytes=buffer_bytes,
            origin_headers=origin_headers,
            rescan=rescan,
            delivery_timeout=delivery_timeout,
        )
        if target.mesh:
            raise errors.InvalidArgument(name="target", value=target.url, allowed="zf://HOST:PORT or zf+file:DIR")
        self._source = source
        self._hub = target
        self._links: dict[Key, Link] = {}
        self._readers: dict[str, Reader] = {}
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self._bucket = Bucket(bandwidth)
        self._spent = self._first = 0
        self._gone_records = self._gone_skipped = self._gone_bytes = 0
        self._origin = self._hub_id = ""
        self._names: list[str] = []
        self._group = ""
        self._scan_ns = 0
        self._moved_ns = -QUIET_NS
        self._scanning = Backoff()
        self._problem: errors.ZFabricError | None = None
        self._stopping = False
        self._patience = PATIENCE_SECONDS
        self._waited_for = 0

    def run(self, *, once: bool = False, give_up: float | None = None, watch: Callable[[], None] | None = None) -> None:
        """Ship until :meth:`stop`, or, with ``once``, until all has arrived that was there when it began.

        Args:
            give_up: seconds without any progress, while there is something to do, after which the problem is raised.
                By default it is tried for ever.
            watch: called after each turn, once a second at least; what it raises ends the run.

        Raises:
            UplinkFenced: another uplink does the same. InvalidArgument: source and target are one fabric.
            UnknownTopic: with ``once``: the source has no topic of a name that is no pattern; the others have arrived.
            Unreachable: with ``give_up``: a side did not answer. ZFabricError: with ``once`` or ``give_up``: what else
                keeps it from going on.
        """
        check_flag("once", once)
        if give_up is not None:
            check_range("give_up", give_up, 0.001, 1e9, "s")
        check_callable("watch", watch)
        since, before = self._source.waiting.now(), self._progress()
        for link in self._links.values():
            link.end()  # What is there now is what "caught up" means.
        try:
            while not self._stopping:
                self.advance(TURN_SECONDS)
                if watch is not None:
                    watch()
                if once and self._scan_ns and all(link.caught_up for link in self._links.values()):
                    if missing := next(filter(naming.is_name, self._unmatched()), None):
                        raise errors.UnknownTopic(topic=missing)
                    return
                problem, now = self._trouble(), self._source.waiting.now()
                if self._progress() != before or (problem is None and self._idle()):
                    since, before = now, self._progress()
                elif give_up is not None and now - since > give_up * SECOND:
                    raise self._silence(problem, give_up)
                elif once and problem is not None and not passes(problem):
                    raise problem
        finally:
            self.close()

    def stop(self) -> None:
        """Let :meth:`run` end soon. May be called from anywhere; a second call does nothing."""
        self._stopping = True

    def close(self) -> None:
        """End what is under way; tells the source what has arrived, if it answers. Another run may follow.

        :meth:`run` ends with this, whatever ended it.
        """
        for link in self._links.values():
            try:
                link.commit()
            except errors.ZFabricError as error:
                log.info("uplink_commit_failed topic=%s problem=%s", link.topic, error)
        for reader in self._readers.values():
            reader.commit(self._source.waiting.now(), soon=True)
        for link in self._links.values():
            link.end()
        for reader in self._readers.values():
            reader.close()

    def advance(self, timeout: float = TURN_SECONDS) -> bool:
        """Do what there is to do, a bounded part of it; waits up to ``timeout`` seconds if there is nothing.

        For an application with a loop of its own; :meth:`run` is made of this. Tells whether there was something to do.

        Raises:
            UplinkFenced: another uplink does the same. InvalidArgument: source and target are one fabric.
        """
        now = self._source.waiting.now()
        if now >= self._look_ns():
            self._scan()
        moved = False
        wait_ns = self._bucket.wait_ns(now)
        window = self._bucket.window(self._settings.buffer_bytes)
        links = list(self._links.values())
        room = self._bucket.room(window - sum(link.in_flight for link in links))
        held = sum(link.waiting for link in links)
        if links:  # Each begins in turn: what may be sent is little, and goes to the first ones.
            self._first = (self._first + 1) % len(links)
            links = links[self._first :] + links[: self._first]
        for topic, reader in self._readers.items():
            self._fill(topic, reader, 0 if wait_ns else room - reader.queued, now)
        for link in links:
            if link.is_due(now):
                before = link.in_flight
                full = held >= self._settings.buffer_bytes and not link.waiting
                moved |= self._tend(link, 0 if wait_ns or full else room, now)
                room -= link.in_flight - before
        for reader in self._readers.values():
            reader.commit(now)
        sent = self._sent_bytes()
        self._bucket.spend(sent - self._spent)
        self._spent = sent
        if moved:
            self._moved_ns = self._source.waiting.now()
        else:
            self._rest(min(timeout, TURN_SECONDS), wait_ns)
        return moved

    def _fill(self, topic: str, reader: Reader, room: int, now: int) -> None:
        try:
            reader.fill(room, now)
        except BaseException:
            for link in self._links.values():
                if link.topic == topic:
                    link.interrupt()  # What was read may be lost.
            raise

    # Topics.

    def _look_ns(self) -> int:
        """Return when to look for topics: a look may take a second, so it waits while something moves, but not long."""
        due = max(self._scan_ns, self._scanning.at_ns)
        return min(max(due, self._moved_ns + QUIET_NS), due + int(self._settings.rescan * SECOND))

    def _scan(self) -> None:
        """Look for topics that are new, gone or changed at the source."""
        try:
            if not self._origin:
                self._introduce()
            found = self._matching(self._source.survey(None))
            for key, (meta, place) in found.items():
                if key not in self._links:
                    self._links[key] = self._link(meta, place)
                elif self._links[key].changed(meta, place):
                    self._links[key].close()
            for key in [key for key in self._links if key not in found]:
                self._forget(key)
        except errors.InvalidArgument:
            raise
        except errors.ZFabricError as error:
            self._failed(None, error, self._source.waiting.now())
        else:
            for pattern in self._unmatched() if not self._scan_ns else ():
                self._tell(Notice("waiting", pattern, None, "the source has no such topic yet"))
            self._scanning.succeeded()
            self._problem = None
            self._scan_ns = self._source.waiting.now() + int(self._settings.rescan * SECOND)

    def _matching(self, topics: Iterable[TopicMeta]) -> dict[Key, tuple[TopicMeta, Place | None]]:
        """Return what is to be shipped. What the hub leads as a member of the source's mesh has arrived."""
        by_name = {meta.name: meta for meta in topics if meta.partitions}
        found: dict[Key, tuple[TopicMeta, Place | None]] = {}
        self._names = naming.matching(sorted(by_name), self._settings.patterns)
        for name in self._names:
            meta = by_name[name]
            places = [place for place in meta.partitions if isinstance(place, Place)]
            if not places:
                found[name, "", 0] = (meta, None)
            for place in places:
                if place.origin != self._hub_id:
                    found[name, place.origin, place.log] = (meta, place)
        return found

    def _unmatched(self) -> list[str]:
        """Return the patterns that nothing at the source matches."""
        return [pattern for pattern in self._settings.patterns if not naming.matching(self._names, (pattern,))]

    def _link(self, meta: TopicMeta, place: Place | None) -> Link:
        if place is None:
            whole = Whole(self._source, meta, self._origin)
            return Link(self._source, self._hub, whole, self._settings, group=self._group, tell=self._tell)
        reader = self._readers.get(meta.name)
        if reader is None:
            room = min(max(self._settings.buffer_bytes // 4, READ_AHEAD_MIN), READ_AHEAD_MAX)
            reader = self._readers[meta.name] = Reader(self._source, meta.name, group=self._group, buffer_bytes=room)
        part = Part(self._source, meta, place)
        return Link(self._source, self._hub, part, self._settings, reader=reader, group=self._group, tell=self._tell)

    def _introduce(self) -> None:
        """Learn the ids of both fabrics.

        Raises:
            InvalidArgument: they are the same.
        """
        question = Metadata([])
        origin = self._source.ask(Type.METADATA, question, "the source's id").fabric
        hub = self._hub.ask(Type.METADATA, question, "the target's id").fabric
        if origin == hub:
            raise errors.InvalidArgument(name="target", value=self._hub.url, allowed="another fabric than the source")
        self._group = self._settings.group or naming.group(hub)
        self._origin, self._hub_id = origin, hub

    def _forget(self, key: Key) -> None:
        link = self._links.pop(key)
        link.close()
        if all(other.topic != link.topic for other in self._links.values()) and link.topic in self._readers:
            self._readers.pop(link.topic).close()
        self._gone_bytes += link.sent_bytes
        for part in link.status():
            self._gone_records += part.records
            self._gone_skipped += part.skipped
        self._tell(Notice("gone", link.topic, None, "the topic was deleted at the source"))

    def _tend(self, link: Link, room: int, now: int) -> bool:
        """Let one topic go on, or begin; tells whether it did."""
        try:
            if link.opened:
                return link.step(room, self._bucket.piece(), now)
            if now < link.backoff.at_ns:
                return False
            link.open()
        except errors.ProducerFenced as error:
            link.close()
            raise errors.UplinkFenced(topic=link.topic, source=self._source.url, target=self._hub.url) from error
        except errors.ZFabricError as error:
            link.close(error)
            self._failed(link, error, now)
            return False
        except BaseException:
            link.interrupt()
            raise
        self._tell(Notice("begun", link.topic, None, f"from offset {self._begins(link)} on, to {link.target}"))
        return True

    @staticmethod
    def _begins(link: Link) -> str:
        return ", ".join(f"{lane.position:,}" for lane in link.lanes.values())

    def _failed(self, link: Link | None, error: errors.ZFabricError, now: int) -> None:
        now = max(now, self._source.waiting.now())  # The attempt may have taken long.
        if link is None:
            self._scanning.failed(error, now)
            self._problem = error
        else:
            link.backoff.failed(error, now)
        self._tell(Notice("trouble", "" if link is None else link.topic, None, str(error)))

    def _tell(self, notice: Notice) -> None:
        self._notices.append(notice)
        level = logging.WARNING if notice.kind in ("gap", "trouble", "again") else logging.INFO
        log.log(
            level, "uplink_notice kind=%s topic=%s partition=%s text=%s",
            notice.kind, notice.topic, notice.partition, notice.text,
        )  # fmt: skip

    # Waiting.

    def _rest(self, timeout: float, wait_ns: int) -> None:
        """Wait for what may come next: acknowledgements, records, or the time of an attempt.

        While something is under way it is the hub's sockets that want to be driven: its acknowledgement lets the next
        batch go. If none comes the waits grow longer, for the link may be away for days.
        """
        under_way = sum(link.in_flight for link in self._links.values())
        self._patience = PATIENCE_SECONDS if under_way != self._waited_for else self._patience * 2
        self._patience = min(self._patience, PATIENCE_MAX_SECONDS)
        self._waited_for = under_way
        if under_way:
            self._hub.waiting.sleep(min(timeout, self._patience))
        elif wait_ns:
            self._hub.waiting.sleep(min(timeout, wait_ns / SECOND))
        else:
            consumers = [link.consumer for link in self._links.values() if link.consumer is not None]
            consumers += [reader.consumer for reader in self._readers.values() if reader.consumer is not None]
            self._source.waiting.ready(consumers, min(timeout, self._pause()))

    def _pause(self) -> float:
        """Return seconds until there is something to do though nothing comes."""
        now = self._source.waiting.now()
        due = [self._look_ns()]
        due += [link.backoff.at_ns for link in self._links.values() if not link.opened]
        return max(0.0, (min(due) - now) / SECOND)

    # Looking.

    def _sent_bytes(self) -> int:
        return self._gone_bytes + sum(link.sent_bytes for link in list(self._links.values()))

    def _progress(self) -> tuple[int, ...]:
        parts = [part for link in self._links.values() for part in link.status()]
        return (len(parts), sum(part.records for part in parts), sum(part.offset for part in parts))

    def _silence(self, problem: errors.ZFabricError | None, seconds: float) -> errors.ZFabricError:
        """Return what to raise after a time without progress."""
        if problem is not None and not isinstance(problem, TimeoutError):
            return problem
        side = self._source if self._problem is not None else self._hub
        detail = "nothing was acknowledged" if problem is None else str(problem)
        return errors.Unreachable(url=side.url, seconds=seconds, detail=detail)

    def _idle(self) -> bool:
        links = [link for link in self._links.values() if link.damage.text is None]
        return not any(lane.lag for link in links for lane in link.lanes.values())

    def _trouble(self) -> errors.ZFabricError | None:
        """Return what keeps something from going on."""
        if self._problem is not None:
            return self._problem
        return next((link.problem for link in list(self._links.values()) if link.problem is not None), None)

    def status(self) -> UplinkStatus:
        """Return how far it is. May be called from any thread, beside :meth:`run`."""
        links = list(self._links.values())
        parts = [part for link in links for part in link.status()]
        error = self._trouble()
        hindrances = (link.stall or link.damage.text for link in links)
        problem = str(error) if error is not None else next(filter(None, hindrances), None)
        known = self._scan_ns and all(link.lanes for link in links)
        return UplinkStatus(
            topics=sorted({link.topic for link in links}),
            records=self._gone_records + sum(part.records for part in parts),
            skipped=self._gone_skipped + sum(part.skipped for part in parts),
            lag=sum(part.lag for part in parts) if known else None,
            sent_bytes=self._sent_bytes(),
            in_flight_bytes=sum(link.in_flight + link.waiting for link in links),
            problem=problem,
            partitions=parts,
        )

    def take_notices(self) -> list[Notice]:
        """Return what happened since the last call: the newest thousand at most. They are in the log as well."""
        notices = list(self._notices)
        self._notices.clear()
        return notices
