"""The twins: what tools/unasync makes of the asynchronous SDK, and what it refuses."""

import importlib.machinery
import importlib.util
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "unasync"


@pytest.fixture(scope="module")
def unasync():
    """The tool as a module; it has no suffix, since it is a command."""
    loader = importlib.machinery.SourceFileLoader("unasync", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("unasync", loader))
    sys.modules["unasync"] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = before
        del sys.modules["unasync"]


@pytest.fixture
def tree(tmp_path, unasync):
    """A small project: call it with arguments to run the tool there."""
    shutil.copy(TOOL.parents[1] / "pyproject.toml", tmp_path)
    (tmp_path / "zfabric/aio").mkdir(parents=True)
    (tmp_path / "zfabric/sync").mkdir()
    (tmp_path / "zfabric/aio/pump.py").write_text("import asyncio\n")
    (tmp_path / "zfabric/sync/pump.py").write_text("import threading\n")
    (tmp_path / "zfabric/aio/queue.py").write_text("async def put() -> None:\n    await _put()\n")
    return tmp_path


CONSUMER = '''\
"""The asynchronous consumer, an asynchronous iterator.

>>> async with zfabric.aio.connect() as fabric:
...     await fabric.close()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Self

from zfabric import errors
from zfabric.aio.pump import Pump

log = logging.getLogger("zfabric.aio")


class Consumer:
    """Reads one topic; `await consumer.poll()` returns records."""

    def __init__(self, pump: Pump, wait: Callable[[], Awaitable[list[int]]]) -> None:
        self._pump = pump
        self._wait = wait

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        try:
            value = (await self._pump.wait({"a": [1]}))[0]
        except errors.Closed:
            raise StopAsyncIteration from None
        await asyncio.sleep(0.1)
        return value

    async def all(self, take: Callable[..., Coroutine[Any, Any, tuple[int, str]]]) -> list[int]:
        return [x async for x in self if await take(x)]

    async def close(self) -> None:
        """Wait until all is sent."""
        async with self._lock as held:
            async for waiter in held:
                await waiter
'''

CONSUMER_SYNC = '''\
# Generated from zfabric/aio/consumer.py by tools/unasync; edit that file.
"""The synchronous consumer, a synchronous iterator.

>>> with zfabric.sync.connect() as fabric:
...     fabric.close()
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Self

from zfabric import errors
from zfabric.sync.pump import Pump

log = logging.getLogger("zfabric.sync")


class Consumer:
    """Reads one topic; `consumer.poll()` returns records."""

    def __init__(self, pump: Pump, wait: Callable[[], list[int]]) -> None:
        self._pump = pump
        self._wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        try:
            value = self._pump.wait({"a": [1]})[0]
        except errors.Closed:
            raise StopIteration from None
        time.sleep(0.1)
        return value

    def all(self, take: Callable[..., tuple[int, str]]) -> list[int]:
        return [x for x in self if take(x)]

    def close(self) -> None:
        """Wait until all is sent."""
        with self._lock as held:
            for waiter in held:
                waiter
'''


def test_a_module_of_the_sdk_becomes_its_twin(unasync):
    """All rules at once, on a module as they are written here."""
    twin = unasync.twin_of(CONSUMER, "zfabric/aio/consumer.py", "zfabric/sync/consumer.py")
    assert twin == CONSUMER_SYNC


@pytest.mark.parametrize(
    ("source", "twin"),
    [
        ("x = (await f(a, [1]))[0]", "x = f(a, [1])[0]"),
        ("x = g(await f())", "x = g(f())"),
        ("x = g((await f()).y, 1)", "x = g(f().y, 1)"),
        ("x = (await f() + 1) * 2", "x = (f() + 1) * 2"),
        ("x = not (await f())", "x = not f()"),
        ("x = (\n    await f()\n)", "x = (\n    f()\n)"),
        ("from zfabric import aio", "from zfabric import sync"),
        ("zfabric.aio.connect()", "zfabric.sync.connect()"),
        ("aiofiles = async_value", "aiofiles = async_value"),
        ("asyncio.run(main(1))", "main(1)"),
        ("x: Awaitable[dict[str, int]]", "x: dict[str, int]"),
        ("x: Callable[[], Coroutine[None, None, list[int]]]", "x: Callable[[], list[int]]"),
        ("x = f'{await y()!r:>{w}} {{}}' 'await z()'", "x = f'{y()!r:>{w}} {{}}' 'z()'"),
        ("x = 'to await the end'  # asynchronous", "x = 'to await the end'  # synchronous"),
        ("x = 'ü\u2028' + (await f())", "x = 'ü\u2028' + f()"),
        ("# sync-only: import threading", "import threading"),
    ],
)
def test_each_rule(unasync, source, twin):
    """Names inside longer names stay, and so does prose that only sounds like code."""
    assert unasync.convert(source) == twin


