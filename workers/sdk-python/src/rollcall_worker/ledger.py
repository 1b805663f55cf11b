"""What a worker holds and has yet to say: attempts, results that nobody acknowledged, frames.

Plain state with bounds and no I/O; `hub.py` owns it. All of it belongs to the event loop's thread,
but for `output`, which threads call too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from rollcall_worker.frames import AttemptKey, Credit, Registered, chunk

MAX_UNACKNOWLEDGED: Final = 64 << 20
"""Unacknowledged results at most, in bytes; beyond, the oldest is given up."""

MAX_OUTPUT: Final = 1 << 20
"""Live output and progress that waits for the link at most, in bytes; beyond, pieces are left out."""

MAX_CHUNKS: Final = 4
"""Pieces of files that wait for the link at most."""

FRAMES_BEFORE_CHUNK: Final = 8
"""Frames after which a waiting piece of a file has its turn, or endless output would hold it up."""

MAX_COMPLAINTS: Final = 10_000
"""Frames that may wait for the link when one is added that is no attempt's."""

MAX_FORGOTTEN: Final = 4_096
"""Attempts remembered after their end, so that none is started twice."""

MAX_SLOTS: Final = 1_024
"""Tasks at once of a worker that does not bound itself: the most that a server's configuration allows."""


class Runs(Protocol):
    """A running attempt, as far as the ledger knows it."""

    def stop(self, reason: str) -> None:
        """Tell it to stop."""


class Verdict(Enum):
    """What to do with an ``execute``; the value of a refusal is its reason."""

    START = "start"
    IGNORE = "ignore"
    STOPPING = "the worker is stopping"
    FULL = "no free slot"


@dataclass
class _Running:
    task: Runs
    dropped: bool = False
    """The server does not want it; it is on its way out, and only takes its slot."""


@dataclass
class _Done:
    frame: bytes


@dataclass(frozen=True)
class _Output:
    """Live output or progress; counts against `MAX_OUTPUT`."""

    frame: bytes


@dataclass
class _Upload:
    credit: int = 0
    stored: bool = False
    refusal: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Send:
    """An upload may send so many bytes."""

    bytes: int


@dataclass(frozen=True)
class Refused:
    """An upload was refused."""

    error: Mapping[str, Any]


class Word(Enum):
    """Other news of an upload."""

    STORED = "stored"
    AGAIN = "again"
    """The connection is gone: announce it on the next one."""


