"""Runs the code of one task inside the sandbox.

Reads the source from one pipe and tells of an exception, an exit code or the value of the last
expression on another, so that standard output and error stay the task's own. The worker trusts
nothing of what comes from here.
"""

import _ast
import os
import sys

NAME = "<code>"
MOST = 16 * 1024


def main():
    code_fd, frame_fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(frame_fd, False)
    with open(code_fd, "rb") as pipe:
        source = pipe.read()
    sys.argv[:] = [NAME]
    sys.path.insert(0, "/workspace")
    # Whole lines are seen while the code runs.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    namespace = fresh_main()
    runner = os.getpid()

    def tell(frame):
        # A child that the code forked comes by here too.
        if os.getpid() == runner:
            send(frame_fd, frame)

    try:
        value = run(source, namespace)
        if value is not None:
            tell({"value": shortened(repr(value))})
    except SystemExit as stop:
        tell({"exit": exit_code(stop)})
        raise
    except BaseException as problem:
        tell({"error": describe(problem, source)})
        if os.getpid() != runner:
            os._exit(1)
        sys.exit(1)


def fresh_main():
    """A `__main__` without anything of this file in it."""
    module = type(sys)("__main__")
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    return module.__dict__


def run(source, namespace):
    flags = _ast.PyCF_ONLY_AST
    tree = compile(source, NAME, "exec", flags, dont_inherit=True)
    last = tree.body.pop().value if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    exec(compile(tree, NAME, "exec", dont_inherit=True), namespace)
    if last is not None:
        expression = _ast.Expression(last)
        return eval(compile(expression, NAME, "eval", dont_inherit=True), namespace)


def exit_code(stop):
    if stop.code is None:
        return 0
    return stop.code & 0xFF if isinstance(stop.code, int) else 1


def describe(problem, source):
    import linecache
    import traceback

    lines = source.decode("utf-8", "replace").splitlines(True)
    linecache.cache[NAME] = (len(source), None, lines, NAME)
    # The frames of this file mean nothing to the task.
    stack = problem.__traceback__
    while stack is not None and stack.tb_frame.f_code.co_filename == __file__:
        stack = stack.tb_next
    told = "".join(traceback.format_exception(type(problem), problem, stack))
    sys.stdout.flush()
    sys.stderr.write(told)
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


def shortened(text):
    if len(text) > MOST:
        text = f"{text[:MOST // 2]}\n[{len(text) - MOST} characters left out]\n{text[-MOST // 2:]}"
    # A lone surrogate is no JSON that others read.
    return text.encode("utf-8", "replace").decode("utf-8")


def send(descriptor, frame):
    import json

    body = json.dumps(frame).encode()
    body = len(body).to_bytes(4, "big") + body
    while body:
        body = body[os.write(descriptor, body):]


main()
