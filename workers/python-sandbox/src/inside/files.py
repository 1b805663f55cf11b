"""Files of the workspace. All of this happens inside the sandbox: the worker handles bytes and never a
path, so that nothing here can lead to a file of the host."""

import base64
import errno
import glob
import os
import stat as modes

# Longer contents become artifacts.
INLINE = 128 * 1024
LISTED = 1000
ROOTS = (runner.workspace, "/tmp")


def resolve(path, follow=True):
    """The real path, which must lie where a task may write."""
    if not isinstance(path, str) or not path or "\0" in path or len(path) > 4096:
        raise runner.Refusal("BadPath", "a path has 1 to 4096 characters and no zero byte")
    whole = os.path.join(runner.workspace, runner.placed(path))
    if follow:
        real = os.path.realpath(whole)
    else:
        folder, name = os.path.split(whole.rstrip("/"))
        if name in ("", ".", ".."):
            return resolve(whole)
        real = os.path.join(os.path.realpath(folder), name)
    if not any(real == root or real.startswith(root + "/") for root in ROOTS):
        raise runner.Refusal("OutsideWorkspace", f"{path!r} is not below {' or '.join(ROOTS)}")
    return real


def opened(path):
    """A plain file, open for reading. A FIFO would hang and a device would never end: both are refused."""
    real = resolve(path)
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in (errno.ENXIO, errno.ELOOP):
            raise runner.Refusal("NotAFile", f"{path!r} is not a plain file")
        raise refusal(path, problem)
    if not modes.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise runner.Refusal("NotAFile", f"{path!r} is not a plain file")
    return open(descriptor, "rb")


def refusal(path, problem):
    return runner.Refusal(type(problem).__name__, f"{path!r}: {problem.strerror}")


def read(request):
    path, offset = request["path"], request.get("offset", 0)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = min(request.get("length", runner.FILE_MOST), runner.FILE_MOST)
        file.seek(offset)
        body = file.read(length)
    told = {"path": path, "size": size, "offset": offset, "length": len(body)}
    if offset + len(body) < size:
        told["next_offset"] = offset + len(body)
    text = as_text(body)
    as_base64 = request.get("encoding") == "base64" or text is None
    if len(body) > (INLINE * 3 // 4 if as_base64 else INLINE):
        name = os.path.basename(path.rstrip("/")) or "file"
        return {**told, "artifact": runner.send_file(name, media_type(name, text), body)}
    if as_base64:
        return {**told, "encoding": "base64", "content": base64.b64encode(body).decode()}
    return {**told, "encoding": "utf-8", "content": text}


def as_text(body):
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def media_type(name, text):
    import mimetypes

    guess = mimetypes.guess_type(name)[0]
    return guess or ("application/octet-stream" if text is None else "text/plain")


def write(request):
    path = request["path"]
    body = content(request)
    real = resolve(path)
    try:
        os.makedirs(os.path.dirname(real), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        flags |= os.O_APPEND if request.get("append") else 0
        descriptor = os.open(real, flags, 0o666)
        with open(descriptor, "ab" if request.get("append") else "wb") as file:
            if not modes.S_ISREG(os.fstat(descriptor).st_mode):
                raise runner.Refusal("NotAFile", f"{path!r} is not a plain file")
            if not request.get("append"):
                file.truncate(0)
            file.write(body)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise refusal(path, problem)
    return {"path": path, "size": os.stat(real).st_size}


def content(request):
    if "base64" in request:
        try:
            return base64.b64decode(request["base64"], validate=True)
        except ValueError:
            raise runner.Refusal("BadContent", "`base64` is not base64")
    return request.get("text", "").encode("utf-8", "surrogatepass")


def take_inputs(inputs):
    for file in inputs:
        write(file)


def list_folder(request):
    path = request.get("path", ".")
    real, depth = resolve(path), request.get("depth", 1)
    entries, left_out = [], 0
    try:
        folders = [(real, 1)]
        while folders:
            folder, level = folders.pop(0)
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if len(entries) == LISTED:
                    left_out += 1
                    continue
                entries.append(about(entry.path, os.path.relpath(entry.path, real)))
                if level < depth and entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, level + 1))
    except OSError as problem:
        raise refusal(path, problem)
    return {"path": path, "entries": entries, "left_out": left_out}


def stat(request):
    path = request["path"]
    try:
        return about(resolve(path, follow=False), path)
    except OSError as problem:
        raise refusal(path, problem)


def about(real, shown):
    found = os.lstat(real)
    kinds = {modes.S_IFREG: "file", modes.S_IFDIR: "folder", modes.S_IFLNK: "link", modes.S_IFIFO: "fifo",
             modes.S_IFSOCK: "socket"}
    told = {"path": printable(shown), "kind": kinds.get(modes.S_IFMT(found.st_mode), "other"),
            "size": found.st_size, "mode": oct(found.st_mode & 0o7777), "modified": found.st_mtime}
    if told["kind"] == "link":
        told["target"] = printable(os.readlink(real))
    return told


def printable(path):
    return path.encode("utf-8", "replace").decode("utf-8")


def delete(request):
    import shutil

    path = request["path"]
    real = resolve(path, follow=False)
    if real in ROOTS:
        raise runner.Refusal("BadPath", f"{path!r} itself cannot be deleted")
    try:
        if os.path.isdir(real) and not os.path.islink(real):
            shutil.rmtree(real) if request.get("recursive") else os.rmdir(real)
        else:
            os.unlink(real)
    except OSError as problem:
        raise refusal(path, problem)
    return {"path": path, "deleted": True}


def send_output(pattern):
    """Sends the files that a pattern names; what is no plain file is refused."""
    found = sorted(glob.glob(os.path.join(runner.workspace, pattern), recursive=True))
    if not found:
        raise runner.Refusal("FileNotFoundError", f"`outputs` has {pattern!r}, and there is no such file")
    for path in found:
        if os.path.isdir(path) and not os.path.islink(path) and glob.has_magic(pattern):
            continue
        with opened(path) as file:
            body = file.read(runner.FILE_MOST + 1)
        name = os.path.relpath(path, runner.workspace)
        sent = runner.send_file(printable(name), media_type(name, as_text(body)), body)
        if "omitted" in sent:
            raise runner.Refusal("TooLarge", f"{name!r} of `outputs`: {sent['omitted']}")
