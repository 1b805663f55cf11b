"""A worker that listens: a server dials it.

One port for the link, ``/healthz`` and ``/metrics``; one controller at a time, with the token, and
never a web page.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.protocol import State

from rollcall_worker.certificates import Certificates
from rollcall_worker.frames import SUBPROTOCOL
from rollcall_worker.hub import Hub
from rollcall_worker.link import carry, socket_options
from rollcall_worker.timing import within
from rollcall_worker.token import Token

log = logging.getLogger("rollcall_worker")

LOOK: Final = 2.0
"""Seconds between looks at the files of the certificate."""

HANDSHAKE: Final = 10.0
"""Seconds that a connection may take until it is the link."""


class Listener:
    """A port, and whoever holds the link on it."""

    def __init__(
        self, hub: Hub, token: Token | None, metrics: Callable[[], str] | None, tls: Certificates | None
    ) -> None:
        self._hub, self._token, self._metrics, self._tls = hub, token, metrics, tls
        # Who has the seat, and whether no link has begun or the last one has ended.
        self._holder: ServerConnection | None = None
        self._unlinked = asyncio.Event()
        self._unlinked.set()

    async def listen(
        self, host: str, port: int, close: asyncio.Event, listening: Callable[[str], None] | None
    ) -> None:
        """Serve until ``close``."""
        if self._token is None and not is_loopback(host):
            raise ValueError(f"a worker that listens on {host}, off loopback, needs a token")

        async def link(connection: ServerConnection) -> None:
            if self._holder is not connection:
                # It left at once, and another one has the seat.
                return
            self._unlinked.clear()
            log.info("a server connected from %s", connection.remote_address)
            try:
                await carry(self._hub, connection, close)
            finally:
                self._holder = None
                self._unlinked.set()

        options = socket_options(self._hub.about.max_message)
        if self._tls is not None:
            options["ssl"] = self._tls.server()
        async with serve(
            link,
            host,
            port,
            process_request=self._answer,
            process_response=self._take_seat,
            server_header=None,
            open_timeout=HANDSHAKE,
            **options,
        ) as server:
            address = _address(server)
            log.info("listening on %s", address)
            if listening is not None:
                listening(address)
            await self._until(close, options.get("ssl"))
            # The link says its last words first; the end of the server would cut them off.
            await self._unlinked.wait()

    async def _until(self, close: asyncio.Event, context: ssl.SSLContext | None) -> None:
        """Wait for ``close``, and follow the files of the certificate meanwhile."""
        tls = self._tls
        if tls is None or context is None:
            await close.wait()
            return
        seen = tls.stamp()
        while not close.is_set():
            await within(LOOK, close.wait())
            if (now := tls.stamp()) == seen:
                continue
            seen = now
            try:
                tls.renew(context)
                log.info("new certificates are in force")
            except ValueError as problem:
                log.warning("certificates were changed and not taken, the old ones stay: %s", problem)

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        headers = request.headers
        # Browsers send it, servers do not: a page must not drive a worker on the reader's machine.
        if "Origin" in headers:
            return connection.respond(HTTPStatus.FORBIDDEN, "requests with an Origin are refused\n")
        if "Upgrade" in headers:
            shown = headers.get_all("Authorization")
            if self._token is not None and not (len(shown) == 1 and self._token.is_shown_by(shown[0])):
                return connection.respond(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
            offered = ",".join(headers.get_all("Sec-WebSocket-Protocol")).split(",")
            if SUBPROTOCOL not in (name.strip() for name in offered):
                text = f"the subprotocol here is {SUBPROTOCOL}\n"
                return connection.respond(HTTPStatus.UPGRADE_REQUIRED, text)
            return None
        match request.path.partition("?")[0], self._metrics:
            case "/healthz", _:
                connected = "true" if self._hub.is_up else "false"
                text = f'{{"status":"ok","connected":{connected},"running":{self._hub.running}}}\n'
                return _typed(connection, "application/json", text)
            case "/metrics", metrics if metrics is not None:
                return _typed(connection, "text/plain; version=0.0.4; charset=utf-8", metrics())
        return connection.respond(HTTPStatus.NOT_FOUND, "a Rollcall worker: a WebSocket and /healthz\n")

    def _take_seat(
        self, connection: ServerConnection, _request: Request, response: Response
    ) -> Response | None:
        """Take the one controller, once its handshake is good."""
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return None
        # A link ends itself after 2.5 silent heartbeat intervals, so a dead server's seat gets free;
        # so does that of one which left before its link began.
        taken = self._holder is not None and self._holder.state is not State.CLOSED
        if taken or not self._unlinked.is_set():
            return connection.respond(HTTPStatus.CONFLICT, "another server is connected\n")
        self._holder = connection
        return None


def is_loopback(host: str) -> bool:
    """Tell whether nobody but this machine can be meant."""
    bare = host.strip("[]")
    try:
        return bare == "localhost" or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _typed(connection: ServerConnection, kind: str, text: str) -> Response:
    response = connection.respond(HTTPStatus.OK, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    return response


def _address(server: Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
