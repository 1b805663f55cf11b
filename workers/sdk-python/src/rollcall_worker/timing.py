"""Waiting with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def within(seconds: float, work: Coroutine[Any, Any, Any]) -> bool:
    """Run the work for so long at most; tell whether it ended. Raises what it raises.

    Up to Python 3.11 `asyncio.wait_for` swallows a cancel that comes together with the work's end.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
