"""The two spellings of an expression: plain text and LaTeX (also for mathtext)."""

from __future__ import annotations

import ast

GREEK = (
    "alpha beta gamma delta epsilon lambda mu pi rho sigma tau omega phi ell".split()
)
SYMBOLS = {"eps": r"\epsilon", "lam": r"\lambda", "loss": r"\ell"}
# the streams by their short names in formulas
STREAMS = {"ref": r"\pi_{\mathrm{ref}}", "old": r"\pi_{\mathrm{old}}"}
STREAMS |= {"behavior": r"\pi_{\mathrm{behavior}}"}
OPERATORS = ("sum", "prod", "mean", "std", "max", "E")
SIGNS = {
    ast.Eq: ("=", "="),
    ast.Gt: (">", ">"),
    ast.Lt: ("<", "<"),
    ast.GtE: (">=", r"\geq"),
    ast.LtE: ("<=", r"\leq"),
}
LOW, SUM, PRODUCT, POWER, ATOM = range(5)


def text(node: ast.expr) -> str:
    """The expression in plain text: `0.1 (1 - u^-0.5)`, `-log sigmoid(m)`."""
    if isinstance(node, ast.IfExp):
        return f"{text(node.body)} for {text(node.test)}, else {text(node.orelse)}"
    return _text(node)[0]


def latex(node: ast.expr) -> str:
    """The expression in LaTeX, without its dollars."""
    return _latex(node)[0]


def number_text(value: float) -> str:
    """A number as written in formulas."""
    return "inf" if value == float("inf") else f"{value:g}"


def number_latex(value: float) -> str:
    """A number in LaTeX, powers of ten as such."""
    written = number_text(value)
    if written == "inf":
        return r"\infty"
    mantissa, _, exponent = written.partition("e")
    if not exponent:
        return mantissa
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"


def _text(node: ast.expr) -> tuple[str, int]:
    """(text, how tightly it binds)."""
    match node:
        case ast.Constant(value=value):
            return number_text(float(str(value))), ATOM
        case ast.Name(id=name):
            return _primed(name), ATOM
        case ast.UnaryOp(operand=operand):
            return f"-{_at(operand, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_at(left, SUM)} + {_at(right, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{_at(left, SUM)} - {_at(right, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            first = _closed(left) if isinstance(left, ast.Call) else _at(left, PRODUCT)
            letter = isinstance(right, ast.Name) and len(right.id) == 1
            space = "" if letter and first.isdigit() else " "  # 2u
            return f"{first}{space}{_at(right, POWER)}", PRODUCT
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            top = _closed(left) if isinstance(left, ast.Call) else _at(left, PRODUCT)
            below = _closed(right) if isinstance(right, ast.Call) else _at(right, POWER)
            return f"{top}/{below}", PRODUCT
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"{_closed(left)}^{_exponent(right)}", POWER
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call_text(name, args), POWER
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return f"{text(left)} {SIGNS[type(op)][0]} {text(right)}", LOW
        case ast.IfExp():
            return f"({text(node)})", ATOM
    raise ValueError(f"no spelling of {ast.dump(node)}")


def _at(node: ast.expr, level: int) -> str:
    written, binds = _text(node)
    return written if binds >= level else f"({written})"


def _closed(node: ast.expr) -> str:
    """As an atom: nothing that follows can be taken for a part of it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name.partition("_")[0] in OPERATORS and "_" in name:
            return f"({text(node)})"
        if name not in ("exp", "abs", "indicator"):
            return f"{_primed(name)}({', '.join(map(text, node.args))})"
        return text(node) if name != "exp" else f"({text(node)})"
    return _at(node, ATOM)


def _exponent(node: ast.expr) -> str:
    written, binds = _text(node)
    negative = isinstance(node, ast.UnaryOp) and _text(node.operand)[1] == ATOM
    return written if binds == ATOM or negative else f"({written})"


def _call_text(name: str, args: list[ast.expr]) -> str:
    first = args[0]
    if name == "exp":
        return f"e^{_exponent(first)}"
    if name == "abs":
        return f"|{text(first)}|"
    if name == "indicator":
        return f"1{{{text(first)}}}"
    if name.partition("_")[0] in OPERATORS and "_" in name:
        return f"{name} {_at(first, PRODUCT)}"
    short = isinstance(first, ast.Name) or (
        isinstance(first, ast.Call) and _text(first)[0].startswith("sigmoid")
    )
    if name == "log" and short:
        return f"log {text(first)}"
    return f"{_primed(name)}({', '.join(map(text, args))})"


def _primed(name: str) -> str:
    """f1_LeCam -> f'_LeCam."""
    base, mark, sub = name.partition("_")
    if base in ("f1", "phi1"):
        base = base[:-1] + "'"
    return f"{base}{mark}{sub}"


