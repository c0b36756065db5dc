"""A result that is not there yet: what the core hands to a caller, and a pump waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """A value or an error to come, set once by the core; no lock, the pump has one.

    Attributes:
        done: whether it has come. callbacks: what is called then; None: nobody has asked for that.
    """

    # Of the class as long as nothing has come: to make one costs nothing then.
    done = False
    _value: T | None = None
    _error: Exception | None = None
    callbacks: list[Callable[[], None]] | None = None

    def resolve(self, value: T) -> None:
        """Set the value; later settings are ignored: the first answer counts."""
        if not self.done:
            self._value = value
            self.done = True
            if self.callbacks is not None:
                self._finish()

    def fail(self, error: Exception) -> None:
        """Set the error."""
        if not self.done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            callback()

    def result(self) -> T:
        """Return the value, or raise the error; only once :attr:`done`."""
        assert self.done, "asked for a result before it came"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    @property
    def error(self) -> Exception | None:
        """The error, if that is what came."""
        return self._error

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the result comes, or now if it has."""
        if self.done:
            callback()
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back what :meth:`on_done` was given: its caller waits no more."""
        if self.callbacks is not None and callback in self.callbacks:
            self.callbacks.remove(callback)


def gather_all(pendings: list[Pending[T]]) -> Pending[None]:
    """Return a result that comes when all have, whatever came."""
    whole: Pending[None] = Pending()
    gather(pendings).on_done(lambda: whole.resolve(None))
    return whole


def gather(pendings: list[Pending[T]]) -> Pending[list[T]]:
    """Return a result that comes when all have: the list of values, or the first error."""
    whole: Pending[list[T]] = Pending()
    left = len(pendings)

    def one() -> None:
        nonlocal left
        left -= 1
        if left:
            return
        failed = next((entry.error for entry in pendings if entry.error is not None), None)
        if failed is not None:
            whole.fail(failed)
        else:
            whole.resolve([entry.result() for entry in pendings])

    if not pendings:
        whole.resolve([])
    for entry in pendings:
        entry.on_done(one)
    return whole


def relay(source: Pending[list[None]], target: Pending[None]) -> None:
    """Let one come when another has come, with its error if it has one."""
    source.on_done(lambda: target.fail(source.error) if source.error else target.resolve(None))
