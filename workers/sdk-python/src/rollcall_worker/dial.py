"""A worker that dials in, again and again: exponential backoff with full jitter.

It starts afresh only after a connection that held for a heartbeat interval.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from rollcall_worker.certificates import Certificates
from rollcall_worker.fetch import Api
from rollcall_worker.frames import CONNECT_PATH
from rollcall_worker.hub import Hub
from rollcall_worker.link import carry, socket_options
from rollcall_worker.serve import is_loopback
from rollcall_worker.timing import within
from rollcall_worker.token import Token

log = logging.getLogger("rollcall_worker")


@dataclass(frozen=True)
class Backoff:
    """The pauses between attempts to connect, in seconds."""

    initial: float
    most: float

    def bound(self, failures: int) -> float:
        """Return the upper bound of the pause after so many failures in a row."""
        # A larger exponent would be no float any more.
        return float(min(self.initial * 2 ** min(failures, 64), self.most))


class _Connect(connect):
    """Opens one connection. A redirect is a failure: the token is for whom the operator named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Dialler:
    """A server to dial."""

    def __init__(
        self,
        hub: Hub,
        url: str,
        *,
        token: Token | None,
        backoff: Backoff,
        connect_timeout: float,
        tls: ssl.SSLContext | Certificates | None,
    ) -> None:
        self._hub, self._backoff = hub, backoff
        self._url = whole_url(url)
        hub.api = hub.api or Api.of(self._url, token)
        host = urlsplit(self._url).hostname or ""
        if token is None and not is_loopback(host):
            raise ValueError(f"a worker that dials {host}, off loopback, needs a token")
        self._options = socket_options(hub.about.max_message) | {
            "open_timeout": connect_timeout,
            "additional_headers": {} if token is None else {"Authorization": token.bearer()},
            "proxy": None,
        }
        secure = urlsplit(self._url).scheme == "wss"
        if tls is not None and not secure:
            raise ValueError(f"{url}: certificates have no use without TLS; write wss://")
        self._tls = tls if tls is not None or not secure else Certificates()
        if isinstance(self._tls, Certificates):
            # A file that is missing at the start is a mistake; one that is missing later may come back.
            self._tls.client()

    async def dial(self, close: asyncio.Event) -> None:
        """Dial until ``close``."""
        failures = 0
        while not close.is_set():
            pause = None
            try:
                connection = await self._open(close)
            except (OSError, ValueError, WebSocketException, asyncio.TimeoutError) as problem:
                log.warning("cannot connect to %s: %s", self._url, problem or type(problem).__name__)
            else:
                if connection is None:
                    return
                end = await carry(self._hub, connection, close)
                failures, pause = 0 if end.held else failures, end.retry_after
            if pause is None:
                pause = random.random() * self._backoff.bound(failures)  # noqa: S311
            failures += 1
            await within(pause, close.wait())

    async def _open(self, close: asyncio.Event) -> ClientConnection | None:
        """Open a connection; ``None`` when the worker was to stop meanwhile."""

        async def open_one() -> ClientConnection:
            tls = self._tls.client() if isinstance(self._tls, Certificates) else self._tls
            options = self._options if tls is None else self._options | {"ssl": tls}
            return await _Connect(self._url, **options)

        opening, closing = asyncio.ensure_future(open_one()), asyncio.ensure_future(close.wait())
        try:
            await asyncio.wait({opening, closing}, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            closing.cancel()


def whole_url(url: str) -> str:
    """Complete a URL, whose path may be left out. Raises `ValueError` with what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL of the form ws://host:port or wss://host:port")
    if parts.username is not None or parts.fragment:
        raise ValueError(f"{url!r} has more than a host, a port and a path; the token is given apart")
    path = CONNECT_PATH if parts.path in ("", "/") else parts.path
    return parts._replace(path=path).geturl()
