"""A leader that lies: whatever it says, a client raises typed errors or timeouts, and never delivers wrong bytes."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import msgspec
import pytest
import zmq

import zfabric
from tests.process.leaders import free_ports
from tests.security.attack import MIB, one_record, packed, sealed
from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import LeaderAddress, MetadataIs, PartitionPlace, TopicIs, TopicMeta

encode = msgspec.msgpack.encode
PLACE = 7
PATIENCE_S = 60.0


class Liar:
    """A leader of one topic with one partition: honest, but for what ``lies`` says about a type of command.

    A lie takes the request id and gives the messages to answer with, each a list of frames. ``published`` is sent to
    whoever subscribes.
    """

    def __init__(self, lies=None, published=(), welcome=None, end=0):
        self.lies = lies or {}
        self.published = published
        self.welcome = welcome or messages.Welcome(1, "f", 0, 17 << 20)
        self.end = end
        self.heard = []
        self.port = free_ports(2)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        self.url = f"zf://127.0.0.1:{self.port}"

    def _run(self):
        context = zmq.Context()
        router, xpub = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
        xpub.set(zmq.SNDHWM, 0)
        router.bind(f"tcp://127.0.0.1:{self.port}")
        xpub.bind(f"tcp://127.0.0.1:{self.port + 1}")
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(xpub, zmq.POLLIN)
        self._ready.set()
        while not self._stop.is_set():
            for ready, _ in poller.poll(20):
                if ready is xpub:
                    if xpub.recv()[:1] == b"\1":
                        for frames in self.published:
                            xpub.send_multipart(frames)
                    continue
                peer, first, *_ = router.recv_multipart()
                kind, _, request = messages.peek(first)
                self.heard.append(kind)
                lie = self.lies.get(kind, self._truth(kind))
                for frames in lie(request):
                    if self._stop.is_set():
                        break
                    router.send_multipart([peer, *frames])
        context.destroy(linger=0)

    def _truth(self, kind):
        return lambda request: [[messages.command(messages.ANSWERS.get(kind, Type.WELCOME), request, self.body(kind))]
                                + ([b""] if kind == Type.FETCH else [])]  # fmt: skip

    def body(self, kind):
        """What an honest leader would say."""
        place = PartitionPlace(PLACE, 0, 0)
        topic = TopicMeta("t", 1, TopicConfig(), [place])
        here = LeaderAddress(0, f"tcp://*:{self.port}", f"tcp://*:{self.port + 1}")
        return {
            Type.HELLO: self.welcome,
            Type.METADATA: MetadataIs("f", [here], [topic], []),
            Type.CREATE_TOPIC: TopicIs(topic),
            Type.DESCRIBE: messages.Described([messages.PartitionIs(PLACE, 1, 0, self.end, 0, 0, "fsync", 0.0)]),
            Type.FIND_OFFSETS: messages.OffsetsAre([messages.OffsetIs(PLACE, 0, 0, self.end)]),
            Type.GET_OFFSETS: messages.CommittedAre([messages.Committed("g", PLACE, -1, 0, self.end)]),
            Type.LIST_GROUPS: messages.CommittedAre([]),
            Type.FETCH: messages.Fetched([messages.FetchedPart(PLACE, 0, self.end, 1, 0)]),
            Type.INIT_PRODUCER: messages.ProducerIs(0, -1),
            Type.COMMIT_OFFSETS: messages.Empty(),
            Type.STATUS: messages.StatusIs({}),
        }.get(kind, messages.Empty())

    def close(self):
        """End it."""
        self._stop.set()
        self._thread.join(20)


@pytest.fixture
def lie():
    """Make a lying leader; it ends with the test."""
    made = []

    def make(*arguments, **options):
        made.append(Liar(*arguments, **options))
        return made[-1]

    yield make
    for entry in made:
        entry.close()


def within(seconds, call):
    """Call it; it must raise a typed error, and not much later than its timeout (a generous multiple)."""
    began = time.monotonic()
    with pytest.raises(errors.ZFabricError) as raised:
        call()
    assert time.monotonic() - began < seconds * 10 + 20
    return raised.value


def listed(fabric):
    """Return what topics there are; a machine that is busy may take longer for that than the fabric is given."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fabric.topics.list()
        except (errors.RequestTimeout, errors.Unreachable):
            assert time.monotonic() < deadline


