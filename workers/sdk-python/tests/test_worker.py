"""A worker made with this package, seen from a server that a test plays on a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playing import PROTOCOL, SECRET, attempt, serving, within
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from rollcall_worker import CancelReason, Task, TaskError, Worker


def echo(**about: Any) -> Worker:
    worker = Worker("echo", stop_grace=0.05, **about)

    @worker.capability("echo")
    async def _echo(task: Task) -> object:
        return task.input

    return worker


def patient(**about: Any) -> Worker:
    """Runs until it is told to stop, and obeys."""
    worker = echo(**about)

    @worker.capability("wait", idempotent=True)
    async def _wait(_task: Task) -> None:
        await asyncio.get_running_loop().create_future()

    return worker


async def test_register_tells_what_the_worker_was_told() -> None:
    worker = Worker(
        "kind", name="ann", version="1.2", slots=3, labels={"zone": "a"}, pool="p", isolation="full"
    )

    @worker.capability("a.b", schema={"type": "object"}, idempotent=True)
    async def _handler(_task: Task) -> None:
        """Does a thing,
        and well.

        More about it.
        """

    async with serving(worker) as here:
        _, register = await here.connect()
    assert len(register.pop("instance")) == 16
    assert register == {
        "type": "register",
        "name": "ann",
        "pool": "p",
        "kind": "kind",
        "version": "1.2",
        "slots": 3,
        "labels": {"zone": "a"},
        "isolation": "full",
        "attempts": [],
        "features": ["cancel", "resume", "output", "artifacts", "sessions"],
        "capabilities": [
            {
                "name": "a.b",
                "description": "Does a thing, and well.",
                "input_schema": {"type": "object"},
                "idempotent": True,
            }
        ],
    }


async def test_a_worker_keeps_sessions_tells_which_and_hears_of_their_end() -> None:
    kept: dict[str, float | None] = {}
    worker = Worker("notes", sessions=lambda: kept, session_ended=lambda name: kept.pop(name, None))

    @worker.capability("note")
    async def _note(task: Task) -> list[object]:
        assert task.session is not None
        if task.input == "lose":
            kept.pop(task.session)
            task.session_open = False
        else:
            kept[task.session] = task.session_ttl
        return [task.session, task.session_new, task.session_ttl]

    async with serving(worker) as here:
        server, register = await here.connect()
        assert register["sessions"] == []
        await server.welcome()
        await server.execute(1, "note", session="a", session_new=True, session_ttl_ms=1500)
        result = await server.result()
        assert (result["output"], "session_open" in result) == (["a", True, 1.5], False)
        await server.execute(2, "note", session="b", session_new=False, session_ttl_ms=1500)
        await server.result()
        await server.execute(3, "note", session="b", input="lose")
        result = await server.result()
        assert (result["output"], result["session_open"]) == (["b", None, None], False)
        server.cut()
        server, register = await here.connect()
        assert register["sessions"] == ["a"]
        await server.welcome(2)
        await server.say("end_session", session="a")
        server.cut()
        server, register = await here.connect()
        assert register["sessions"] == []


async def test_a_task_is_accepted_and_its_end_tells_what_it_used() -> None:
    worker = Worker("meter")

    @worker.capability("measure")
    async def _measure(task: Task) -> str:
        task.usage(cpu_ms=3, peak_memory_bytes=9)
        return f"{task.id} {task.epoch} {task.attempt} {task.capability} {task.deadline} {task.traceparent}"

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "measure", deadline_ms=5_000, traceparent="00-1", idempotency_key="k")
        assert await server.frame("accepted") == {"type": "accepted", **attempt(1)}
        end = await server.frame("result")
    assert (end["status"], end["output"]) == ("succeeded", "task-1 1 1 measure 5.0 00-1")
    assert end["usage"].pop("wall_ms") >= 0
    assert end["usage"] == {"cpu_ms": 3, "peak_memory_bytes": 9}


async def test_what_cannot_be_started_is_rejected_with_the_reason() -> None:
    async with serving(patient(slots=1)) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        await server.execute(2, "echo")
        rejected = await server.frame("rejected")
        assert (rejected["reason"], rejected["retryable"]) == ("no free slot", True)
        await server.cancel(1)
        assert (await server.result())["status"] == "cancelled"
        await server.execute(3, "sing")
        assert (await server.frame("rejected"))["reason"] == "the worker does not offer this capability"


async def test_of_two_capabilities_that_cover_a_task_the_first_runs_it() -> None:
    worker = Worker("two")
    worker.capability("a.b")(lambda _task: "exact")
    worker.capability("a.*")(lambda _task: "pattern")
    async with serving(worker) as here:
        server = await here.registered()
        for epoch, asked in enumerate(["a.b", "a.c"]):
            await server.execute(epoch, asked)
        outputs = {(await server.result())["output"] for _ in range(2)}
    assert outputs == {"exact", "pattern"}


async def test_an_execute_of_an_old_connection_is_ignored() -> None:
    async with serving(echo()) as here:
        (await here.registered(1)).cut()
        server = await here.registered(2)
        await server.execute(1, "echo", connection=1)
        await server.execute(2, "echo", connection=2)
        assert (await server.frame("accepted"))["epoch"] == 2


async def test_an_acknowledged_attempt_is_not_started_again() -> None:
    async with serving(echo()) as here:
        server = await here.registered()
        await server.execute(1, "echo")
        assert (await server.result())["output"] == 1
        await server.acknowledge(1)
        await server.execute(1, "echo")
        await server.execute(2, "echo")
        assert (await server.frame("accepted"))["epoch"] == 2


async def test_a_cancel_is_answered_by_exactly_one_result() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        await server.cancel(1)
        await server.cancel(1)
        assert (await server.frame("result"))["status"] == "cancelled"
        await server.cancel(2)
        never_came = await server.frame("result")
        assert (never_came["epoch"], never_came["status"]) == (2, "cancelled")
        await server.execute(3, "echo")
        assert (await server.frame("accepted"))["epoch"] == 3


async def test_a_handler_hears_why_it_should_stop() -> None:
    worker = Worker("curious")

    @worker.capability("why")
    async def _why(task: Task) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            assert task.cancelled
            heard.append(task.cancel_reason)

    heard: list[CancelReason | None] = []
    words = ["cancelled", "timeout", "superseded", "unknown", "removed_from_config", "a new word"]
    async with serving(worker) as here:
        server = await here.registered()
        for epoch, word in enumerate(words):
            await server.execute(epoch, "why")
            await server.frame("accepted")
            await server.cancel(epoch, word)
            status = (await server.result())["status"]
            assert status == ("timed_out" if word == "timeout" else "cancelled")
    assert heard == [CancelReason.from_word(word) for word in words]
    assert heard[-1] is CancelReason.CANCELLED


async def test_a_task_that_outruns_its_limit_is_timed_out() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait", deadline_ms=20)
        end = await server.result()
    assert (end["status"], end["error"]["code"], end["error"]["fault"]) == ("timed_out", "timeout", "caller")


async def test_what_was_faster_than_its_cancel_succeeded() -> None:
    worker = Worker("w")

    @worker.capability("stubborn")
    async def _stubborn(_task: Task) -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "done all the same"
        return ""

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "stubborn")
        await server.frame("accepted")
        await server.cancel(1)
        end = await server.result()
    assert (end["status"], end["output"]) == ("succeeded", "done all the same")


async def test_output_is_cut_into_pieces_and_comes_before_the_result() -> None:
    worker = Worker("talker")

    @worker.capability("talk")
    async def _talk(task: Task) -> None:
        print("é" * 40_000, file=task.stdout, end="")
        task.progress(0.5, "half")
        task.stdout.write(b"\xc3")
        task.stderr.write(b"\xe2\x82")

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "talk")
        await server.frame("accepted")
        offset = 0
        while offset < 80_000:
            piece = await server.frame("output")
            assert (piece["stream"], piece["offset"]) == ("stdout", offset)
            offset += len(piece["data"].encode())
        progress = await server.frame("progress")
        assert (progress["fraction"], progress["message"]) == (0.5, "half")
        for stream in ("stdout", "stderr"):
            cut = await server.frame("output")
            assert (cut["stream"], cut["data"]) == (stream, "\N{REPLACEMENT CHARACTER}")
        assert (await server.frame("result"))["status"] == "succeeded"


async def test_output_beyond_what_the_link_takes_leaves_a_gap_and_no_debt() -> None:
    worker = Worker("talker")

    @worker.capability("talk")
    async def _talk(task: Task) -> None:
        for _ in range(400):
            task.stdout.write("x" * 10_000)

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "talk")
        got = end = 0
        while (frame := await server.any())["type"] != "result":  # type: ignore[call-overload]
            assert isinstance(frame, dict)
            if frame["type"] == "output":
                got += len(frame["data"])
                end = frame["offset"] + len(frame["data"])
    assert 0 < got <= 1 << 20, f"{got} bytes were held for a link that was slower"
    assert end <= 4_000_000


async def test_a_result_too_large_for_the_server_fails_and_says_so() -> None:
    worker = Worker("big", max_message=10_000)
    worker.capability("big")(lambda _task: "x" * 20_000)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "big")
        end = await server.result()
    assert (end["status"], end["error"]["code"]) == ("failed", "output_too_large")


async def test_a_message_over_the_limit_ends_the_connection_before_it_is_held() -> None:
    async with serving(echo(max_message=10_000)) as here:
        server = await here.registered()
        await server.execute(1, "echo", input="x" * 20_000)
        assert (await server.closed() or (0, ""))[0] == 1009


async def test_an_input_that_python_cannot_hold_is_answered_and_no_end_of_the_connection() -> None:
    head = '{"type":"execute","task":"0192f0c1-2345-7abc-8def-0123456789ab","epoch":%d,"connection":1,'
    async with serving(echo()) as here:
        server = await here.registered()
        for epoch, monster in enumerate(["[" * 200_000 + "]" * 200_000, "7" * 20_000]):
            rest = f'"attempt":1,"capability":"echo","input":{monster},"deadline_ms":1000}}'
            await within(server.connection.send(head % epoch + rest))
            end = await server.result()
            assert (end["epoch"], end["error"]["code"], end["error"]["fault"]) == (
                epoch,
                "bad_input",
                "caller",
            )
        await server.execute(9, "echo")
        assert (await server.result())["output"] == 9


async def test_the_heartbeat_lists_what_runs_and_what_is_not_acknowledged() -> None:
    async with serving(patient()) as here:
        server = await here.registered(heartbeat_interval_ms=50)
        await server.execute(1, "wait")
        await server.cancel(2)
        await listed(server, [attempt(1), attempt(2)])
        await server.acknowledge(2)
        await listed(server, [attempt(1)])


async def listed(server: Any, expected: list[dict[str, Any]]) -> None:
    """Wait for a heartbeat that lists these; the server's own keeps the worker from leaving."""
    while True:
        await server.say("heartbeat")
        frame = await server.any()
        if frame["type"] == "heartbeat" and sorted(frame["running"], key=lambda it: it["epoch"]) == expected:
            return


