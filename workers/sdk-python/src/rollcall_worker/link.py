"""One connection to a server, from ``register`` to its end."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from dataclasses import dataclass, replace
from typing import Any, Final

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.typing import Subprotocol

from rollcall_worker.frames import (
    SUBPROTOCOL,
    BadFrameError,
    Cancel,
    Complaint,
    Credit,
    Drain,
    EndSession,
    Execute,
    FromServer,
    Goodbye,
    Heartbeat,
    Registered,
    ResultAck,
    UnknownTypeError,
    Unreadable,
    decode,
)
from rollcall_worker.hub import Hub
from rollcall_worker.timing import within

log = logging.getLogger("rollcall_worker")

ANSWER: Final = 10.0
"""Seconds that the server may take to answer ``register``."""

CLOSING: Final = 2.0
"""Seconds that the last frames may take, and the closing handshake."""

NOT_SENT: Final = 64 * 1024
"""Unsent bytes that the kernel takes at most: more, and a result stands behind megabytes of output."""


def socket_options(max_message: int) -> dict[str, Any]:
    """Return how both ways to meet a server open their WebSocket."""
    return {
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "max_size": max_message,
        "compression": None,
        # A library's ping would go on while the program hangs: heartbeats are the sign of life.
        "ping_interval": None,
        "close_timeout": CLOSING,
        "write_limit": NOT_SENT,
        "logger": _quiet,
    }


@dataclass(frozen=True)
class LinkEnd:
    """How a connection ended."""

    why: str
    code: int | None = None
    """The code to close it with; ``None``: it is closed, or broken."""
    word: str = ""
    """The reason to close it with."""
    retry_after: float | None = None
    """Seconds after which the server wants to be dialled again."""
    held: bool = False
    """Whether it held for a heartbeat interval."""


async def carry(hub: Hub, connection: Connection, close: asyncio.Event) -> LinkEnd:
    """Carry one connection until it ends or ``close`` is set."""
    link = _Link(hub, connection)
    try:
        end = await link.run(close)
    except Exception:
        # One connection is lost by it, not the worker: the next one reconciles.
        log.exception("the connection failed; this is a bug in rollcall_worker")
        connection.transport.abort()
        end = LinkEnd("the connection failed")
    finally:
        hub.link_ended()
    log.info("disconnected: %s", end.why)
    return end


class _Link:
    def __init__(self, hub: Hub, connection: Connection) -> None:
        self._hub, self._connection = hub, connection
        self._clock = asyncio.get_running_loop().time
        # Known from `registered` on.
        self._interval: float | None = None
        self._registered_at = 0.0
        self._heartbeat_due = 0.0
        self._silent_at = self._clock() + ANSWER
        self._retry_after: float | None = None
        # Rung when the times above change.
        self._rearmed = asyncio.Event()

    async def run(self, close: asyncio.Event) -> LinkEnd:
        _tune(self._connection)
        parts = [self._read(), self._write(), self._pulse(), _stopped(close)]
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await self._connection.send(self._hub.register(), text=True)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            end = next(task.result() for task in tasks if task.done())
        except ConnectionClosed as closed:
            end = self._closed(closed)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if end.code is not None:
            await self._finish(end.code, end.word)
        held = self._interval is not None and self._clock() - self._registered_at >= self._interval
        return replace(end, retry_after=self._retry_after, held=held)

    async def _read(self) -> LinkEnd:
        while True:
            try:
                message = await self._connection.recv()
            except ConnectionClosed as closed:
                return self._closed(closed)
            self._heard()
            if isinstance(message, bytes):
                log.debug("ignored a binary frame")
                continue
            try:
                self._act(decode(message))
            except UnknownTypeError as problem:
                self._complain("unknown_type", problem)
            except BadFrameError as problem:
                self._complain("bad_frame", problem)
                return LinkEnd("the server broke the protocol", 1007, "bad_frame")

    async def _write(self) -> LinkEnd:
        try:
            while True:
                await self._hub.wait_for_frames()
                while (frame := self._hub.next_frame()) is not None:
                    await self._send(frame)
        except ConnectionClosed as closed:
            return self._closed(closed)

    async def _pulse(self) -> LinkEnd:
        """Send heartbeats by the worker's own timer, and watch for the server's silence."""
        try:
            while True:
                now = self._clock()
                if now >= self._silent_at:
                    return LinkEnd("the server is silent", 1008, "heartbeat_timeout")
                due = self._silent_at
                if self._interval is not None:
                    if now >= self._heartbeat_due:
                        self._heartbeat_due = now + self._interval
                        await self._beat(self._interval)
                    due = min(due, self._heartbeat_due)
                self._rearmed.clear()
                await within(max(due - self._clock(), 0.0), self._rearmed.wait())
        except ConnectionClosed as closed:
            return self._closed(closed)

    async def _beat(self, most: float) -> None:
        # A server that does not read has more urgent things than this; its silence is watched.
        if not await within(most, self._connection.send(self._hub.heartbeat(), text=True)):
            log.debug("a heartbeat waits for a slow connection")

    def _act(self, frame: FromServer) -> None:
        match frame:
            case Registered():
                self._registered(frame)
            case Execute():
                self._hub.execute(frame)
            case Unreadable():
                self._hub.unreadable(frame)
            case Cancel():
                self._hub.cancel(frame)
            case EndSession(session=session):
                self._hub.end_session(session)
            case ResultAck():
                self._hub.acknowledged(frame)
            case Credit():
                self._hub.credit(frame)
            case Heartbeat():
                pass
            case Drain(reason=reason):
                # The server alone decides what it sends; one that sends work again has ended the drain.
                log.info("the server drains this worker: %s", reason)
            case Goodbye(reason=reason, retry_after=retry_after):
                self._retry_after = retry_after
                log.info("the server says goodbye: %s", reason)
            case Complaint(code=code, message=message):
                log.warning("the server complains: %s: %s", code, message)

    def _registered(self, answer: Registered) -> None:
        log.info(
            "registered as %s: connection %d, %d slots, %d attempts kept, %d dropped",
            answer.name or self._hub.about.kind,
            answer.connection,
            answer.slots,
            len(answer.keep),
            len(answer.drop),
        )
        self._interval, self._registered_at = answer.interval, self._clock()
        # A phase of its own, or a thousand workers that come back together would send their
        # heartbeats together for ever.
        self._heartbeat_due = self._clock() + random.random() * answer.interval  # noqa: S311
        self._heard()
        self._rearmed.set()
        self._hub.registered(answer)

    def _heard(self) -> None:
        if self._interval is not None:
            self._silent_at = self._clock() + 2.5 * self._interval

    def _complain(self, code: str, problem: Exception) -> None:
        log.warning("cannot read a frame of the server: %s", problem)
        self._hub.complain(code, str(problem))

    def _closed(self, closed: ConnectionClosed) -> LinkEnd:
        if isinstance(closed, ConnectionClosedOK) or closed.rcvd is not None:
            reason = closed.rcvd.reason if closed.rcvd is not None else ""
            return LinkEnd(f"the server closed the connection {reason}".rstrip())
        return LinkEnd(f"the connection broke: {closed}")

    async def _finish(self, code: int, word: str) -> None:
        """Send what waits, then the close frame; a silent server is not waited for."""

        async def last() -> None:
            while (frame := self._hub.next_frame()) is not None:
                await self._send(frame)
            await self._connection.close(code, word)

        try:
            told = await within(CLOSING, last())
        except ConnectionClosed:
            # The other side is gone already; there is nobody to tell.
            told = False
        if not told:
            self._connection.transport.abort()

    async def _send(self, frame: tuple[bytes, bool]) -> None:
        data, is_text = frame
        await self._connection.send(data, text=is_text)


async def _stopped(close: asyncio.Event) -> LinkEnd:
    await close.wait()
    return LinkEnd("the worker stops", 1001, "worker_shutdown")


def _tune(connection: Connection) -> None:
    plain = connection.transport.get_extra_info("socket")
    if plain is None:
        return
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)


# Its tracebacks about port scanners and servers that are away say nothing that is not logged here.
_quiet = logging.getLogger("rollcall_worker.websockets")
_quiet.setLevel(logging.CRITICAL)
