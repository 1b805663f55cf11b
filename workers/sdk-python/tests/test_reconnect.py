"""A broken connection is not a broken task: what worker and server agree on, row by row."""

from __future__ import annotations

import asyncio
import random

import pytest
from playing import SECRET, Server, attempt, dialling, serving, waiting, within
from websockets.asyncio.server import serve

from rollcall_worker import Task, TaskError, Worker
from rollcall_worker.dial import Backoff, whole_url


def worker() -> tuple[Worker, dict[int, asyncio.Future[str]]]:
    """A worker whose tasks end when the test says so, and the ends to be said."""
    made, ends = Worker("patient", name="ann", stop_grace=0.05), {}

    @made.capability("wait")
    async def _wait(task: Task) -> object:
        ends[task.epoch] = asyncio.get_running_loop().create_future()
        return await ends[task.epoch]

    made.capability("echo")(lambda task: task.input)
    return made, ends


def held(*phases: tuple[int, str]) -> list[dict[str, object]]:
    return [attempt(epoch) | {"phase": phase} for epoch, phase in phases]


async def test_a_running_attempt_that_is_kept_goes_on() -> None:
    made, ends = worker()
    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        server.cut()
        server, register = await here.connect()
        assert register["attempts"] == held((1, "running"))
        await server.welcome(2, keep=[attempt(1)])
        ends[1].set_result("kept")
        assert (await server.frame("result"))["output"] == "kept"


async def test_a_result_is_kept_and_sent_again_only_when_asked_for() -> None:
    made, _ = worker()
    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "echo")
        first = await server.result()
        server.cut()
        server, register = await here.connect()
        assert register["attempts"] == held((1, "done"))
        await server.welcome(2, resend=[attempt(1), attempt(7)])
        assert await server.frame("result") == first
        await server.acknowledge(1)
        # Acknowledged is forgotten; so is what the server says nothing about, once it is dropped.
        await server.say("dance")
        await server.frame("error")
        server.cut()
        _, register = await here.connect()
        assert register["attempts"] == []


async def test_a_result_that_came_during_the_cut_is_not_lost() -> None:
    made, ends = worker()
    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        server.cut()
        ends[1].set_result("while nobody listened")
        server, register = await here.connect()
        while register["attempts"] != held((1, "done")):
            server.cut()
            server, register = await here.connect()
        await server.welcome(2, resend=[attempt(1)])
        assert (await server.frame("result"))["output"] == "while nobody listened"


async def test_what_is_dropped_is_stopped_and_forgotten_without_a_word() -> None:
    made, ends = worker()
    async with serving(made) as here:
        server = await here.registered()
        for epoch in (1, 2):
            await server.execute(epoch, "wait")
            await server.frame("accepted")
        await server.execute(3, "echo")
        await server.result()
        server.cut()
        server, register = await here.connect()
        assert register["attempts"] == held((1, "running"), (2, "running"), (3, "done"))
        await server.welcome(2, keep=[attempt(1)], drop=[attempt(2), attempt(3)])
        # Had the second one been answered, that would come before this.
        with pytest.raises(asyncio.CancelledError):
            await within(ends[2])
        ends[1].set_result("")
        assert (await server.frame("result"))["epoch"] == 1
        server.cut()
        _, register = await here.connect()
        assert register["attempts"] == held((1, "done"))


async def test_an_attempt_that_was_dropped_is_not_started_again() -> None:
    made, _ = worker()
    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "echo")
        await server.result()
        server.cut()
        server, _ = await here.connect()
        await server.welcome(2, drop=[attempt(1)])
        await server.execute(1, "echo", connection=2)
        await server.execute(2, "echo", connection=2)
        assert (await server.frame("accepted"))["epoch"] == 2


async def test_the_instance_tells_a_broken_connection_from_a_restart() -> None:
    seen = set()
    for _ in range(2):
        made, _ends = worker()
        async with serving(made) as here:
            for _ in range(2):
                server, register = await here.connect()
                seen.add(register["instance"])
                server.cut()
    assert len(seen) == 2


async def test_nothing_is_sent_between_register_and_its_answer() -> None:
    made, ends = worker()
    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        server.cut()
        server, _ = await here.connect()
        ends[1].set_result("too early")
        await server.cancel(9)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(server.connection.recv(), 0.1)
        await server.welcome(2, keep=[attempt(1)])
        assert {(await server.result())["epoch"] for _ in range(2)} == {1, 9}


async def test_a_worker_dials_in_where_servers_expect_it_and_shows_its_token() -> None:
    made, _ = worker()
    async with waiting() as there, dialling(made, there.url, token=SECRET):
        server, register = await there.registered()
        await server.execute(1, "echo")
        assert (await server.result())["output"] == 1
    assert register["name"] == "ann"
    assert there.headers[0].path == "/v1/workers/connect"
    assert there.headers[0].headers["Authorization"] == "Bearer s3cret"


