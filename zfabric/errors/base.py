"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar, Final

Value = str | int | float | None
OWN_CODE_MIN: Final = 1_000
OWN_CODE_MAX: Final = (1 << 31) - 1
OWN: Final[dict[int, type[ZFabricError]]] = {}
"""Errors of applications, by code."""
_OURS: Final = "zfabric.errors"


class ZFabricError(Exception):
    """The root of all errors of this package, and of those of applications that handlers of services raise.

    A subclass of an application has a ``code`` of 1,000 to 2,147,483,647, and a ``template`` of its text that names its
    values; they are text, numbers or None. A caller that has defined it, too, gets it as itself::

        class OutOfStock(zfabric.ZFabricError):
            code = 1_001
            template = "{count} of {item!r} are left"


        raise OutOfStock(item="hat", count=0)

    Attributes:
        code: stable number of the class on the wire.
        retriable: whether the same call may succeed later by itself.
        values: the attributes as one dict, for logs and for ``--json``.
    """

    code: ClassVar[int] = 1
    retriable: ClassVar[bool] = False
    template: ClassVar[str] = "{message}"
    defaults: ClassVar[dict[str, Value]] = {}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        code = cls.__dict__.get("code")
        if code is None or cls.__module__.startswith(_OURS):
            return
        known = OWN.get(code) if isinstance(code, int) else None
        is_other = known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__)
        if is_other or type(code) is not int or not OWN_CODE_MIN <= code <= OWN_CODE_MAX:
            from zfabric.errors.calls import InvalidArgument

            allowed = f"an integer from {OWN_CODE_MIN:,} to {OWN_CODE_MAX:,} that no other error has"
            raise InvalidArgument(name=f"code of {cls.__qualname__}", value=repr(code)[:100], allowed=allowed)
        OWN[code] = cls

    def __init__(self, **values: Value) -> None:
        self.values: dict[str, Value] = {**self.defaults, **values}
        self.__dict__.update(self.values)
        phrases = {"counted": _counted(values.get("records")), "whose": _whose(values.get("origin"))}
        super().__init__(self.template.format_map(self.values | phrases))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.values)


def _counted(records: Value) -> str:
    return "1 record" if records == 1 else f"{records:,} records" if isinstance(records, int) else ""


def _whose(origin: Value) -> str:
    return f" of origin {origin}" if origin else ""


def _rebuild(kind: type[ZFabricError], values: dict[str, Value]) -> ZFabricError:
    return kind(**values)
