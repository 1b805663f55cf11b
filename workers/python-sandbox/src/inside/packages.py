"""Packages: installed by pip in a sandbox made for that, listed and used in those of sessions."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

REPORT = "/tmp/report.json"


def install(request):
    """Runs in the installer's own sandbox: wheels of `source`, or of an index behind a proxy, into
    `target`. Nothing of a package is run: only wheels are taken."""
    command = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--no-color",
               "--disable-pip-version-check", "--no-cache-dir", "--no-compile", "--only-binary", ":all:",
               "--target", request["target"], "--report", REPORT, "--retries", "1", "--timeout", "15"]
    if request.get("source"):
        command += ["--find-links", request["source"]]
    if request.get("index"):
        command += ["--index-url", request["index"], "--proxy", forward(request["proxy"])]
        if request.get("certificates"):
            command += ["--cert", request["certificates"]]
    else:
        command += ["--no-index"]
    # pip unpacks beside where it installs: `/tmp` is small, and memory.
    scratch = os.path.join(request["target"], ".unpacked")
    os.makedirs(scratch)
    done = subprocess.run([*command, "--", *request["packages"]], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": scratch})
    shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode != 0:
        raise runner.Refusal("NotInstalled", (done.stdout or "pip failed").strip())
    with open(REPORT) as file:
        report = json.load(file)
    installed = [described(one, request["target"]) for one in report.get("install", [])]
    return {"installed": sorted(installed, key=lambda one: one["name"])}


def described(one, target):
    """A package as it is told: the hash is of the wheel that was taken."""
    where = one.get("download_info", {})
    hashes = where.get("archive_info", {}).get("hashes", {})
    digest = hashes.get("sha256")
    if digest is None and where.get("url", "").startswith("file://"):
        with open(where["url"][len("file://"):], "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    about = one["metadata"]
    told = {"name": about["name"], "version": about["version"], "sha256": digest}
    if digest is None:
        # An index that names no hashes: the list of what was installed has one for each file.
        told["record_sha256"] = hashlib.sha256(record_of(target, about).encode()).hexdigest()
    return told


def record_of(target, about):
    import importlib.metadata

    for one in importlib.metadata.distributions(path=[target]):
        if (one.metadata["Name"], one.version) == (about["name"], about["version"]):
            return one.read_text("RECORD") or ""
    return ""


def forward(path):
    """Listens on this sandbox's own loopback and passes on to the worker's proxy, which alone decides
    what may be reached: pip cannot speak to a Unix socket by itself."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        while True:
            near, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(path)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def add(request):
    """Makes an installed set importable here and in programs that the session starts."""
    import importlib

    folder = request["folder"]
    if not os.path.isdir(folder):
        raise runner.Refusal("NotInstalled", "the packages are not to be seen in this sandbox")
    if folder not in sys.path:
        sys.path.insert(1, folder)
        known = [one for one in os.environ.get("PYTHONPATH", "").split(":") if one]
        os.environ["PYTHONPATH"] = ":".join([folder, *known])
        os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
    importlib.invalidate_caches()
    return {}


def list_installed(request):
    import importlib.metadata

    found = {}
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        if name and name not in found:
            found[name] = {"name": name, "version": one.version}
    packages = sorted(found.values(), key=lambda one: one["name"].lower())
    return {"packages": packages[:1000], "left_out": max(0, len(packages) - 1000)}