def test_an_honest_twin_is_believed(lie):
    """The lies below are judged against this."""
    with zfabric.connect(lie().url, timeout=10) as fabric:
        assert fabric.topics.list() == ["t"]
        assert fabric.topics.describe("t").partitions[0].id == PLACE
        with fabric.consumer("t", group="g") as consumer:
            assert consumer.poll(timeout=0.1) == []


# Answers.


def noise(request):
    return [[b""], [b"", b""], [b"zf"], [b"x" * 1_000], [b"\xff" * 16, b""], [packed(200, b"", request=request)]]


def wrong_version(request):
    return [[packed(Type.DONE, b"\x90", request=request, version=9)]]


def wrong_type(request):
    return [[packed(Type.DONE, b"\x90", request=request)]]


def truncated(request):
    return [[packed(kind, b"\x95\x01", request=request)] for kind in (Type.METADATA_IS, Type.OFFSETS_ARE)]


def unknown_request(request):
    return [[packed(Type.DONE, b"\x90", request=request + 1_000_000)]] * 3


def silence(request):
    return []


def endless_errors(request):
    while True:
        yield [packed(Type.ERROR, encode([24, {"leader": 0, "partition": 1}]), request=0)]


def strange_errors(request):
    return [[packed(Type.ERROR, encode([24, {"values": "x", "retriable": 1, "args": 1, "code": 5}]), request=request)]]


LIES = [noise, wrong_version, wrong_type, truncated, unknown_request, silence, endless_errors, strange_errors]


@pytest.mark.parametrize("said", LIES)
@pytest.mark.parametrize("kind", [Type.HELLO, Type.METADATA])
def test_a_lie_about_anything_ends_in_a_typed_error(lie, kind, said):
    with zfabric.connect(lie({kind: said}).url, timeout=0.5) as fabric:
        within(0.5, fabric.topics.list)
        within(0.5, lambda: fabric.consumer("t"))


@pytest.mark.parametrize("said", LIES)
@pytest.mark.parametrize("kind", [Type.FIND_OFFSETS, Type.GET_OFFSETS, Type.DESCRIBE, Type.STATUS, Type.LIST_GROUPS])
def test_a_lie_about_one_thing_leaves_the_others_usable(lie, kind, said):
    with zfabric.connect(lie({kind: said}).url, timeout=0.5) as fabric:
        calls = {
            Type.FIND_OFFSETS: lambda: fabric.consumer("t"),
            Type.GET_OFFSETS: lambda: fabric.consumer("t", group="g"),
            Type.DESCRIBE: lambda: fabric.topics.describe("t"),
            Type.STATUS: fabric.status,
            Type.LIST_GROUPS: fabric.groups.describe,
        }
        within(0.5, calls[kind])
        if said is not endless_errors:
            assert listed(fabric) == ["t"]


def test_a_status_without_its_counters_is_refused(lie):
    with zfabric.connect(lie().url, timeout=PATIENCE_S) as fabric:
        assert isinstance(within(PATIENCE_S, fabric.status), errors.ProtocolViolation)


def metadata(partitions, name="t", endpoint=None, config=None):
    def said(request):
        here = LeaderAddress(0, endpoint or "tcp://127.0.0.1:1", endpoint or "tcp://127.0.0.1:1")
        body = MetadataIs("f", [here], [TopicMeta(name, 1, config or TopicConfig(), partitions)], [])
        return [[messages.command(Type.METADATA_IS, request, body)]]

    return said


