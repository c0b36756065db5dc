"""A client's machines on a wire that the test holds in its hands: no socket, no clock, answers written down."""

from __future__ import annotations

from random import Random

from zfabric import errors
from zfabric.core import effects
from zfabric.core.client.client import Client
from zfabric.core.client.consumer import Consumer
from zfabric.core.client.producer import Producer
from zfabric.model import TopicConfig
from zfabric.settings import ProducerSettings
from zfabric.sim.walk import next_deadline
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import LeaderAddress, MetadataIs, PartitionPlace, TopicMeta

MS = 1_000_000
SECOND = 1_000 * MS
BOOT = "tcp://h:1"


def endpoint(leader):
    """Where a leader takes requests, as a client of host ``h`` sees it."""
    return f"tcp://h:{2 * leader + 1}"


class Wire:
    """One client. What it sends is in ``sent``; leaders that are ``up`` say WELCOME, leader 0 gives metadata.

    Args:
        topics: name to (topic id, [partition ids], config); partition ids are led by id % leaders.
    """

    def __init__(self, leaders=1, *, topics=None, locate=False):
        self.client = Client(BOOT, "zf://h", "h", Random(1), software="test", locate=locate)
        self.now = SECOND
        self.places = {number: (endpoint(number), f"tcp://h:{2 * number + 2}") for number in range(leaders)}
        self.topics = dict(topics or {"t": (1, [1], TopicConfig())})
        self.up = {at for pair in self.places.values() for at in pair}
        self.sessions = {}
        self.opened = []
        self.sent = []
        self.subscribed = []
        self.asked_metadata = 0
        self.located = 0

    def meta(self, name):
        number, ids, config = self.topics[name]
        places = [PartitionPlace(led, at, led % len(self.places)) for at, led in enumerate(ids)]
        return TopicMeta(name, number, config, places)

    def metadata(self, asked):
        leaders = [LeaderAddress(number, at.replace("h:", "*:"), publish.replace("h:", "*:"))
                   for number, (at, publish) in self.places.items()]  # fmt: skip
        names = list(self.topics) if asked is None else asked
        known = [self.meta(name) for name in names if name in self.topics]
        return MetadataIs("f", leaders, known, [name for name in names if name not in self.topics])

    # Driving.

    def step(self):
        """Do what is due and what is wanted, until nothing is left; returns the requests sent meanwhile."""
        before = len(self.sent)
        for _ in range(1_000):
            due = next_deadline(self.client)
            if due is not None and due <= self.now:
                self.client.tick(self.now)
            wanted = self.client.take_effects()
            if not wanted:
                due = next_deadline(self.client)
                assert due is None or due > self.now, "a deadline that a tick does not move would make a pump spin"
                return [command for _, command in self.sent[before:]]
            for effect in wanted:
                self._perform(effect)
        raise AssertionError("the client never rests")

    def _perform(self, effect):
        if isinstance(effect, effects.OpenSession):
            self.sessions[effect.session] = effect.endpoint
            self.opened.append(effect.endpoint)
            if effect.subscribe and effect.endpoint in self.up:
                self.client.connected(effect.session, self.now)
        elif isinstance(effect, effects.CloseSession):
            self.sessions.pop(effect.session, None)
        elif isinstance(effect, effects.Send):
            self._take(effect)
        elif isinstance(effect, effects.Subscribe):
            self.subscribed.append((effect.session, int.from_bytes(effect.topic, "big"), effect.on))
        else:
            self.located += 1

    def _take(self, effect):
        at = self.sessions.get(effect.session)
        if at not in self.up:
            return
        command = messages.read([bytes(frame) for frame in effect.frames])
        if command.type == Type.HELLO:
            self.tell(effect.session, Type.WELCOME, command, messages.Welcome(1, "f", 0, 17 << 20))
        elif command.type == Type.METADATA:
            self.asked_metadata += 1
            self.tell(effect.session, Type.METADATA_IS, command, self.metadata(command.body.topics))
        else:
            self.sent.append((effect.session, command))

    def tell(self, session, kind, command, body, *rest):
        self.client.receive(session, [messages.command(kind, command.request, body), *rest], self.now)

    def pass_time(self, seconds):
        """Let time pass, looking in every 10 ms."""
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now = min(self.now + 10 * MS, end)
            self.step()

    # Answering.

    def session_of(self, command):
        return next(session for session, known in reversed(self.sent) if known is command)

    def answer(self, command, kind, body, *rest):
        self.tell(self.session_of(command), kind, command, body, *rest)
        return self.step()

    def fail(self, command, error):
        self.client.receive(self.session_of(command), [messages.failure(command.request, error)], self.now)
        return self.step()

    def accept(self, command, offset=0, duplicate=0):
        frame = messages.produced(command.request, offset, 500, 1, 0, duplicate)
        self.client.receive(self.session_of(command), [frame], self.now)
        return self.step()

    def lose(self, at=None):
        """End the sessions to an endpoint (all by default)."""
        for session in [session for session, known in self.sessions.items() if at in (None, known)]:
            self.client.lost(session, self.now)
        return self.step()

    # Machines.

    def producer(self, *, named=False, identity=7, **settings):
        made = Producer(self.client, ProducerSettings(**settings), identity, named=named)
        self.client.producers.append(made)
        return made

    def send(self, producer, value=b"v", *, topic="t", key=None, partition=None, sequence=None, on_delivery=None,
             headers=None):  # fmt: skip
        """Send one record once the producer takes it; returns its delivery."""
        for _ in range(100):
            delivery = producer.send(topic, value, key, headers, partition, None, sequence, on_delivery, self.now)
            if delivery is not None:
                return delivery
            waited = producer.blocked(topic, self.now, self.now + SECOND)
            self.step()
            if waited is not None and not waited.done:
                return None
            if waited is not None:
                waited.result()
        raise AssertionError("the producer never takes it")

    def consumer(self, topic="t", **options):
        options = {"group": None, "start": "earliest", "numbers": None, "skip_missing": None, **options}
        made = Consumer(self.client, topic, **options)
        self.client.add(made)
        return made

    def open(self, consumer, ends=None):
        """Open a consumer: every partition begins at 0 and ends at ``ends[id]``."""
        opening = consumer.open(self.now, self.now + 10 * SECOND)
        for command in self.step():
            self.found(command, ends)
        opening.result()

    def found(self, command, ends=None):
        assert command.type == Type.FIND_OFFSETS
        parts = []
        for part in command.body.parts:
            end = (ends or {}).get(part.partition, 0)
            parts.append(messages.OffsetIs(part.partition, {-2: 0, -1: end}[part.timestamp], 0, end))
        return self.answer(command, Type.OFFSETS_ARE, messages.OffsetsAre(parts))

    def serve(self, seconds, ends=None):
        """Let time pass while every FETCH is answered with nothing, and every FIND_OFFSETS from ``ends``."""
        done = len(self.sent)
        for _ in range(int(seconds * 100)):
            self.pass_time(0.01)
            fresh, done = self.sent[done:], len(self.sent)
            for _, command in fresh:
                if command.type == Type.FETCH:
                    self.fetched(command)
                elif command.type == Type.FIND_OFFSETS:
                    self.found(command, ends)

    def fetches(self):
        """Return the FETCH that is not answered and what was asked there: {partition id: offset}."""
        commands = [command for _, command in self.sent if command.type == Type.FETCH]
        return commands[-1], {part.partition: part.offset for part in commands[-1].body.parts}

    def fetched(self, command, batches=None, ends=None, failures=None):
        """Answer a FETCH: batches (as made by :func:`stored`), end offsets, and errors by partition id."""
        parts, blob = [], []
        for part in command.body.parts:
            found = (batches or {}).get(part.partition, [])
            length = sum(map(len, found))
            end = (ends or {}).get(part.partition, part.offset)
            error = (failures or {}).get(part.partition)
            failure = None if error is None else messages.failure_body(error)
            parts.append(messages.FetchedPart(part.partition, 0, end, 1, length, failure))
            blob += found
        return self.answer(command, Type.FETCHED, messages.Fetched(parts), b"".join(blob))


