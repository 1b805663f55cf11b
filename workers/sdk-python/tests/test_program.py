"""A worker as a program: its command line, its environment, its signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from playing import PROTOCOL, Server, waiting, within
from websockets.asyncio.client import connect

from rollcall_worker import LIFELINE_FD, TOKEN, WORKER_NAME, Token
from rollcall_worker.program import _parser

PROGRAM = """
import asyncio, threading
from rollcall_worker import Worker

worker = Worker("program", stop_grace=0.05, shutdown_grace=0.05)
worker.capability("deaf")(lambda task: threading.Event().wait())

@worker.capability("stubborn")
async def stubborn(task):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

worker.main()
"""
SOURCES = Path(__file__).parent.parent / "src"


async def start(*arguments: str, **options: Any) -> Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
    environment |= {"PYTHONPATH": str(SOURCES)} | options.pop("env", {})
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=PIPE, stderr=PIPE, env=environment, **options
    )


async def address(process: Process) -> str:
    assert process.stdout is not None
    line = (await within(process.stdout.readline())).decode()
    assert line.startswith("listening on 127.0.0.1:"), line
    return line.split()[-1]


async def dial(address: str, secret: str | None = None) -> Server:
    async def one() -> Server:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return Server(
            await connect(f"ws://{address}", subprotocols=PROTOCOL, additional_headers=headers, proxy=None)
        )

    return await within(one())


async def test_a_program_listens_where_it_is_told_and_leaves_on_sigterm() -> None:
    process = await start("--listen", "127.0.0.1:0", "--slots", "2", env={WORKER_NAME: "ann"})
    server = await dial(await address(process))
    register = await server.frame("register")
    assert (register["name"], register["slots"]) == ("ann", 2)
    await server.welcome()
    process.send_signal(signal.SIGTERM)
    await server.frame("goodbye")
    assert await within(process.wait()) == 0


async def test_a_program_dials_in_with_the_name_and_the_token_that_it_is_given(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    async with waiting() as there:
        words = ["--connect", there.url, "--name", "bob", "--token-file", str(token)]
        process = await start(*words, env={TOKEN: "another", WORKER_NAME: "ann"})
        _, register = await there.registered()
        process.send_signal(signal.SIGINT)
        assert await within(process.wait()) == 0
    assert register["name"] == "bob"
    assert there.headers[0].headers["Authorization"] == "Bearer s3cret"


async def test_a_launched_program_demands_its_token_and_ends_with_its_server() -> None:
    mine, theirs = os.pipe()
    process = await start(
        "--listen", "127.0.0.1:0", env={TOKEN: "s3cret", LIFELINE_FD: str(mine)}, pass_fds=[mine]
    )
    os.close(mine)
    server = await dial(await address(process), "s3cret")
    await server.frame("register")
    await server.welcome()
    # A thread and a coroutine that never return.
    for epoch, capability in enumerate(["deaf", "stubborn"]):
        await server.execute(epoch, capability)
        await server.frame("accepted")
    os.close(theirs)
    assert await within(process.wait()) == 0


@pytest.mark.parametrize(
    ("words", "env", "problem"),
    [
        (["--listen", "0.0.0.0:0"], {}, "needs a token"),
        (["--connect", "http://127.0.0.1:1"], {}, "not a URL"),
        (["--listen", "127.0.0.1:0", "--slots", "0"], {}, "slots are"),
        (["--listen", "127.0.0.1:0", "--token-file", "/no/such/file"], {}, "/no/such/file"),
        (["--listen", "127.0.0.1:0"], {TOKEN: "two words"}, "visible ASCII"),
        (["--listen", "127.0.0.1:0"], {LIFELINE_FD: "999"}, "open pipe"),
    ],
)
async def test_a_program_that_cannot_go_on_says_why(
    words: list[str], env: dict[str, str], problem: str
) -> None:
    process = await start(*words, env=env)
    _, said = await within(process.communicate())
    assert process.returncode == 1
    assert problem in said.decode()


@pytest.mark.parametrize(
    "words", [[], ["--listen", "1:2", "--connect", "x"], ["--listen", "7600"], ["--listen", "h:99999"]]
)
def test_one_way_to_meet_a_server_is_needed_and_only_one(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        _parser("echo").parse_args(words)
    assert left.value.code == 2


def test_an_address_may_be_ipv6() -> None:
    assert _parser("echo").parse_args(["--listen", "[::1]:80"]).listen == ("::1", 80)


def test_only_the_whole_token_opens() -> None:
    token = Token(" s3cret\n")
    assert token.is_shown_by("Bearer s3cret")
    assert token.is_shown_by("bearer s3cret")
    for wrong in [
        "Bearer s3cre",
        "Bearer s3cret2",
        "Bearer ",
        "s3cret",
        "Basic s3cret",
        "",
        None,
        "Bearer é",
    ]:
        assert not token.is_shown_by(wrong), wrong
    assert "s3cret" not in f"{token!r} {token}"
    with pytest.raises(ValueError, match="visible"):
        Token(" ")