@pytest.mark.parametrize("partitions", [
    [], [PartitionPlace(1, 5, 0)], [PartitionPlace(1, 0, 0)] * 2,
    [PartitionPlace(1, 1, 0), PartitionPlace(2, 0, 0)],
], ids=["none", "number 5", "twice", "out of order"])  # fmt: skip
def test_metadata_that_contradicts_itself_is_refused(lie, partitions):
    with zfabric.connect(lie({Type.METADATA: metadata(partitions)}).url, timeout=0.5) as fabric:
        within(0.5, lambda: fabric.topics.describe("t"))
        within(0.5, lambda: fabric.consumer("t"))
        with fabric.producer(delivery_timeout=0.5) as producer:
            within(0.5, lambda: producer.send("t", b"v"))


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "", "tcp://", "tcp://\0", "tcp://x y:z", "inproc://x", "udp://1:1", "é"]
)
def test_a_leader_at_a_place_that_is_none_cannot_be_reached(lie, endpoint):
    place = [PartitionPlace(PLACE, 0, 0)]
    with zfabric.connect(lie({Type.METADATA: metadata(place, endpoint=endpoint)}).url, timeout=0.5) as fabric:
        within(0.5, lambda: fabric.topics.describe("t"))
        producer = fabric.producer(delivery_timeout=0.5)
        within(0.5, lambda: producer.send("t", b"v").result(timeout=5))
        producer.send("t", b"v")
        assert within(0.5, producer.close).records == 1  # Of the one after which nobody asked.
        assert listed(fabric) == ["t"]


@pytest.mark.parametrize("parts", [
    [], [messages.OffsetIs(99, 0, 0, 0)], [messages.OffsetIs(PLACE, 0, 0, 0)] * 2, [messages.OffsetIs(PLACE, 5, 9, 3)],
], ids=["none", "another partition", "twice", "end before start"])  # fmt: skip
def test_offsets_that_were_not_asked_for_are_refused(lie, parts):
    said = {Type.FIND_OFFSETS: lambda request: [
        [messages.command(Type.OFFSETS_ARE, request, messages.OffsetsAre(parts))]]}  # fmt: skip
    with zfabric.connect(lie(said).url, timeout=0.5) as fabric:
        within(0.5, lambda: fabric.consumer("t"))


@pytest.mark.parametrize("welcome", [
    messages.Welcome(1, "f", 0, 0), messages.Welcome(9, "f", 0, 1), messages.Welcome(1, "f", 0, (1 << 63) - 1),
], ids=["no frames", "another version", "huge frames"])  # fmt: skip
def test_a_strange_welcome_harms_nobody(lie, welcome):
    with zfabric.connect(lie(welcome=welcome).url, timeout=0.5) as fabric:
        assert listed(fabric) == ["t"]
        producer = fabric.producer(delivery_timeout=0.5)
        within(1, lambda: producer.send("t", b"v").result(timeout=20))
        producer.send("t", b"v")
        assert within(1, producer.close).records == 1  # Of the one after which nobody asked.


PRODUCE_LIES = {
    "done": lambda request: [[packed(Type.DONE, b"\x90", request=request)]],
    "short": lambda request: [[packed(Type.PRODUCED, bytes(5), request=request)]],
    "retry": lambda request: [[packed(Type.ERROR, encode([24, {"leader": 0, "partition": 1}]), request=request)]],
    "gap": lambda request: [[packed(Type.ERROR, encode([30, {}]), request=request)]],
    "order": lambda request: [
        [messages.failure(request, errors.OutOfOrderSequence(partition=1, producer=1, epoch=1, sequence=1, expected=0))]
    ],
    "fenced": lambda request: [
        [messages.failure(request, errors.ProducerFenced(partition=1, producer=1, epoch=1, current=2))]
    ],
    "unknown error": lambda request: [[packed(Type.ERROR, encode([9_999, {}]), request=request)]],
    "silence": silence,
}


