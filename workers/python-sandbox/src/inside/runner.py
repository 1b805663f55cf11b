"""Does what the worker asks for, inside the sandbox: Python code in this very process, everything else
beside it. One of these serves one task, or one session until it ends.

Requests come on one pipe and frames leave on another, so that standard output and error stay the task's
own. A frame is a letter (J for JSON, B for bytes), a length of four bytes, and a body. The worker trusts
nothing of what comes from here, for the code of a task can do all that this file can.
"""

import json
import os
import signal
import sys

MOST = 8 * 1024
FILE_MOST = 10 << 20
FILES_MOST = 16
REQUEST_MOST = 64 << 20
GRACE = 1.0

state = {"busy": False, "namespace": None, "call": 0, "once": True, "files": 0, "results": []}


class Refusal(Exception):
    """What was asked for cannot be done; the message is for the caller."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def main():
    global requests, frames, workspace, runner
    requests, frames, workspace = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    imports = sys.argv[4:]
    runner = os.getpid()
    for descriptor in (requests, frames):
        os.set_inheritable(descriptor, False)
    sys.argv[:] = ["<code>"]
    for name in imports:
        try:
            __import__(name)
        except Exception:
            pass  # What is not there is not made ready; code that needs it will say so.
    sys.path.insert(0, workspace)
    # Whole lines are seen while the code runs.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    state["namespace"] = fresh_main()
    signal.signal(signal.SIGINT, interrupted)
    tell({"ready": True})
    while serve():
        pass


def serve():
    """Answers one request; false when there will be no other."""
    received = receive()
    if received is None:
        return False
    request, once = received["asked"], received["once"]
    state["once"], state["files"], state["results"] = once, 0, []
    state["call"] = received["call"]
    signal.signal(signal.SIGINT, interrupted)
    try:
        state["busy"] = True
        done = OPERATIONS[request["op"]](request)
        for path in request.get("outputs", ()):
            inside("files").send_output(path)
    except BaseException as problem:
        done = failed(problem)
    state["busy"] = False
    if os.getpid() != runner:
        # A child that the code forked comes by here too; it has nothing to tell.
        os._exit(done.get("exit", 1 if "error" in done else 0))
    if once:
        done = finish(done)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    tell({"done": {"call": received["call"], **done}})
    if once:
        # The worker ends the sandbox. It counts its processes before, and this one must be among them.
        while os.read(requests, 1):
            pass
        os._exit(0)
    return True


def interrupted(number, frame):
    if state["busy"]:
        raise KeyboardInterrupt


def finish(done):
    """What an interpreter does at its end, and what code can notice of it: threads are waited for, and
    exit handlers run, before the task's end is told."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        import atexit

        atexit._run_exitfuncs()
    except BaseException as problem:
        if "error" not in done:
            return failed(problem)
    return done


def failed(problem):
    if isinstance(problem, SystemExit):
        return {"exit": exit_code(problem), "results": state["results"]}
    if isinstance(problem, Refusal):
        return {"error": {"type": problem.kind, "message": shortened(str(problem)), "traceback": None}}
    return {"error": describe(problem), "results": state["results"]}


def python(request):
    if request.get("inputs"):
        inside("files").take_inputs(request["inputs"])
    name = "<code>" if state["once"] else f"<call {state['call']}>"
    source = request["code"].encode("utf-8", "surrogatepass")
    state["name"], state["source"] = name, source
    value = run(source, name, state["namespace"])
    if value is not None:
        show(value)
    if "matplotlib.pyplot" in sys.modules:
        inside("rich").show_figures(state["results"], send_file)
    return {"results": state["results"]}


def fresh_main():
    """A `__main__` without anything of this file in it."""
    module = type(sys)("__main__")
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    module.display = show
    return module.__dict__


def run(source, name, namespace):
    import _ast

    flags = _ast.PyCF_ONLY_AST
    tree = compile(source, name, "exec", flags, dont_inherit=True)
    last = tree.body.pop().value if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    exec(compile(tree, name, "exec", dont_inherit=True), namespace)
    if last is not None:
        expression = _ast.Expression(last)
        return eval(compile(expression, name, "eval", dont_inherit=True), namespace)


def show(*values):
    """Adds values to what the task returns, as the last expression is added by itself."""
    for value in values:
        if len(state["results"]) >= FILES_MOST:
            raise Refusal("TooManyResults", f"a task may show {FILES_MOST} values")
        if type(value) in PLAIN:
            state["results"].append({"text": shortened(repr(value))})
        else:
            state["results"].append(inside("rich").represent(value, send_file))


PLAIN = (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset)


