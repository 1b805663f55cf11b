"""A file on its way to the server: hashed, announced, sent as far as the server's credit goes.

On each new connection it begins again with its announcement.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollcall_worker.errors import TaskError
from rollcall_worker.frames import CHUNK_BYTES, AttemptKey, StoredArtifact, encode
from rollcall_worker.ledger import Refused, Send, Word

if TYPE_CHECKING:
    from rollcall_worker.hub import Hub

Body = bytes | bytearray | memoryview | str | os.PathLike[str]
"""The bytes of a file: in memory, a text (as UTF-8), or the path of a file."""


async def send_artifact(
    hub: Hub, key: AttemptKey, name: str, data: Body, media_type: str | None
) -> StoredArtifact:
    """See `Task.artifact`."""
    # A path is opened once: what is sent is what was hashed, whatever the name means later.
    body: _Bytes | _File
    try:
        body = _File(Path(data)) if isinstance(data, os.PathLike) else _Bytes(data)
        with body:
            size, sha256 = await asyncio.to_thread(body.measure)
            media_type = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
            file = StoredArtifact(name, media_type, size, sha256)
            while not await _sent(hub, key, file, body):
                pass
            return file
    except (OSError, UnicodeEncodeError) as problem:
        message = f"the file cannot be read: {problem}"
        raise TaskError("artifact_unreadable", message, fault="worker") from problem


async def _sent(hub: Hub, key: AttemptKey, file: StoredArtifact, body: _Bytes | _File) -> bool:
    """Send it over one connection; false when that one broke."""

    def announcement(number: int) -> bytes:
        told: dict[str, Any] = {
            "name": file.name,
            "media_type": file.media_type,
            "size": file.size,
            "sha256": file.sha256,
        }
        return encode("artifact", key, number=number, **told)

    number, at = await hub.announce(key, announcement), 0
    try:
        while True:
            step = await hub.upload_step(number, file.size - at)
            match step:
                case Send(bytes=most):
                    piece = await body.read(at, min(most, CHUNK_BYTES))
                    at += len(piece)
                    hub.send_chunk(number, piece)
                case Refused(error=error):
                    raise _refusal(error)
                case Word.STORED:
                    return True
                case Word.AGAIN:
                    return False
    finally:
        hub.end_upload(number)


def _refusal(error: Any) -> TaskError:
    fault = error.get("fault")
    return TaskError(
        str(error.get("code", "artifact_refused")),
        str(error.get("message", "the server does not keep this file")),
        retryable=error.get("retryable") is True,
        fault=fault if fault in ("worker", "rollcall") else "caller",
        details=error.get("details"),
    )


class _Bytes:
    """A file's bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview | str) -> None:
        # A copy where it could change between the hash and the last piece.
        self._data = data.encode() if isinstance(data, str) else bytes(data)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self) -> tuple[int, str]:
        return len(self._data), hashlib.sha256(self._data).hexdigest()

    async def read(self, at: int, most: int) -> bytes:
        return self._data[at : at + most]


class _File:
    """A file's bytes on disk, read off the event loop's thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def measure(self) -> tuple[int, str]:
        hasher, size = hashlib.sha256(), 0
        while piece := self._file.read(CHUNK_BYTES):
            hasher.update(piece)
            size += len(piece)
        return size, hasher.hexdigest()

    async def read(self, at: int, most: int) -> bytes:
        piece = await asyncio.to_thread(os.pread, self._file.fileno(), most, at)
        if not piece:
            raise OSError(f"{self._file.name} became shorter while it was sent")
        return piece
