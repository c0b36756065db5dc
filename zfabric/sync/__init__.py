# Generated from zfabric/aio/__init__.py by tools/unasync; edit that file.
"""The synchronous SDK: a fabric, its producers and its consumers."""