async def test_garbage_from_the_server_ends_the_connection_and_nothing_else() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        await server.say("dance")
        assert (await server.frame("error"))["code"] == "unknown_type"
        await server.say("error", code="x", message="never answered")
        await server.connection.send(b"binary frames are ignored")
        await server.connection.send("{")
        assert (await server.frame("error"))["code"] == "bad_frame"
        assert await server.closed() == (1007, "bad_frame")
        _, register = await here.connect()
        assert register["attempts"] == [attempt(1) | {"phase": "running"}]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "execute", "task": "t", "epoch": -1, "connection": 1},
        {"type": "cancel", "task": 7, "epoch": 1},
        {"type": "registered", "connection": "1"},
        {"type": "credit", "number": 1, "bytes": 1, "error": "no"},
        {"type": "result_ack", "task": "t", "epoch": 1, "accepted": "yes"},
        {"no": "type"},
    ],
)
async def test_a_frame_with_a_wrong_field_is_told_by_name(frame: dict[str, Any]) -> None:
    async with serving(echo()) as here:
        server = await here.registered()
        await server.say(**{"kind": "x"} | frame) if "no" in frame else await server.say(
            frame.pop("type"), **frame
        )
        error = await server.frame("error")
    assert error["code"] in {"bad_frame", "unknown_type"}
    assert any(name in error["message"] for name in [*frame, "type"])


