"""What can be said of log lines by reading the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import zfabric

PACKAGE = Path(zfabric.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}


def formats():
    """Yield (place, format) of all calls of loggers."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id in ("log", "_log", "logger"):
                for given in node.args:
                    if isinstance(given, ast.Constant) and isinstance(given.value, str) and "%" in given.value:
                        yield pytest.param(given.value, id=f"{path.relative_to(PACKAGE)}:{node.lineno}")


@pytest.mark.parametrize("text", list(formats()))
def test_every_value_of_a_log_line_belongs_to_a_name(text):
    """Logs as JSON give names and values to each other in their order: one without a name would shift all others."""
    assert len(re.findall(r"%[0-9.]*[a-z]", text)) == len(re.findall(r"\w+=%[0-9.]*[a-z]", text))


def test_there_are_log_lines_to_look_at():
    assert any("=%s" in parameter.values[0] for parameter in formats())