@dataclass
class Ledger:
    """See the module."""

    connection: int | None = None
    """The current connection's number, from ``registered`` on."""
    takes_artifacts: bool = False
    """Whether the server that is connected takes files."""
    store_id: str | None = None
    leaving: bool = False
    running: int = 0
    """Handlers that run."""
    _linked: bool = False
    _held: dict[AttemptKey, _Running | _Done] = field(default_factory=dict)
    _done: OrderedDict[AttemptKey, int] = field(default_factory=OrderedDict)
    _done_bytes: int = 0
    _forgotten: OrderedDict[AttemptKey, None] = field(default_factory=OrderedDict)
    # Frames for this connection, live output, and the keys of results.
    _outbox: deque[bytes | _Output | AttemptKey] = field(default_factory=deque)
    _output_bytes: int = 0
    _output_lock: threading.Lock = field(default_factory=threading.Lock)
    _uploads: dict[int, _Upload] = field(default_factory=dict)
    _next_upload: int = 0
    _chunks: deque[tuple[int, bytes]] = field(default_factory=deque)
    _frames_since_chunk: int = 0

    def begin_link(self) -> list[dict[str, Any]]:
        """Begin a connection; return what ``register`` says of attempts."""
        self._linked, self.connection = True, None
        # Results are listed in `register` and sent again when asked for; other frames belong to the
        # old connection. Output goes on: the server drops what it does not want.
        with self._output_lock:
            self._outbox = deque(item for item in self._outbox if isinstance(item, _Output))
        self._forget_uploads()
        held = []
        for key, what in self._held.items():
            if isinstance(what, _Done):
                held.append(key.form() | {"phase": "done"})
            elif not what.dropped:
                held.append(key.form() | {"phase": "running"})
        return held

    def registered(self, answer: Registered) -> list[Runs]:
        """Take in the server's answer; return the attempts to stop."""
        self.connection, self.store_id = answer.connection, answer.store_id
        self.takes_artifacts = "artifacts" in answer.features
        stop: list[Runs] = []
        for key in answer.drop:
            what = self._held.get(key)
            if isinstance(what, _Running):
                what.dropped = True
                stop.append(what.task)
            elif what is not None:
                self._forget(key)
        for key in answer.resend:
            if isinstance(self._held.get(key), _Done) and key not in self._outbox:
                self._outbox.append(key)
        return stop

    def end_link(self) -> None:
        """End the connection."""
        self._linked, self.connection, self.takes_artifacts = False, None, False
        self._forget_uploads()

    @property
    def is_up(self) -> bool:
        """Whether ``registered`` has come."""
        return self.connection is not None

    def judge(self, key: AttemptKey, connection: int, slots: int | None) -> Verdict:
        """Judge an ``execute``.

        Its connection must be the current one: a frame that was still buffered from an old one would
        start work that ``register`` did not list.
        """
        if self.connection != connection or key in self._held or key in self._forgotten:
            return Verdict.IGNORE
        if self.leaving:
            return Verdict.STOPPING
        if self.running >= (MAX_SLOTS if slots is None else slots):
            return Verdict.FULL
        return Verdict.START

    def start(self, key: AttemptKey, task: Runs, accepted: bytes) -> None:
        """Give an attempt its slot; ``accepted`` goes out."""
        self.running += 1
        self._held[key] = _Running(task)
        self._outbox.append(accepted)

    def finish(self, key: AttemptKey, frame: bytes) -> list[AttemptKey]:
        """End an attempt: its slot is free, its result goes out and is kept.

        Returns the attempts whose results were given up for it.
        """
        self.running -= 1
        what = self._held.get(key)
        if isinstance(what, _Running) and what.dropped:
            self._forget(key)
            return []
        return self.keep(key, frame)

    def keep(self, key: AttemptKey, frame: bytes) -> list[AttemptKey]:
        """Keep a result until it is acknowledged, and send it.

        Returns the attempts whose results were given up for it.
        """
        self._held[key] = _Done(frame)
        self._done[key] = len(frame)
        self._done_bytes += len(frame)
        if self._linked:
            self._outbox.append(key)
        given_up = []
        while self._done_bytes > MAX_UNACKNOWLEDGED and len(self._done) > 1:
            oldest = next(iter(self._done))
            self._forget(oldest)
            given_up.append(oldest)
        return given_up

    def attempt(self, key: AttemptKey) -> Runs | None:
        """Return what runs under this name."""
        what = self._held.get(key)
        return what.task if isinstance(what, _Running) else None

    def never_came(self, key: AttemptKey) -> bool:
        """Tell whether an attempt is not known here, not even as one that has ended."""
        return key not in self._held and key not in self._forgotten

    def acknowledged(self, key: AttemptKey) -> None:
        """Forget a result that has arrived."""
        if isinstance(self._held.get(key), _Done):
            self._forget(key)

    def say(self, frame: bytes) -> None:
        """Queue a frame for the current connection."""
        if self._linked:
            self._outbox.append(frame)

    def complain(self, frame: bytes) -> None:
        """Queue an ``error`` where there is room: a peer that babbles and does not read is not worth more."""
        if self._linked and len(self._outbox) < MAX_COMPLAINTS:
            self._outbox.append(frame)

    def output(self, key: AttemptKey, frame: bytes) -> bool:
        """Queue live output or progress of a running attempt where there is room. From any thread."""
        if not self.is_wanted(key):
            return False
        with self._output_lock:
            if self._output_bytes + len(frame) > MAX_OUTPUT:
                return False
            self._output_bytes += len(frame)
            self._outbox.append(_Output(frame))
        return True

    def is_wanted(self, key: AttemptKey) -> bool:
        """Tell whether this attempt runs and the server has not dropped it."""
        what = self._held.get(key)
        return isinstance(what, _Running) and not what.dropped

    def announce(self, frame: Callable[[int], bytes]) -> int:
        """Begin an upload; its announcement, made with its number, goes out."""
        number = self._next_upload
        self._next_upload = (number + 1) & 0xFFFF_FFFF
        self._uploads[number] = _Upload()
        self._outbox.append(frame(number))
        return number

    def upload_step(self, number: int, left: int) -> Send | Refused | Word | None:
        """Tell what an upload, of which so many bytes are left, can do; ``None``: wait."""
        upload = self._uploads.get(number)
        if upload is None:
            return Word.AGAIN
        if upload.stored:
            return Word.STORED
        if upload.refusal is not None:
            return Refused(upload.refusal)
        most = min(left, upload.credit)
        return Send(most) if most > 0 and len(self._chunks) < MAX_CHUNKS else None

    def send_chunk(self, number: int, piece: bytes) -> None:
        """Queue a piece of a file, within what `upload_step` allowed."""
        upload = self._uploads.get(number)
        if upload is not None:
            upload.credit -= len(piece)
            self._chunks.append((number, chunk(number, piece)))

    def credit(self, frame: Credit) -> None:
        """Take in the server's word about an upload."""
        upload = self._uploads.get(frame.number)
        if upload is not None:
            upload.credit += frame.bytes
            upload.stored = upload.stored or frame.stored
            upload.refusal = upload.refusal or frame.error

    def end_upload(self, number: int) -> None:
        """End an upload for whoever made it.

        Unless it is stored, the server is told that nothing more will come, and that this is known.
        """
        upload = self._uploads.pop(number, None)
        if upload is None:
            return
        self._chunks = deque(item for item in self._chunks if item[0] != number)
        if not upload.stored:
            self._chunks.append((number, chunk(number, b"")))

    def pop(self) -> tuple[bytes, bool] | None:
        """Return the next message, and whether it is text. Nothing before ``registered``."""
        if not self.is_up:
            return None
        self._frames_since_chunk += 1
        if self._frames_since_chunk <= FRAMES_BEFORE_CHUNK:
            text = self._pop_text()
            if text is not None:
                return text, True
        self._frames_since_chunk = 0
        if self._chunks:
            return self._chunks.popleft()[1], False
        text = self._pop_text()
        return None if text is None else (text, True)

    def listed(self) -> list[dict[str, Any]]:
        """Return what a heartbeat lists: attempts that run, and those not yet acknowledged."""
        return [
            key.form()
            for key, what in self._held.items()
            if not (isinstance(what, _Running) and what.dropped)
        ]

    def is_settled(self) -> bool:
        """Tell whether all results are acknowledged, or no server is there to do so."""
        return not self._done or not self.is_up

    def stop_all(self, reason: str) -> None:
        """Tell every attempt to stop."""
        for what in list(self._held.values()):
            if isinstance(what, _Running):
                what.task.stop(reason)

    def _pop_text(self) -> bytes | None:
        while self._outbox:
            item = self._outbox.popleft()
            if isinstance(item, bytes):
                return item
            if isinstance(item, AttemptKey):
                what = self._held.get(item)
                if isinstance(what, _Done):
                    return what.frame
                continue
            with self._output_lock:
                self._output_bytes -= len(item.frame)
            return item.frame
        return None

    def _forget(self, key: AttemptKey) -> None:
        self._held.pop(key, None)
        self._done_bytes -= self._done.pop(key, 0)
        self._forgotten[key] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            self._forgotten.popitem(last=False)

    def _forget_uploads(self) -> None:
        self._uploads.clear()
        self._chunks.clear()