async def test_a_server_that_falls_silent_is_left_and_waited_for() -> None:
    async with serving(patient()) as here:
        server = await here.registered(heartbeat_interval_ms=100)
        await server.execute(1, "wait")
        # It reads, but says nothing: 2.5 intervals later the worker is gone, its task is not.
        assert await server.closed() == (1008, "heartbeat_timeout")
        _, register = await here.connect()
        assert register["attempts"] == [attempt(1) | {"phase": "running"}]
        assert register["store_id"] == "s"


async def test_any_frame_of_the_server_is_a_sign_of_life() -> None:
    async with serving(patient()) as here:
        server = await here.registered(heartbeat_interval_ms=80)
        for epoch in range(8):
            # More than twice what the worker would bear in silence.
            await server.frame("heartbeat")
            if epoch % 2:
                await server.say("heartbeat")
            else:
                await server.say("result_ack", **attempt(epoch), accepted=False, reason="unknown_task")
        await server.execute(9, "echo")
        assert (await server.result())["output"] == 9


async def test_a_drain_is_no_end_and_work_may_come_again() -> None:
    async with serving(echo()) as here:
        server = await here.registered()
        await server.say("drain", reason="by ann")
        await server.execute(1, "echo")
        assert (await server.result())["output"] == 1


async def test_a_worker_that_stops_says_goodbye_finishes_and_waits_for_the_last_word() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        here.stop.set()
        await server.frame("goodbye")
        await server.execute(2, "echo")
        assert (await server.frame("rejected"))["reason"] == "the worker is stopping"
        await server.cancel(1)
        assert (await server.frame("result"))["status"] == "cancelled"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(server.connection.recv(), 0.2)
        await server.acknowledge(1)
        assert await server.closed() == (1001, "worker_shutdown")
        await within(here.done)


