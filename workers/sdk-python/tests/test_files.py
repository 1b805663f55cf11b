"""Files that a task makes, on their way out of the worker."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from playing import Server, serving

from rollcall_worker import StoredArtifact, Task, TaskError, Worker
from rollcall_worker.frames import CHUNK_BYTES
from rollcall_worker.shorten import longest, name


class Store:
    """Takes in files as a server does, with a small credit at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self._open: dict[int, tuple[dict[str, object], bytearray]] = {}

    async def until_the_result(self) -> dict[str, object]:
        while True:
            message = await self.server.any()
            if isinstance(message, bytes):
                await self._piece(int.from_bytes(message[:4], "big"), message[4:])
            elif message["type"] == "artifact":
                self._open[message["number"]] = message, bytearray()
                await self.server.say("credit", number=message["number"], bytes=100_000)
                if message["size"] == 0:
                    await self._piece(message["number"], b"")
            elif message["type"] == "result":
                assert not self._open, "the result came before its files were stored"
                return message

    async def _piece(self, number: int, piece: bytes) -> None:
        about, data = self._open[number]
        assert len(piece) <= CHUNK_BYTES
        data += piece
        if len(data) < about["size"]:  # type: ignore[operator]
            await self.server.say("credit", number=number, bytes=len(piece))
            return
        assert hashlib.sha256(data).hexdigest() == about["sha256"]
        self.files[str(about["name"])] = bytes(data)
        del self._open[number]
        await self.server.say("credit", number=number, bytes=0, stored=True)


async def test_files_of_every_kind_arrive_whole_and_their_references_stand_in_the_output(
    tmp_path: Path,
) -> None:
    large = bytes(range(256)) * 2_000
    path = tmp_path / "on-disk.bin"
    path.write_bytes(large)
    worker = Worker("files")

    @worker.capability("make")
    async def _make(task: Task) -> object:
        return [
            await task.artifact("plot.png", b"\x89PNG"),
            await task.artifact("notes", "höchst", media_type="text/plain"),
            await task.artifact("data.bin", path),
            await task.artifact("empty", b""),
        ]

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        store = Store(server)
        result = await store.until_the_result()
    assert store.files == {
        "plot.png": b"\x89PNG",
        "notes": "höchst".encode(),
        "data.bin": large,
        "empty": b"",
    }
    output = result["output"]
    assert isinstance(output, list)
    assert [item["media_type"] for item in output] == [
        "image/png",
        "text/plain",
        "application/octet-stream",
        "application/octet-stream",
    ]
    assert output[2]["$artifact"] == f"sha256:{hashlib.sha256(large).hexdigest()}"


async def test_a_plain_function_sends_files_from_its_thread() -> None:
    worker = Worker("files")
    worker.capability("make")(lambda task: task.artifact_blocking("a.txt", "hello").reference())
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        store = Store(server)
        assert (await store.until_the_result())["status"] == "succeeded"
    assert store.files == {"a.txt": b"hello"}


async def test_a_cancel_frees_a_thread_that_waits_for_credit() -> None:
    worker = Worker("files")
    worker.capability("make")(lambda task: task.artifact_blocking("a.txt", "hello"))
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        await server.frame("artifact")
        await server.cancel(1)
        assert (await server.result())["status"] == "cancelled"


async def test_a_file_goes_no_further_than_its_credit_and_is_given_up_when_nobody_waits_for_it() -> None:
    worker = Worker("files")

    @worker.capability("make")
    async def _make(task: Task) -> object:
        return await task.artifact("a.bin", b"7" * (1 << 20))

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        number = (await server.frame("artifact"))["number"]
        await server.say("credit", number=number, bytes=100_000)
        pieces = [await server.any(), await server.any()]
        assert [len(piece) - 4 for piece in pieces] == [64 << 10, 100_000 - (64 << 10)]
        await server.cancel(1)
        last = [await server.any(), await server.any()]
    assert number.to_bytes(4, "big") in last, "the file was not given up"
    assert any(isinstance(frame, dict) and frame["status"] == "cancelled" for frame in last)


