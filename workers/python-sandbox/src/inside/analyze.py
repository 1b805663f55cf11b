"""What can be told of Python code without running it. A parser may crash on hostile text, so this happens
in a sandbox as well. The findings are hints for a reader, and no gate: code can hide all of them."""

import ast
import builtins

SUSPECTS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes code of text",
    "__import__": "imports by a name that is only known when it runs",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "os.remove": "deletes files",
    "os.unlink": "deletes files",
    "shutil.rmtree": "deletes folders",
    "pickle.load": "runs code that the data brings",
    "pickle.loads": "runs code that the data brings",
    "ctypes.CDLL": "calls native code",
}
PREFIXES = {"subprocess.": "starts programs", "socket.": "speaks to the network", "os.exec": "starts programs",
            "os.spawn": "starts programs"}
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.With, ast.AsyncWith,
            ast.Assert, ast.comprehension)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
MOST = 200


def analyze(request):
    try:
        tree = ast.parse(request["code"], "<code>")
    except (SyntaxError, ValueError) as problem:
        place = {"line": getattr(problem, "lineno", None), "column": getattr(problem, "offset", None)}
        return {"valid": False, "syntax_error": {"message": getattr(problem, "msg", str(problem)), **place}}
    names = imported_names(tree)
    told = {
        "valid": True,
        "lines": request["code"].count("\n") + 1,
        "imports": imports(tree),
        "functions": functions(tree),
        "classes": classes(tree),
        "undefined": undefined(tree),
        "findings": findings(tree, names),
    }
    return {name: value[:MOST] if isinstance(value, list) else value for name, value in told.items()}


def imports(tree):
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [{"module": name.name, "line": node.lineno} for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.append({"module": module, "names": [name.name for name in node.names], "line": node.lineno})
    return sorted(found, key=lambda one: one["line"])


def imported_names(tree):
    """What each name at the top of a call stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({one.asname or one.name.split(".")[0]: one.name if one.asname else
                          one.name.split(".")[0] for one in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({one.asname or one.name: f"{node.module}.{one.name}" for one in node.names})
    return names


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        {"name": node.name, "line": node.lineno, "arguments": len(arguments(node.args)),
         "complexity": complexity(node)}
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


def complexity(function):
    """McCabe's number: one, and one for each way the run can part."""
    total, nodes = 1, list(ast.iter_child_nodes(function))
    while nodes:
        node = nodes.pop()
        if isinstance(node, SCOPES):
            continue
        total += isinstance(node, BRANCHES)
        total += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        total += len(node.cases) if isinstance(node, ast.Match) else 0
        nodes.extend(ast.iter_child_nodes(node))
    return total


def classes(tree):
    return [
        {"name": node.name, "line": node.lineno, "bases": [ast.unparse(base) for base in node.bases][:20],
         "methods": [one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]}
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]


def arguments(spec):
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return [one.arg for one in every if one]


def undefined(tree):
    """Names that are used and that nothing in the code, nor Python itself, ever binds anywhere. Coarse on
    purpose: a name that is bound in any scope counts, so that what is listed is surely missing."""
    bound = set(dir(builtins)) | {"__file__", "__name__", "__builtins__", "display"}
    used = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used.setdefault(node.id, node.lineno)
            else:
                bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for one in node.names:
                if one.name == "*":
                    return []  # Anything may have come.
                bound.add(one.asname or one.name.split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            bound.update(node.names)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            bound.update(arguments(node.args))
    return [{"name": name, "line": line} for name, line in used.items() if name not in bound]


def findings(tree, names):
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, names)
        why = SUSPECTS.get(called)
        why = why or next((why for prefix, why in PREFIXES.items() if called.startswith(prefix)), None)
        if why:
            found.append({"call": called, "line": node.lineno, "why": why})
    return sorted(found, key=lambda one: one["line"])


def dotted(node, names):
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""
