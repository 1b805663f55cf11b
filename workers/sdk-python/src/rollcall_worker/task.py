"""A task as its handler sees it: what is asked, and the way to speak of it while it runs."""

from __future__ import annotations

import asyncio
import codecs
import math
import threading
from collections.abc import Coroutine, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from rollcall_worker.artifact import Body, send_artifact
from rollcall_worker.errors import TaskCancelled, TaskError
from rollcall_worker.frames import AttemptKey, Execute, StoredArtifact, encode

if TYPE_CHECKING:
    from rollcall_worker.hub import Hub

T = TypeVar("T")

OUTPUT_PIECE: Final = 32 * 1024
"""The most text in one frame, in characters: a result must not stand behind megabytes."""

MAX_PROGRESS: Final = 1_000
"""The longest sentence about progress, in characters; the rest is cut off."""


class CancelReason(str, Enum):
    """Why a task should stop."""

    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    TIMEOUT = "timeout"
    """Its time is over."""
    SUPERSEDED = "superseded"
    """A newer attempt took its place."""
    DROPPED = "unknown"
    """The server does not know it, or does not want it any more; its result will be forgotten."""
    REMOVED = "removed_from_config"
    """The worker leaves the fleet."""
    SHUTDOWN = "shutdown"
    """This worker stops."""

    @classmethod
    def from_word(cls, word: str) -> CancelReason:
        """Read the word of a ``cancel`` frame; one that is not known means `CANCELLED`."""
        try:
            return cls(word)
        except ValueError:
            return cls.CANCELLED


