"""The server's side of a worker's connection, played by a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from rollcall_worker import Token, Worker

PATIENCE = 20.0
"""How long anything may take, in seconds. Only a failing test waits so long."""

LONG_MS = 3_600_000
"""A deadline that no test reaches."""

PROTOCOL = [Subprotocol("rollcall.v1")]

T = TypeVar("T")


async def within(what: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    return await asyncio.wait_for(what, PATIENCE)


def attempt(epoch: int) -> dict[str, Any]:
    return {"task": f"task-{epoch}", "epoch": epoch}


class Server:
    """A server on one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await within(self.connection.send(json.dumps({"type": kind} | fields)))

    async def welcome(self, connection: int = 1, **change: Any) -> None:
        answer: dict[str, Any] = {
            "name": "ann",
            "connection": connection,
            "slots": 64,
            "heartbeat_interval_ms": 30_000,
            "lease_ms": 120_000,
            "store_id": "s",
            "features": ["cancel", "resume", "output", "artifacts"],
            "keep": [],
            "resend": [],
            "drop": [],
        }
        await self.say("registered", **(answer | change))

    async def execute(
        self, epoch: int, capability: str, *, connection: int = 1, deadline_ms: int = LONG_MS, **more: Any
    ) -> None:
        fields = attempt(epoch) | {"connection": connection, "attempt": 1, "capability": capability}
        await self.say("execute", **fields, deadline_ms=deadline_ms, **({"input": epoch} | more))

    async def cancel(self, epoch: int, reason: str = "cancelled") -> None:
        await self.say("cancel", **attempt(epoch), reason=reason)

    async def acknowledge(self, epoch: int) -> None:
        await self.say("result_ack", **attempt(epoch), accepted=True)

    async def any(self) -> dict[str, Any] | bytes:
        """The next message."""
        message = await within(self.connection.recv())
        return message if isinstance(message, bytes) else json.loads(message)

    async def frame(self, kind: str) -> dict[str, Any]:
        """The next frame but heartbeats, which must be of this type."""
        while True:
            frame = await self.any()
            assert isinstance(frame, dict), f"{kind} was awaited, not bytes"
            if frame["type"] == kind:
                return frame
            assert frame["type"] == "heartbeat", f"{kind} was awaited, not {frame}"

    async def result(self) -> dict[str, Any]:
        """The next result; what comes before it is skipped."""
        while True:
            frame = await self.any()
            if isinstance(frame, dict) and frame["type"] == "result":
                return frame

    async def closed(self) -> tuple[int, str] | None:
        """Wait for the end; tell the worker's close code and word."""
        while True:
            try:
                await self.any()
            except ConnectionClosed as closed:
                return None if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)

    def cut(self) -> None:
        """End the connection without a word."""
        self.connection.transport.abort()


class Serving:
    """A worker that listens."""

    def __init__(
        self, address: str, done: asyncio.Task[None], stop: asyncio.Event, cut: asyncio.Event
    ) -> None:
        self.address, self.done, self.stop, self.lifeline = address, done, stop, cut

    async def connect(self) -> tuple[Server, dict[str, Any]]:
        """Connect and read ``register``."""

        async def one() -> Connection:
            while True:
                try:
                    return await connect(
                        f"ws://{self.address}", subprotocols=PROTOCOL, ping_interval=None, proxy=None
                    )
                except InvalidStatus as refusal:
                    # It has not noticed the end of the last connection yet.
                    assert refusal.response.status_code == 409
                    await asyncio.sleep(0.002)

        server = Server(await within(one()))
        return server, await server.frame("register")

    async def registered(self, connection: int = 1, **change: Any) -> Server:
        server, _ = await self.connect()
        await server.welcome(connection, **change)
        return server

    async def get(self, head: str) -> tuple[int, str]:
        """The status and the body of the answer to a request."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        answer = (await within(reader.read())).decode()
        writer.close()
        top, _, body = answer.partition("\r\n\r\n")
        return int(top.split(" ")[1]), body


@contextlib.asynccontextmanager
async def serving(worker: Worker, **options: Any) -> AsyncIterator[Serving]:
    """Let a worker listen, until the end of the block."""
    stop, cut = asyncio.Event(), asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done = asyncio.create_task(worker.serve(stop=stop, cut=cut, listening=address.set_result, **options))
    try:
        yield Serving(await within(address), done, stop, cut)
    finally:
        cut.set()
        await within(done)


class Waiting:
    """A server that workers dial."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Server] = asyncio.Queue()
        self.headers: list[Any] = []
        self.url = ""

    async def registered(self, connection: int = 1, **change: Any) -> tuple[Server, dict[str, Any]]:
        server = await within(self.came.get())
        register = await server.frame("register")
        await server.welcome(connection, **change)
        return server, register


@contextlib.asynccontextmanager
async def waiting() -> AsyncIterator[Waiting]:
    """Play a server that listens, until the end of the block."""
    here = Waiting()

    async def take(connection: ServerConnection) -> None:
        assert connection.request is not None
        here.headers.append(connection.request)
        here.came.put_nowait(Server(connection))
        await connection.wait_closed()

    async with serve(take, "127.0.0.1", 0, subprotocols=PROTOCOL, ping_interval=None) as server:
        here.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield here


@contextlib.asynccontextmanager
async def dialling(worker: Worker, url: str, **options: Any) -> AsyncIterator[asyncio.Event]:
    """Let a worker dial in, until the end of the block."""
    stop, cut = asyncio.Event(), asyncio.Event()
    options = {"initial_backoff": 0.001, "max_backoff": 0.01} | options
    done = asyncio.create_task(worker.connect(url, stop=stop, cut=cut, **options))
    try:
        yield stop
    finally:
        cut.set()
        await within(done)


SECRET = Token("s3cret")