def _latex(node: ast.expr) -> tuple[str, int]:
    match node:
        case ast.Constant(value=value):
            return number_latex(float(str(value))), ATOM
        case ast.Name(id=name):
            return _symbol(name), ATOM
        case ast.UnaryOp(operand=operand):
            return f"-{_in(operand, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_in(left, SUM)} + {_in(right, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{_in(left, SUM)} - {_in(right, PRODUCT)}", SUM
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return rf"{_in(left, PRODUCT)} \, {_in(right, PRODUCT)}", PRODUCT
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{latex(left)}}}{{{latex(right)}}}", PRODUCT
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"{_in(left, ATOM)}^{{{latex(right)}}}", POWER
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call_latex(name, args), POWER
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return f"{latex(left)} {SIGNS[type(op)][1]} {latex(right)}", LOW
        case ast.IfExp(test=test, body=body, orelse=orelse):
            chosen = rf"{latex(body)} \;\; ({latex(test)}), \;\;"
            otherwise = rf"{latex(orelse)} \;\; (\mathrm{{else}})"
            return rf"\left[{chosen} {otherwise}\right]", ATOM
    raise ValueError(f"no spelling of {ast.dump(node)}")


def _in(node: ast.expr, level: int) -> str:
    written, binds = _latex(node)
    return written if binds >= level else rf"\left({written}\right)"


def _call_latex(name: str, args: list[ast.expr]) -> str:
    first = latex(args[0])
    if name == "exp":
        return f"e^{{{first}}}"
    if name == "sqrt":
        return rf"\sqrt{{{first}}}"
    if name == "abs":
        return rf"\left|{first}\right|"
    if name == "indicator":
        return rf"\mathbf{{1}}\left[{first}\right]"
    head = {"sigmoid": r"\sigma", "log": r"\log", "min": r"\min", "max": r"\max"}
    base, mark, index = name.partition("_")
    if mark and base in OPERATORS:
        sign = {"sum": r"\sum", "prod": r"\prod"}.get(base, rf"\mathrm{{{base}}}")
        index = ",".join(index) if len(index) < 3 else rf"\mathrm{{{index}}}"
        return rf"{sign}_{{{index}}} {_in(args[0], PRODUCT)}"
    if name == "log" and (isinstance(args[0], ast.Name) or first.startswith(r"\sigma")):
        return rf"\log {first}"
    written = ", ".join(map(latex, args))
    return rf"{head.get(name) or _symbol(name)}\left({written}\right)"


def _symbol(name: str) -> str:
    """z_w -> z_{w}, beta -> \\beta, f1_LeCam -> f'_{LeCam}, ref -> pi_ref."""
    base, mark, sub = name.partition("_")
    prime = "'" if base in ("f1", "phi1") else ""
    base = base[:-1] if prime else base
    if base in STREAMS:
        written = STREAMS[base]
    elif base in GREEK:
        written = rf"\{base}"
    else:
        written = SYMBOLS.get(base) or (
            base if len(base) == 1 else rf"\mathrm{{{base}}}"
        )
    if mark:
        inner = sub if len(sub) == 1 else rf"\mathrm{{{sub}}}"
        if base in STREAMS:
            return rf"{written.removesuffix('}')},{inner}}}"
        return rf"{written}{prime}_{{{inner}}}"
    return written + prime


def prose(words: str) -> str:
    """Words beside a formula in LaTeX, with what is special there escaped."""
    for mark, written in {"\\": " ", "{": "(", "}": ")", "^": "**", "~": "-"}.items():
        words = words.replace(mark, written)
    for mark in "_#%&$":
        words = words.replace(mark, f"\\{mark}")
    return rf"\text{{{words}}}"
