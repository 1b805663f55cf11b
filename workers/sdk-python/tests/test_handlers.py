"""What a handler may be, and what becomes of what it returns or raises."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from playing import Server, serving, within

from rollcall_worker import Task, TaskCancelled, TaskError, Worker
from rollcall_worker.frames import AttemptKey, Execute
from rollcall_worker.run import Attempt


async def end_of(
    handler: Callable[[Task], Any], *, cancel: bool = False, stop_grace: float = 5.0, **options: Any
) -> dict[str, Any]:
    """Run one task of a handler, and return its result."""
    worker = Worker("one", stop_grace=stop_grace)
    worker.capability("it", **options)(handler)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "it", input={"text": "hello"})
        if cancel:
            await server.frame("accepted")
            await begun(server)
            await server.cancel(1)
        end = await server.result()
        assert (end["task"], end["epoch"]) == ("task-1", 1)
        return end


async def begun(server: Server) -> None:
    """Wait until the handler has said something."""
    await server.frame("output")


class Callables:
    """Handlers of every shape; each shouts."""

    def method(self, task: Task) -> str:
        return str(task.input["text"]).upper()

    async def coroutine(self, task: Task) -> str:
        return self.method(task)

    async def __call__(self, task: Task) -> str:
        return self.method(task)


@pytest.mark.parametrize(
    "handler",
    [
        Callables().method,
        Callables().coroutine,
        Callables(),
        functools.partial(Callables.coroutine, Callables()),
        lambda task: Callables().method(task),
        lambda task: Callables().coroutine(task),
    ],
    ids=["function", "coroutine", "object", "partial", "lambda", "lambda around a coroutine"],
)
async def test_a_handler_is_any_callable_of_a_task(handler: Callable[[Task], Any]) -> None:
    assert (await end_of(handler))["output"] == "HELLO"


async def test_a_plain_function_runs_in_a_thread_and_does_not_hold_up_the_others() -> None:
    release, variable = threading.Event(), contextvars.ContextVar("variable", default="")
    variable.set("of the loop")
    worker = Worker("threads")

    @worker.capability("block")
    def _block(_task: Task) -> list[object]:
        release.wait()
        here = threading.current_thread()
        # A daemon: one that never returns keeps no program from ending.
        return [here is threading.main_thread(), here.daemon, variable.get()]

    worker.capability("release")(lambda _task: release.set())
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "block")
        await server.execute(2, "release")
        ends = {end["epoch"]: end for end in [await server.result(), await server.result()]}
    assert ends[1]["output"] == [False, True, "of the loop"]


async def test_threads_speak_and_their_words_come_in_order_before_the_result() -> None:
    def talk(task: Task) -> None:
        for number in range(500):
            print(number, file=task.stdout)
        task.progress(1)

    worker = Worker("threads")
    worker.capability("talk")(talk)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "talk")
        await server.frame("accepted")
        said, end = "", ""
        while not end:
            frame = await server.any()
            assert isinstance(frame, dict)
            said += frame.get("data", "")
            end = frame.get("status", "")
    assert said == "".join(f"{number}\n" for number in range(500))


@pytest.mark.parametrize("leave", ["check", "wait", "killed"])
async def test_a_thread_stops_when_it_asks(leave: str) -> None:
    def handler(task: Task) -> None:
        task.stdout.write("here")
        match leave:
            case "check":
                while True:
                    task.check()
            case "wait":
                assert task.wait_cancelled()
                raise TaskCancelled
            case _:
                task.wait_cancelled()
                raise TaskCancelled(killed=True)

    end = await end_of(handler, cancel=True)
    assert end["status"] == "cancelled"
    assert ("error" in end) == (leave == "killed")
    assert end.get("error", {"code": "killed"})["code"] == "killed"


async def test_a_task_that_was_told_to_stop_before_it_began_never_begins() -> None:
    began: list[Task] = []

    async def coroutine(task: Task) -> None:
        began.append(task)

    for handler in (coroutine, began.append):
        alone = attempt_of(handler)
        alone.stop("cancelled")
        assert (await alone.run()).status == "cancelled"
    assert began == []


async def test_the_first_reason_to_stop_stays() -> None:
    alone = attempt_of(Task.check)
    alone.stop("timeout")
    alone.stop("cancelled")
    assert (await alone.run()).status == "timed_out"


def attempt_of(handler: Callable[[Task], Any]) -> Attempt:
    """An attempt without a worker, which says nothing."""
    hub: Any = None
    asked = Execute(AttemptKey("t", 1), 1, 1, "it", None, 60.0, None, None, None, None, None)
    return Attempt(handler, Task(hub, asked), again=False, grace=1.0)


async def test_a_handler_that_ignores_its_cancel_keeps_its_slot_until_it_really_ends() -> None:
    release = threading.Event()
    worker = Worker("deaf", slots=1, stop_grace=0.02)
    worker.capability("deaf")(lambda _task: release.wait())
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "deaf")
        await server.frame("accepted")
        await server.cancel(1, "timeout")
        await server.execute(2, "deaf")
        assert (await server.frame("rejected"))["reason"] == "no free slot"
        release.set()
        assert (await server.frame("result"))["epoch"] == 1


async def test_a_coroutine_that_swallows_its_cancel_is_cancelled_again() -> None:
    cancels = 0

    async def stubborn(task: Task) -> None:
        nonlocal cancels
        task.stdout.write("here")
        while cancels < 3:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancels += 1
        raise TaskCancelled

    assert (await end_of(stubborn, cancel=True, stop_grace=0.01))["status"] == "cancelled"
    assert cancels == 3


async def test_a_declared_error_is_told_with_all_that_it_says() -> None:
    def refuse(_task: Task) -> None:
        raise TaskError("bad_input", "text is missing", retryable=True, details={"at": 7}, output=["so far"])

    end = await end_of(refuse)
    assert (end["status"], end["output"]) == ("failed", ["so far"])
    assert end["error"] == {
        "code": "bad_input",
        "message": "text is missing",
        "retryable": True,
        "fault": "caller",
        "details": {"at": 7},
    }


@pytest.mark.parametrize("idempotent", [True, False])
async def test_an_exception_is_the_workers_fault_and_no_end_of_it(idempotent: bool) -> None:
    def broken(task: Task) -> object:
        return task.input["nothing"]

    error = (await end_of(broken, idempotent=idempotent))["error"]
    assert error == {
        "code": "exception",
        "message": "KeyError: 'nothing'",
        "retryable": idempotent,
        "fault": "worker",
    }


@pytest.mark.parametrize("leave", [lambda _task: sys.exit(3), lambda _task: next(iter(()))])
async def test_what_would_end_a_program_ends_a_task_only(leave: Callable[[Task], Any]) -> None:
    async def coroutine(task: Task) -> object:
        return leave(task)

    for handler in (leave, coroutine):
        assert (await end_of(handler))["error"]["code"] == "exception"


async def test_a_stop_that_nobody_asked_for_is_a_failure() -> None:
    async def wrong(_task: Task) -> None:
        raise asyncio.CancelledError

    assert (await end_of(wrong))["error"]["code"] == "exception"


@pytest.mark.parametrize("output", [float("nan"), {1, 2}, object(), {(1, 2): 3}])
async def test_an_output_that_is_not_json_is_the_workers_fault(output: object) -> None:
    error = (await end_of(lambda _task: output))["error"]
    assert (error["code"], error["fault"]) == ("bad_output", "worker")
    assert "JSON" in error["message"]


async def test_an_error_whose_details_are_not_json_is_told_without_them() -> None:
    def refuse(_task: Task) -> None:
        raise TaskError("bad", "x", details=object())

    error = (await end_of(refuse))["error"]
    assert (error["code"], "details" in error) == ("bad", False)


async def test_half_a_surrogate_pair_is_sent_as_a_replacement() -> None:
    def odd(task: Task) -> str:
        task.stdout.write("a\ud800b")
        return "c\udfffd"

    worker = Worker("odd")
    worker.capability("odd")(odd)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "odd")
        await server.frame("accepted")
        assert (await server.frame("output"))["data"] == "a\N{REPLACEMENT CHARACTER}b"
        assert (await server.frame("result"))["output"] == "c\N{REPLACEMENT CHARACTER}d"


async def test_a_thread_that_outlives_the_worker_speaks_to_nobody() -> None:
    release, said = threading.Event(), threading.Event()

    def deaf(task: Task) -> None:
        release.wait()
        task.stdout.write("too late")
        said.set()

    worker = Worker("deaf", stop_grace=0.01, shutdown_grace=0.01)
    worker.capability("deaf")(deaf)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "deaf")
        await server.frame("accepted")
        here.stop.set()
        await within(here.done)
        assert worker.running == 1
    release.set()
    assert said.wait(20)


async def test_progress_is_a_fraction_and_a_sentence() -> None:
    async def speak(task: Task) -> None:
        for fraction in (0.5, -1, 7, float("nan")):
            task.progress(fraction)
        task.progress(message="x" * 5_000)

    worker = Worker("progress")
    worker.capability("speak")(speak)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "speak")
        await server.frame("accepted")
        fractions = [(await server.frame("progress")).get("fraction") for _ in range(4)]
        assert fractions == [0.5, 0, 1, None]
        assert len((await server.frame("progress"))["message"]) == 1_000
