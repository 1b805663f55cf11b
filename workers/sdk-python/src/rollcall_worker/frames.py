"""The frames of ``rollcall.v1``: text to checked values, and values to text. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SUBPROTOCOL = "rollcall.v1"
"""What both sides name in the opening handshake."""

CONNECT_PATH = "/v1/workers/connect"
"""Where a worker dials in to a server."""

INLINE_BYTES = 256 * 1024
"""The longest output of a result, in bytes of JSON: what is longer becomes a file."""

CHUNK_BYTES = 64 * 1024
"""The most of a file that one binary frame carries."""

MAX_MESSAGE = (1 << 20) + (64 << 10)
"""What a server takes in one message that has the default ``server.max_body``, in bytes."""


class AttemptKey(NamedTuple):
    """An attempt's name on the wire: the task's id and the fencing number."""

    task: str
    epoch: int

    def form(self) -> dict[str, Any]:
        """Return it as a frame lists it."""
        return {"task": self.task, "epoch": self.epoch}


@dataclass(frozen=True)
class StoredArtifact:
    """A file that the server has. Put it into a task's output: there it is written as a reference."""

    name: str
    """What it is called."""
    media_type: str
    """What it is, such as ``image/png``."""
    size: int
    """In bytes."""
    sha256: str
    """The SHA-256 of its bytes, as 64 hexadecimal digits."""

    def reference(self) -> dict[str, Any]:
        """Return what stands for it in JSON."""
        return {
            "$artifact": f"sha256:{self.sha256}",
            "name": self.name,
            "media_type": self.media_type,
            "size": self.size,
        }


class BadFrameError(Exception):
    """A message is not JSON, or not the frame that its type names."""


class UnknownTypeError(Exception):
    """A frame's type is not known here; to be answered with ``error``, no reason to close."""


@dataclass(frozen=True)
class Registered:
    """The server's answer to ``register``."""

    name: str
    connection: int
    slots: int
    interval: float
    """Seconds between heartbeats."""
    store_id: str
    features: frozenset[str]
    keep: list[AttemptKey]
    resend: list[AttemptKey]
    drop: list[AttemptKey]


@dataclass(frozen=True)
class Execute:
    """Run this."""

    key: AttemptKey
    connection: int
    attempt: int
    capability: str
    input: Any
    deadline: float
    """Seconds that it may run, from now."""
    session: str | None
    session_new: bool | None
    session_ttl: float | None
    """Seconds."""
    idempotency_key: str | None
    traceparent: str | None


@dataclass(frozen=True)
class EndSession:
    """Nobody will name this session again."""

    session: str


@dataclass(frozen=True)
class Unreadable:
    """An ``execute`` whose input Python cannot hold: nested too deeply, or a number too long."""

    key: AttemptKey
    connection: int


@dataclass(frozen=True)
class Cancel:
    """Stop an attempt."""

    key: AttemptKey
    reason: str


@dataclass(frozen=True)
class ResultAck:
    """A result has arrived; the worker forgets it."""

    key: AttemptKey
    accepted: bool
    reason: str | None


@dataclass(frozen=True)
class Credit:
    """An upload may go on, or what became of it."""

    number: int
    bytes: int
    stored: bool
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Heartbeat:
    """The server lives."""


@dataclass(frozen=True)
class Drain:
    """Nothing new will come for now."""

    reason: str


@dataclass(frozen=True)
class Goodbye:
    """The server closes on purpose."""

    reason: str
    retry_after: float | None
    """Seconds after which to come back."""


@dataclass(frozen=True)
class Complaint:
    """An ``error`` frame: the server could not take something."""

    code: str
    message: str


FromServer = (
    Registered
    | Execute
    | Unreadable
    | Cancel
    | EndSession
    | ResultAck
    | Credit
    | Heartbeat
    | Drain
    | Goodbye
    | Complaint
)


def decode(text: str) -> FromServer:
    """Read one text message.

    Raises `BadFrameError` or `UnknownTypeError`.
    """
    try:
        frame = json.loads(text)
    except json.JSONDecodeError as problem:
        raise BadFrameError(f"not JSON: {problem}") from None
    except (RecursionError, ValueError) as problem:
        # It is JSON, and it is a caller's: closing would let one input cut off the worker again and
        # again. Its head is enough to answer it.
        head = _EXECUTE_HEAD.match(text)
        if head is None:
            raise BadFrameError(f"cannot be read: {problem}") from None
        return Unreadable(AttemptKey(head["task"], int(head["epoch"])), int(head["connection"]))
    if not isinstance(frame, dict):
        raise BadFrameError("not an object")
    fields = _Fields(frame)
    kind = fields.text("type")
    reader = _READERS.get(kind)
    if reader is None:
        raise UnknownTypeError(f"unknown frame type {json.dumps(kind[:64])}")
    return reader(fields)


def encode(kind: str, /, key: AttemptKey | None = None, **fields: Any) -> bytes:
    """Write a frame; fields that are ``None`` are left out.

    Raises `TypeError`, `ValueError` or `RecursionError` for a payload that is not JSON.
    """
    frame: dict[str, Any] = {"type": kind}
    if key is not None:
        frame |= key.form()
    frame |= {name: value for name, value in fields.items() if value is not None}
    return to_json(frame)


