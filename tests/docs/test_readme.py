"""What README.md says is true: its code runs, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zfabric.server.config import MeshSection, NodeSettings, load
from zfabric.settings import LeaderSettings

README = (Path(__file__).parents[2] / "README.md").read_text()
SHELL = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "./tools/" not in block]
TOML = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"^\| `zfabric (\w+)` \|", README, re.MULTILINE)))


@pytest.mark.parametrize("code", PYTHON)
def test_the_code_block_runs(code: str, tmp_path: Path):
    # Others may run it beside this, and peers of one mesh meet.
    mine = re.sub(r"(zf\+peer://\w+)", rf"\1-{os.urandom(6).hex()}", code)
    done = subprocess.run(
        [sys.executable, "-c", mine], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert any(
        text in done.stdout
        for text in (
            "two of them",
            "record_bytes_max=67108864",
            "value=b'21.6'",
            "joined ipc:",
            "[b'71.5']",
            "[b'1200'] memory",
        )
    )


@pytest.mark.parametrize("code", SHELL)
def test_the_commands_run(code: str, tmp_path: Path):
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for directory in ("first", "again"):
        (tmp_path / directory).mkdir()
        done = subprocess.run(
            ["bash", "-euc", code], cwd=tmp_path / directory, env=os.environ | {"PATH": tools},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert "consume" not in code or {"one", "two", "three"} <= set(done.stdout.split())


def test_the_configuration_has_every_key_with_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("ZFABRIC_")]:
        monkeypatch.delenv(name)
    (block,) = TOML
    (tmp_path / "node.toml").write_text(block)
    tables = tomllib.loads(block)
    assert list(tables["node"]) == list(NodeSettings.__struct_fields__)
    assert list(tables["mesh"]) == list(MeshSection.__struct_fields__)
    assert list(tables["leader"]) == list(LeaderSettings.__struct_fields__)
    assert load(str(tmp_path / "node.toml"), {}) == (NodeSettings(leaders=2), LeaderSettings(), MeshSection())


def test_there_is_code_and_there_are_commands():
    assert PYTHON
    assert SHELL
    assert "serve" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_has_help(command: str):
    done = subprocess.run(
        [sys.executable, "-m", "zfabric", command, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")


def test_every_command_is_listed():
    done = subprocess.run(
        [sys.executable, "-m", "zfabric", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    shown = re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert sorted(shown) == COMMANDS
