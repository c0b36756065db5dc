"""The pump of threads, with a driver that the test plays."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path

import pytest

from zfabric.core.client.pending import Pending
from zfabric.sync.pump import Pump

PATIENCE_S = 30.0
FAR_NS = time.monotonic_ns() + 3_600_000_000_000


class Core:
    """Has always something to do."""

    calling = False
    producers = ()

    def busy(self):
        return True


class Ports:
    """None is open."""

    generation = 0


class Driver:
    """Steps when it is told to; ``failures`` of them raise."""

    ports = Ports()

    def __init__(self, failures):
        self.core = Core()
        self.failures = failures
        self.stepped = threading.Event()

    def fds(self):
        return []

    def may_drive(self):
        return None

    def ended(self):
        return None

    def step(self, ready=None):
        if threading.current_thread().name == "zfabric-pump":
            if self.failures:
                self.failures -= 1
                raise ValueError("a mistake of ours")
            self.stepped.set()
        return 0

    def run_callbacks(self):
        return None

    def close(self):
        return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_of_an_error_is_followed_by_another():
    """What it raised is printed; whoever calls next must not be left without anybody who attends to the rest."""
    driver = Driver(failures=2)
    pump = Pump(driver)
    try:
        for _ in range(2):
            with pump.lock:
                pump.flush()
                thread = pump._thread
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        with pump.lock:
            pump.flush()
        assert driver.stepped.wait(PATIENCE_S)
    finally:
        pump.close()


class Sender(Driver):
    """Has to be stepped at :attr:`due_ns` once more."""

    due_ns: int | None = None

    def step(self, ready=None):
        return self.due_ns


@pytest.mark.parametrize(
    ("due_ns", "until_ns", "woken"), [(None, None, False), (7, 7, False), (6, 7, True), (7, None, True)]
)
def test_a_caller_that_sends_wakes_the_thread_only_if_it_would_poll_for_too_long(due_ns, until_ns, woken):
    """To wake it at each record costs both of them more than the record (30 us, and the interpreter's lock)."""
    driver = Sender(failures=0)
    driver.due_ns = due_ns
    pump = Pump(driver)
    pump._attended = pump._driving = True  # As while the thread polls.
    pump._generation = driver.ports.generation
    pump._polls_until_ns = until_ns
    try:
        with pump.lock:
            pump.flush()
        assert bool(select.select([pump._wake_reader], [], [], 0)[0]) == woken
    finally:
        pump._driving = False
        pump.close()


class Crowd(Driver):
    """Has many descriptors, and notes at which it is to look."""

    def __init__(self, count):
        super().__init__(failures=0)
        self.core.busy = lambda: False
        self.ports = Ports()
        self.pipes = [os.pipe() for _ in range(count)]
        self.looked = []

    def fds(self):
        return [reader for reader, _ in self.pipes]

    def step(self, ready=None):
        self.looked.append(ready)

    def close(self):
        for pipe in self.pipes:
            for end in pipe:
                os.close(end)


@pytest.mark.parametrize("count", [3, 40])
def test_a_caller_looks_at_all_that_are_open_only_where_they_are_few(count):
    """With 500 a look at each would take 0.8 ms, at each call of each consumer."""
    driver = Crowd(count)
    pump = Pump(driver)
    try:
        with pump.lock:
            pump._poll(0, 0)
            os.write(driver.pipes[1][1], b"a")
            pump.flush()
            driver.pipes.append(os.pipe())
            driver.ports.generation += 1
            os.write(driver.pipes[-1][1], b"a")
            pump.flush()
            pump._driving = True  # Another thread polls: it takes what comes.
            pump.flush()
            pump._driving = False
        first, last = driver.pipes[1][0], driver.pipes[-1][0]
        assert driver.looked == ([None] * 3 if count == 3 else [[first], [first, last], ()])
    finally:
        pump._driving = False
        pump.close()


class Chatter:
    """A driver of a socket where a message is always there, and of a machine that wants a tick."""

    generation, due_ns = 0, 0
    producers = ()

    def __init__(self):
        self.core = self.ports = self.requests = self
        self.effects = []
        self.calling = self.restless = self.done = False
        self.received = 0

    def may_drive(self):
        return None

    def busy(self):
        return False

    def unread(self):
        return 5

    def take(self, fd):
        return (1, [b"message"]) if fd == 5 else None

    def receive(self, session, frames, now):
        self.received += 1
        assert self.received < 1_000, "no tick ever"

    def step(self, ready=None, until=None):
        self.done = True

    def ended(self):
        return None

    close = ended


def test_messages_without_end_keep_nothing_that_is_due_from_being_done():
    """A service that always has a request goes on being announced."""
    driver = Chatter()
    pump = Pump(driver)
    try:
        with pump.lock:
            pump.drive(driver)
        assert driver.done
    finally:
        pump.close()


class Post(Chatter):
    """Messages lie there for those who ask, or come to those who sleep."""

    def __init__(self, lie):
        super().__init__()
        self.due_ns = FAR_NS
        self.lie = lie
        self.generation = 0
        self.reader, self.writer = os.pipe()
        if not lie:
            os.write(self.writer, b".")

    def fds(self):
        return [self.reader]

    def unread(self):
        return self.reader if self.lie else None

    def take(self, fd):
        return (1, [b"message"])


class Acknowledged(Post):
    """Something is under way always, and its acknowledgement comes to whoever polls."""

    def __init__(self):
        super().__init__(lie=False)
        self.taken = threading.Event()

    def busy(self):
        return True

    def step(self, ready=None, until=None):
        if ready == [self.reader]:
            self.taken.set()

    def run_callbacks(self):
        return None


@pytest.mark.parametrize("paced", [True, False])
def test_while_somebody_sends_with_pauses_the_thread_takes_acknowledgements_as_they_come(paced):
    """A record that waits for one would wait for a nap's end else, or for the next record."""
    driver = Acknowledged()
    pump = Pump(driver)
    just_now = 1 << 62  # For as long as the test takes.
    try:
        with pump.lock:
            pump.stepped_ns, pump.paced_ns = just_now, just_now if paced else 0
            pump._attend()
        assert driver.taken.wait(PATIENCE_S if paced else 0.05) == paced
    finally:
        pump.close()
        os.close(driver.reader)
        os.close(driver.writer)


@pytest.mark.parametrize("lie", [True, False])
def test_who_slept_for_a_message_gets_it_without_a_look_for_others(lie):
    """It is alone nearly always; where it lay there already, more may, and those are taken together."""
    driver = Post(lie)
    looked = []
    driver.step = lambda ready=None, until=None: looked.append(ready)
    pump = Pump(driver)
    pending = Pending()
    driver.receive = lambda session, frames, now: pending.resolve(None)
    try:
        assert pump.arrive(pending, 30.0)
        assert looked == ([()] if lie else [])
    finally:
        pump.close()
        os.close(driver.reader)
        os.close(driver.writer)


class Elsewhere(Chatter):
    """All that comes is taken by another thread; nobody may sleep once ``pending`` is done."""

    def __init__(self, pending):
        super().__init__()
        self.due_ns = FAR_NS
        self.pending = pending
        self.waited = threading.Event()

    def fds(self):
        return []

    def unread(self):
        assert not self.pending.done, "it would sleep, though what it waits for is there"

    def step(self, ready=None, until=None):
        self.waited.set()

    def run_callbacks(self):
        return None


@pytest.mark.parametrize("meanwhile", ["another polls", "callbacks", "it polls itself"])
def test_who_waits_does_not_sleep_once_another_thread_has_what_it_waits_for(meanwhile):
    """Nothing would wake it before something is due: an acknowledgement would be seen half a second late."""
    pending = Pending()
    driver = Elsewhere(pending)
    pump = Pump(driver)

    def answer():
        assert driver.waited.wait(PATIENCE_S)
        with pump.lock:  # Which is free once the other one waits.
            pending.resolve(None)
            driver.restless = False
            if meanwhile == "another polls":
                pump._driving = False
                pump._changed.notify_all()
            else:
                pump._wake()

    def call_back():
        driver.calling = False
        pending.resolve(None)

    other = threading.Thread(target=answer)
    if meanwhile == "callbacks":
        driver.calling, driver.run_callbacks = True, call_back
        driver.waited.set()
    else:
        pump._driving = meanwhile == "another polls"
        driver.restless = meanwhile == "it polls itself"
        other.start()
    try:
        assert pump.wait(pending, PATIENCE_S)
    finally:
        if other.ident is not None:
            other.join(PATIENCE_S)
        pump.close()


class Sight:
    """Says that one is to watch, and keeps what one says of it."""

    def __init__(self, limit_ns):
        self.limit_ns = limit_ns
        self.told = []

    def took(self, waited_ns):
        self.told.append(waited_ns)


@pytest.mark.parametrize(("limit_ns", "late"), [(60_000_000_000, False), (1, False), (1, True), (0, True)])
def test_who_waits_for_a_reply_watches_for_it_and_then_sleeps(limit_ns, late):
    """One that has not come when the time to watch is over is slept for; either way it is told how long it took."""
    driver = Post(lie=False)
    if late:
        os.read(driver.reader, 1)
    pump = Pump(driver)
    pending = Pending()
    driver.receive = lambda session, frames, now: pending.resolve(None)
    polls, poll = [], pump._poll_fds

    def count(left_ms):
        polls.append(left_ms)
        if late and left_ms:
            os.write(driver.writer, b".")
        return poll(left_ms)

    pump._poll_fds = count
    pump._watching = Sight(limit_ns)
    try:
        with pump.lock:
            pump.drive(pending, pump._watching)
        assert pending.done
        assert len(pump._watching.told) == 1
        slept = [left_ms for left_ms in polls if left_ms]
        assert bool(slept) == (late or limit_ns <= 1)
    finally:
        pump.close()
        os.close(driver.reader)
        os.close(driver.writer)


def test_what_is_due_in_an_age_is_slept_for():
    """A poll takes no timeout of more than 24 days."""
    pump = Pump(Letter(Pending()))
    pump._wake()
    try:
        with pump.lock:
            now = time.monotonic_ns()
            assert pump._poll(now, now + 10**18) == [pump._wake_reader]
    finally:
        pump.close()


def test_who_waits_for_an_arrival_does_so_until_its_time_is_up():
    driver = Letter(Pending())
    driver.received = 1  # There is none.
    pump = Pump(driver)
    try:
        assert not pump.arrive(Pending(), 0.01)
    finally:
        pump.close()


class Letter(Chatter):
    """A message is there, once, that ends what another thread waits for."""

    def __init__(self, theirs):
        super().__init__()
        self.due_ns = FAR_NS
        self.theirs = theirs

    def fds(self):
        return []

    def unread(self):
        return None if self.received else 5

    def receive(self, session, frames, now):
        self.received += 1
        self.theirs.resolve(b"for you")

    def step(self, ready=None, until=None):
        return None


def test_a_message_for_another_thread_that_needed_no_poll_wakes_it():
    mine, theirs = Pending(), Pending()
    driver = Letter(theirs)
    pump = Pump(driver)
    pump._driving = True  # So that the other one waits for whoever drives.
    other = threading.Thread(target=pump.wait, args=(theirs, None))
    other.start()
    try:
        while True:
            with pump.lock:
                if pump._waiters:
                    pump._readable([(pump._wake_reader, 1)])  # It has tried to wake whoever drives.
                    pump._driving = False
                    break
        driving = threading.Thread(target=pump.wait, args=(mine, None))
        driving.start()
        other.join(PATIENCE_S)
        assert not other.is_alive()
    finally:
        with pump.lock:
            mine.resolve(None)
            theirs.resolve(None)
        while driving.is_alive() or other.is_alive():
            pump.nudge()
            driving.join(0.01)
        pump.close()


def test_the_thread_naps_for_longer_while_callers_sleep_inside_unless_there_is_a_producer():
    """It would wake oftener else than what a caller waits for comes: seven times in each of these waits."""
    driver = Letter(Pending())
    driver.received = 1  # There is none.
    driver.busy = lambda: True
    pump = Pump(driver)
    try:
        with pump.lock:
            pump.flush()
        status = Path(f"/proc/self/task/{pump._thread.native_id}/status")
        for _ in range(60):
            assert not pump.arrive(Pending(), 0.015)
        assert pump._attended
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("voluntary"))
        assert int(line.split()[1]) < 3 * 60
        with pump.lock:
            pump._driving, pump._waiters = True, 1
            assert pump._is_spared()
            driver.producers = (driver,)
            assert not pump._is_spared()
            driver.producers, pump._waiters = (), 0
            assert not pump._is_spared()
            pump._driving = False
    finally:
        pump.close()
