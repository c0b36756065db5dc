"""Every option of every ZeroMQ socket, each with its reason: no other module sets one.

=================  ==================  ===========================================================================
option             value               why
=================  ==================  ===========================================================================
MAXMSGSIZE         ``frame_max`` B     A frame is allocated before anybody looks at it: without a bound, one stranger
                                       fills the memory. The connection that sends a larger one is closed, no other.
                                       XPUB takes nothing but subscriptions, so its bound is 1 KiB; below about 512 B
                                       libzmq's own handshake fails.
RCVHWM, SNDHWM     messages            The queue of each connection. A full one stops the sender (DEALER, ROUTER) or
                                       loses messages for that one subscriber (XPUB).
IMMEDIATE          1                   Nothing is queued for a connection that does not exist, and what waits dies
                                       with its connection: a message can not arrive late on the next one. Without it
                                       a queue outlives its connection, and libzmq 4.3.5 aborts the process
                                       (``Assertion failed: _input_stopped``) when a connection is lost while its
                                       receive queue is full, then made again.
HEARTBEAT_IVL      1,000 ms            DEALER: idle connections are probed; a peer that answers nothing for 3 s after
HEARTBEAT_TIMEOUT  3,000 ms            that is gone: frozen, unplugged, or behind a dead link. libzmq's own thread
                                       answers, so neither a long commit nor a busy interpreter looks like death.
                                       Shorter: false alarms on a busy machine; longer: work moves later.
for keepers,       4,000 ms            Keepers and their origins are many, and can wait: a copy is late by seconds. So
listens                                can a leader: nothing hangs on a client that is gone. libzmq looks through the
                                       timers of all connections whenever one is answered, so probing 1,000 consumers
                                       each second, from both sides, took a tenth of a core.
for ROUTER         20,000 ms           The timeout of leaders: a client's answer waits behind the frame that it sends,
                                       and one of 512 KiB takes 17 s at 256 kbit/s. Whoever is cut off is noticed by
                                       TCP_MAXRT, as the probes are not acknowledged; a frozen client keeps its
                                       connection for up to 24 s.
for services' and  none                **No application probes where others can fill its queue.** libzmq 4.3.5 aborts
SUB                                    the process (``Assertion failed: !_io_error``) when it is time for a probe of a
                                       connection that has ended while that queue was full: as that of a service whose
                                       caller sent 1,000 messages at once and was killed (measured). A leader may,
                                       since nothing else tells it of frozen clients: it looks at its queue all the
                                       time, and has a supervisor (one of 282 such floods ended one, for 0.3 s). What
                                       is behind a SUB is found out by the DEALER to the same leader, and by TCP.
                                       **No option helps against a probe that is received**: the same assertion fails
                                       when one is in the last 8 KiB that were read of a connection that was reset
                                       behind a full queue. That is rare by chance, and nearly certain where it is meant
                                       (8 of 8 times), at any socket that listens. A TTL sent by clients, instead of
                                       a leader's probes, would miss most frozen ones: any message ends it.
TCP_KEEPALIVE      4 s, 3 times 1 s    Of those: whoever is cut off is noticed though nothing is sent to it, by the
                                       kernel, which needs no timers of libzmq's.
on slow links      15,000 ms           Timeout of a session whose predecessor was lost with much on its way. The kernel
                                       takes 250 to 500 KB at once: at 384 kbit/s, or 1 Mbit/s, the probe behind them
                                       takes four to five seconds.
for callers        250 / 600 ms        Heartbeats of a caller's connection to an instance: a frozen or cut off one is
                                       noticed within 0.85 s. A false alarm costs a new connection, and is told to
                                       whoever had a request there that must not be repeated. The queue holds all that
                                       the requests under way can bring, so that it is never full.
SNDBUF             128 KiB             Of the same: a probe waits behind what the kernel has taken of a body. So a
                                       request may be of any size where 128 KiB pass in 600 ms, which a reply's parts
                                       want too.
HEARTBEAT_TTL      600 ms              Of the same: an instance closes the connection of an idle caller that is frozen.
                                       Elsewhere it is not set: it is a timer more for each connection.
HANDSHAKE_IVL      3,000 ms            A peer that connects and stays silent holds a descriptor this long (30 s by
                                       default).
CONNECT_TIMEOUT    3,000 ms            An address that drops packets is given up and tried again, instead of after the
                                       kernel's two minutes.
RECONNECT_IVL      10 ms               A leader on this machine is back within tens of milliseconds.
                   50 to 200 ms        Further away, doubled up to the maximum, to spare a network that has a problem.
                   200 to 2,000 ms     Gossip: whoever is gone may stay so, and nobody waits.
TCP_MAXRT          7,000 ms            ROUTER: a client that is cut off is gone, after a probe and the usual 3 s.
                   3,000 ms            Gossip: a connection that carries nothing for so long is given up, instead of
                                       waiting for TCP's retransmissions, ever rarer, after a cut has ended.
LINGER             0, or 1,000 ms      What a client has queued is repeated by its core elsewhere, so it closes at
                                       once. A leader gives its last answers a second.
BACKLOG            1,024 connections   Many clients come back at once when a leader restarts.
ROUTER_MANDATORY   1                   A reply to a peer that has left is an error that the server counts, not silence.
ROUTER_HANDOVER    0                   The default, set all the same: with 1 a second client that claims the same
                                       routing id takes over the first one's replies.
XPUB_MANUAL        1                   A subscription takes effect only when the server approves it. It implies what
                                       XPUB_VERBOSE does: each pipe's every subscription reaches the server.
IPV6               for ``tcp://[``     Set where the address is one, as it changes how names are looked up.
BLOCKY             off                 Ending a context never waits for a peer.
MAX_SOCKETS        8,192               A session takes three (itself and both ends of its monitor); 24 bytes a slot.
=================  ==================  ===========================================================================

A monitor's receive queue has no message bound: libzmq's I/O thread writes to it and would block, with all sockets of
the context, at a full one. RECONNECT_IVL and HEARTBEAT_IVL bound what can come in: a few events for each attempt.
"""