async def test_a_worker_that_stops_tells_the_next_connection_too() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        here.stop.set()
        await server.frame("goodbye")
        server.cut()
        server, _ = await here.connect()
        await server.welcome(2, keep=[attempt(1)])
        await server.frame("goodbye")
        await server.cancel(1)
        assert (await server.frame("result"))["status"] == "cancelled"


async def test_what_outlives_the_grace_of_a_stop_is_failed_and_may_be_tried_elsewhere() -> None:
    async with serving(patient(shutdown_grace=0.01)) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        here.stop.set()
        error = (await server.result())["error"]
        assert (error["code"], error["retryable"]) == ("worker_shutdown", True)
        await server.acknowledge(1)
        await within(here.done)


async def test_a_cut_lifeline_stops_everything_at_once() -> None:
    async with serving(patient()) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        here.lifeline.set()
        await within(here.done)


UPGRADE = """GET / HTTP/1.1
Host: x
Connection: Upgrade
Upgrade: websocket
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Authorization: Bearer s3cret"""
OURS = "\nSec-WebSocket-Protocol: rollcall.v1"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (UPGRADE + OURS + "\nOrigin: http://127.0.0.1", 403),
        ("GET / HTTP/1.1\nHost: x\nOrigin: null", 403),
        (UPGRADE, 426),
        (UPGRADE + "\nSec-WebSocket-Protocol: rollcall.v2", 426),
        ((UPGRADE + OURS).replace("13", "8"), 400),
        ((UPGRADE + OURS).replace("s3cret", "s3cret2"), 401),
        ((UPGRADE + OURS).replace("Authorization", "Authorisation"), 401),
        (UPGRADE + OURS + "\nAuthorization: Bearer s3cret", 401),
        ("GET / HTTP/1.1\nHost: x", 404),
        ("GET /metrics HTTP/1.1\nHost: x", 404),
    ],
)
async def test_what_is_no_server_is_told_why(head: str, status: int) -> None:
    async with serving(echo(), token=SECRET) as here:
        assert (await here.get(head))[0] == status


async def test_a_listening_worker_takes_one_controller_with_the_token() -> None:
    async with serving(echo(), token=SECRET) as here:

        async def dial(secret: str) -> Any:
            headers = {"Authorization": f"Bearer {secret}"}
            url = f"ws://{here.address}"
            return await within(
                _open(connect(url, subprotocols=PROTOCOL, additional_headers=headers, proxy=None))
            )

        first = await dial("s3cret")
        with pytest.raises(InvalidStatus) as refused:
            await dial("s3cret")
        assert refused.value.response.status_code == 409
        await first.close()


async def _open(connecting: connect) -> Any:
    return await connecting


async def test_pages_tell_how_the_worker_is() -> None:
    async with serving(patient(), metrics=lambda: "up 1\n") as here:
        health = "GET /healthz HTTP/1.1\nHost: x"
        assert await here.get(health) == (200, '{"status":"ok","connected":false,"running":0}\n')
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        assert await here.get(health) == (200, '{"status":"ok","connected":true,"running":1}\n')
        assert await here.get("GET /metrics?x HTTP/1.1\nHost: x") == (200, "up 1\n")


async def test_a_worker_off_loopback_needs_a_token() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        await echo().serve("0.0.0.0")
    with pytest.raises(ValueError, match="needs a token"):
        await echo().connect("ws://10.0.0.1:7600")


def test_slips_in_what_is_offered_are_told_at_once() -> None:
    worker = echo()
    for wrong in ["", "Echo", "a..b", "a.*b", "a b", "x" * 129]:
        with pytest.raises(ValueError, match="no capability"):
            worker.capability(wrong)
    with pytest.raises(ValueError, match="twice"):
        worker.capability("echo")
    with pytest.raises(ValueError, match="longer than"):
        worker.capability("long", schema={"description": "x" * 70_000})
    with pytest.raises(ValueError, match="slots"):
        Worker("w", slots=0)


def test_an_error_reads_well() -> None:
    assert str(TaskError("bad_input", "text is missing")) == "bad_input: text is missing"