def sealed(values, *, time=500):
    payload = batch.encode_columns(0, None, list(values), None)
    return batch.seal(
        payload, codec=0, flags=0, count=len(values), base_timestamp=time, max_timestamp=time, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=len(values) - 1, partition=0,
    )  # fmt: skip


def stored(partition, base, values):
    """Return a batch as a leader stores it."""
    header, payload = sealed(values)
    return batch.stamp(header, partition, 1, len(values), base, 600) + payload


def published(partition, base, values):
    """Return the frames of a published batch."""
    row = stored(partition, base, values)
    return [messages.PARTITION.pack(partition), row[: batch.HEADER_BYTES], row[batch.HEADER_BYTES :]]


def head(partition, end):
    """Return the frames of a HEAD beacon."""
    return [messages.PARTITION.pack(partition), messages.HEAD.pack(end, 1)]


def attempt(producer, deliveries, topic, value, now, *, short, key=None, headers=None):
    """Send a record, by the short way or the long one; returns its number in the batch, or what is said."""
    try:
        if short and key is None and headers is None:
            delivery = producer.append(topic, value, now)
        else:
            delivery = producer.send(topic, value, key, headers, None, None, None, None, now)
    except errors.ZFabricError as error:
        return str(error)
    if delivery is None:
        return "blocked"
    deliveries.append(delivery)
    return delivery.index
