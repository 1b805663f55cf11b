"""Files that a task's input refers to, fetched from the server's API.

By HTTP, beside the link, so that no result stands behind megabytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from rollcall_worker.errors import TaskError
from rollcall_worker.token import Token

SERVER: Final = "ROLLCALL_SERVER"
"""The environment's name for the server's URL, which a server sets for those that it launches."""

PATIENCE: Final = 30.0
"""Seconds that the connection, and then each piece, may take."""

PIECE: Final = 1 << 20
"""Bytes that are read at once."""

REFERENCE: Final = re.compile("sha256:([0-9a-f]{64})")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: the token is for whom the operator named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Api:
    """Where the server's API is, and what to show there."""

    base: str
    token: Token | None = None

    @classmethod
    def of(cls, url: str | None, token: Token | None = None) -> Api | None:
        """Return the API of a URL, whatever its path; ``None`` for one that is none."""
        parts = urlsplit(url or "")
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        if scheme not in ("http", "https") or not parts.netloc:
            return None
        return cls(f"{scheme}://{parts.netloc}", token)

    @classmethod
    def from_env(cls) -> Api | None:
        """Return the API of the environment (``ROLLCALL_SERVER``), if there is one."""
        return cls.of(os.environ.get(SERVER))

    def fetch(self, reference: Mapping[str, Any], most: int) -> bytes:
        """Fetch a file of at most so many bytes, and check it. Blocks."""
        named = REFERENCE.fullmatch(str(reference.get("$artifact")))
        if named is None:
            raise TaskError("artifact_bad_reference", f"{reference!r} is no reference to a file")
        wanted = named[1]
        headers = {} if self.token is None else {"Authorization": self.token.bearer()}
        url = f"{self.base}/v1/artifacts/{wanted}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - only http and https, see `of`
        # Without a proxy: the server is the one that the operator named.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                body = self._read(answer, wanted, most)
        except urllib.error.HTTPError as problem:
            problem.close()
            if problem.code == 404:
                message = f"the server has no file sha256:{wanted}, or not any more"
                raise TaskError("artifact_missing", message) from None
            raise self._away(problem) from None
        except OSError as problem:
            raise self._away(problem) from None
        if hashlib.sha256(body).hexdigest() != wanted:
            message = f"other bytes came than those of sha256:{wanted}"
            raise TaskError("artifact_corrupt", message, retryable=True, fault="rollcall")
        return body

    def _read(self, answer: Any, wanted: str, most: int) -> bytes:
        body = bytearray()
        while piece := answer.read(PIECE):
            body += piece
            if len(body) > most:
                message = f"the file sha256:{wanted} has more than {most} bytes"
                raise TaskError("artifact_too_large", message)
        return bytes(body)

    def _away(self, problem: OSError) -> TaskError:
        message = f"the file cannot be fetched from {self.base}: {problem}"
        return TaskError("artifact_unreachable", message, retryable=True, fault="worker")
