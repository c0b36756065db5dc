"""The supervisor of a node: starts the leader processes, starts them again, and carries no data.

It holds the data directory's lock. Each leader takes two ports, one for requests and one for what it publishes: leader
N the node's port + 2 N and the one after it, so that a firewall can be told. Leader 0, on the node's port itself, hosts
the controller. A leader's standard input is a pipe from here: when the supervisor is killed the pipe ends, and so does
the leader, without a good-bye to the mesh: its node has failed. A leader that ends is started again after 50 ms. One
that ends before it served waits twice as long each time, up to 0.4 s: somebody may be killing it, and its clients wait
for it. After ten times in a row that is no accident any more, and the pause goes on to double, up to 5 s. One that has
not served within 20 s of its start hangs, and is killed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from zfabric import errors
from zfabric.modes.options import SECRET, LeaderOptions, encode, environment
from zfabric.net.addresses import WILDCARDS, bindable, free_run, is_loopback
from zfabric.net.places import endpoints, split_place
from zfabric.server.config import MeshSection
from zfabric.server.joining import check_alone, mesh_options
from zfabric.server.systemd import Manager
from zfabric.settings import LeaderSettings, check_pattern, check_range
from zfabric.store.directory import DataDirectory, unusable
from zfabric.store.lockfile import FileLock

log = logging.getLogger("zfabric.supervisor")

PAUSE_S = 0.05
PAUSE_MAX_S = 5.0
FAILURES_SHORT = 10
STOP_S = 5.0
LOOK_S = 0.01
START_S = 20.0
AGAIN_S = 0.2
"""A signal so soon after the first is the same wish: ``timeout`` signals the process and then its whole group."""
LEADERS_MAX = 64


def split_listen(listen: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT``.

    Raises:
        ConfigurationError: it is something else.
    """
    return split_place(listen, "--listen ")


def restart_pause(failures: int) -> float:
    """Return how many seconds to wait before the next start, after so many in a row that ended before they served."""
    pause = PAUSE_S * 2.0 ** min(failures, 3)
    return min(pause * 2.0 ** min(max(0, failures - FAILURES_SHORT), 10), PAUSE_MAX_S)


