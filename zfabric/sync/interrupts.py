"""Ctrl-C, held back while anything is half done.

Python runs the handler of a signal between any two instructions of the main thread, so KeyboardInterrupt could strike
while a batch gets its sequences, or between taking records and returning them. So while a fabric is open and SIGINT
has Python's own handler, ours is in its place. It raises the same, but not *inside*: there it only notes the signal.

Inside is where the first frame of this package that one meets, going outwards, belongs to the client. What it calls of
others is inside too, except an iterable that is being sent, a callback and a middleware: those are the user's, and may
take long.

Who gets the noted signal is decided by who takes it out of ``held``: the waiting caller, who then raises at a point
where nothing is half done (``Pump._drive``), or a thread that looks at the main thread once a millisecond, and sends
the signal again when it is outside. So a call that does not wait is finished first, and loses nothing.

A handler of the application's own is left alone; it may ask :func:`hold` what to do, as the command line's does.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import signal
import threading
import time
import weakref
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zfabric.sync.pump import Pump

_SIGINT: Final = int(signal.SIGINT)
_PYTHONS: Final = signal.default_int_handler
_handler: Final = _signal.getsignal  # Not signal.getsignal, which looks up two enums: 3 us, in each wait.
_PAUSE_S: Final = 0.001
_PATIENCE_S: Final = 5.0
"""After this the signal strikes wherever the main thread is: nothing inside takes so long, so it hangs."""
_OURS: Final = ("zfabric.sync.", "zfabric.core.", "zfabric.net.", "zfabric.wire.")
_CALLS_OUT: Final = frozenset({"send_many", "_send_keyed", "<genexpr>", "run_callbacks", "_through"})
_WAITS: Final = ("zfabric.store.directory", "attach_client")
"""Waits for a leader that ends, with nothing in its hands."""

held: list[int] = []
"""The signal that is noted, if one is."""
_patience: list[float] = []
"""Until when its striking is put off (monotonic s)."""
_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


def guard(pump: Pump) -> None:
    """Let Ctrl-C wake this pump, and take over SIGINT if it has Python's own handler; only the main thread can."""
    _pumps.add(pump)
    take_over()


def take_over() -> None:
    """The same again: whoever runs cells (Jupyter) sets Python's handler anew for each."""
    if _handler(_SIGINT) is _PYTHONS and _is_main():
        signal.signal(signal.SIGINT, _interrupt)


def release(pump: Pump) -> None:
    """The pump is closed; after the last one SIGINT has Python's handler again."""
    _pumps.discard(pump)
    if not _pumps and _is_main() and signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hold(number: int, frame: FrameType | None) -> bool:
    """For a handler that wants to raise: tell whether it must not now, and is called again as soon as it may."""
    now = time.monotonic()
    if not _patience:
        _patience.append(now + _PATIENCE_S)
    if not _inside(frame) or now > _patience[0]:
        _patience.clear()
        held.clear()
        return False
    if not held:
        held.append(number)
        # Not threading.Thread: its locks may be those that this signal interrupted.
        _thread.start_new_thread(_send_again, ())
    return True


def deliver() -> None:
    """Call the handler of a signal that is noted, which raises; for the main thread, with nothing half done."""
    if not held or not _is_main():
        return
    with suppress(IndexError):  # The other thread took it just now: it comes again.
        number = held.pop()
        _patience.clear()
        handler = signal.getsignal(number)
        if callable(handler):
            handler(number, None)


def _is_main() -> bool:
    return _thread.get_ident() == threading.main_thread().ident


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not hold(number, frame):
        raise KeyboardInterrupt


def _inside(frame: FrameType | None) -> bool:
    if frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) == _WAITS:
        return False
    foreign = False
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_OURS):
            return not (foreign and frame.f_code.co_name in _CALLS_OUT)
        foreign = True
        frame = frame.f_back
    return False


def _send_again() -> None:
    """Wake whoever waits inside; if nobody took the signal then, send it once more, to where the main thread is now."""
    time.sleep(_PAUSE_S)
    for pump in tuple(_pumps):
        pump.nudge()
    with suppress(IndexError):
        number, main = held.pop(), threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)