def test_text_without_rules_comes_back_unchanged(unasync):
    """The tool's own source is as odd as sources get."""
    source = TOOL.read_text()
    assert "".join(token.before + token.text for token in unasync.tokens_of(source)) == source


def test_what_is_marked_async_only_is_left_out(unasync):
    """A statement; a function with its decorators; an except clause."""
    source = """\
    class A:
        x = Event(
            1,
        )  # async-only
        # sync-only: x = Lock()

        @cache
        @property
        def loop(self):  # async-only
            if self.y:
                return 1
            return 2

        def close(self):
            try:
                self.z()
            except Cancelled:  # async-only: nobody cancels a thread
                raise
            except Closed:
                raise
    """
    twin = """\
    class A:
        x = Lock()


        def close(self):
            try:
                self.z()
            except Closed:
                raise
    """
    assert unasync.convert(dedent(source)) == dedent(twin)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import asyncio\n\nasyncio.Event()\n", "line 3: asyncio.Event has no synchronous twin"),
        ("y = 1  # async-only\n\n\nx = asyncio.gather(a)\n", "line 4: asyncio.gather has no"),
        ("# async-only\nx = 1\n", "line 1: '# async-only' stands at the end"),
        ("if x:\n    y = 1  # async-only\n", "the twin is not Python"),
    ],
)
def test_what_has_no_twin_is_refused_by_line(unasync, source, complaint):
    """A silent guess would surface as a hang in somebody's thread."""
    with pytest.raises(unasync.CannotConvert, match=complaint):
        unasync.convert(source)


def test_check_passes_on_what_was_just_written(tree, unasync, capsys):
    """Writing is idempotent, and leaves the pumps alone."""
    assert unasync.main([], tree) == 0
    assert "def put() -> None:\n    _put()\n" in (tree / "zfabric/sync/queue.py").read_text()
    assert (tree / "zfabric/sync/pump.py").read_text() == "import threading\n"
    capsys.readouterr()
    assert unasync.main(["--check"], tree) == 0
    assert unasync.main([], tree) == 0
    assert capsys.readouterr().out == ""


def test_check_shows_a_hand_edit_as_a_diff(tree, unasync, capsys):
    """The edit belongs in aio; check changes nothing."""
    unasync.main([], tree)
    twin = tree / "zfabric/sync/queue.py"
    edited = twin.read_text().replace("_put()", "_put(1)")
    twin.write_text(edited)
    assert unasync.main(["--check"], tree) == 1
    assert "-    _put(1)\n+    _put()\n" in capsys.readouterr().out
    assert twin.read_text() == edited


def test_check_finds_files_that_come_from_nowhere(tree, unasync, capsys):
    """Generated ones are removed; one written by hand is only complained of."""
    unasync.main([], tree)
    (tree / "zfabric/aio/queue.py").rename(tree / "zfabric/aio/jobs.py")
    (tree / "zfabric/sync/mine.py").write_text("x = 1\n")
    assert unasync.main(["--check"], tree) == 1
    assert "zfabric/sync/queue.py: a stray file" in capsys.readouterr().err
    assert unasync.main([], tree) == 1
    assert sorted(file.name for file in (tree / "zfabric/sync").iterdir()) == ["jobs.py", "mine.py", "pump.py"]


def test_a_file_marked_async_only_has_no_twin(tree, unasync):
    """Tests of cancellation, say."""
    (tree / "tests/unit/aio").mkdir(parents=True)
    (tree / "tests/unit/aio/test_cancel.py").write_text("# async-only: threads are not cancelled\n")
    (tree / "tests/unit/aio/test_queue.py").write_text("async def test_put(fabric):\n    assert await fabric.put()\n")
    assert unasync.main([], tree) == 0
    assert [file.name for file in (tree / "tests/unit/sync").iterdir()] == ["test_queue.py"]
