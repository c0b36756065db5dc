"""Logs of server processes: standard library loggers to standard error, as text or as one JSON object a line.

A line is an event name and ``key=value`` pairs. Nothing is logged per record or per batch, and no payload or key ever.
"""

from __future__ import annotations

import logging
import sys

from zfabric import errors


def configure(level: str, layout: str) -> None:
    """Send the package's logs to standard error.

    Args:
        level: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        layout: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if layout == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(process)d %(message)s"))
    elif layout == "text":
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"))
    else:
        raise errors.InvalidArgument(name="log_format", value=repr(layout), allowed="text, json")
    root = logging.getLogger("zfabric")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
