"""What ``--help`` says, of every command."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from zfabric.cli import command

UNITS = {
    "BYTES",
    "BYTES/S",
    "NUMBER",
    "PARTITIONS",
    "PROCESSES",
    "RECORDS",
    "RECORDS/S",
    "REFRESHES",
    "SECONDS",
    "TOPICS",
}
"""What stands for a number in a help text: its unit."""


def leaves(group, path=()):
    """Yield (path, command, context) of the group and all below it."""
    with click.Context(group, info_name=" ".join(path) or "zfabric") as context:
        yield path, group, context
        if isinstance(group, click.Group):
            for name in group.list_commands(context):
                yield from leaves(group.get_command(context, name), (*path, name))


COMMANDS = [pytest.param(found, context, id=" ".join(path) or "zfabric") for path, found, context in leaves(command)]
PATHS = [path for path, *_ in leaves(command)]


@pytest.mark.parametrize(("found", "context"), COMMANDS)
def test_every_command_says_what_it_does_with_its_arguments(found, context):
    assert found.help
    for argument in (param for param in found.get_params(context) if isinstance(param, click.Argument)):
        assert argument.human_readable_name.strip("[].") in found.help


@pytest.mark.parametrize(("found", "context"), COMMANDS)
def test_every_option_has_a_help_text_with_its_default_and_unit(found, context):
    for option in (param for param in found.get_params(context) if isinstance(param, click.Option)):
        _, text = option.get_help_record(context)
        assert option.help, option.opts
        if option.is_flag:
            continue
        assert "default: " in text or "[required]" in text, option.opts
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
            assert option.metavar in UNITS, option.opts


def test_help_loads_nothing_that_only_the_work_needs():
    """The first Tab or --help must not wait for sockets, storage, tables or an event loop."""
    code = f"""
import contextlib, io, sys
before = set(sys.modules)
import zfabric.cli
for path in {PATHS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert zfabric.cli.main([*path, "--help"]) == 0, path
    assert out.getvalue().startswith("Usage:"), path
print(sorted((set(sys.modules) - before) & {{"zmq", "lmdb", "rich", "asyncio", "msgspec", "hypothesis"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