from __future__ import annotations

import errno
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import zmq

from zfabric import errors

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

LIBZMQ_MIN: Final = (4, 3, 5)
SUBSCRIPTION_BYTES_MAX: Final = 1024
REQUESTS_QUEUED_MAX: Final = 1_000
"""Messages in each direction of a DEALER or of one ROUTER connection."""
SUBSCRIPTIONS_QUEUED_MAX: Final = 100_000
"""Subscriptions on their way from a SUB: libzmq drops what is beyond in silence, and a topic has many partitions."""
HEARTBEAT_INTERVAL_MS: Final = 1_000
HEARTBEAT_TIMEOUT_MS: Final = 3_000
HEARTBEAT_PATIENT_MS: Final = 4_000
HEARTBEAT_BUSY_MS: Final = 20_000
HEARTBEAT_SLOW_MS: Final = 15_000
CUT_OFF_MS: Final = HEARTBEAT_PATIENT_MS + HEARTBEAT_TIMEOUT_MS
ALERT_INTERVAL_MS: Final = 250
ALERT_TIMEOUT_MS: Final = 600
HANDSHAKE_MS: Final = 3_000
CALLER_SEND_BYTES: Final = 128 << 10
KEEPALIVE_S: Final = HEARTBEAT_PATIENT_MS // 1_000
KEEPALIVE_PROBES: Final = HEARTBEAT_TIMEOUT_MS // 1_000
REPLIES_QUEUED_MAX: Final = 10_000
"""Messages for one caller: its requests under way, each with all chunks that its window allows, are fewer."""
SERVER_LINGER_MS: Final = 1_000
BACKLOG: Final = 1_024
SOCKETS_MAX: Final = 8_192
RECONNECT_LOCAL_MS: Final = 10
RECONNECT_REMOTE_MS: Final = 50
RECONNECT_MAX_MS: Final = 200
RECONNECT_PATIENT_MS: Final = 200
RECONNECT_PATIENT_MAX_MS: Final = 2_000
LINK_QUEUED_MAX: Final = 100

END_S: Final = 1.0
"""Longest wait for the end of a context."""

_LOCAL: Final = ("ipc://", "inproc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]")
_monitor_numbers = itertools.count()


def check_libzmq(version: tuple[int, int, int]) -> None:
    """Raise :class:`NotSupported` for a libzmq with known remote crashes (before 4.3.5)."""
    if version < LIBZMQ_MIN:
        found, least = (".".join(map(str, numbers)) for numbers in (version, LIBZMQ_MIN))
        raise errors.NotSupported(
            what=f"libzmq {found}",
            where=f"here, {least} is",
            instead="install a pyzmq wheel of version 26.2 or newer",
        )


check_libzmq(zmq.zmq_version_info())


def context() -> Context:
    """Return a new context with one I/O thread. The caller ends it with :func:`end` or ``term()``."""
    ctx: Context = zmq.Context(io_threads=1)
    ctx.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    ctx.set(zmq.BLOCKY, 0)
    return ctx


def end(ctx: Context) -> None:
    """Close what is open in a context, and the context, dropping what waits.

    It takes a moment, unless KeyboardInterrupt once struck while pyzmq made a socket: that one is known to nobody, and
    libzmq would wait for it for ever (seen in 4 of 1,000 interrupted clients). Then the context is left behind.
    """
    ending = threading.Thread(target=ctx.destroy, kwargs={"linger": 0}, name="zfabric-end", daemon=True)
    ending.start()
    ending.join(END_S)