class _Leader:
    """One leader process: how it is started, and how it is doing."""

    def __init__(self, options: LeaderOptions) -> None:
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.said = b""
        self.ready = False
        self.ending = -1
        self.started = 0.0
        self.heard = 0.0
        self.failures = 0
        self.restart_at: float | None = None

    @property
    def starting(self) -> bool:
        """Whether the process runs and has not said yet that it serves."""
        return self.ending >= 0 and not self.ready

    def start(self, environment: dict[str, str]) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "zfabric.server", encode(self.options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        self.said, self.ready = b"", False
        self.started = time.monotonic()
        self.restart_at = None


class Supervisor:
    """One node.

    Args:
        data: the data directory.
        listen: ``HOST:PORT``; the leaders take PORT to PORT + 2 * leaders - 1. Port 0 takes free ones.
        leaders: processes; None: one per core. A directory that was served by more keeps as many.
        insecure: listen beyond loopback though there are no keys.
        mesh: the mesh to join, if it has a name.
        keep, follow, keepers: as in :class:`~zfabric.server.config.NodeSettings`.
        announce: called with the node's URL once all leaders serve.

    Raises:
        InsecureListen, ConfigurationError, DirectoryFormat. InvalidArgument: a pattern, or a setting of the mesh.
    """

    def __init__(
        self,
        data: str,
        listen: str = "127.0.0.1:7400",
        *,
        leaders: int | None = None,
        settings: LeaderSettings | None = None,
        insecure: bool = False,
        mesh: MeshSection | None = None,
        keep: Sequence[str] = (),
        follow: Sequence[str] = (),
        keepers: Sequence[str] = (),
        announce: Callable[[str, int], None] | None = None,
    ) -> None:
        self._host, self._port = split_listen(listen)
        if not is_loopback(self._host) and not insecure:
            raise errors.InsecureListen(endpoint=listen)
        self._asked = leaders
        self._wanted = min(os.cpu_count() or 1, LEADERS_MAX) if leaders is None else leaders
        check_range("leaders", self._wanted, 1, LEADERS_MAX)
        self._settings = settings or LeaderSettings()
        if mesh is not None and not mesh.name:
            check_alone(mesh)
        self._mesh = mesh if mesh is not None and mesh.name else None
        self._keep = tuple(check_pattern("keep", pattern) for pattern in keep)
        self._follow = endpoints(list(follow), "--follow ")
        self._keepers = endpoints(list(keepers), "--keeper ")
        if self._mesh is not None:
            mesh_options(self._mesh, self._host, self._port)  # Whatever is wrong with it is said before anything else.
        try:
            self._directory = DataDirectory.create_or_check(data)
        except OSError as error:
            raise unusable(data, error) from error
        self._manager = Manager()
        self._announce = announce
        self._announced = False
        self._leaders: list[_Leader] = []
        self._environment = {**environment(), SECRET: os.urandom(32).hex()}
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._stopped = 0.0
        self._hurried = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; a second signal, 0.2 s later or more, ends that at once.

        Returns 0, or 1 if a leader had to be killed before it had drained (which loses nothing acknowledged).

        Raises:
            DirectoryLocked, PortInUse, DirectoryDamaged, …: a leader could not start for the first time.
        """
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._selector.register(reader, selectors.EVENT_READ, None)
        drained = False
        count = self._count()
        if self._port == 0:
            self._port = free_run(self._host, 2 * count)
        with self._lock():
            self._check_ports(2 * count)
            self._plan(count)
            try:
                for leader in self._leaders:
                    self._start(leader)
                while not self._stopping:
                    self._turn()
            finally:
                drained = self._end()
        return 0 if drained else 1

    def _stop(self, *_: object) -> None:
        now = time.monotonic()
        self._hurried = self._hurried or (self._stopping and now - self._stopped >= AGAIN_S)
        self._stopped = self._stopped if self._stopping else now
        self._stopping = True

    def _lock(self) -> FileLock:
        try:
            return self._directory.lock("node", f"{self._host}:{self._port}")
        except OSError as error:
            raise unusable(self._directory.path, error) from error

    def _count(self) -> int:
        """Return how many leaders there will be: never fewer than the directory has volumes."""
        kept = max(self._directory.volumes(), default=-1) + 1
        if self._asked is not None and self._asked < kept:
            log.warning(
                "leaders_kept asked=%d kept=%d reason=%s",
                self._asked,
                kept,
                f"{self._directory.path!r} was served by {kept}, and each has partitions there",
            )
        return max(self._wanted, kept)

    def _check_ports(self, count: int) -> None:
        """Say which port is taken before anything is started.

        Raises:
            ConfigurationError: the last one would be beyond 65535. PortInUse: one is taken.
        """
        last = self._port + count - 1
        ports = f"ports {self._port} to {last} are wanted, two for each leader"
        if last > 65_535:
            raise errors.ConfigurationError(
                source=f"--listen {self._host}:{self._port}",
                problem=f"{ports}, and the highest is 65535",
                instead=f"choose a port up to {65_536 - count}",
            )
        for port in range(self._port, last + 1):
            problem = bindable(self._host, port)
            if problem is not None and problem.errno == errno.EADDRINUSE:
                raise errors.PortInUse(endpoint=f"{self._host}:{port}", problem=f"{problem.strerror}; {ports}")

    def _plan(self, count: int) -> None:
        """Decide ports and options of all leaders."""
        mesh = None if self._mesh is None else mesh_options(self._mesh, self._host, self._port)
        if mesh is not None:
            log.info("mesh_joining mesh=%s endpoint=%s seeds=%d", mesh.name, mesh.endpoint, len(mesh.seeds))
        for number in range(count):
            listen = self._port + 2 * number
            publish = listen + 1
            self._leaders.append(
                _Leader(
                    LeaderOptions(
                        data=self._directory.real_path,
                        leader=number,
                        leaders=count,
                        listen=f"tcp://{self._host}:{listen}",
                        publish=f"tcp://{self._host}:{publish}",
                        advertise=f"tcp://*:{listen}",
                        advertise_publish=f"tcp://*:{publish}",
                        controller="" if number == 0 else f"tcp://{self._local()}:{self._port}",
                        supervised=True,
                        beats=self._manager.interval_s > 0,
                        mesh=mesh if number == 0 else None,
                        keep=self._keep if number == 0 else (),
                        follow=self._follow if number == 0 else (),
                        offer_to=self._keepers if number == 0 else (),
                        settings=self._settings,
                    )
                )
            )

    def _local(self) -> str:
        return ("[::1]" if self._host == "[::]" else "127.0.0.1") if self._host in WILDCARDS else self._host

    def _start(self, leader: _Leader) -> None:
        try:
            leader.start(self._environment)
        except OSError as error:  # No process or no memory for one: there may be later.
            if not self._announced:
                raise errors.LeaderFailed(directory=self._directory.path, status=-1, detail=str(error)) from error
            leader.ready = False
            pause = self._restart_later(leader)
            log.exception("leader_not_started leader=%d restart_in=%.2f", leader.options.leader, pause)
            return
        assert leader.process is not None
        assert leader.process.stdout is not None
        leader.ending = os.pidfd_open(leader.process.pid)
        self._selector.register(leader.process.stdout, selectors.EVENT_READ, lambda: self._hear(leader))
        self._selector.register(leader.ending, selectors.EVENT_READ, lambda: self._ended(leader))

    def _turn(self) -> None:
        now = time.monotonic()
        due = [leader.restart_at for leader in self._leaders if leader.restart_at is not None]
        if self._manager.ping_at is not None:
            due.append(self._manager.ping_at)
        due += [leader.started + START_S for leader in self._leaders if leader.starting]
        starting = not self._announced
        for key, _ in self._selector.select(max(0.0, min(due) - now) if due else (0.5 if starting else None)):
            if key.data is not None and not self._stopping:
                key.data()
        now = time.monotonic()
        for leader in self._leaders:
            if leader.restart_at is not None and leader.restart_at <= now:
                self._start(leader)
            elif self._announced and leader.starting and now - leader.started > START_S:
                assert leader.process is not None
                log.error("leader_hangs leader=%d leader_pid=%d", leader.options.leader, leader.process.pid)
                leader.process.kill()
        self._manager.ping(now, fine=all(self._fine(leader, now) for leader in self._leaders))
        if starting and any(not entry.ready and now - entry.started > START_S for entry in self._leaders):
            raise errors.LeaderFailed(directory=self._directory.path, status=-1, detail="it did not become ready")

    def _fine(self, leader: _Leader, now: float) -> bool:
        """Tell whether a leader goes round, or is being started again, which is our business and no watchdog's."""
        return not leader.ready or now - leader.heard <= self._manager.interval_s

    def _hear(self, leader: _Leader) -> None:
        """A leader said whether it serves; then it says nothing more, or beats."""
        assert leader.process is not None
        assert leader.process.stdout is not None
        piece = os.read(leader.process.stdout.fileno(), 65_536)
        leader.heard = time.monotonic()
        if not piece or not leader.options.beats:
            self._selector.unregister(leader.process.stdout)
            leader.process.stdout.close()
        if not leader.ready:
            leader.said += piece
            line, end, leader.said = leader.said.partition(b"\n")
            if end:
                self._understand(leader, leader.process.pid, json.loads(line))
            else:
                leader.said = line

    def _understand(self, leader: _Leader, pid: int, said: dict[str, Any]) -> None:
        if "error" not in said:
            leader.ready = True
            log.info("leader_ready leader=%d leader_pid=%d", leader.options.leader, pid)
            self._maybe_announce()
        elif not self._announced:
            raise errors.from_wire(said["error"], said["values"])
        else:
            log.error(
                "leader_failed leader=%d problem=%s",
                leader.options.leader,
                errors.from_wire(said["error"], said["values"]),
            )

    def _ended(self, leader: _Leader) -> None:
        """A leader process has ended: start another after a pause."""
        assert leader.process is not None
        while leader.process.stdout is not None and not leader.process.stdout.closed:
            self._hear(leader)
        self._selector.unregister(leader.ending)
        os.close(leader.ending)
        leader.ending = -1
        status = leader.process.wait()
        if leader.process.stdin is not None:
            leader.process.stdin.close()
        if not self._announced:
            raise errors.LeaderFailed(directory=self._directory.path, status=status, detail="see its log above")
        pause = self._restart_later(leader)
        log.warning("leader_ended leader=%d status=%d restart_in=%.2f", leader.options.leader, status, pause)

    @staticmethod
    def _restart_later(leader: _Leader) -> float:
        leader.failures = 0 if leader.ready else leader.failures + 1
        pause = restart_pause(leader.failures)
        leader.restart_at = time.monotonic() + pause
        return pause

    def _maybe_announce(self) -> None:
        if self._announced or not all(leader.ready for leader in self._leaders):
            return
        self._announced = True
        if self._announce is not None:
            self._announce(f"zf://{self._host}:{self._port}", len(self._leaders))
        self._manager.ready()

    def _end(self) -> bool:
        """Let the leaders drain, and kill what does not, or all when we are hurried; tell whether they had drained."""
        self._manager.stopping()
        running = [leader.process for leader in self._leaders if leader.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while any(process.poll() is None for process in running):
            if self._hurried or time.monotonic() >= deadline:
                break
            time.sleep(LOOK_S)
        late = [process for process in running if process.poll() is None]
        for process in late:
            log.warning("leader_killed leader_pid=%d", process.pid)
            process.kill()
        for process in running:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for leader in self._leaders:
            if leader.ending >= 0:
                os.close(leader.ending)
        self._selector.close()
        return not late
