"""Every reason for which the library refuses an object, read off its source.

A reason is a regular expression: the text of a `raise ValueError(...)`, of a returned
refusal, or of a `require`/`in_range` with its bounds, with `.*` for what is filled in.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

Function = ast.FunctionDef
CHECKS = ("__post_init__", "_refusal", "check")


def text(node: ast.AST | None, names: dict[str, ast.AST]) -> str:
    """The regular expression of a string expression."""
    match node:
        case ast.Constant(value=str(value)):
            return re.escape(value)
        case ast.JoinedStr(values=values):
            return "".join(text(value, names) for value in values)
        case ast.Name(id=name) if name in names:
            return text(names[name], {})
    return ".*"


def assigned(function: Function) -> dict[str, ast.AST]:
    """Local names of the function that stand for one string."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def bounds(call: ast.Call, names: dict[str, ast.AST]) -> str:
    """`where: value what` of a call of `require` or `in_range`."""
    keywords = {k.arg: k.value for k in call.keywords}
    what = keywords.get("what") or call.args[-1]
    return f"{text(call.args[0], names)}: .* {text(what, names)}"


def reasons(function: Function) -> Iterator[str]:
    """The reasons that stand in one function."""
    names = assigned(function)
    says = function.returns is not None and "str | None" in ast.unparse(
        function.returns
    )
    for node in ast.walk(function):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id="ValueError"), args=[what])):
                yield text(what, names)
            case ast.Return(value=ast.Constant(value=str()) | ast.JoinedStr()) if says:
                yield text(node.value, names)
            case ast.Call(func=ast.Name(id="require" | "in_range")):
                yield bounds(node, names)


def refused_in(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(function, reason) for all that is refused where an object is made."""
    tree = ast.parse(inspect.getsource(module))
    for parent in (tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))):
        name = getattr(parent, "name", module.__name__.removeprefix("unipost."))
        for node in parent.body:
            if isinstance(node, Function) and _makes(node, parent):
                for reason in reasons(node):
                    yield f"{name}.{node.name}", reason


def _makes(node: Function, parent: ast.AST) -> bool:
    """Whether the function runs where an object is made, not on the data."""
    on_data = {"batch", "rewards", "streams", "logps"}
    at_top = isinstance(parent, ast.Module)
    arguments = {a.arg for a in node.args.args}
    return node.name in CHECKS or (at_top and not arguments & on_data)