async def test_a_result_does_not_stand_behind_the_bytes_of_a_file() -> None:
    worker = Worker("files")
    worker.capability("echo")(lambda task: task.input)

    @worker.capability("make")
    async def _make(task: Task) -> object:
        return await task.artifact("a.bin", b"7" * (16 << 20))

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        number = (await server.frame("artifact"))["number"]
        await server.say("credit", number=number, bytes=1 << 30)
        # Only once bytes are on their way is there something to stand behind.
        assert isinstance(await server.any(), bytes)
        await server.execute(2, "echo")
        pieces = 0
        while isinstance(message := await server.any(), bytes) or message["type"] != "result":
            pieces += isinstance(message, bytes)
        # What the sockets' buffers held; all of the file would be 256.
        assert pieces < 200, f"{pieces} pieces came first"
        server.cut()


async def test_a_refused_file_is_told_to_the_handler_with_the_reason() -> None:
    met: list[TaskError] = []
    worker = Worker("files")

    @worker.capability("make")
    async def _make(task: Task) -> str:
        with pytest.raises(TaskError) as refused:
            await task.artifact("a.txt", "hello")
        met.append(refused.value)
        return "without it"

    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "make")
        await server.frame("accepted")
        number = (await server.frame("artifact"))["number"]
        error = {"code": "artifact_store_full", "message": "no room", "retryable": True, "fault": "rollcall"}
        await server.say("credit", number=number, bytes=0, error=error)
        # It says that it knows, so that its task may succeed all the same.
        first, second = await server.any(), await server.any()
    assert number.to_bytes(4, "big") in (first, second)
    assert any(isinstance(frame, dict) and frame["output"] == "without it" for frame in (first, second))
    assert (met[0].code, met[0].retryable, met[0].fault) == ("artifact_store_full", True, "rollcall")


async def test_a_server_without_files_and_a_file_that_is_not_there_are_told_apart() -> None:
    met: list[str] = []
    worker = Worker("files")

    @worker.capability("make")
    async def _make(task: Task) -> None:
        for data in ("hello", Path("/no/such/file")):
            with pytest.raises(TaskError) as refused:
                await task.artifact("a", data)
            met.append(refused.value.code)

    async with serving(worker) as here:
        server = await here.registered(features=["cancel"])
        await server.execute(1, "make")
        assert (await server.result())["status"] == "succeeded"
    assert met == ["artifact_not_supported", "artifact_unreadable"]


async def test_the_longest_texts_of_a_long_output_become_files() -> None:
    worker = Worker("long")
    texts = {"stdout": "a" * 200_000, "report": ["b" * 150_000, "short"]}
    worker.capability("long")(lambda _task: texts)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "long")
        store = Store(server)
        result = await store.until_the_result()
    assert store.files == {"output.stdout.txt": b"a" * 200_000}
    output = result["output"]
    assert isinstance(output, dict)
    assert output["stdout"]["name"] == "output.stdout.txt"
    assert output["report"] == texts["report"]


async def test_a_long_output_without_long_texts_becomes_one_file() -> None:
    numbers = list(range(60_000))
    worker = Worker("long")
    worker.capability("long")(lambda _task: numbers)
    async with serving(worker) as here:
        server = await here.registered()
        await server.execute(1, "long")
        store = Store(server)
        result = await store.until_the_result()
    assert json.loads(store.files["output.json"]) == numbers
    assert isinstance(result["output"], dict)
    assert result["output"]["media_type"] == "application/json"


async def test_a_long_output_stays_in_the_result_where_files_are_refused() -> None:
    worker = Worker("long")
    worker.capability("long")(lambda _task: "x" * 300_000)
    async with serving(worker) as here:
        server = await here.registered(features=[])
        await server.execute(1, "long")
        assert len((await server.result())["output"]) == 300_000
        server.cut()


def test_the_longest_text_is_found_by_its_path() -> None:
    long, longer = "a" * 4_096, "b" * 4_097
    assert longest({"x": long, "a/b": [1, {"~": longer}], "short": "c"}) == (("a/b", 1, "~"), longer)
    assert longest(["short"]) is None


def test_a_file_is_named_after_its_place() -> None:
    assert name(("stdout",)) == "output.stdout"
    assert name(("results", 0, "a/b")) == "output.results.0.a.b"
    assert name(()) == "output"
    assert len(name(("é",) * 500)) <= 66


def test_a_stored_file_is_written_as_its_reference() -> None:
    stored = StoredArtifact("a", "text/plain", 1, "0" * 64)
    assert stored.reference()["$artifact"] == "sha256:" + "0" * 64
