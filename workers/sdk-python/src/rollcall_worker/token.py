"""The secret that a server shows to a worker that listens, and a worker that dials in to a server."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Final

TOKEN: Final = "ROLLCALL_TOKEN"  # noqa: S105 - the variable's name
"""The environment's name for the token; a launched worker always finds a fresh one there."""


class Token:
    """A secret; never printed."""

    def __init__(self, secret: str) -> None:
        secret = secret.strip()
        if not secret or not all("!" <= character <= "~" for character in secret):
            raise ValueError("a token is one or more visible ASCII characters")
        self._secret = secret

    @classmethod
    def from_env(cls) -> Token | None:
        """Return the token of the environment (``ROLLCALL_TOKEN``), if there is one."""
        secret = os.environ.get(TOKEN)
        return None if secret is None else cls(secret)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Token:
        """Return the token in a file; white space around it is ignored."""
        return cls(Path(path).read_text(encoding="utf-8"))

    def bearer(self) -> str:
        """Return the value of the header that carries it."""
        return f"Bearer {self._secret}"

    def is_shown_by(self, header: str | None) -> bool:
        """Tell whether a header carries it; takes as long for a wrong one as for the right one."""
        scheme, _, shown = (header or "").partition(" ")
        same = hmac.compare_digest(shown.encode(errors="replace"), self._secret.encode())
        return scheme.lower() == "bearer" and same

    def __repr__(self) -> str:
        return "Token(***)"
