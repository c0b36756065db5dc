"""Members of meshes as real leader processes, without supervisors."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

import psutil

import zfabric
from tests.process.leaders import LeaderProcess, free_port
from tests.process.test_sdk import until
from zfabric.modes.options import LeaderOptions, MeshOptions
from zfabric.settings import LeaderSettings

PATIENCE_S = 60.0


class MemberProcess(LeaderProcess):
    """A leader that is a member of a mesh.

    Args:
        seeds: other such processes, or endpoints. program: what to give to Python before the
            options. options: more of :class:`MeshOptions`.

    Attributes:
        endpoint: where it is reached.
    """

    def __init__(
        self, data: str, *, name: str = "m", seeds: Sequence[MemberProcess | str] = (),
        program: tuple[str, ...] = ("-m", "zfabric.server"), **options,
    ) -> None:  # fmt: skip
        port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.url = f"zf://127.0.0.1:{port}"
        publish = f"tcp://127.0.0.1:{port + 1}"
        self._options = LeaderOptions(
            data=data, listen=self.endpoint, publish=publish, advertise=self.endpoint, advertise_publish=publish,
            settings=LeaderSettings(),
            mesh=MeshOptions(
                name=name, endpoint=self.endpoint, publish=publish,
                seeds=[seed if isinstance(seed, str) else seed.endpoint for seed in seeds], **options,
            ),
        )  # fmt: skip
        self._environment = dict(os.environ)
        self._program = program
        self.process = self._start()
        self.fabric = zfabric.connect(self.url, timeout=PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self.fabric.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        super().__exit__()

    def stop(self) -> int:
        """Let it leave; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def freeze(self) -> None:
        """Let it stand still."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def states(self) -> dict[str, str]:
        """Return endpoint to state of all that it knows."""
        return {member.endpoint: member.state for member in self.fabric.members()}

    def sees(self, other: MemberProcess) -> str | None:
        """Return the state in which it knows another."""
        return self.states().get(other.endpoint)

    def rss(self) -> int:
        """Return its resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss


def agree(members: Sequence[MemberProcess]) -> bool:
    """Wait until each of these members sees exactly them, alive; tells whether that came."""
    wanted = {member.endpoint: "alive" for member in members}
    return bool(until(lambda: all(member.states() == wanted for member in members), PATIENCE_S))