@pytest.mark.parametrize("name", PRODUCE_LIES)
def test_a_producer_gives_up_in_time_whatever_it_is_told(lie, name):
    with zfabric.connect(lie({Type.PRODUCE: PRODUCE_LIES[name]}).url, timeout=0.5) as fabric:
        producer = fabric.producer(delivery_timeout=0.5)
        within(1, lambda: producer.send("t", b"v").result(timeout=20))
        within(1, lambda: (producer.send("t", b"v"), producer.close()))  # Of a record after which nobody asked.


@pytest.mark.parametrize("epoch", [1 << 31, (1 << 32) - 1, (1 << 64) - 1, -1])
def test_an_impossible_epoch_is_refused(lie, epoch):
    said = {Type.INIT_PRODUCER: lambda request: [[packed(Type.PRODUCER_IS, encode([epoch, -1]), request=request)]]}
    with zfabric.connect(lie(said).url, timeout=0.5) as fabric:
        producer = fabric.producer(name="n", delivery_timeout=0.5)
        within(1, lambda: producer.send("t", b"v", partition=0).result(timeout=20))


# Batches.


def stamped(payload=None, offset=0, place=PLACE, **fields):
    """A batch as a leader stamps it: (header, payload)."""
    span = fields.pop("span", None)
    header, payload = sealed(one_record() if payload is None else payload, place, **fields)
    count = batch.parse(header).records if span is None else span
    return batch.stamp(header, place, 1, count, offset, 0), payload


def flipped(data):
    """The same with one bit of its last byte turned."""
    return data[:-1] + bytes([data[-1] ^ 1])


HEADER, PAYLOAD = stamped()
BAD_BATCHES = {
    "cut": HEADER + PAYLOAD[:-1],
    "half a header": HEADER[:50],
    "payload flipped": HEADER + flipped(PAYLOAD),
    "header flipped": flipped(HEADER) + PAYLOAD,
    "another partition": b"".join(stamped(place=8)),
    "no offsets": b"".join(stamped(span=0)),
    "many offsets": b"".join(stamped(span=1_000)),
    "billions of records": b"".join(stamped(records=(1 << 32) - 1, span=(1 << 32) - 1)),
    "a raw length of 4 GiB": b"".join(stamped(raw_length=(1 << 32) - 1, codec=2)),
    "unknown format": b"".join(stamped(format=9)),
    "unknown flags": b"".join(stamped(flags=128)),
    "no columns": b"".join(stamped(b"\xc1")),
    "garbage": b"\xf1" * 1_000,
    "compacted out of order": b"".join(
        stamped(batch.encode_columns(0, None, [b"a", b"b"], None, [1, 0]), flags=1, records=2, span=2)
    ),
    "compacted beyond": b"".join(
        stamped(batch.encode_columns(0, None, [b"a"], None, [1 << 40]), flags=1, records=1, span=2)
    ),
}


def fetched(blob, end=1, length=None, place=PLACE):
    def said(request):
        part = messages.FetchedPart(place, 0, end, 1, len(blob) if length is None else length)
        return [[messages.command(Type.FETCHED, request, messages.Fetched([part])), blob]]

    return said


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_in_a_fetch_is_an_error_that_names_it(lie, name):
    with zfabric.connect(lie({Type.FETCH: fetched(BAD_BATCHES[name])}, end=1).url, timeout=PATIENCE_S) as fabric:
        consumer = fabric.consumer("t")
        error = within(PATIENCE_S, lambda: consumer.poll(timeout=PATIENCE_S))
        assert isinstance(error, errors.CorruptBatch)
        assert (error.topic, error.partition, error.offset) == ("t", 0, 0)
        assert fabric.topics.list() == ["t"]


