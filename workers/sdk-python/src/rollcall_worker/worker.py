"""A worker: its name and offers, and the two ways to meet a server."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from rollcall_worker.certificates import Certificates
from rollcall_worker.dial import Backoff, Dialler
from rollcall_worker.frames import MAX_MESSAGE, to_json
from rollcall_worker.hub import Hub
from rollcall_worker.ledger import MAX_SLOTS
from rollcall_worker.program import run_program
from rollcall_worker.run import Handler
from rollcall_worker.serve import Listener
from rollcall_worker.token import Token

WORKER_NAME: Final = "ROLLCALL_WORKER_NAME"
"""The environment's name for the worker's name, which a server sets for those that it launches."""

MAX_SCHEMA: Final = 64 * 1024
"""The longest JSON Schema that a server takes, in bytes."""

MAX_NAME: Final = 128
"""The longest name of a capability, in characters."""

H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Offer:
    """One thing that a worker can be asked for, and the code behind it."""

    name: str
    handler: Handler
    description: str | None
    schema: Mapping[str, Any] | None
    idempotent: bool

    def covers(self, asked: str) -> bool:
        """Tell whether it covers what is asked."""
        return asked.startswith(self.name[:-1]) if self.name.endswith("*") else self.name == asked

    def form(self) -> dict[str, Any]:
        """Return it as ``register`` lists it."""
        form: dict[str, Any] = {"name": self.name, "idempotent": self.idempotent}
        if self.description is not None:
            form["description"] = self.description
        if self.schema is not None:
            form["input_schema"] = self.schema
        return form


@dataclass
class About:
    """What a worker is."""

    kind: str
    name: str
    version: str
    slots: int | None
    labels: dict[str, str]
    pool: str | None
    isolation: str | None
    max_message: int
    stop_grace: float
    shutdown_grace: float
    sessions: Callable[[], Iterable[str]] | None
    session_ended: Callable[[str], object] | None
    offers: list[Offer] = field(default_factory=list)

    def offer(self, asked: str) -> Offer | None:
        """Return the offer that covers what is asked: of several, the first."""
        return next((offer for offer in self.offers if offer.covers(asked)), None)


class Worker:
    """A worker, to be given capabilities and then to meet a server.

    ``kind`` and ``version`` are shown to people. ``name`` is that in the server's configuration; by
    default ``ROLLCALL_WORKER_NAME``, else none, which is enough for a worker that is dialled.
    ``slots`` bounds the tasks at once (1 to 1024); by default the server says. ``labels`` are what
    placement matches, ``isolation`` (``full``, ``no-cgroup``, ``none``) tells how tool code is
    isolated. ``max_message`` bounds one message in bytes, in and out; a result that is larger fails
    with ``output_too_large``. A handler that was told to stop is reminded after each ``stop_grace``
    seconds; running tasks may go on for ``shutdown_grace`` seconds after the worker was told to stop.

    A worker that keeps state under the names of sessions tells with ``sessions``, called at each
    connection, which ones it has: those go on with a server that was started anew. ``session_ended`` is
    called with the name of one that nobody will name again. Neither may wait.
    """

    def __init__(
        self,
        kind: str,
        *,
        version: str = "",
        name: str | None = None,
        slots: int | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        isolation: str | None = None,
        max_message: int = MAX_MESSAGE,
        stop_grace: float = 5.0,
        shutdown_grace: float = 30.0,
        sessions: Callable[[], Iterable[str]] | None = None,
        session_ended: Callable[[str], object] | None = None,
    ) -> None:
        self._about = About(
            kind=kind,
            name=os.environ.get(WORKER_NAME, "") if name is None else name,
            version=version,
            slots=_checked_slots(slots),
            labels=dict(labels or {}),
            pool=pool,
            isolation=isolation,
            max_message=max_message,
            stop_grace=stop_grace,
            shutdown_grace=shutdown_grace,
            sessions=sessions,
            session_ended=session_ended,
        )
        self._hub: Hub | None = None

    def capability(
        self,
        name: str,
        *,
        schema: Mapping[str, Any] | None = None,
        description: str | None = None,
        idempotent: bool = False,
    ) -> Callable[[H], H]:
        """Offer a capability; the decorated function runs its tasks.

        The function takes a `Task` and returns any JSON. An ``async`` function runs on the event
        loop and is cancelled at its ``await``; a plain one runs in a thread and asks `Task.check`. It
        raises `TaskError` for what went wrong; any other exception counts as the worker's fault.

        ``name`` may end in ``*``; of two that cover a task, the first one runs it. ``schema`` says by
        a JSON Schema what the input looks like (at most 64 KiB). ``description`` is a sentence for
        people and agents, by default the first paragraph of the function's docstring. ``idempotent``
        says that an attempt that was lost may be run again without harm.
        """
        if _NAME.fullmatch(name) is None or len(name) > MAX_NAME:
            raise ValueError(
                f"{name!r} is no capability: words of a-z, 0-9, _ and -, such as text.shout or text.*"
            )
        if any(offer.name == name for offer in self._about.offers):
            raise ValueError(f"{name!r} is offered twice")
        if schema is not None and len(to_json(schema)) > MAX_SCHEMA:
            raise ValueError(f"the schema of {name!r} is longer than {MAX_SCHEMA} bytes")

        def offer(handler: H) -> H:
            told = description if description is not None else _first_paragraph(handler)
            self._about.offers.append(Offer(name, handler, told, schema, idempotent))
            return handler

        return offer

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: Token | None = None,
        stop: asyncio.Event | None = None,
        cut: asyncio.Event | None = None,
        listening: Callable[[str], None] | None = None,
        metrics: Callable[[], str] | None = None,
        tls: Certificates | None = None,
    ) -> None:
        """Serve a port that a server dials, with ``/healthz`` on the same port, until ``stop`` is set.

        Then it says goodbye, lets running tasks finish for the grace, and returns. Connections that
        break are waited for anew; tasks go on meanwhile. When ``cut`` is set, tasks are told to stop
        at once. ``listening`` is called with the address, for whoever asked for port 0; ``metrics``
        returns the page at ``/metrics``, in the Prometheus text format. With ``tls`` the port speaks TLS.

        Raises `ValueError` when it would listen off loopback without a token or a file of ``tls`` is
        wrong, `OSError` when it cannot.
        """
        hub = self._hub = Hub(self._about)
        listener = Listener(hub, token, metrics, tls)
        await hub.until_left(
            lambda close: listener.listen(host, port, close, listening),
            stop or asyncio.Event(),
            cut or asyncio.Event(),
        )

    async def connect(
        self,
        url: str,
        *,
        token: Token | None = None,
        stop: asyncio.Event | None = None,
        cut: asyncio.Event | None = None,
        initial_backoff: float = 0.1,
        max_backoff: float = 30.0,
        connect_timeout: float = 10.0,
        tls: ssl.SSLContext | Certificates | None = None,
    ) -> None:
        """Dial in to a server (``wss://`` or ``ws://host:port``; the path may be left out) until ``stop``.

        Again and again, with exponential backoff and full jitter between the two bounds (seconds);
        then as `serve`. A server that refuses is dialled again. Raises `ValueError` when the URL is not
        one that can be dialled, or is off loopback and there is no token, or a file of ``tls`` is wrong.
        `Certificates` are read anew for each connection.
        """
        hub = self._hub = Hub(self._about)
        dialler = Dialler(
            hub,
            url,
            token=token,
            backoff=Backoff(initial_backoff, max_backoff),
            connect_timeout=connect_timeout,
            tls=tls,
        )
        await hub.until_left(dialler.dial, stop or asyncio.Event(), cut or asyncio.Event())

    def main(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Run as a program, with ``--listen ADDR`` or ``--connect URL``, and the rest that ``--help`` tells.

        SIGTERM and SIGINT stop it cleanly; so does the end of the server that launched it.
        """
        run_program(self, argv)

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return 0 if self._hub is None else self._hub.running

    @property
    def kind(self) -> str:
        """The kind of worker."""
        return self._about.kind

    def rename(self, name: str) -> None:
        """Name it as in the server's configuration."""
        self._about.name = name

    def bound(self, slots: int) -> None:
        """Bound the tasks at once."""
        self._about.slots = _checked_slots(slots)


# As in the server's configuration.
_NAME = re.compile(r"\*|[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*(\.\*)?")


def _checked_slots(slots: int | None) -> int | None:
    if slots is not None and not 1 <= slots <= MAX_SLOTS:
        raise ValueError(f"slots are 1 to {MAX_SLOTS}, not {slots}")
    return slots


def _first_paragraph(handler: Handler) -> str | None:
    text = inspect.getdoc(handler) if inspect.isroutine(handler) else None
    return " ".join(text.split("\n\n", 1)[0].split()) if text else None
