"""One handler's run: its time limit, its cancels, and what its end means."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Literal

from rollcall_worker.errors import Fault, TaskCancelled, TaskError
from rollcall_worker.frames import to_json
from rollcall_worker.task import CancelReason, Task

log = logging.getLogger("rollcall_worker")

Handler = Callable[[Task], Any]
"""Runs a task: an ``async`` function on the event loop, a plain one in a thread of its own."""

Ended = tuple[Any, BaseException | None]
"""What a handler returned, or raised."""


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    status: Literal["succeeded", "failed", "timed_out", "cancelled"]
    output: bytes | None = None
    """As JSON."""
    error: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    session_open: bool | None = None


class Attempt:
    """A handler that runs, and can be told to stop."""

    def __init__(self, handler: Handler, task: Task, *, again: bool, grace: float) -> None:
        self.task = task
        self._handler = handler
        # Whether what this worker spoilt may be tried again.
        self._again = again
        self._grace = grace
        self._work: asyncio.Task[Ended] | None = None
        # Whether the handler is a coroutine by now; a thread cannot be interrupted.
        self._awaits = is_async(handler)

    def stop(self, reason: str) -> None:
        """Tell the handler to stop: a coroutine is cancelled at its ``await``, a function asks `Task`."""
        if self.task.tell(CancelReason.from_word(reason)):
            self._interrupt()

    async def run(self) -> End:
        """Run the handler to its end.

        A slot is free when the handler has ended and not before, since Python can stop neither a
        thread nor a coroutine that will not. The server fences such an attempt, and counts its slot
        as unavailable until then.
        """
        loop, began = asyncio.get_running_loop(), time.monotonic()
        self._work = loop.create_task(self._call())
        limit = loop.call_later(self.task.deadline, self.stop, CancelReason.TIMEOUT.value)
        try:
            await asyncio.wait({self._work})
        finally:
            limit.cancel()
        # Cancelled before its first step, it could not catch that itself.
        ended = (None, TaskCancelled()) if self._work.cancelled() else self._work.result()
        usage = self.task.form_usage(time.monotonic() - began)
        return replace(self._judge(*ended), usage=usage, session_open=self.task.session_open)

    def _interrupt(self) -> None:
        if self._work is None or self._work.done():
            return
        if self._awaits:
            self._work.cancel()
        asyncio.get_running_loop().call_later(self._grace, self._remind)

    def _remind(self) -> None:
        if self._work is not None and not self._work.done():
            log.warning("%r was told to stop and still runs %.1f s later", self.task, self._grace)
            self._interrupt()

    async def _call(self) -> Ended:
        try:
            self.task.check()
            if self._awaits:
                return await self._handler(self.task), None
            value = await _in_thread(self._handler, self.task)
            if isawaitable(value):
                # A plain function around a coroutine, such as a lambda.
                self._awaits = True
                value = await value
            return value, None
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # `sys.exit()` in a handler is no end of the worker
            return None, problem

    def _judge(self, value: Any, problem: BaseException | None) -> End:
        reason = self.task.cancel_reason
        if problem is None:
            # It may have been told to stop and was faster.
            return self._succeeded(value)
        if reason is not None and isinstance(problem, asyncio.CancelledError | TaskCancelled):
            return self._stopped(reason, killed=isinstance(problem, TaskCancelled) and problem.killed)
        if reason is CancelReason.SHUTDOWN:
            return self._stopped(reason, killed=False)
        if isinstance(problem, TaskError):
            return _failed_as(problem)
        log.error("the handler of %r failed", self.task, exc_info=problem)
        name = type(problem).__name__
        return _failed("exception", f"{name}: {problem}"[:2000], "worker", retryable=self._again)

    def _succeeded(self, value: Any) -> End:
        try:
            return End("succeeded", to_json(value))
        except (TypeError, ValueError, RecursionError) as problem:
            return _failed("bad_output", f"the output is not JSON: {problem}", "worker")

    def _stopped(self, reason: CancelReason, *, killed: bool) -> End:
        if reason is CancelReason.TIMEOUT:
            return replace(_failed("timeout", "ran longer than its time limit", "caller"), status="timed_out")
        if reason is CancelReason.SHUTDOWN:
            return _failed("worker_shutdown", "the worker was stopped", "worker", retryable=self._again)
        if killed:
            message = "did not stop in time and was killed"
            return replace(_failed("killed", message, "caller"), status="cancelled")
        return End("cancelled")


def is_async(handler: Handler) -> bool:
    """Tell whether a handler is a coroutine function, or an object that is called like one."""
    return iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _failed(code: str, message: str, fault: Fault, *, retryable: bool = False) -> End:
    return _failed_as(TaskError(code, message, fault=fault, retryable=retryable))


def _failed_as(error: TaskError) -> End:
    form = error.form()
    try:
        to_json(form)
        output = None if error.output is None else to_json(error.output)
    except (TypeError, ValueError, RecursionError) as problem:
        log.warning("left out of %s what is not JSON: %s", error.code, problem)
        form.pop("details", None)
        output = None
    return End("failed", output, form)


async def _in_thread(handler: Handler, task: Task) -> Any:
    """Run a plain function in a thread of its own; a pool's would be held by what does not stop."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended: asyncio.Future[Ended] = loop.create_future()

    def settle(how: Ended) -> None:
        if not ended.done():
            ended.set_result(how)

    def run() -> None:
        try:
            how: Ended = context.run(handler, task), None
        except BaseException as problem:
            how = None, problem
        # A closed loop: the worker has left this thread behind.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, how)

    # A daemon: a function that never returns must not keep the process from ending.
    threading.Thread(target=run, name=f"task {task.id}", daemon=True).start()
    value, problem = await ended
    if problem is not None:
        raise problem
    return value