class OutputStream:
    """One of a task's two live streams; ``print("…", file=task.stdout)`` writes to it.

    Never waits: where the link is down or slower than the output, pieces are left out, and watchers
    see the gap. Bytes that are not UTF-8 become U+FFFD; a character may come in two pieces. May be
    used from any thread.
    """

    def __init__(self, hub: Hub, key: AttemptKey, name: Literal["stdout", "stderr"]) -> None:
        self._hub, self._key, self._name = hub, key, name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._lock = threading.Lock()

    def write(self, data: str | bytes) -> int:
        """Send text or bytes; return how much was taken, which is all."""
        # Under the lock, or two threads' pieces could be queued in the wrong order.
        with self._lock:
            self._send(data if isinstance(data, str) else self._decoder.decode(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back but half a character."""

    def finish(self) -> None:
        """Send what was held back of a character that was cut in two."""
        with self._lock:
            self._send(self._decoder.decode(b"", final=True))

    def _send(self, text: str) -> None:
        for start in range(0, len(text), OUTPUT_PIECE):
            # Counted as it is sent: a lone surrogate becomes U+FFFD, of three bytes like itself.
            piece = text[start : start + OUTPUT_PIECE]
            frame = encode("output", self._key, stream=self._name, offset=self._offset, data=piece)
            self._offset += len(piece.encode(errors="surrogatepass"))
            self._hub.output(self._key, frame)


class Task:
    """One attempt of a task, and the way to speak of it while it runs. May be used from any thread."""

    id: str
    """The task's id, a UUID in text."""
    epoch: int
    """The attempt's fencing number; larger ones are newer. Pass it on to systems that the task writes to."""
    attempt: int
    """The number of the attempt, from 1."""
    capability: str
    """What is asked, such as ``invoice.parse``."""
    input: Any
    """The input, any JSON."""
    deadline: float
    """Seconds that it may run from its start. It is stopped then."""
    session: str | None
    """The session that it runs in."""
    session_new: bool | None
    """Whether it begins that session (what is left under its name is to be forgotten) or counts on what
    earlier tasks left there; ``None`` from a server that does not tell."""
    session_ttl: float | None
    """Seconds that the session lives on unused afterwards."""
    session_open: bool | None
    """To be set to ``False`` when the session's state is not there after the task: the server then sends
    nothing more that counts on it."""
    idempotency_key: str | None
    """The same for every attempt of a task: lets a worker find its own repeats."""
    traceparent: str | None
    """W3C trace context."""
    stdout: OutputStream
    """Live output."""
    stderr: OutputStream
    """Live output about what went wrong."""

    def __init__(self, hub: Hub, execute: Execute) -> None:
        self.id, self.epoch = execute.key
        self.attempt = execute.attempt
        self.capability = execute.capability
        self.input = execute.input
        self.deadline = execute.deadline
        self.session = execute.session
        self.session_new = execute.session_new
        self.session_ttl = execute.session_ttl
        self.session_open = None
        self.idempotency_key = execute.idempotency_key
        self.traceparent = execute.traceparent
        self.stdout = OutputStream(hub, execute.key, "stdout")
        self.stderr = OutputStream(hub, execute.key, "stderr")
        self._key = execute.key
        self._hub = hub
        self._reason: CancelReason | None = None
        self._told = threading.Event()
        self._stopped = asyncio.Event()
        self._usage: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Task {self.id} epoch {self.epoch} {self.capability}>"

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Tell how far the task has come: a fraction from 0 to 1, and a short sentence.

        Left out under the same conditions as output.
        """
        if fraction is not None:
            fraction = min(max(float(fraction), 0.0), 1.0) if math.isfinite(fraction) else None
        if message is not None:
            message = message[:MAX_PROGRESS]
        self._hub.output(self._key, encode("progress", self._key, fraction=fraction, message=message))

    def usage(
        self,
        *,
        cpu_ms: int | None = None,
        peak_memory_bytes: int | None = None,
        processes: int | None = None,
    ) -> None:
        """Say what the attempt used; it goes with the result. The wall time is added by itself."""
        told = {"cpu_ms": cpu_ms, "peak_memory_bytes": peak_memory_bytes, "processes": processes}
        self._usage |= {name: int(value) for name, value in told.items() if value is not None}

    async def artifact(self, name: str, data: Body, *, media_type: str | None = None) -> StoredArtifact:
        """Send a file, which becomes part of the task; return once the server has it on disk.

        ``name`` is no path: any text without control characters, up to 255 bytes; a later file of the
        same name takes the place of the former. ``data`` is bytes, a text, or the path of a file that
        does not change meanwhile. The media type is guessed from the name where none is given.

        Waits while there is no server, and begins again on the next connection. A file whose coroutine
        is cancelled is given up. Raises `TaskError` with the reason when it is not kept: the task may
        go on without it, or end with that error.
        """
        return await send_artifact(self._hub, self._key, name, data, media_type)

    def artifact_blocking(self, name: str, data: Body, *, media_type: str | None = None) -> StoredArtifact:
        """Do the same in a handler that is a plain function, and so runs in a thread."""
        sending = self.unless_stopped(self.artifact(name, data, media_type=media_type))
        return asyncio.run_coroutine_threadsafe(sending, self._hub.loop).result()

    async def fetch(self, reference: Mapping[str, Any], *, most: int = 64 << 20) -> bytes:
        """Return the bytes of a file that the input refers to (``{"$artifact": "sha256:…"}``), checked.

        Raises `TaskError` with the reason when it cannot be had, or has more than ``most`` bytes.
        """
        return await asyncio.to_thread(self.fetch_blocking, reference, most=most)

    def fetch_blocking(self, reference: Mapping[str, Any], *, most: int = 64 << 20) -> bytes:
        """Do the same in a handler that is a plain function, and so runs in a thread."""
        api = self._hub.api
        if api is None:
            message = "this worker does not know where its server's API is: set ROLLCALL_SERVER"
            raise TaskError("artifact_unreachable", message, fault="worker")
        return api.fetch(reference, most)

    @property
    def cancelled(self) -> bool:
        """Whether the task was told to stop."""
        return self._told.is_set()

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the task should stop; ``None`` while it may go on."""
        return self._reason

    def check(self) -> None:
        """Raise `TaskCancelled` if the task was told to stop: the way out of a plain function's loop."""
        if self.cancelled:
            raise TaskCancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Wait in a thread, at most so many seconds, until the task is told to stop; tell whether it was."""
        return self._told.wait(timeout)

    def tell(self, reason: CancelReason) -> bool:
        """Note that the task should stop; the first reason stays. For the worker itself."""
        if self._reason is not None:
            return False
        self._reason = reason
        self._told.set()
        self._stopped.set()
        return True

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns; cancel it and raise `TaskCancelled` when the task is to stop."""
        working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise TaskCancelled
            return working.result()
        finally:
            working.cancel()
            stopped.cancel()

    def form_usage(self, wall: float) -> dict[str, int]:
        """Return the usage for the result. For the worker itself."""
        return {"wall_ms": round(wall * 1000)} | self._usage
