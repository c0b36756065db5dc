"""What a producer holds for one partition: the batch being filled, those waiting, those under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.model import Durability, RecordMetadata
from zfabric.settings import HEADERS_MAX
from zfabric.wire import batch, codecs
from zfabric.wire.batch import SPARSE
from zfabric.wire.messages import DURABILITIES, UNKNOWN_OFFSET, Produced

RECORD_OVERHEAD = 16
"""Bytes that a record counts in a producer's buffer beside its key, value and headers."""
HEADER_OVERHEAD = 8
"""Bytes that msgpack needs beside a header's name and content: at most so many for names up to 64 KiB."""

Express = Callable[[bytes, int, int, int, int, int], Produced | None]
"""Takes a plain record to a leader in this process, as a batch of its own, and returns what became of it, which is
published by then: value, timestamp (ms since 1970), producer id and epoch, sequence, and now (monotonic ns). None:
nothing was done, nor need it ever be again; send it the usual way. What it raises, from a handler of signals, leaves
open whether it was taken: send it as well."""


class OutBatch:
    """A batch from its first record to its acknowledgement.

    Attributes:
        topic, partition: name, and number within it. count: its records. size: their bytes, as the buffer counts them.
        delta: ms from the base timestamp to now, as long as now is before ``delta_until_ns``.
        done: acknowledged or given up; then ``error`` is None or why.
        refusal: why the leader last refused it, though for a passing reason.
        told: indexes of the records whose failure somebody has heard of, if there are any.
        sent_first: all before it were acknowledged when it was sent.
        read: leader epoch and append time (ms) of the batch in another log that its last record was read in.
        after: the sequence that is to be stored before it, where its records were read there.
        expired: its deliveries were told that time is up, but it is still repeated, for the sake of those behind it.
    """

    # Of the class as long as they are as usual: to make one takes a third of the time then, and most are alone.
    keys: list[bytes | None] | None = None
    headers: list[dict[str, bytes] | None] | None = None
    sequences: list[int] | None = None
    count = size = delta = delta_until_ns = request_id = 0
    header = payload = b""
    first = last = base_offset = -1
    read = (0, 0)
    after = batch.NOT_SAID
    eager = rejected = sent_first = expired = done = False
    told: set[int] | None = None
    refusal: Exception | None = None
    error: Exception | None = None
    durability: Durability = "fsync"
    callbacks: list[tuple[Callable[[Any, Exception | None], None], Any]] | None = None
    pending: Pending[None] | None = None

    def __init__(self, topic: str, partition: int, created_ns: int, timestamp: int) -> None:
        self.topic = topic
        self.partition = partition
        self.created_ns = created_ns
        self.base_timestamp = timestamp
        self.values: list[Any] = []
        self.deltas: list[int] = []

    @property
    def sparse(self) -> bool:
        """Whether its records have the application's own sequences."""
        return self.sequences is not None or bool(self.header and self.header[3] & SPARSE)

    def seal(self, codec: int, producer_id: int) -> None:
        """Encode the columns; nothing can be added after this."""
        deltas, low, high = self.deltas, 0, 0
        if any(deltas):
            low, high = min(deltas), max(deltas)
            column = [delta - low for delta in deltas] if low < 0 else deltas
            payload = batch.encode_columns(column, self.keys, self.values, self.headers)
        else:
            payload = batch.encode_columns(0, self.keys, self.values, self.headers)
        base, flags = self.base_timestamp, 0
        if self.sequences is not None:
            flags = SPARSE
            self.first, self.last = self.sequences[0], self.sequences[-1]
        self.header, self.payload = batch.seal(
            payload, codec=codec, flags=flags, count=self.count, base_timestamp=base + low, max_timestamp=base + high,
            producer_id=producer_id, producer_epoch=0, base_sequence=0, last_sequence=0, partition=0, read=self.read,
            after=self.after,
        )  # fmt: skip
        self.values = []
        self.keys = self.headers = self.sequences = None

    def hold(self, value_bytes: int, sequence: int, header: bytes, payload: bytes) -> None:
        """Be a batch that is sealed already, of one plain record."""
        self.deltas.append(0)
        self.count = 1
        self.size = RECORD_OVERHEAD + value_bytes
        self.first = self.last = sequence
        self.header, self.payload = header, payload

    def encoded(self, epoch: int, partition_id: int) -> bytes:
        """Return the header to send."""
        return batch.renumber(self.header, epoch, self.first, self.last, partition_id)

    def wait(self) -> Pending[None]:
        """Return what comes when the batch is done."""
        if self.pending is None:
            self.pending = Pending()
            if self.done or self.expired:
                self.pending.resolve(None)
        return self.pending

    def tell(self, indexes: Iterable[int]) -> None:
        """Somebody has heard of the failure of these records."""
        if self.told is None:
            self.told = set()
        self.told.update(indexes)

    def acknowledge(self, answer: Produced) -> None:
        """Note the leader's answer."""
        self.base_offset = -1 if answer.base_offset == UNKNOWN_OFFSET else answer.base_offset
        self.durability = DURABILITIES[answer.durability] if answer.durability < len(DURABILITIES) else "fsync"

    def metadata(self, index: int) -> RecordMetadata:
        """Return where the record at ``index`` went, or raise what kept it from going."""
        if self.error is not None:
            self.tell((index,))
            raise self.error
        offset = self.base_offset + index if self.base_offset >= 0 else -1
        timestamp = self.base_timestamp + self.deltas[index]
        return RecordMetadata(self.topic, self.partition, offset, timestamp, self.durability)


