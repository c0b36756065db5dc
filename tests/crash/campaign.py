"""Checks many crash states: each in a child process, so that a state that kills its reader is a finding as well."""

from __future__ import annotations

import faulthandler
import os
import shutil
import struct
import tempfile
import traceback
from collections.abc import Callable
from itertools import islice
from typing import NoReturn

from tests.crash.check import problems
from tests.crash.replay import Call, State, states, write
from tests.crash.workload import History

AT_ONCE = 25
"""States that one child checks."""
_LENGTH = struct.Struct("<I")

Check = Callable[[str, History, int], list[str]]


def find_problems(
    calls: list[Call], history: History, count: int, seed: int, place: str, *, first: int = 0, most: int = 5
) -> list[str]:
    """Check ``count`` states in directory ``place``; returns the first ``most`` findings."""
    found: list[str] = []
    source = states(calls, count, seed, first=first)
    while group := list(islice(source, AT_ONCE)):
        while group and len(found) < most:
            answers, ending = _in_child(group, history, place)
            for state, answer in zip(group, answers, strict=False):
                found += [_named(state, seed, problem) for problem in answer.splitlines()]
            if len(answers) == len(group):
                break
            found.append(_named(group[len(answers)], seed, f"the reader ended with {ending}"))
            group = group[len(answers) + 1 :]
        if len(found) >= most:
            break
    return found[:most]


def _named(state: State, seed: int, problem: str) -> str:
    kind = "power cut" if state.power_cut else "kill"
    return f"seed {seed} state {state.number}: {kind} at call {state.place}: {problem}"


def _in_child(group: list[State], history: History, place: str) -> tuple[list[str], str]:
    """Return one text for each state, empty if it is sound, as far as the child came; and how it ended.

    What it says on its standard error, where a signal leaves its traces, belongs to its end and to no terminal.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            _child(group, history, place, writing, said.fileno())
        os.close(writing)
        raw = b""
        while piece := os.read(reading, 1 << 16):
            raw += piece
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        text = said.read().decode(errors="replace").strip().replace("\n", " | ")[:2000]
    answers = []
    while raw:
        (length,) = _LENGTH.unpack_from(raw)
        answers.append(raw[_LENGTH.size : _LENGTH.size + length].decode())
        raw = raw[_LENGTH.size + length :]
    return answers, f"status {status}: {text}"


def _child(group: list[State], history: History, place: str, writing: int, said: int) -> NoReturn:
    status = 1
    try:
        os.dup2(said, 2)
        # Else it is pytest's, which writes to the terminal whatever standard error is.
        faulthandler.enable(2)
        for state in group:
            text = _check(state, history, place).encode()[:60_000]
            os.write(writing, _LENGTH.pack(len(text)) + text)
        status = 0
    finally:
        os._exit(status)


def _check(state: State, history: History, place: str) -> str:
    write(state, place)
    try:
        return "\n".join(problems(os.path.join(place, "data"), history, state.time_ns, power_cut=state.power_cut))
    except BaseException:  # noqa: BLE001 - whatever it is, the state could not be opened, and the parent says so
        return traceback.format_exc().strip().replace("\n", " | ")[-2000:]
    finally:
        shutil.rmtree(place, ignore_errors=True)
