"""A messaging fabric on ZeroMQ and LMDB: durable topics, published live."""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> object:
    """Load what is seldom needed when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zfabric")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
