"""How a handler says that its task did not succeed."""

from __future__ import annotations

from typing import Any, Literal

Fault = Literal["caller", "worker", "rollcall"]
"""Whose fault a failure is. Only the worker's counts against its health."""


class TaskError(Exception):
    """Raised by a handler: the attempt failed, for this reason.

    ``code`` is a short, stable word such as ``bad_input``; ``message`` is for people. With
    ``retryable`` another attempt may do better. ``fault`` is ``caller`` for the task's own (its
    input, its limits), ``worker`` for what counts against this worker's health. ``details`` and
    ``output`` are any JSON; the output is kept of a failed attempt too.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        fault: Fault = "caller",
        details: Any = None,
        output: Any = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.fault: Fault = fault
        self.details = details
        self.output = output

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def form(self) -> dict[str, Any]:
        """Return the error as a frame carries it."""
        form: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "fault": self.fault,
        }
        if self.details is not None:
            form["details"] = self.details
        return form


class TaskCancelled(Exception):  # noqa: N818 - it is no error: it is how a task stops
    """Raised by a handler that stopped because it was told to; by `Task.check` in its place.

    An ``async`` handler may let `asyncio.CancelledError` pass instead. ``killed`` says that what the
    task had started did not stop by itself and was ended by force.
    """

    def __init__(self, *, killed: bool = False) -> None:
        super().__init__("the task was told to stop")
        self.killed = killed
