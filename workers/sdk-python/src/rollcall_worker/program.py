"""A worker as a program: its command line, its signals, and its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rollcall_worker.certificates import Certificates
from rollcall_worker.lifeline import watch_lifeline
from rollcall_worker.token import Token

if TYPE_CHECKING:
    from rollcall_worker.worker import Worker

log = logging.getLogger("rollcall_worker")


def run_program(worker: Worker, argv: Sequence[str] | None) -> NoReturn:
    """See `Worker.main`."""
    arguments = _parser(worker.kind).parse_args(argv)
    if not logging.getLogger().handlers:
        form = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    code = 0
    try:
        asyncio.run(_run(worker, arguments))
    except (OSError, ValueError) as problem:
        log.error("cannot go on: %s", problem)
        code = 1
    sys.exit(code)


async def _run(worker: Worker, arguments: argparse.Namespace) -> None:
    stop, cut = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not every system's event loop can; there the default ends the process.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    watch_lifeline(cut)
    token = Token.from_env() if arguments.token_file is None else Token.from_file(arguments.token_file)
    if arguments.name is not None:
        worker.rename(arguments.name)
    if arguments.slots is not None:
        worker.bound(arguments.slots)
    if arguments.connect is not None:
        await worker.connect(arguments.connect, token=token, stop=stop, cut=cut, tls=_certificates(arguments))
    else:
        host, port = arguments.listen
        tls = _certificates(arguments)
        if tls is not None and tls.cert is None:
            raise ValueError("--tls-ca has no use with --listen but with --tls-cert and --tls-key")
        await worker.serve(host, port, token=token, stop=stop, cut=cut, listening=_tell, tls=tls)
    if worker.running:
        # A thread or a coroutine that does not stop; the interpreter would wait for the latter.
        logging.shutdown()
        os._exit(0)


def _certificates(arguments: argparse.Namespace) -> Certificates | None:
    found = Certificates(arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    return None if found == Certificates() else found


def _tell(address: str) -> None:
    """Tell whoever asked for port 0; the log is on standard error."""
    print(f"listening on {address}", flush=True)


def _parser(kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"A Rollcall worker: {kind}.")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--listen",
        metavar="ADDR",
        type=_address,
        help="serve this address, which the server dials; also /healthz. Port 0 takes a free one",
    )
    way.add_argument(
        "--connect",
        metavar="URL",
        help="dial in to a server, such as ws://127.0.0.1:7600 or wss://rollcall.example:7610",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="the token to demand or to show; else ROLLCALL_TOKEN. Needed off loopback",
    )
    parser.add_argument(
        "--tls-ca",
        metavar="FILE",
        type=Path,
        help="the authorities, in PEM, by which the other side's certificate is judged. With --connect: "
        "instead of the system's. With --listen: the server must then show a certificate",
    )
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        type=Path,
        help="the certificate to show, in PEM, with those between it and its authority. "
        "With --listen: serve TLS",
    )
    parser.add_argument(
        "--tls-key", metavar="FILE", type=Path, help="its private key, in PEM, which nobody else may read"
    )
    parser.add_argument(
        "--name", help="the name to register under, as in config.yaml; else ROLLCALL_WORKER_NAME"
    )
    parser.add_argument(
        "--slots", metavar="N", type=int, help="tasks at once, at most; else as many as the server sends"
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)
