"""What a worker holds has bounds, and what is said comes in an order that holds nothing up."""

from __future__ import annotations

import pytest

from rollcall_worker import ledger as limits
from rollcall_worker.frames import AttemptKey, Credit, Registered
from rollcall_worker.ledger import Ledger, Refused, Send, Verdict, Word


class Silent:
    """A running attempt that nobody stops."""

    def stop(self, _reason: str) -> None:
        raise AssertionError("nobody asked for that")


def key(epoch: int) -> AttemptKey:
    return AttemptKey("t", epoch)


def up(**change: object) -> Ledger:
    ledger = Ledger()
    ledger.begin_link()
    ledger.registered(registered(**change))
    return ledger


def registered(**change: object) -> Registered:
    plain = {"name": "", "connection": 1, "slots": 4, "interval": 30.0, "store_id": "s"}
    lists = {"features": frozenset({"artifacts"}), "keep": [], "resend": [], "drop": []}
    return Registered(**(plain | lists | change))  # type: ignore[arg-type]


def text(ledger: Ledger) -> bytes | None:
    popped = ledger.pop()
    return None if popped is None else popped[0]


def test_the_oldest_results_are_given_up_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNACKNOWLEDGED", 100)
    ledger = Ledger()
    assert ledger.keep(key(1), b"x" * 60) == []
    assert ledger.keep(key(2), b"x" * 60) == [key(1)]
    # One that is larger than all room is kept alone: it is still the only copy.
    assert ledger.keep(key(3), b"x" * 200) == [key(2)]
    assert ledger.begin_link() == [key(3).form() | {"phase": "done"}]


def test_a_result_is_said_before_the_pieces_of_files_that_wait() -> None:
    ledger = up()
    number = ledger.announce(lambda number: b"announce %d" % number)
    ledger.credit(Credit(number, 1 << 20, stored=False, error=None))
    assert text(ledger) == b"announce 0"
    for _ in range(limits.MAX_CHUNKS):
        assert ledger.upload_step(number, 10) == Send(10)
        ledger.send_chunk(number, b"0123456789")
    assert ledger.upload_step(number, 10) is None, "the pieces that wait are bounded"
    ledger.keep(key(1), b"result")
    assert text(ledger) == b"result"
    assert ledger.pop() == (b"\0\0\0\0" + b"0123456789", False)


def test_endless_output_does_not_hold_up_a_file_for_ever() -> None:
    ledger = up()
    ledger.start(key(1), Silent(), b"accepted")
    number = ledger.announce(lambda _number: b"announce")
    ledger.credit(Credit(number, 100, stored=False, error=None))
    ledger.send_chunk(number, b"piece")
    for _ in range(100):
        assert ledger.output(key(1), b"output")
    kinds = [popped[1] for popped in iter(ledger.pop, None)]
    assert kinds.index(False) <= limits.FRAMES_BEFORE_CHUNK


def test_output_that_was_left_out_frees_no_room_and_what_was_sent_does() -> None:
    ledger = up()
    ledger.start(key(1), Silent(), b"accepted")
    piece = b"x" * (limits.MAX_OUTPUT // 2)
    assert [ledger.output(key(1), piece) for _ in range(3)] == [True, True, False]
    assert text(ledger) == b"accepted"
    assert text(ledger) == piece
    assert ledger.output(key(1), piece)
    assert not ledger.output(key(2), b"of nobody"), "no attempt that runs here"


def test_an_upload_hears_its_last_word_and_says_its_own() -> None:
    ledger = up()
    stored, refused, given_up = (ledger.announce(lambda _number: b"a") for _ in range(3))
    ledger.credit(Credit(stored, 0, stored=True, error=None))
    ledger.credit(Credit(refused, 0, stored=False, error={"code": "no"}))
    assert ledger.upload_step(stored, 0) is Word.STORED
    assert ledger.upload_step(refused, 9) == Refused({"code": "no"})
    for number in (stored, refused, given_up):
        ledger.end_upload(number)
    binary = [frame for frame, is_text in iter(ledger.pop, None) if not is_text]
    assert binary == [refused.to_bytes(4, "big"), given_up.to_bytes(4, "big")]
    other = ledger.announce(lambda _number: b"a")
    ledger.end_link()
    assert ledger.upload_step(other, 1) is Word.AGAIN


def test_frames_of_an_old_connection_are_not_said_on_the_next() -> None:
    ledger = up()
    ledger.start(key(1), Silent(), b"accepted")
    ledger.output(key(1), b"output")
    ledger.say(b"goodbye")
    ledger.keep(key(2), b"result")
    ledger.end_link()
    ledger.say(b"nobody is there")
    ledger.begin_link()
    assert ledger.pop() is None, "nothing before `registered`"
    ledger.registered(registered(connection=2, resend=[key(2), key(2), key(3)]))
    assert [frame for frame, _ in iter(ledger.pop, None)] == [b"output", b"result"]


def test_an_end_is_remembered_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FORGOTTEN", 2)
    ledger = up()
    for epoch in (1, 2, 3):
        ledger.keep(key(epoch), b"result")
        ledger.acknowledged(key(epoch))
    verdicts = [ledger.judge(key(epoch), 1, None) for epoch in (1, 2, 3)]
    assert verdicts == [Verdict.START, Verdict.IGNORE, Verdict.IGNORE]


def test_a_worker_that_does_not_bound_itself_is_bounded() -> None:
    ledger = up()
    ledger.running = limits.MAX_SLOTS
    assert ledger.judge(key(1), 1, None) is Verdict.FULL


def test_complaints_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_COMPLAINTS", 2)
    ledger = up()
    for _ in range(9):
        ledger.complain(b"error")
    assert [frame for frame, _ in iter(ledger.pop, None)] == [b"error", b"error"]