def exit_code(stop):
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def describe(problem):
    import linecache
    import traceback

    name, source = state.get("name", "<code>"), state.get("source", b"")
    lines = source.decode("utf-8", "replace").splitlines(True)
    linecache.cache[name] = (len(source), None, lines, name)
    linecache.cache.pop(f"<call {state['call'] - 100}>", None)
    # The frames of this file mean nothing to the task.
    stack = problem.__traceback__
    while stack is not None and stack.tb_frame.f_code.co_filename == __file__:
        stack = stack.tb_next
    told = "".join(traceback.format_exception(type(problem), problem, stack))
    try:
        sys.stdout.flush()
        sys.stderr.write(told)
    except Exception:
        pass
    try:
        message = str(problem)
    except Exception:
        message = "<str() of the exception failed>"
    return {
        "type": shortened(type(problem).__name__),
        "message": shortened(message),
        "traceback": shortened(told),
        "errno": problem.errno if isinstance(problem, OSError) else None,
    }


def command(request):
    import subprocess

    if request.get("inputs"):
        inside("files").take_inputs(request["inputs"])
    folder = placed(request["cwd"])
    os.makedirs(folder, exist_ok=True)
    stdin = subprocess.DEVNULL
    if request["stdin"]:
        stdin = os.memfd_create("stdin")
        with open(os.dup(stdin), "wb") as file:
            file.write(request["stdin"].encode("utf-8", "surrogatepass"))
        os.lseek(stdin, 0, os.SEEK_SET)
    # When a task's time is over every process is told to end. The one that reports how that went stays.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        child = subprocess.Popen(
            request["argv"],
            stdin=stdin,
            cwd=folder,
            env={**os.environ, **request["env"]},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Refusal("CommandNotFound", f"there is no program {request['argv'][0]!r} in the sandbox")
    except (OSError, ValueError) as problem:
        raise Refusal("CommandNotStarted", f"{request['argv'][0]!r} cannot be started: {problem}")
    finally:
        if stdin != subprocess.DEVNULL:
            os.close(stdin)
    try:
        code = wait(child)
    finally:
        signal.signal(signal.SIGTERM, before)
    return {"signal": -code} if code < 0 else {"exit": code}


def placed(path):
    """Where a path of the workspace really is: elsewhere only without a sandbox."""
    if workspace != "/workspace" and (path == "/workspace" or path.startswith("/workspace/")):
        return workspace + path[len("/workspace"):]
    return path


def wait(child):
    try:
        return child.wait()
    except KeyboardInterrupt:
        import subprocess

        os.killpg(child.pid, signal.SIGTERM)
        try:
            return child.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return child.wait()


def tool(module, name):
    return lambda request: {"output": getattr(inside(module), name)(request)}


OPERATIONS = {
    "python": python,
    "command": command,
    "files.read": tool("files", "read"),
    "files.write": tool("files", "write"),
    "files.list": tool("files", "list_folder"),
    "files.delete": tool("files", "delete"),
    "files.stat": tool("files", "stat"),
    "packages.add": tool("packages", "add"),
    "packages.list": tool("packages", "list_installed"),
    "packages.install": tool("packages", "install"),
    "code.analyze": tool("analyze", "analyze"),
}


def inside(name):
    """A module that lies beside this file, told of what it may use of it."""
    module = MODULES.get(name)
    if module is None:
        path = os.path.join(os.path.dirname(__file__), name + ".py")
        module = type(sys)(name)
        module.runner = MODULES["runner"]
        with open(path) as file:
            exec(compile(file.read(), path, "exec"), module.__dict__)
        MODULES[name] = module
    return module


MODULES = {"runner": sys.modules["__main__"]}


def shortened(text, most=MOST):
    if len(text) > most:
        text = f"{text[:most // 2]}\n[{len(text) - most} characters left out]\n{text[-most // 2:]}"
    # A lone surrogate is no JSON that others read.
    return text.encode("utf-8", "replace").decode("utf-8")


def send_file(name, media_type, body):
    """Sends a file; what refers to it in a result is returned."""
    if len(body) > FILE_MOST:
        return {"omitted": f"{len(body)} bytes; {FILE_MOST} may be sent"}
    if state["files"] >= FILES_MOST:
        return {"omitted": f"{FILES_MOST} files may be sent"}
    state["files"] += 1
    tell({"file": {"name": name, "media_type": media_type}})
    send(b"B", body)
    return {"$file": state["files"] - 1}


def tell(frame):
    send(b"J", json.dumps(frame).encode())


def send(kind, body):
    if os.getpid() != runner:
        return
    for piece in (kind + len(body).to_bytes(4, "big"), body):
        left = memoryview(piece)
        while left:
            left = left[os.write(frames, left):]


def receive():
    head = read_exactly(5)
    if head is None:
        return None
    length = int.from_bytes(head[1:], "big")
    if length > REQUEST_MOST:
        return None
    body = read_exactly(length)
    return None if body is None else json.loads(body)


def read_exactly(count):
    pieces = []
    while count:
        piece = os.read(requests, min(count, 1 << 20))
        if not piece:
            return None
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


main()
