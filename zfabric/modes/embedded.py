"""Embedded mode: many processes, one directory, no daemon.

Every process holds a shared lock on the directory's ``clients`` file while it uses it. Whoever needs the leader and
finds the directory unlocked starts one: ``python -m zfabric.server``, detached, over ipc sockets of fixed names. If
several do so at once, the directory's lock lets one lead and the others end in silence. The leader ends when it has
been alone for two seconds (``server/loop.py``).

With ``leader="thread"`` the one that this process starts is a part of it (``inside.py``). Which kind leads does not
matter to anybody else: it holds the same lock, listens on the same sockets, and others start their own kind after it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.modes.options import LeaderOptions, encode, environment
from zfabric.modes.url import Placement, Target
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory, Holder, service_socket, unusable

if TYPE_CHECKING:
    from zfabric.modes.inside import Residence

SILENT_MAX = 30
"""Leaders started here that may end one after the other without a word: killed, as far as one can know. One that fails
by itself is told of after some seconds; whoever kills leaders at random does not kill so many before one serves."""


class Embedded:
    """This process's share in an embedded fabric."""

    locating = True
    mesh = False
    publish = ""
    observed = None

    def __init__(
        self,
        target: Target,
        settings: LeaderSettings | None = None,
        *,
        timeout: float = 10.0,
        leader: Placement = "process",
    ) -> None:
        self.host = ""
        self._residence: Residence | None = None
        self._heard = 0
        self._settings = settings or LeaderSettings()
        self._starting: int | None = None
        self._said = b""
        self._silent = 0
        try:
            os.path.realpath(target.path).encode()
        except UnicodeEncodeError as error:
            raise errors.DirectoryUnusable(
                directory=target.path, problem="its path is no UTF-8 text", instead="choose another directory"
            ) from error
        try:
            self._directory = DataDirectory.create_or_check(target.path)
            self._clients = self._directory.attach_client(timeout=timeout)
        except OSError as error:
            raise unusable(target.path, error) from error
        try:
            self.endpoint = f"ipc://{self._directory.socket_path('router')}"
            self._publish = f"ipc://{self._directory.socket_path('xpub')}"
        except OSError as error:
            self._clients.close()
            raise unusable(target.path, error) from error
        except BaseException:
            self._clients.close()
            raise
        if leader == "thread":
            from zfabric.modes import inside

            self._residence = inside.join(self._directory.real_path)
            self._heard = self._residence.failures

    @property
    def inside(self) -> bool:
        """Whether a leader that this process starts is a part of it."""
        return self._residence is not None

    def locate(self) -> Sequence[str]:
        """Start a leader if nobody leads. Does not wait for it. Returns nothing: it is known where that will be.

        Raises:
            DirectoryLocked: a node leads the directory: connect to that.
            DirectoryUnusable: no process can be started in it.
            LeaderFailed: leaders end again and again before they serve.
            ZFabricError: what the leader that was started here said before it ended.
        """
        try:
            self._locate()
        except OSError as error:
            raise unusable(self._directory.path, error) from error
        return ()

    def _locate(self) -> None:
        self._listen()
        holder = self._directory.holder()
        if holder is not None:
            self._check_holder(holder)
            return
        if self._starting is not None:
            return
        options = self._options()
        volumes = self._directory.volumes()
        if len(volumes) > 1:
            raise errors.DirectoryFormat(
                directory=self._directory.path,
                problem=f"it holds {len(volumes)} volumes made by 'zfabric serve'",
                instead=f"run 'zfabric serve --data {self._directory.path}' and connect to it",
            )
        if self._residence is not None:
            self._residence.start(options)
        else:
            self._start(options)

    def _start(self, options: LeaderOptions) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            # The process started here detaches a child and ends at once, so nobody has to wait for the leader.
            command = [sys.executable, "-m", "zfabric.server", encode(options)]
            nothing = subprocess.DEVNULL
            subprocess.run(command, stdin=nothing, stdout=writer, stderr=nothing, env=environment(), check=False)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._starting = reader
        self._said = b""

    def _check_holder(self, holder: Holder) -> None:
        """Raise if whoever leads is none for us."""
        if holder["mode"] == "node":
            raise self._directory.locked(holder)

    def _options(self) -> LeaderOptions:
        return LeaderOptions(
            data=self._directory.real_path,
            listen=self.endpoint,
            publish=self._publish,
            advertise=self.endpoint,
            advertise_publish=self._publish,
            embedded=True,
            settings=self._settings,
        )

    def _listen(self) -> None:
        """Take what the leader started here has said; raise its error."""
        if self._residence is not None and self._residence.failures != self._heard:
            self._heard = self._residence.failures
            if self._residence.failure is not None:
                raise self._residence.failure
        while self._starting is not None and select.select([self._starting], [], [], 0)[0]:
            piece = os.read(self._starting, 65_536)
            self._said += piece
            if piece and b"\n" not in self._said:
                continue
            os.close(self._starting)
            self._starting = None
            said: dict[str, Any] = json.loads(self._said) if b"\n" in self._said else {}
            self._silent = 0 if said else self._silent + 1
            if self._silent >= SILENT_MAX:
                self._silent = 0
                log = os.path.join(self._directory.real_path, "leader.log")
                raise errors.LeaderFailed(
                    directory=self._directory.path,
                    status=-1,
                    detail=f"so did {SILENT_MAX} in a row before they served; see {log!r}",
                )
            if said.get("error", errors.DirectoryLocked.code) != errors.DirectoryLocked.code:
                raise errors.from_wire(said["error"], said["values"])

    def listen_endpoint(self) -> str:
        """Return a socket in the directory, which only this user can reach."""
        # At random: whoever binds takes the path away from another one, of this process or of another PID namespace.
        number = int.from_bytes(os.urandom(4), "big") >> 3
        return f"ipc://{self._directory.socket_path(service_socket(os.getpid(), number))}"

    def close(self) -> None:
        """Leave: if we were the last, the leader ends soon; one in this process is told to end now."""
        if self._starting is not None:
            os.close(self._starting)
            self._starting = None
        if self._residence is not None:
            self._residence.leave()
        self._clients.close()

    def ended(self) -> None:
        """Wait until a leader in this process that was told to end has ended, for some seconds at most."""
        if self._residence is not None:
            self._residence.ended()
