"""The middle of a worker: running handlers on one side, the link to the server on the other.

The ledger is between them. A hub outlives every connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rollcall_worker.errors import TaskCancelled, TaskError
from rollcall_worker.fetch import Api
from rollcall_worker.frames import (
    INLINE_BYTES,
    AttemptKey,
    Cancel,
    Credit,
    Execute,
    Registered,
    ResultAck,
    Unreadable,
    encode,
)
from rollcall_worker.ledger import Ledger, Refused, Send, Verdict, Word
from rollcall_worker.run import Attempt, End
from rollcall_worker.shorten import shorten
from rollcall_worker.task import CancelReason, Task
from rollcall_worker.timing import within

if TYPE_CHECKING:
    from rollcall_worker.worker import About

log = logging.getLogger("rollcall_worker")

LAST_WORDS: Final = 2.0
"""Seconds that a worker that stops waits for its last results to be acknowledged."""

FEATURES: Final = ["cancel", "resume", "output", "artifacts", "sessions"]
"""What this package does for every worker."""


class Bell:
    """Wakes all who wait. Who looks and then waits, with no ``await`` between, misses nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def ring(self) -> None:
        """Wake them."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Hub:
    """See the module. Belongs to one event loop; `output` may be called from any thread."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.instance = secrets.token_hex(8)
        self.loop = asyncio.get_running_loop()
        self.api = Api.from_env()
        self._thread = threading.get_ident()
        self._ledger = Ledger()
        self._wake = asyncio.Event()
        self._uploads = Bell()
        self._settled = Bell()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many handlers run."""
        return self._ledger.running

    @property
    def is_up(self) -> bool:
        """Whether a server has registered this worker."""
        return self._ledger.is_up

    def register(self) -> bytes:
        """Return the first frame of a new connection."""
        about, held = self.about, self._ledger.begin_link()
        return encode(
            "register",
            name=about.name,
            instance=self.instance,
            pool=about.pool,
            kind=about.kind,
            version=about.version,
            slots=about.slots,
            labels=about.labels or None,
            isolation=about.isolation,
            capabilities=[offer.form() for offer in about.offers],
            attempts=held,
            sessions=None if about.sessions is None else list(about.sessions()),
            features=FEATURES,
            store_id=self._ledger.store_id,
        )

    def registered(self, answer: Registered) -> None:
        """Take in the server's answer to it."""
        for attempt in self._ledger.registered(answer):
            attempt.stop(CancelReason.DROPPED.value)
        if self._ledger.leaving:
            self._say_goodbye()
        self._uploads.ring()
        self.wake()

    def link_ended(self) -> None:
        """Note that the connection is gone; tasks go on."""
        self._ledger.end_link()
        self._uploads.ring()
        self._settled.ring()

    def wake(self) -> None:
        """Wake the link: there may be a frame for it. From any thread."""
        if threading.get_ident() == self._thread:
            self._wake.set()
            return
        try:
            self.loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            log.debug("the event loop is closed; what a thread says now is lost")

    async def wait_for_frames(self) -> None:
        """Wait until there may be a frame."""
        await self._wake.wait()
        self._wake.clear()

    def next_frame(self) -> tuple[bytes, bool] | None:
        """Return the next message, and whether it is text."""
        frame = self._ledger.pop()
        if frame is not None and not frame[1]:
            self._uploads.ring()
        return frame

    def heartbeat(self) -> bytes:
        """Return the worker's own heartbeat."""
        return encode("heartbeat", running=self._ledger.listed())

    def execute(self, frame: Execute) -> None:
        """Start a task, or say why not."""
        offer = self.about.offer(frame.capability)
        verdict = self._ledger.judge(frame.key, frame.connection, self.about.slots)
        if verdict is Verdict.IGNORE:
            log.warning("ignored an execute that is not meant for this connection: %s", frame.key)
        elif verdict is not Verdict.START:
            self._reject(frame.key, verdict.value)
        elif offer is None:
            self._reject(frame.key, "the worker does not offer this capability")
        else:
            task = Task(self, frame)
            attempt = Attempt(offer.handler, task, again=offer.idempotent, grace=self.about.stop_grace)
            self._ledger.start(frame.key, attempt, encode("accepted", frame.key))
            running = self.loop.create_task(self._run(frame.key, attempt))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
        self.wake()

    def unreadable(self, frame: Unreadable) -> None:
        """Answer a task whose input Python cannot hold: it would fare no better at the next try."""
        if self._ledger.judge(frame.key, frame.connection, None) is Verdict.START:
            message = "the input is nested too deeply, or has a number of too many digits"
            end = End("failed", error=TaskError("bad_input", message).form())
            self._keep(frame.key, end)

    def cancel(self, frame: Cancel) -> None:
        """Tell a task to stop; one that never came here is answered, so that each cancel has its result."""
        attempt = self._ledger.attempt(frame.key)
        if attempt is not None:
            attempt.stop(frame.reason)
        elif self._ledger.never_came(frame.key):
            self._keep(frame.key, End("cancelled"))

    def end_session(self, session: str) -> None:
        """Tell whoever keeps a session's state that it is over."""
        if self.about.session_ended is not None:
            self.about.session_ended(session)

    def acknowledged(self, frame: ResultAck) -> None:
        """Forget a result that has arrived."""
        if not frame.accepted:
            log.info("the server did not record the result of %s: %s", frame.key, frame.reason)
        self._ledger.acknowledged(frame.key)
        self._settled.ring()

    def credit(self, frame: Credit) -> None:
        """Take in the server's word about an upload."""
        self._ledger.credit(frame)
        self._uploads.ring()

    def complain(self, code: str, message: str) -> None:
        """Tell the server of a frame that cannot be read."""
        self._ledger.complain(encode("error", code=code, message=message))
        self.wake()

    def output(self, key: AttemptKey, frame: bytes) -> None:
        """Queue live output or progress, where there is room. From any thread."""
        if self._ledger.output(key, frame):
            self.wake()

    async def announce(self, key: AttemptKey, frame: Callable[[int], bytes]) -> int:
        """Announce a file as soon as there is a server; return the upload's number."""
        while True:
            if not self._ledger.is_wanted(key):
                message = "the server does not want this attempt any more"
                raise TaskError("artifact_not_open", message, fault="worker")
            if self._ledger.is_up:
                break
            await self._uploads.wait()
        if not self._ledger.takes_artifacts:
            raise TaskError("artifact_not_supported", "this server takes no artifacts", fault="rollcall")
        number = self._ledger.announce(frame)
        self.wake()
        return number

    async def upload_step(self, number: int, left: int) -> Send | Refused | Word:
        """Wait until an upload can do something."""
        while (step := self._ledger.upload_step(number, left)) is None:
            await self._uploads.wait()
        return step

    def send_chunk(self, number: int, piece: bytes) -> None:
        """Queue a piece of a file."""
        self._ledger.send_chunk(number, piece)
        self.wake()

    def end_upload(self, number: int) -> None:
        """End an upload for whoever made it."""
        self._ledger.end_upload(number)
        self.wake()

    async def until_left(
        self, meet: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event, cut: asyncio.Event
    ) -> None:
        """Run ``meet`` (the listening or the dialling) until ``stop`` or ``cut``, leave, end the links."""
        close = asyncio.Event()
        meeting = asyncio.ensure_future(meet(close))
        asked = [asyncio.ensure_future(event.wait()) for event in (stop, cut)]
        try:
            # The link must go on while the worker leaves; `meet` ends after `close`.
            await asyncio.wait({meeting, *asked}, return_when=asyncio.FIRST_COMPLETED)
            if not meeting.done():
                await self._leave(cut)
                close.set()
            await meeting
        finally:
            for waiting in (meeting, *asked):
                waiting.cancel()

    async def _leave(self, cut: asyncio.Event) -> None:
        """Take nothing new, say so, let what runs finish, and wait for the last acknowledgements."""
        log.info("the server is gone; stopping" if cut.is_set() else "stopping")
        self._ledger.leaving = True
        self._say_goodbye()
        await self._all_end(self.about.shutdown_grace, cut)
        if self._tasks:
            log.warning("stopping %d tasks that still run", len(self._tasks))
            self._ledger.stop_all(CancelReason.SHUTDOWN.value)
            await self._all_end(self.about.stop_grace + LAST_WORDS)
        if self._tasks:
            log.warning("left %d tasks behind that do not stop", len(self._tasks))
        if not cut.is_set():
            # Past it, the server has what it has: an unacknowledged attempt is its to decide.
            await within(LAST_WORDS, self._settle())

    async def _all_end(self, seconds: float, cut: asyncio.Event | None = None) -> None:
        """Wait until every task has ended, for so long at most, and not past ``cut``."""
        if not self._tasks:
            return
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(asyncio.wait(set(self._tasks)))}
        if cut is not None:
            waits.add(asyncio.ensure_future(cut.wait()))
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiting in waits:
            waiting.cancel()

    async def _settle(self) -> None:
        while not self._ledger.is_settled():
            await self._settled.wait()

    def _say_goodbye(self) -> None:
        self._ledger.say(encode("goodbye", reason="the worker is stopping"))
        self.wake()

    def _reject(self, key: AttemptKey, reason: str) -> None:
        self._ledger.say(encode("rejected", key, reason=reason, retryable=True))

    async def _run(self, key: AttemptKey, attempt: Attempt) -> None:
        end = await attempt.run()
        attempt.task.stdout.finish()
        attempt.task.stderr.finish()
        end = await self._shortened(attempt.task, end)
        self._report(self._ledger.finish(key, self._result(key, end)))

    def _keep(self, key: AttemptKey, end: End) -> None:
        self._report(self._ledger.keep(key, self._result(key, end)))

    def _report(self, given_up: list[AttemptKey]) -> None:
        for lost in given_up:
            log.warning("gave up a result that nobody acknowledged: %s", lost)
        self._settled.ring()
        self.wake()

    async def _shortened(self, task: Task, end: End) -> End:
        """Send the long parts of an output as files, where the server takes them.

        One that cannot be sent stays as it is: the server judges it.
        """
        if end.output is None or len(end.output) <= INLINE_BYTES or not self._ledger.takes_artifacts:
            return end
        try:
            output = await task.unless_stopped(shorten(task, end.output))
        except (TaskError, TaskCancelled) as problem:
            log.warning("a long output of %r stays in its result: %s", task, problem)
            return end
        return replace(end, output=output)

    def _result(self, key: AttemptKey, end: End) -> bytes:
        """Write an end. One that is too large for the server fails instead, and says so."""
        frame = _result_frame(key, end)
        most = self.about.max_message
        if len(frame) <= most:
            return frame
        error = TaskError("output_too_large", f"the result is {len(frame)} bytes, more than {most}").form()
        return _result_frame(key, replace(end, status="failed", output=None, error=error))


def _result_frame(key: AttemptKey, end: End) -> bytes:
    frame = encode(
        "result",
        key,
        status=end.status,
        error=end.error,
        usage=end.usage,
        session_open=end.session_open,
    )
    return frame if end.output is None else frame[:-1] + b',"output":' + end.output + b"}"