def patient(socket: Socket) -> None:
    """Let a socket probe its connections as seldom as one that can wait: one of thousands, or one of a keeper."""
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_PATIENT_MS)


def dealer(ctx: Context, frame_max: int) -> Socket:
    """Return an unconnected DEALER, for requests; frames received are at most ``frame_max`` bytes."""
    socket = _socket(ctx, zmq.DEALER, frame_max, receive=REQUESTS_QUEUED_MAX, send=REQUESTS_QUEUED_MAX)
    socket.set(zmq.IMMEDIATE, 1)
    return socket


def link(ctx: Context, frame_max: int) -> Socket:
    """Return an unconnected DEALER for gossip. It has no heartbeats of its own: gossip is one, and the other side's do.

    Frames received are at most ``frame_max`` bytes.
    """
    socket = _socket(ctx, zmq.DEALER, frame_max, receive=LINK_QUEUED_MAX, send=LINK_QUEUED_MAX)
    socket.set(zmq.IMMEDIATE, 1)
    socket.set(zmq.HEARTBEAT_IVL, 0)
    socket.set(zmq.TCP_MAXRT, HEARTBEAT_TIMEOUT_MS)
    return socket


def alert(socket: Socket) -> None:
    """Let a caller's socket notice within a second that the other side is gone, and the other side that it is."""
    socket.set(zmq.SNDBUF, CALLER_SEND_BYTES)
    socket.set(zmq.RCVHWM, REPLIES_QUEUED_MAX)
    socket.set(zmq.HEARTBEAT_IVL, ALERT_INTERVAL_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, ALERT_TIMEOUT_MS)
    socket.set(zmq.HEARTBEAT_TTL, ALERT_TIMEOUT_MS)


def slow(socket: Socket) -> None:
    """Let a socket wait longer for what it probes: its link is slow, and much is on its way."""
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_SLOW_MS)


def service(ctx: Context, frame_max: int) -> Socket:
    """Return an unbound ROUTER for the requests of callers, as :func:`router`."""
    socket = router(ctx, frame_max)
    socket.set(zmq.SNDHWM, REPLIES_QUEUED_MAX)
    _leave_to_tcp(socket)
    return socket


def sub(ctx: Context, frame_max: int, queue: int) -> Socket:
    """Return an unconnected SUB that keeps ``queue`` messages of at most ``frame_max`` bytes a frame."""
    socket = _socket(ctx, zmq.SUB, frame_max, receive=queue, send=SUBSCRIPTIONS_QUEUED_MAX)
    socket.set(zmq.IMMEDIATE, 1)
    _leave_to_tcp(socket)
    return socket


def router(ctx: Context, frame_max: int) -> Socket:
    """Return an unbound ROUTER; frames received are at most ``frame_max`` bytes.

    Sending to a peer that has left raises ``zmq.ZMQError`` with EHOSTUNREACH; to one whose queue is full, with
    NOBLOCK, ``zmq.Again``.
    """
    socket = _socket(ctx, zmq.ROUTER, frame_max, receive=REQUESTS_QUEUED_MAX, send=REQUESTS_QUEUED_MAX)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.ROUTER_HANDOVER, 0)
    _serve(socket)
    socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_BUSY_MS)
    socket.set(zmq.TCP_MAXRT, CUT_OFF_MS)
    return socket


def xpub(ctx: Context, frame_max: int, queue: int) -> Socket:
    r"""Return an unbound XPUB that keeps ``queue`` messages for each slow subscriber, then loses some for that one.

    Receiving gives ``b"\x01" + topic`` or ``b"\x00" + topic`` for each pipe; directly after it, before the next
    receive, :func:`approve` and :func:`withdraw` apply to the pipe that it came from. When a subscriber leaves, libzmq
    drops its approved subscriptions and reports each, approved or not, as a ``b"\x00"``.
    """
    socket = _socket(ctx, zmq.XPUB, min(frame_max, SUBSCRIPTION_BYTES_MAX), receive=REQUESTS_QUEUED_MAX, send=queue)
    socket.set(zmq.XPUB_MANUAL, 1)
    _serve(socket)
    return socket


def approve(socket: Socket, topic: bytes) -> None:
    """Let the subscription just received from an XPUB take effect; nothing happens if its pipe has gone since."""
    socket.set(zmq.SUBSCRIBE, topic)


def withdraw(socket: Socket, topic: bytes) -> None:
    r"""End an approved subscription after its pipe's ``b"\x00"`` was received from an XPUB."""
    socket.set(zmq.UNSUBSCRIBE, topic)


