"""The worker of the conformance suite, written in Python: answers `echo.*` with its input after a while."""

import asyncio
import sys

from rollcall_worker import Task, Worker

way, where, latency_ms = sys.argv[1:]
kept: set[str] = set()
worker = Worker("echo", name="ann", sessions=lambda: kept, session_ended=kept.discard)


@worker.capability("echo.*", idempotent=True)
async def echo(task: Task) -> object:
    await asyncio.sleep(int(latency_ms) / 1000)
    if task.session is not None:
        kept.add(task.session)
    return task.input


if way == "dials":
    asyncio.run(worker.connect(where, initial_backoff=0.005, max_backoff=0.05))
else:
    worker.main(["--listen", where])
