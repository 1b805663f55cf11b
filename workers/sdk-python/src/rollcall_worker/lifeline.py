"""A launched worker must not outlive its server, however that ended.

The server hands it the read end of a pipe; when the pipe reports its end, the server is gone.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

LIFELINE_FD: Final = "ROLLCALL_LIFELINE_FD"
"""The environment's name for the number of the inherited file descriptor: the pipe's read end."""


def watch_lifeline(cut: asyncio.Event) -> None:
    """Set ``cut`` when the server that launched this worker is gone; never, where no server did.

    Raises `ValueError` when the variable is not the number of an open pipe: a worker that could not
    tell its server's end should not start.
    """
    number = os.environ.get(LIFELINE_FD)
    if number is None:
        return
    loop = asyncio.get_running_loop()
    try:
        pipe = int(number)
        os.fstat(pipe)

        def readable() -> None:
            if not os.read(pipe, 64):
                loop.remove_reader(pipe)
                cut.set()

        loop.add_reader(pipe, readable)
    except (OSError, ValueError) as problem:
        raise ValueError(f"{LIFELINE_FD} is not the number of an open pipe: {number!r}") from problem
