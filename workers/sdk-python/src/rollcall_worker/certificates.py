"""Certificates in files: whom to believe, and what to show, over ``wss://``.

The files are followed: the next connection meets what they hold then.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Certificates:
    """The files of one side, all PEM.

    ``ca``: the authorities that are believed; by default those of the operating system for a worker
    that dials, and none for one that listens (which then asks the server for no certificate).
    ``cert`` and ``key``: what is shown, and the key to it, which nobody else may read.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate is shown with its key: both are needed, or neither")

    def client(self) -> ssl.SSLContext:
        """Return what a worker that dials needs. Raises `ValueError` for a file that is wrong."""
        context = _guarded("ca", self.ca, lambda: ssl.create_default_context(cafile=self.ca))
        self._show(context)
        return context

    def server(self) -> ssl.SSLContext:
        """Return what a worker that listens needs. Raises `ValueError` for a file that is wrong."""
        if self.cert is None:
            raise ValueError("a worker that listens under TLS needs a certificate and its key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            _guarded("ca", self.ca, lambda: context.load_verify_locations(self.ca))
            context.verify_mode = ssl.CERT_REQUIRED
        self._show(context)
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Show what the files hold now to whoever comes next. Raises `ValueError`; then all is as before."""
        # A context that took half of a pair would show nothing at all any more.
        self.server()
        self._show(context)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file does."""
        found = []
        for path in (self.ca, self.cert, self.key):
            try:
                told = path.stat() if path is not None else None
            except OSError:
                told = None
            found.append((told.st_ino, told.st_size, told.st_mtime_ns) if told is not None else (0, 0, 0))
        return tuple(found)

    def _show(self, context: ssl.SSLContext) -> None:
        cert, key = self.cert, self.key
        if cert is None or key is None:
            return
        try:
            mode = key.stat().st_mode
        except OSError as problem:
            raise ValueError(f"tls key {key} cannot be read: {problem.strerror}") from problem
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ValueError(f"tls key {key} can be read by everybody on this machine; chmod 600 it")
        _guarded("cert", cert, lambda: context.load_cert_chain(cert, key))


def _guarded(part: str, path: Path | None, load: Callable[[], T]) -> T:
    try:
        return load()
    except ssl.SSLError as problem:
        raise ValueError(f"tls {part} {path} cannot be used: {problem.reason or problem}") from problem
    except OSError as problem:
        raise ValueError(f"tls {part} {path} cannot be read: {problem.strerror}") from problem
