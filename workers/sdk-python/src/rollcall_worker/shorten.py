"""Makes a long output short: its longest texts become files, and references stand in their place."""

from __future__ import annotations

import json
from typing import Any, Final

from rollcall_worker.frames import INLINE_BYTES, to_json
from rollcall_worker.task import Task

WORTH_A_FILE: Final = 4 * 1024
"""A text that is shorter, in characters, is not worth a file."""

MAX_FILES: Final = 16
"""Files that one output becomes at most."""

MAX_NAME: Final = 60
"""Longest name of such a file, in characters."""

Path = tuple[str | int, ...]


async def shorten(task: Task, output: bytes) -> bytes:
    """Send the longest texts of an output as files, the longest first, until it is short enough.

    It is sent as one file where that does not help.
    """
    value = json.loads(output)
    for _ in range(MAX_FILES):
        found = longest(value)
        if found is None:
            break
        path, text = found
        stored = await task.artifact(f"{name(path)}.txt", text, media_type="text/plain; charset=utf-8")
        value = _replaced(value, path, stored.reference())
        shorter = to_json(value)
        if len(shorter) <= INLINE_BYTES:
            return shorter
    stored = await task.artifact("output.json", output, media_type="application/json")
    return to_json(stored)


def longest(value: Any) -> tuple[Path, str] | None:
    """Find the longest text worth a file, and its path."""
    found: tuple[Path, str] | None = None
    left: list[tuple[Path, Any]] = [((), value)]
    while left:
        path, item = left.pop()
        match item:
            case str() if len(item) >= max(WORTH_A_FILE, 0 if found is None else len(found[1]) + 1):
                found = path, item
            case list():
                left.extend((((*path, at), inner) for at, inner in enumerate(item)))
            case dict():
                left.extend((((*path, field), inner) for field, inner in item.items()))
    return found


def name(path: Path) -> str:
    """Name a file after its place: ``results``, 0, ``text`` is ``output.results.0.text``."""
    shown = "".join(f".{_plain(str(part))}" for part in path)
    return f"output{shown[-MAX_NAME:]}"


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_-" else "." for c in text)


def _replaced(value: Any, path: Path, by: Any) -> Any:
    if not path:
        return by
    inner = value
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = by
    return value
