"""One turn of a leader process: the order in which commands, the commit and effects follow each other.

The rules that everything else rests on:

- all that changes something in a turn is one transaction, so all partitions and producers of the turn share one fsync;
- an effect (an acknowledgement, a publication) leaves :meth:`Turn.change` only after the commit has returned;
- what only reads is answered after that, so it sees the turn's changes, and never what may still be lost;
- a map that is full is grown and the turn repeated with the same commands; any other failure of storage comes out as
  an exception and ends the process: its successor finds what was acknowledged, and nothing more was claimed.

What topics of durability "os" appended goes to the store's journal instead of a synced commit of its own; one follows
within a second, or when the journal has grown to 64 MiB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from zfabric import errors
from zfabric.core.effects import LeaderEffect, Publish, Reply
from zfabric.core.leader.express import Express
from zfabric.core.leader.leader import Leader
from zfabric.core.transaction import Cursor, Transaction
from zfabric.model import Buffer
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Assign, PartitionEnd

JOURNAL_COMMIT_NS = 1_000_000_000
JOURNAL_BYTES_MAX = 64 << 20
ATTACHMENT_NS = 10_000_000_000

Incoming = tuple[bytes, Command]
"""Who sent a command (a routing id), and the command."""


# A plain number: to compare with a member of an enum takes three times as long.
_PRODUCE = int(Type.PRODUCE)


class _NotHere(Exception):
    """What was begun can only be finished in the leader's own thread."""


class Store(Protocol):
    """The volume: ``store/volume.py``, or its twin ``sim/disk.py``. Both raise :attr:`map_full` from puts."""

    map_full: type[Exception]

    @property
    def writing(self) -> bool:
        """Whether a write transaction is open."""
        ...

    @property
    def journal_bytes(self) -> int:
        """Length of the journal entries that no commit covers."""
        ...

    def write(self) -> Transaction:
        """Return the open write transaction, beginning one if there is none."""
        ...

    def commit(self) -> None:
        """Make the write transaction durable."""
        ...

    def abandon(self) -> None:
        """Drop the write transaction."""
        ...

    def read(self) -> AbstractContextManager[Transaction]:
        """Yield a transaction for reading, or the open one."""
        ...

    def journal(self, record: Buffer | Sequence[Buffer]) -> None:
        """Append one entry that outlives the process."""
        ...

    def journaled(self) -> Iterator[Buffer]:
        """Yield the entries that no commit covers."""
        ...

    def grow(self) -> None:
        """Make the map larger."""
        ...