async def test_a_worker_dials_again_after_each_end_and_its_tasks_go_on() -> None:
    made, ends = worker()
    async with waiting() as there, dialling(made, there.url):
        server, _ = await there.registered()
        await server.execute(1, "wait")
        await server.frame("accepted")
        for connection in range(2, 6):
            server.cut()
            server, register = await there.registered(connection, keep=[attempt(1)])
            assert register["attempts"] == held((1, "running"))
        ends[1].set_result("at last")
        assert (await server.frame("result"))["output"] == "at last"


async def test_a_server_that_is_stopping_says_when_to_come_back() -> None:
    made, _ = worker()
    clock = asyncio.get_running_loop().time
    async with waiting() as there, dialling(made, there.url):
        server, _ = await there.registered()
        await server.say("goodbye", reason="the server is stopping", retry_after_ms=300)
        began = clock()
        await server.connection.close(1001)
        await there.registered()
        # Its own pause would have been a hundredth of a second at most.
        assert clock() - began >= 0.3


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    made, _ = worker()
    asked = asyncio.Event()

    def away(connection, _request):  # type: ignore[no-untyped-def]
        asked.set()
        response = connection.respond(302, "")
        response.headers["Location"] = there.url
        return response

    async with (
        waiting() as there,
        serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=away) as other,
    ):
        url = f"ws://127.0.0.1:{next(iter(other.sockets)).getsockname()[1]}"
        async with dialling(made, url, token=SECRET):
            for _ in range(3):
                asked.clear()
                await within(asked.wait())
    assert there.headers == []


async def test_a_worker_that_is_stopped_while_nobody_answers_ends() -> None:
    made, _ = worker()
    async with dialling(made, "ws://127.0.0.1:9", initial_backoff=30, max_backoff=30):
        await asyncio.sleep(0)


def test_the_pause_doubles_up_to_its_bound() -> None:
    backoff = Backoff(0.1, 30)
    pauses = [backoff.bound(failures) for failures in (0, 1, 2, 8, 9, 4_000_000_000)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 25.6, 30, 30])


async def test_the_jitter_is_full_and_starts_afresh_after_a_connection_that_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[int] = []
    bound = Backoff.bound

    def noted(self: Backoff, failures: int) -> float:
        bounds.append(failures)
        return bound(self, failures)

    monkeypatch.setattr(Backoff, "bound", noted)
    # A random part of the bound: the smallest possible here, so that no pause is the whole of it.
    monkeypatch.setattr(random, "random", lambda: 0.0)
    made, _ = worker()
    async with waiting() as there, dialling(made, there.url, initial_backoff=1_000, max_backoff=1_000):
        for _ in range(3):
            server, _ = await there.registered()
            server.cut()
        assert bounds[:2] == [0, 1]
        server, _ = await there.registered(heartbeat_interval_ms=20)
        await server.frame("heartbeat")
        await server.frame("heartbeat")
        server.cut()
        before = len(bounds)
        await there.registered()
        assert bounds[before - 1 :][-1] == 0


def test_a_url_is_completed_or_refused_with_the_reason() -> None:
    assert whole_url("ws://127.0.0.1:7600") == "ws://127.0.0.1:7600/v1/workers/connect"
    assert whole_url("wss://host/") == "wss://host/v1/workers/connect"
    assert whole_url("ws://localhost:1/there") == "ws://localhost:1/there"
    for wrong in ["http://127.0.0.1:1", "127.0.0.1:1", "", "ws://", "ws://ann:secret@host"]:
        with pytest.raises(ValueError, match=r"ws://|has more"):
            whole_url(wrong)


async def test_a_file_waits_for_the_next_connection_and_begins_again() -> None:
    made = Worker("files")

    @made.capability("make")
    async def _make(task: Task) -> object:
        return await task.artifact("a.txt", "hello")

    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        announced = await server.frame("artifact")
        server.cut()
        server, _ = await here.connect()
        await server.welcome(2, keep=[attempt(1)])
        again = await server.frame("artifact")
        assert again["sha256"] == announced["sha256"]
        await stores(server, again, b"hello")
        assert (await server.result())["output"]["name"] == "a.txt"


async def test_a_file_of_an_attempt_that_was_dropped_is_given_up() -> None:
    made, met, over = Worker("files"), [], asyncio.Event()

    @made.capability("make")
    async def _make(task: Task) -> None:
        try:
            await task.artifact("a.txt", "hello")
        except asyncio.CancelledError:
            with pytest.raises(TaskError) as refused:
                await task.artifact("b.txt", "hello")
            met.append(refused.value.code)
            over.set()
            raise

    async with serving(made) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        await server.frame("artifact")
        server.cut()
        server, _ = await here.connect()
        await server.welcome(2, drop=[attempt(1)])
        await within(over.wait())
    assert met == ["artifact_not_open"]


async def stores(server: Server, announced: dict[str, object], data: bytes) -> None:
    """Take in a file as a server does."""
    number = announced["number"]
    await server.say("credit", number=number, bytes=len(data))
    assert isinstance(number, int)
    assert await server.any() == number.to_bytes(4, "big") + data
    await server.say("credit", number=number, bytes=0, stored=True)