def to_json(value: Any) -> bytes:
    """Write any JSON; a `StoredArtifact` in it becomes its reference.

    Raises `TypeError`, `ValueError` or `RecursionError` for what is not JSON, such as NaN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_form)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair is no text: it cannot be sent, and nobody could read it.
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text).encode()


def chunk(number: int, piece: bytes) -> bytes:
    """Return a binary frame: a piece of an upload; an empty piece gives the upload up."""
    return number.to_bytes(4, "big") + piece


_SURROGATE = re.compile("[\ud800-\udfff]")

# The server writes these fields first and in this order.
_EXECUTE_HEAD = re.compile(
    r'\{"type":"execute","task":"(?P<task>[0-9a-f-]{1,64})","epoch":(?P<epoch>\d{1,16}),'
    r'"connection":(?P<connection>\d{1,16}),'
)


def _form(value: Any) -> Any:
    if isinstance(value, StoredArtifact):
        return value.reference()
    raise TypeError(f"a {type(value).__name__} is not JSON")


class _Fields:
    """Reads the fields of a frame and names the one that is wrong."""

    def __init__(self, frame: Mapping[str, Any]) -> None:
        self._frame = frame

    def text(self, name: str, default: str | None = None) -> str:
        value = self._frame.get(name, default)
        if not isinstance(value, str):
            raise BadFrameError(f"{name} is not a text")
        return value

    def maybe_text(self, name: str) -> str | None:
        return None if self._frame.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        value = self._frame.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadFrameError(f"{name} is not a whole number")
        return value

    def maybe_number(self, name: str) -> int | None:
        return None if self._frame.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        value = self._frame.get(name, False)
        if not isinstance(value, bool):
            raise BadFrameError(f"{name} is neither true nor false")
        return value

    def maybe_flag(self, name: str) -> bool | None:
        return None if self._frame.get(name) is None else self.flag(name)

    def any(self, name: str) -> Any:
        if name not in self._frame:
            raise BadFrameError(f"{name} is missing")
        return self._frame[name]

    def maybe_object(self, name: str) -> Mapping[str, Any] | None:
        value = self._frame.get(name)
        if value is not None and not isinstance(value, dict):
            raise BadFrameError(f"{name} is not an object")
        return value

    def key(self) -> AttemptKey:
        return AttemptKey(self.text("task"), self.number("epoch"))

    def texts(self, name: str) -> frozenset[str]:
        value = self._frame.get(name, [])
        if not isinstance(value, list):
            raise BadFrameError(f"{name} is not a list")
        return frozenset(item for item in value if isinstance(item, str))

    def keys(self, name: str) -> list[AttemptKey]:
        value = self._frame.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise BadFrameError(f"{name} is not a list of attempts")
        return [_Fields(item).key() for item in value]


def _registered(fields: _Fields) -> Registered:
    return Registered(
        name=fields.text("name", ""),
        connection=fields.number("connection"),
        slots=fields.number("slots"),
        # A server that asks for less than 10 ms asks for a flood.
        interval=max(fields.number("heartbeat_interval_ms"), 10) / 1000,
        store_id=fields.text("store_id"),
        features=fields.texts("features"),
        keep=fields.keys("keep"),
        resend=fields.keys("resend"),
        drop=fields.keys("drop"),
    )


def _execute(fields: _Fields) -> Execute:
    ttl = fields.maybe_number("session_ttl_ms")
    return Execute(
        key=fields.key(),
        connection=fields.number("connection"),
        attempt=fields.number("attempt"),
        capability=fields.text("capability"),
        input=fields.any("input"),
        deadline=fields.number("deadline_ms") / 1000,
        session=fields.maybe_text("session"),
        session_new=fields.maybe_flag("session_new"),
        session_ttl=None if ttl is None else ttl / 1000,
        idempotency_key=fields.maybe_text("idempotency_key"),
        traceparent=fields.maybe_text("traceparent"),
    )


def _credit(fields: _Fields) -> Credit:
    return Credit(
        number=fields.number("number"),
        bytes=fields.number("bytes"),
        stored=fields.flag("stored"),
        error=fields.maybe_object("error"),
    )


def _goodbye(fields: _Fields) -> Goodbye:
    after = fields.maybe_number("retry_after_ms")
    return Goodbye(fields.text("reason", ""), None if after is None else after / 1000)


_READERS: dict[str, Callable[[_Fields], FromServer]] = {
    "registered": _registered,
    "execute": _execute,
    "end_session": lambda fields: EndSession(fields.text("session")),
    "cancel": lambda fields: Cancel(fields.key(), fields.text("reason", "")),
    "result_ack": lambda fields: ResultAck(
        fields.key(), fields.flag("accepted"), fields.maybe_text("reason")
    ),
    "credit": _credit,
    "heartbeat": lambda _fields: Heartbeat(),
    "drain": lambda fields: Drain(fields.text("reason", "")),
    "goodbye": _goodbye,
    "error": lambda fields: Complaint(fields.text("code"), fields.text("message")),
}
