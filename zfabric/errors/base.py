"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar

Value = str | int | float | None


class ZFabricError(Exception):
    """The root of all errors of this package.

    Attributes:
        code: stable number of the class on the wire.
        retriable: whether the same call may succeed later by itself.
        values: the attributes as one dict, for logs and for ``--json``.
    """

    code: ClassVar[int] = 1
    retriable: ClassVar[bool] = False
    template: ClassVar[str] = "{message}"
    defaults: ClassVar[dict[str, Value]] = {}

    def __init__(self, **values: Value) -> None:
        self.values: dict[str, Value] = {**self.defaults, **values}
        self.__dict__.update(self.values)
        super().__init__(self.template.format_map(self.values | {"counted": _counted(values.get("records"))}))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.values)


def _counted(records: Value) -> str:
    return "1 record" if records == 1 else f"{records:,} records" if isinstance(records, int) else ""


def _rebuild(kind: type[ZFabricError], values: dict[str, Value]) -> ZFabricError:
    return kind(**values)
