"""Logs of server processes: standard library loggers to standard error, as text or as one JSON object a line.

A line is an event name and ``key=value`` pairs. As JSON it has the fields ``time`` (UTC, ISO 8601), ``level``,
``logger``, ``pid``, ``event`` (the name alone) and ``message`` (all of it), ``traceback`` where there is one, and a
field for each pair, numbers as numbers. They are read from the format, so a value may hold anything. Nothing is logged
per record or per batch, and no payload or key ever.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from zfabric import errors


def configure(level: str, layout: str) -> None:
    """Send the package's logs to standard error.

    Args:
        level: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        layout: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if layout == "json":
        handler.setFormatter(_json_formatter())
        sys.excepthook = _log_crash
    elif layout == "text":
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"))
    else:
        raise errors.InvalidArgument(name="log_format", value=repr(layout), allowed="text, json")
    root = logging.getLogger("zfabric")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        default_time_format = "%Y-%m-%dT%H:%M:%S"
        default_msec_format = "%s.%03dZ"

        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            log_data["event"] = str(log_data["message"]).partition(" ")[0]
            return super().process_log_record(log_data)

        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            super().add_fields(log_data, record, message_dict)
            for name, value in _pairs(record):
                log_data.setdefault(name, value)

    made = Formatter(
        "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
        rename_fields={
            "asctime": "time",
            "levelname": "level",
            "name": "logger",
            "process": "pid",
            "exc_info": "traceback",
        },
        rename_fields_keep_missing=False,
    )
    made.converter = time.gmtime
    return made


_PAIR = re.compile(r"(\w+)=%[0-9.]*[a-z]")


def _pairs(record: logging.LogRecord) -> Iterator[tuple[str, int | float | str]]:
    """Yield the pairs of a record: every ``%`` of its format belongs to one."""
    names = _PAIR.findall(record.msg) if isinstance(record.msg, str) else []
    given = record.args if isinstance(record.args, tuple) else ()
    for name, value in zip(names, given, strict=False):
        yield name, value if isinstance(value, int | float | str) else str(value)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Whoever reads JSON gets the last words as JSON too."""
    logging.getLogger("zfabric").critical("crashed error=%s", kind.__name__, exc_info=(kind, error, trace))