def monitor(
    ctx: Context, socket: Socket, events: int = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
) -> Socket:
    """Return a PAIR that receives when ``socket``'s connections are ready and when they are lost.

    Each message is two frames, the first of them a ``u16`` event number (one of ``events``) and a ``u32`` value, in
    native byte order. Attach it before the socket connects or is bound; end it with :func:`close_monitored`.
    """
    address = f"inproc://zfabric-monitor-{next(_monitor_numbers)}"
    socket.monitor(address, events)
    pair: Socket = ctx.socket(zmq.PAIR)
    pair.set(zmq.LINGER, 0)
    pair.set(zmq.RCVHWM, 0)
    pair.connect(address)
    return pair


def close_monitored(socket: Socket, pair: Socket) -> None:
    """Close a socket and its :func:`monitor`, dropping what waits in them.

    The monitor is stopped first: libzmq's I/O thread blocks for ever, and with it every socket of the context, when it
    has an event to tell and the receiving side is gone (seen: a leader killed while its subscribers were closing).
    """
    stop_monitored(socket)
    pair.close(linger=0)


def stop_monitored(socket: Socket) -> None:
    """Close a socket that may have a :func:`monitor`; nothing happens if it is closed already."""
    if not socket.closed:
        socket.disable_monitor()
        socket.close(linger=0)


def connect(socket: Socket, endpoint: str, *, patient: bool = False) -> None:
    """Connect to ``endpoint`` (``tcp://host:port`` or ``ipc://path``), and again until it succeeds.

    Args:
        patient: nobody waits for it.

    Raises:
        zmq.ZMQError: the endpoint cannot be one, or descriptors have run out.
    """
    pause, most = (RECONNECT_LOCAL_MS, 0) if endpoint.startswith(_LOCAL) else (RECONNECT_REMOTE_MS, RECONNECT_MAX_MS)
    if patient:
        pause, most = RECONNECT_PATIENT_MS, RECONNECT_PATIENT_MAX_MS
    socket.set(zmq.RECONNECT_IVL, pause)
    socket.set(zmq.RECONNECT_IVL_MAX, most)
    _address_family(socket, endpoint)
    socket.connect(endpoint)


def address_of(frame: zmq.Frame) -> str:
    """Return the address from which a received frame came; "" where the transport has none."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""


def bind(socket: Socket, endpoint: str) -> str:
    """Listen on ``endpoint`` and return it as clients may use it, with the port that ``:0`` or ``:*`` became.

    Raises:
        PortInUse: the address is taken, not of this machine, or not permitted.
    """
    _address_family(socket, endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as problem:
        what = problem.strerror  # Without the endpoint again, and in libzmq's word for a name that leads nowhere.
        if problem.errno == errno.ENODEV:
            what = "no address and no interface of this machine has that name"
        raise errors.PortInUse(endpoint=endpoint, problem=what) from problem
    bound = socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(bound, bytes), "pyzmq returns addresses as bytes"
    return bound.decode()


def bind_again(make: Callable[[], Socket], endpoints: Iterable[str], patience_ns: int) -> Socket:
    """Return a new socket that listens where one was just closed, which libzmq does in its own time.

    Raises:
        PortInUse: the address is taken by another process, for longer than ``patience_ns``.
    """
    deadline = time.monotonic_ns() + patience_ns
    while True:
        socket = make()
        try:
            for endpoint in endpoints:
                bind(socket, endpoint)
            return socket
        except errors.PortInUse:
            socket.close(linger=0)
            if time.monotonic_ns() > deadline:
                raise
            time.sleep(0.01)


def raise_descriptor_limit(wanted: int) -> int:
    """Raise this process's soft limit of open descriptors towards ``wanted``; return what it is now.

    One connection takes one descriptor. libzmq spins on ``accept`` when they run out, so servers call this first and
    refuse clients well below the result.
    """
    if sys.platform == "win32":
        return wanted
    import resource  # absent on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    aim = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
    return aim


def _socket(ctx: Context, kind: int, frame_max: int, *, receive: int, send: int) -> Socket:
    socket: Socket = ctx.socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, frame_max),
        (zmq.RCVHWM, receive),
        (zmq.SNDHWM, send),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.CONNECT_TIMEOUT, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
    ):
        socket.set(option, value)
    return socket


def _leave_to_tcp(socket: Socket) -> None:
    """Send no probes: whoever is cut off is noticed by the kernel."""
    socket.set(zmq.HEARTBEAT_IVL, 0)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.set(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)


def _serve(socket: Socket) -> None:
    patient(socket)
    socket.set(zmq.LINGER, SERVER_LINGER_MS)
    socket.set(zmq.BACKLOG, BACKLOG)


def _address_family(socket: Socket, endpoint: str) -> None:
    socket.set(zmq.IPV6, 1 if endpoint.startswith("tcp://[") else 0)
