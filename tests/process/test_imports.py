"""What processes load: a leader what it needs and nothing heavy, a client nothing before it is used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, LeaderProcess
from tests.process.meshes import MemberProcess
from zfabric.errors import DirectoryLocked
from zfabric.modes.options import LeaderOptions, encode
from zfabric.settings import LeaderSettings
from zfabric.store import keyfile
from zfabric.store.directory import DataDirectory

HEAVY = {
    "asyncio",
    "click",
    "concurrent",
    "ctypes",
    "email",
    "hashlib",
    "http",
    "importlib.metadata",
    "lmdb.tool",
    "multiprocessing",
    "pathlib",
    "pydantic",
    "rich",
    "ssl",
    "tempfile",
    "unittest",
    "urllib.request",
    "xml",
    "zfabric.aio",
    "zfabric.cli",
    "zfabric.core.client",
    "zfabric.sim",
    "zfabric.sync",
    "zfabric.testing",
}
NEEDED = {"lmdb", "zmq", "msgspec", "zfabric.core.leader.leader", "zfabric.store.volume"}

# As python -m, and then a list of all that was loaded while it served.
LEADER = """
import sys
from zfabric.server.__main__ import main
try:
    status = main()
finally:
    with open(%r, "w") as file:
        file.write("\\n".join(sys.modules))
sys.exit(status)
"""


pytestmark = pytest.mark.usefixtures("unmeasured")


def heavy(modules):
    return {name for name in modules for banned in HEAVY if name == banned or name.startswith(banned + ".")}


@pytest.fixture
def loaded(tmp_path):
    """What a leader has loaded that served all kinds of topics, consumers, groups and a status."""
    listed = tmp_path / "modules"
    program = ("-c", LEADER % str(listed))
    with LeaderProcess(str(tmp_path / "data"), LeaderSettings(), program=program) as leader:
        with zfabric.connect(leader.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
            for durability in ("fsync", "os", "memory"):
                fabric.topics.create(durability, durability=durability)
                producer.send(durability, b"v", key=b"k").result(timeout=PATIENCE_S)
                with fabric.consumer(durability, group="g", start="2020-01-01T00:00Z") as consumer:
                    assert len(consumer.poll(timeout=PATIENCE_S)) == 1
                    consumer.commit()
            assert fabric.status()[0].records_in == 3
        assert leader.stop() == 0
    return set(listed.read_text().splitlines())


def test_a_leader_that_has_served_everything_has_loaded_nothing_heavy(loaded):
    assert loaded >= NEEDED
    assert "zfabric.server.gossip" not in loaded
    assert heavy(loaded) == set()


def test_a_member_of_a_mesh_loads_nothing_heavy_either(tmp_path):
    listed = tmp_path / "modules"
    keyfile.create_key(str(tmp_path / "key"))
    program = ("-c", LEADER % str(listed))
    with MemberProcess(str(tmp_path / "data"), key_file=str(tmp_path / "key"), program=program) as member:
        assert len(member.fabric.members()) == 1
        assert member.stop() == 0
    found = set(listed.read_text().splitlines())
    assert "zfabric.core.mesh.membership" in found
    assert heavy(found) == set()


def test_a_leader_maps_no_library_that_it_does_not_need(tmp_path):
    """A module can be forgotten, its shared library cannot."""
    with LeaderProcess(str(tmp_path / "data"), LeaderSettings()) as leader:
        with open(f"/proc/{leader.process.pid}/maps") as maps:
            libraries = {os.path.basename(line.split()[-1]) for line in maps if ".so" in line}
        assert leader.stop() == 0
    stems = {re.split(r"[.-]", name)[0] for name in libraries}
    assert stems.isdisjoint({"_ssl", "libssl", "libcrypto", "_asyncio", "_multiprocessing", "_ctypes", "_sqlite3"})


def modules_after(code):
    """Return what a new interpreter has loaded after some code, without what it loads anyway."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_a_leader_that_comes_too_late_ends_before_it_has_loaded_what_leading_takes(tmp_path):
    """Of all that the clients of a killed one start, one leads; the others are not to keep it from the processor."""
    directory = DataDirectory.create_or_check(str(tmp_path / "data"))
    listed = tmp_path / "modules"
    options = LeaderOptions(data=directory.real_path, embedded=True)
    with directory.lock("embedded", ""):
        command = [sys.executable, "-c", LEADER % str(listed), encode(options)]
        said = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE_S).stdout
    assert json.loads(said)["error"] == DirectoryLocked.code
    assert not (NEEDED - {"msgspec"}) & set(listed.read_text().split())


def test_importing_zfabric_loads_nothing_but_itself():
    found = modules_after("import zfabric")
    assert {name for name in found if name.split(".")[0] == "zfabric"} == {"zfabric"}
    assert {name.split(".")[0] for name in found}.isdisjoint({"zmq", "lmdb", "msgspec", "msgpack", "asyncio", "click"})


def test_a_synchronous_client_loads_no_storage_no_command_line_and_no_asyncio():
    found = modules_after("import zfabric; zfabric.connect, zfabric.Producer, zfabric.Consumer")
    assert "zfabric.sync.fabric" in found
    assert {name.split(".")[0] for name in found}.isdisjoint({"lmdb", "click", "rich", "asyncio"})
    assert not any(
        name.startswith(("zfabric.aio", "zfabric.cli", "zfabric.server", "zfabric.core.leader")) for name in found
    )


def test_every_public_name_can_be_loaded_alone():
    modules_after("import zfabric; [getattr(zfabric, name) for name in zfabric.__all__]")
    for name in ("BufferFull", "Record", "Delivery", "connect", "__version__"):
        modules_after(f"import zfabric; assert zfabric.{name} is not None; assert {name!r} in dir(zfabric)")