class Lane:
    """The open batch that plain records of a topic go to (no key, no headers, no option), and the room it has for them.

    While there is a lane its batch has more values than ``count`` says and more bytes than ``size`` says, and the
    ledger's ``used`` holds all of the room: :meth:`Ledger.close_lane` makes up for that.

    Attributes:
        room: bytes until the batch is full or the producer's buffer is, whichever comes first.
        opened: what room was when the lane was opened.
    """

    __slots__ = ("batch", "deltas", "opened", "room", "values")

    def __init__(self, batch: OutBatch, room: int) -> None:
        self.batch = batch
        self.values = batch.values
        self.deltas = batch.deltas
        self.room = self.opened = room


class Delivery(msgspec.Struct, eq=False, gc=False):
    """The fate of one record. The facades add ``result``, which waits.

    One is made for each record: a Struct costs 120 ns, a class with an ``__init__`` of its own 300 (measured). The
    garbage collector does not track them: a program that keeps a million would pay for each of its rounds, and what
    refers back to one (a batch's callbacks) forgets it with the batch's end.

    Attributes:
        batch: the batch that carries it. index: its place there.
    """

    batch: OutBatch
    index: int

    @property
    def done(self) -> bool:
        """Whether the record was acknowledged, or given up."""
        return self.batch.done or self.batch.expired

    @property
    def error(self) -> Exception | None:
        """Why the record was given up; None while it is under way, or once it is acknowledged."""
        return self.batch.error

    def metadata(self) -> RecordMetadata:
        """Return where the record went; only once :attr:`done`.

        Raises:
            DeliveryTimeout, ProducerFenced, …: what kept the record from being acknowledged.
        """
        assert self.done, "asked for the metadata of a record under way"
        return self.batch.metadata(self.index)

    def __repr__(self) -> str:
        batch, fate = self.batch, "under way"
        if batch.error is not None:
            fate = f"given up, {type(batch.error).__name__}"
        elif self.done:
            fate = f"acknowledged, offset {batch.metadata(self.index).offset}"
        return f"<Delivery to {batch.topic!r} partition {batch.partition}: {fate}>"


