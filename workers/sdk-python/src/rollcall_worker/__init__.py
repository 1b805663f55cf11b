"""What a worker written in Python needs: offer capabilities, then serve a port or dial in.

Registration, slots, heartbeats, deadlines, cancels, drains, files, resending of results and
reconnects are done here; a worker only runs its tasks::

    from rollcall_worker import Task, Worker

    worker = Worker("echo", version="1.0.0", slots=8)

    @worker.capability("echo.say", idempotent=True)
    async def say(task: Task) -> object:
        return task.input

    if __name__ == "__main__":
        worker.main()
"""

from rollcall_worker.certificates import Certificates
from rollcall_worker.errors import Fault, TaskCancelled, TaskError
from rollcall_worker.frames import StoredArtifact
from rollcall_worker.lifeline import LIFELINE_FD
from rollcall_worker.task import CancelReason, OutputStream, Task
from rollcall_worker.token import TOKEN, Token
from rollcall_worker.worker import WORKER_NAME, Worker

__all__ = [
    "LIFELINE_FD",
    "TOKEN",
    "WORKER_NAME",
    "CancelReason",
    "Certificates",
    "Fault",
    "OutputStream",
    "StoredArtifact",
    "Task",
    "TaskCancelled",
    "TaskError",
    "Token",
    "Worker",
]