@pytest.mark.parametrize("said", [
    fetched(HEADER + PAYLOAD, length=5), fetched(HEADER + PAYLOAD, length=1 << 40), fetched(b"", end=1 << 62),
    fetched(HEADER + PAYLOAD, place=9), lambda request: [[packed(Type.FETCHED, encode([[]]), request=request), b""]],
    fetched(b"".join(stamped(offset=5)), end=9), silence, wrong_type, strange_errors, truncated,
], ids=range(10))  # fmt: skip
def test_a_fetch_that_gives_nothing_leaves_the_caller_its_timeout(lie, said):
    """And does not make the client ask without a pause."""
    liar = lie({Type.FETCH: said}, end=1)
    with zfabric.connect(liar.url, timeout=PATIENCE_S) as fabric:
        consumer = fabric.consumer("t")
        assert consumer.poll(timeout=0.6) == []
        assert liar.heard.count(Type.FETCH) < 100
        assert fabric.topics.list() == ["t"]


def test_bad_publications_are_repaired_from_the_log(lie):
    """Only what the log says is delivered, once and in order."""
    place = messages.PARTITION.pack(PLACE)
    bad = [[place], [b""], [place, b""], [place, b"", b""], [place, bytes(96), b""], [b"\0" * 1_000, b"", b"", b""]]
    bad += [[place, raw[:96], raw[96:]] for raw in BAD_BATCHES.values()]
    bad += [[place, messages.HEAD.pack((1 << 64) - 1, 1)], [messages.PARTITION.pack(9), *stamped(place=9)]]
    log = [stamped(one_record(b"%d" % number), offset=number) for number in range(3)]
    calls = []

    def said(request):
        calls.append(request)
        blob = b"" if len(calls) == 1 else b"".join(part for entry in log for part in entry)
        part = messages.FetchedPart(PLACE, 0, 0 if len(calls) == 1 else 3, 1, len(blob))
        return [[messages.command(Type.FETCHED, request, messages.Fetched([part])), blob]]

    with zfabric.connect(lie({Type.FETCH: said}, published=bad).url, timeout=10) as fabric:
        consumer = fabric.consumer("t")
        values = []
        while len(values) < 3:
            got = consumer.poll(timeout=10)
            assert got
            values += [(record.offset, record.value) for record in got]
        assert values == [(0, b"0"), (1, b"1"), (2, b"2")]


def test_a_server_that_accepts_and_says_nothing_is_unreachable():
    """Not even a greeting."""
    port = free_ports(1)
    with socket.create_server(("127.0.0.1", port)), zfabric.connect(f"zf://127.0.0.1:{port}", timeout=0.5) as fabric:
        assert isinstance(within(0.5, fabric.topics.list), errors.Unreachable)


@contextmanager
def talking(said, *, stays):
    """Somebody who says that to whoever connects; returns the URL that leads there."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", free_ports(1))) as server:

        def talk():
            server.settimeout(0.1)
            with ExitStack() as connections:
                while not stop.is_set():
                    try:
                        connection, _ = server.accept()
                    except TimeoutError:
                        continue
                    with suppress(OSError):
                        connection.sendall(said)
                    if stays:
                        connections.enter_context(connection)
                    else:
                        connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield f"zf://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100, bytes(MIB), b"\1\0" * 1_000])
def test_a_server_that_is_something_else_is_unreachable(said):
    with talking(said, stays=False) as url, zfabric.connect(url, timeout=0.5) as fabric:
        assert isinstance(within(0.5, fabric.topics.list), errors.Unreachable)


OLD_ZMTP = {
    "ZMTP 1": b"\1\0" + b"\3\0hi" * 1_000,
    "ZMTP 1, a message without an end": b"\5\0name" + b"\3\1hi" * 1_000,
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\1\5\0\0" + b"\0\2hi" * 1_000,
}


@pytest.mark.parametrize("said", OLD_ZMTP.values(), ids=OLD_ZMTP)
def test_a_server_of_an_old_zmtp_that_stays_is_unreachable(said):
    """Its messages are in the socket without a handshake's event: a client that waited for one never came back."""
    with talking(said, stays=True) as url, zfabric.connect(url, timeout=0.5) as fabric:
        assert isinstance(within(0.5, fabric.topics.list), errors.Unreachable)