class Outbox:
    """One partition of one producer. Its invariant: ``under_way`` are the oldest batches, in the order of sequences.

    Attributes:
        partition_id: id in the fabric. number: within the topic there. shown: by which users know it.
        leader: id of its leader.
        open: being filled. sealed: full, not sent yet. under_way: sent, not acknowledged.
        next_sequence, epoch: for the next batch sent.
        begun: a named producer has its epoch here. attempt: how many it has used up.
        stored: last application sequence known to be stored. application: last one that is stored or held here.
        read: of the one that was stored when it began, the batch in another log that it was read in (epoch, append
        time in ms); zeros where that is not known.
        retry_at_ns: nothing is sent before; set after a rejection.
        express: takes a lone batch to the leader at once; None if nothing does, or nobody has asked for it.
    """

    __slots__ = (
        "application",
        "attempt",
        "beginning",
        "begun",
        "epoch",
        "express",
        "leader",
        "next_sequence",
        "number",
        "open",
        "partition_id",
        "read",
        "retry_at_ns",
        "retry_pause_ns",
        "sealed",
        "shown",
        "stored",
        "under_way",
    )

    def __init__(self, partition_id: int, number: int, leader: int, shown: int) -> None:
        self.partition_id = partition_id
        self.number = number
        self.shown = shown
        self.leader = leader
        self.open: OutBatch | None = None
        self.sealed: deque[OutBatch] = deque()
        self.under_way: list[OutBatch] = []
        self.next_sequence = 0
        self.epoch = 0
        self.begun = False
        self.attempt = 0
        self.beginning: Pending[None] | None = None
        self.stored = -1
        self.read = (0, 0)
        self.application = -1
        self.retry_at_ns: int | None = None
        self.retry_pause_ns = 0
        self.express: Express | None = None

    def assign(self, entry: OutBatch) -> None:
        """Give a batch the next sequences; application sequences stay."""
        if entry.first >= 0 and entry.sparse:
            return
        entry.first = self.next_sequence
        entry.last = entry.first + entry.count - 1
        self.next_sequence = entry.last + 1

    def renew(self) -> None:
        """Begin a new epoch with what is under way; a named producer has to ask for it."""
        self.epoch += 1
        self.attempt += 1
        self.begun = False
        self.next_sequence = 0
        for waiting in self.under_way:
            self.assign(waiting)

    def show(self, shown: int) -> None:
        """Users know the partition by another number from now on: it is another one's, and what is held goes there."""
        if shown != self.shown:
            self.shown, self.stored, self.read = shown, -1, (0, 0)
            for waiting in (*self.under_way, *self.sealed, *([] if self.open is None else [self.open])):
                waiting.partition = shown
            self.recount()

    def note_stored(self, entry: OutBatch) -> None:
        """A batch was acknowledged: so are the application's sequences in it."""
        if entry.sparse:
            self.stored = max(self.stored, entry.last)

    def recount(self) -> None:
        """Something was given up: its application sequences may be sent again, if nothing larger is held."""
        held = [entry.last for entry in (*self.under_way, *self.sealed) if entry.sparse]
        if self.open is not None and self.open.sequences is not None:
            held.append(self.open.sequences[-1])
        self.application = max(self.stored, *held, -1)

    @property
    def postponed(self) -> bool:
        """Whether something was rejected and waits for another try."""
        return self.retry_at_ns is not None

    @property
    def idle(self) -> bool:
        """Whether it holds nothing."""
        return self.open is None and not self.sealed and not self.under_way


def codec_number(name: str) -> int:
    """Return the number of a codec by its name."""
    return codecs.BY_NAME[name]


def check_payload(name: str, value: object) -> bytes | None:
    """Return ``value`` as bytes; what is no bytes needs a serializer.

    Raises:
        InvalidArgument: it is neither None nor bytes-like.
    """
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    instead = "; or set a serializer" if name == "value" else ""
    raise errors.InvalidArgument(
        name=name, value=type(value).__name__, allowed=f"bytes, bytearray, memoryview or None{instead}"
    )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_headers(headers: object) -> dict[str, bytes] | None:
    """Return headers as a dict of bytes, None if there are none.

    Raises:
        InvalidArgument: a name is no text, a value is not bytes-like, or there are more than 128.
    """
    if not isinstance(headers, dict) or len(headers) > HEADERS_MAX:
        raise errors.InvalidArgument(
            name="headers", value=type(headers).__name__, allowed="a dict of at most 128 names to bytes"
        )
    checked = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _encodable(name):
            raise errors.InvalidArgument(
                name="header name", value=repr(name)[:100], allowed="text that UTF-8 can encode"
            )
        if not isinstance(value, bytes | bytearray | memoryview):
            raise errors.InvalidArgument(
                name=f"headers[{name!r}]"[:100], value=type(value).__name__, allowed="bytes, bytearray or memoryview"
            )
        checked[name] = bytes(value)
    return checked or None


def headers_size(headers: dict[str, bytes]) -> int:
    """Return how many bytes a record's headers take at most once encoded."""
    return sum(len(name.encode()) + len(content) + HEADER_OVERHEAD for name, content in headers.items())
