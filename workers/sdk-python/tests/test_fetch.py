"""Files that inputs refer to, on their way into the worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playing import serving

from rollcall_worker import Task, TaskError, Token, Worker
from rollcall_worker.fetch import SERVER, Api


@asynccontextmanager
async def answering(status: str, body: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Answer every request so; give the URL, and what was asked."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def reference(body: bytes) -> dict[str, str]:
    return {"$artifact": f"sha256:{hashlib.sha256(body).hexdigest()}", "name": "a.txt"}


async def code_of(api: Api, of: dict[str, str], most: int) -> str:
    with pytest.raises(TaskError) as raised:
        await asyncio.to_thread(api.fetch, of, most)
    return raised.value.code


async def test_a_file_is_fetched_by_its_hash_and_checked_against_it() -> None:
    async with answering("200 OK", b"hello") as (url, asked):
        api = Api.of(url.replace("http", "ws") + "/v1/workers/connect", Token("s3cret"))
        assert api is not None
        assert await asyncio.to_thread(api.fetch, reference(b"hello"), 5) == b"hello"
        assert asked[0].startswith("GET /v1/artifacts/2cf24dba")
        assert "Authorization: Bearer s3cret" in asked[0]
        assert await code_of(api, reference(b"other"), 5) == "artifact_corrupt"
        assert await code_of(api, reference(b"hello"), 4) == "artifact_too_large"
        assert await code_of(api, {"$artifact": "sha256:../../x"}, 4) == "artifact_bad_reference"
    assert await code_of(api, reference(b"hello"), 5) == "artifact_unreachable"


async def test_what_is_not_there_is_the_callers_fault_and_a_redirect_is_not_followed() -> None:
    async with answering("404 Not Found", b"") as (url, _):
        api = Api.of(url)
        assert api is not None
        assert await code_of(api, reference(b"hello"), 5) == "artifact_missing"
    async with answering("302 Found\r\nLocation: http://127.0.0.1:1/", b"") as (url, _):
        api = Api.of(url)
        assert api is not None
        assert await code_of(api, reference(b"hello"), 5) == "artifact_unreachable"
    assert Api.of("file:///etc/passwd") is None


async def test_a_handler_of_either_kind_reads_what_its_input_refers_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker("files")

    @worker.capability("later")
    async def later(task: Task) -> object:
        return (await task.fetch(task.input["file"])).decode()

    @worker.capability("now")
    def now(task: Task) -> object:
        return task.fetch_blocking(task.input["file"], most=5).decode()

    async with answering("200 OK", b"hello") as (url, _):
        monkeypatch.setenv(SERVER, url)
        async with serving(worker) as here:
            server = await here.registered()
            for epoch, capability in enumerate(("later", "now"), start=1):
                await server.execute(epoch, capability, input={"file": reference(b"hello")})
                assert (await server.result())["output"] == "hello"