class Controller(Protocol):
    """What a turn asks of the controller (``core/cluster/placement.py``), hosted by leader 0 alone."""

    changed: bool
    refused: int

    @property
    def writes(self) -> frozenset[int]:
        """Command types that change something."""
        ...

    @property
    def reads(self) -> frozenset[int]:
        """Command types that only read."""
        ...

    @property
    def wants_report(self) -> bool:
        """Whether it is time for :meth:`report`."""
        ...

    def clock(self, now: int, wall_ms: int, epoch: int) -> None:
        """Note the time, and the epoch of the leader in this process."""
        ...

    def report(self, load: int, ends: Sequence[PartitionEnd]) -> None:
        """Tell others how far the topics are, and the process's load."""
        ...

    def handle(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Take a command that changes something."""
        ...

    def answer(self, peer: bytes, command: Command) -> None:
        """Take a command that only reads."""
        ...

    def assignment(self, leader: int, since: int) -> Assign | None:
        """Return what a leader has to know beyond version ``since``."""
        ...

    def abandon(self, txn: Transaction) -> None:
        """Load everything again."""
        ...

    def take_effects(self) -> list[LeaderEffect]:
        """Return what is to be sent."""
        ...


class Turn:
    """The machines of one leader process on one store.

    Attributes:
        writes: command types for :meth:`change`; all others are for :meth:`answer`.
        grown: how often the map was.
    """

    def __init__(self, store: Store, leader: Leader, controller: Controller | None) -> None:
        self.writes = leader.writes | (controller.writes if controller else frozenset())
        self.grown = 0
        self._store = store
        self._leader = leader
        self._controller = controller
        self._journal_due: int | None = None
        self._attachment_due = 0
        # A lent turn has to be taken back, with a larger map or without.
        self._spoiled: bool | None = None

    def begin(self, start: Callable[[Transaction], None]) -> None:
        """Start the machines and put back what a crash left in the journal; durable when this returns.

        Args:
            start: starts the leader, and the controller if there is one, with the transaction that it is given.
        """
        while True:
            try:
                txn = self._store.write()
                start(txn)
                self._assign(txn)
                self._restore(txn)
                self._leader.flush(txn)
                self._store.commit()
                break
            except self._store.map_full:
                self._abandon()
                self._store.grow()
        self._leader.settled()

    def _assign(self, txn: Transaction) -> None:
        """Tell the leader what the controller beside it has decided; at the first start, which fabric it is of."""
        if self._controller is not None:
            assign = self._controller.assignment(self._leader.id, self._leader.assignment_version)
            if assign is not None:
                self._leader.handle(b"", Command(Type.ASSIGN, 0, 0, assign, ()), txn)

    def _restore(self, txn: Transaction) -> None:
        for entry in self._store.journaled():
            self._leader.restore(entry, txn)

    @property
    def refusals(self) -> int:
        """How many commands were answered with an error since the start, or were none."""
        return self._leader.counters.errors + (self._controller.refused if self._controller is not None else 0)

    def next_deadline(self) -> int | None:
        """When :meth:`change` is wanted next, with or without commands (monotonic ns)."""
        due, journal_due = self._leader.next_deadline(), self._journal_due
        return journal_due if due is None or (journal_due is not None and journal_due < due) else due

    def change(self, commands: Sequence[Incoming], now: int, wall_ms: int) -> list[LeaderEffect]:
        """Take commands that change something, and do what is due; returns effects, to be performed in order.

        Args:
            commands: in the order in which they came. now: monotonic ns. wall_ms: ms since 1970.

        Raises:
            StorageFailed: nothing of this turn was told; the process has to end.
            StorageFull: the same; there is not even room for what the journal holds.
        """
        self._clock(now, wall_ms)
        if commands or self._spoiled is not None or ((due := self.next_deadline()) is not None and due <= now):
            try:
                if self._spoiled is not None:
                    self._restart(grow=self._spoiled)
                    self._spoiled = None
                self._repeat(commands, now)
            except errors.StorageFull as error:
                return self._refuse_all(commands, error)
        return self._effects()

    def lend(self, commands: Sequence[Incoming], now: int, wall_ms: int) -> list[LeaderEffect] | None:
        """Take some commands in another thread than the leader's own; returns effects, as :meth:`change` would.

        A store's write transaction ends in the thread in which it began, and nobody but the leader's thread is to wait
        for a disk. So this is for producing without a synced commit: to topics in memory, and to ``"os"`` topics while
        the transaction that gathers what they append is open.

        Returns:
            None where that is not so. Then nothing of it was done, or what was done does not count, and the same
            commands are for :meth:`change` in the leader's thread, before anything else.

        Raises:
            StorageFailed: as :meth:`change`.
        """
        leader, store, due = self._leader, self._store, self._journal_due
        begun = store.writing
        if self._spoiled is not None or (due is not None and (due <= now or not begun)):
            return None
        if not self._is_swift(commands, journaling=begun):
            return None
        leader.clock(now, wall_ms)
        txn = store.write() if begun else _Lazy(store)
        try:
            for peer, command in commands:
                leader.handle(peer, command, txn)
            leader.flush(txn)
            self._settle(now, lent=begun)
        except store.map_full:
            if not begun:
                store.abandon()
            self._spoil(grow=True)
            return None
        except (_NotHere, errors.StorageFull):
            self._spoil(grow=False)
            return None
        assert begun or not store.writing, "a transaction that was begun here has ended here"
        return leader.take_effects()

    def _is_swift(self, commands: Sequence[Incoming], *, journaling: bool) -> bool:
        """Tell whether commands produce to topics in memory alone, or with "os" if that is ``journaling``."""
        for _, command in commands:
            if command.type != _PRODUCE or not self._leader.swift(command.body.header, journaling=journaling):
                return False
        return True

    def spoil(self) -> None:
        """Take back a lent turn that was left in the middle, wherever that was; its commands are to be given again.

        What of it was done, or even told, is known by the sequences of its producers, and not done twice.
        """
        self._spoil(grow=False)

    def _spoil(self, *, grow: bool) -> None:
        self._spoiled = grow
        self._leader.revoke()

    def express(self, partition_id: int) -> Express | None:
        """Return the express way to a partition, for any thread that holds the leader; None if there is none now.

        What goes there needs no turn, nor is it part of one. If it is left in the middle, :meth:`spoil`.
        """
        return None if self._spoiled is not None else self._leader.express(partition_id, _Lazy(self._store))

    def at_once(
        self, peer: bytes, command: Command, now: int, wall_ms: int, perform: Callable[[Sequence[LeaderEffect]], None]
    ) -> bool:
        """Take a batch in front of the turn, if it can go by express; tells whether that is done.

        Whoever waits for it waits for little else, and a turn takes three times as long. For the leader's own thread,
        while nothing waits that has come before it.

        Args:
            perform: performs effects, at once.
        """
        if command.type != _PRODUCE or command.flags & messages.FLAG_NO_ANSWER:
            return False
        body: messages.Produce = command.body
        way = self.express(batch.partition_of(body.header))
        frames = None if way is None else way.take(body.header, body.payload, wall_ms, body.part)
        if way is None or frames is None:
            return False
        perform((Publish(frames),))
        base, append_time, epoch, durability, duplicate = way.taken(now, wall_ms)
        frame = messages.produced(command.request, base, append_time, epoch, durability, duplicate)
        perform((Reply(peer, (frame,)),))
        return True

    def _clock(self, now: int, wall_ms: int) -> None:
        self._leader.clock(now, wall_ms)
        if self._controller is not None:
            self._controller.clock(now, wall_ms, self._leader.epoch)

    def _repeat(self, commands: Sequence[Incoming], now: int) -> None:
        while True:
            try:
                self._attempt(commands, now)
                return
            except self._store.map_full:
                self._restart(grow=True)

    def _restart(self, *, grow: bool) -> None:
        """Take a turn back that cannot be finished, to begin it again."""
        self._abandon()
        if grow:
            self._store.grow()
            self.grown += 1
        self._begin_again()

    def _refuse_all(self, commands: Sequence[Incoming], error: errors.StorageFull) -> list[LeaderEffect]:
        """The disk is full in the middle of a turn: nothing of it happened, and those who asked are told so."""
        self._abandon()
        self._leader.storage_full = error
        try:
            self._begin_again()
        except self._store.map_full:
            raise error from None
        if not self._store.journal_bytes:
            self._store.abandon()
        self._leader.postpone()
        refused: list[LeaderEffect] = [
            Reply(peer, (messages.failure(command.request, error),))
            for peer, command in commands
            if not (command.type == Type.PRODUCE and command.flags & messages.FLAG_NO_ANSWER)
        ]
        return refused

    def woken(self) -> list[Incoming]:
        """Return the questions that were held and are to be answered now, after :meth:`change`."""
        return self._leader.woken()

    def answer(self, commands: deque[Incoming], budget: int) -> list[LeaderEffect]:
        """Answer commands that only read, from the left, until they are through or ``budget`` bytes are exceeded.

        One that takes long ends the turn: what is left of it waits behind the others.
        """
        leader, controller = self._leader, self._controller
        effects: list[LeaderEffect] = []
        with self._store.read() as txn:
            while commands and budget > 0:
                peer, command = commands.popleft()
                if command.type in leader.reads:
                    left = leader.answer(peer, command, txn)
                    if left is not None:
                        commands.append((peer, left))
                        budget = 0
                elif controller is not None and command.type in controller.reads:
                    controller.answer(peer, command)
                else:
                    effects.append(self._refuse(peer, command))
                found = self._effects()
                budget -= sum(len(effect.frames[-1]) for effect in found)
                effects += found
        return effects

    def report(self, load: int) -> None:
        """Tell the mesh how busy this process is (percent of one core), and how far its topics are.

        To be called about twice a second; it is told when it is time.
        """
        if self._controller is not None and self._controller.wants_report:
            self._controller.report(load, self._ends())

    def attachment(self, now: int) -> list[PartitionEnd]:
        """Return what the next ATTACH says of how far topics are: nothing but every ten seconds."""
        if now < self._attachment_due:
            return []
        self._attachment_due = now + ATTACHMENT_NS
        return self._ends()

    def _ends(self) -> list[PartitionEnd]:
        with self._store.read() as txn:
            return self._leader.ends(txn)

    def close(self, now: int, wall_ms: int) -> list[LeaderEffect]:
        """End in order: what waits for a shared commit, or is only in the journal, is committed; returns effects."""
        self._leader.clock(now, wall_ms)
        self._leader.hasten()
        effects = self.change((), now, wall_ms)
        if self._store.writing:
            self._store.commit()
        return effects

    def _attempt(self, commands: Sequence[Incoming], now: int) -> None:
        leader, controller, store = self._leader, self._controller, self._store
        swift = not store.writing and self._is_swift(commands, journaling=False)
        txn: Transaction = _Lazy(store) if swift else store.write()
        for peer, command in commands:
            if controller is not None and command.type in controller.writes:
                controller.handle(peer, command, txn)
                self._assign(txn)
            else:
                leader.handle(peer, command, txn)
        due = leader.next_deadline()
        if due is not None and due <= now:
            leader.tick(txn)
        leader.flush(txn)
        self._settle(now)

    def _settle(self, now: int, *, lent: bool = False) -> None:
        """Make the turn as durable as it has to be; ``lent``: in a transaction that only another thread may end."""
        leader, controller, store = self._leader, self._controller, self._store
        overdue = self._journal_due is not None and self._journal_due <= now
        if leader.must_sync or overdue or (controller is not None and controller.changed):
            if lent:
                raise _NotHere
            store.commit()
            self._journal_due = None
        elif leader.journal:
            for entry in leader.journal:
                store.journal(entry)
            if self._journal_due is None:
                self._journal_due = now + JOURNAL_COMMIT_NS
            if store.journal_bytes > JOURNAL_BYTES_MAX:
                self._journal_due = now
        elif self._journal_due is None and not lent:
            store.abandon()
        leader.settled()

    def _abandon(self) -> None:
        self._store.abandon()
        self._leader.abandon()

    def _begin_again(self) -> None:
        """Put back what the abandoned transaction held for the journal, and load what it had changed."""
        txn = self._store.write()
        if self._controller is not None:
            self._controller.abandon(txn)
        self._leader.reload(txn)
        self._restore(txn)

    def _refuse(self, peer: bytes, command: Command) -> Reply:
        self._leader.counters.errors += 1
        error = errors.ProtocolViolation(
            problem=f"command {Type(command.type).name} to leader {self._leader.id}",
            allowed="requests; what is asked of a fabric goes to leader 0, at the first port of its node",
        )
        return Reply(peer, (messages.failure(command.request, error),))

    def _effects(self) -> list[LeaderEffect]:
        effects = self._leader.take_effects()
        if self._controller is not None:
            effects += self._controller.take_effects()
        return effects


class _Lazy:
    """A write transaction that begins when it is first used: what goes to memory hardly ever needs one."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: bytes, /) -> Buffer | None:
        return self._store.write().get(key)

    def put(self, key: bytes, value: Buffer, /) -> bool:
        return self._store.write().put(key, value)

    def delete(self, key: bytes, /) -> bool:
        return self._store.write().delete(key)

    def cursor(self) -> Cursor:
        return self._store.write().cursor()
