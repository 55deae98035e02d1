"""Formulas as Python expressions, simplified and printed as plain text or as LaTeX.

One source gives both spellings, so that they cannot disagree, and it can be evaluated:
the tests compare every formula with the code that it describes.

    >>> text(formula("beta*(1 - u**-a)/a", beta=1.0, a=0.5))
    '(1 - u^-0.5)/0.5'

Names are symbols; calls are functions, of which `sum_t(x)` and the like are sums. A
number replaces a name where it is known; what it makes trivial (1 x, x + 0, a bound at
infinity) disappears.
"""

from __future__ import annotations

import ast
import copy
import math
from typing import Any, TypeGuard

from unipost.explain.spelling import latex as latex
from unipost.explain.spelling import text as text
from unipost.parts import concrete

Expression = ast.expr
INF = math.inf


def formula(source: str | Expression, **values: Any) -> Expression:
    """The expression of `source` with `values` put in for names, simplified.

    A value is a number, another expression, or something whose number is not known
    (traced, batched): that one stays a symbol.
    """
    tree = ast.parse(source, mode="eval").body if isinstance(source, str) else source
    known = {}
    for name, value in values.items():
        if isinstance(value, ast.expr):
            known[name] = value
        elif (number := concrete(value)) is not None:
            known[name] = ast.Constant(number)
    return _simple(_Put(known).visit(copy.deepcopy(tree)))


def of_part(source: str, part: Any, **values: Any) -> Expression:
    """`formula` with the fields of a part for the names that it has."""
    fields = {name: getattr(part, name) for name in part.__dataclass_fields__}
    return formula(source, **(fields | values))


class _Put(ast.NodeTransformer):
    def __init__(self, known: dict[str, Expression]):
        self.known = known

    def visit_Name(self, node: ast.Name) -> Expression:
        return self.known.get(node.id, node)

    def visit_Call(self, node: ast.Call) -> Expression:
        return ast.Call(node.func, [self.visit(x) for x in node.args], [])


def _number(node: Expression) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp):
        inner = _number(node.operand)
        return None if inner is None else -inner
    return None


def _constant(value: float) -> Expression:
    if value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _simple(node: Expression) -> Expression:
    """`node` without trivial operations, from the leaves up."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub()):
            return _sum(_terms(node, 1.0))
        case ast.UnaryOp(operand=operand):
            return _product([(ast.Constant(-1.0), 1), (_simple(operand), 1)])
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product([(_simple(left), 1), (_simple(right), 1)])
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _product([(_simple(left), 1), (_simple(right), -1)])
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_simple(left), _simple(right))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, [_simple(x) for x in args])
        case ast.Compare(left=left, ops=ops, comparators=[right]):
            return ast.Compare(_simple(left), ops, [_simple(right)])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            one, other = _simple(body), _simple(orelse)
            same = ast.dump(one) == ast.dump(other)
            return one if same else ast.IfExp(_simple(test), one, other)
    return node


def _terms(node: Expression, sign: float) -> list[tuple[float, Expression]]:
    """The sum `sign * node` as (sign, simplified term)."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _terms(left, sign) + _terms(right, sign)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _terms(left, sign) + _terms(right, -sign)
    simple = _simple(node)
    if isinstance(simple, ast.UnaryOp):
        return _terms(simple.operand, -sign)
    if isinstance(simple, ast.BinOp) and isinstance(simple.op, ast.Add | ast.Sub):
        return _terms(simple, sign)
    return [(sign, simple)]


def _sum(terms: list[tuple[float, Expression]]) -> Expression:
    """Terms added up, their numbers as one where the first of them stood."""
    numbers = [_number(x) for _, x in terms]
    pairs = zip(terms, numbers, strict=True)
    total = sum(sign * n for (sign, _), n in pairs if n is not None)
    kept, put = [], total == 0.0
    for (sign, term), number in zip(terms, numbers, strict=True):
        if number is None:
            kept.append((sign, term))
        elif not put:
            kept.append((math.copysign(1.0, total), ast.Constant(abs(total))))
            put = True
    if not kept:
        return ast.Constant(0.0)
    if kept[0][0] < 0 and any(sign > 0 for sign, _ in kept):
        # a sum starts with what is added: 1/u - 1 and not -1 + 1/u
        first = next(i for i, (sign, _) in enumerate(kept) if sign > 0)
        kept.insert(0, kept.pop(first))
    sign, value = kept[0]
    value = value if sign > 0 else ast.UnaryOp(ast.USub(), value)
    for sign, term in kept[1:]:
        value = ast.BinOp(value, ast.Add() if sign > 0 else ast.Sub(), term)
    return value


def _factors(node: Expression, power: int) -> list[tuple[Expression, int]]:
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _factors(left, power) + _factors(right, power)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _factors(left, power) + _factors(right, -power)
        case ast.UnaryOp(operand=operand):
            return [(ast.Constant(-1.0), 1), *_factors(operand, power)]
    return [(node, power)]


def _product(pairs: list[tuple[Expression, int]]) -> Expression:
    """Simplified factors (x, +1) and divisors (x, -1) with one number in front."""
    factors = [f for node, power in pairs for f in _factors(node, power)]
    over = {1: 1.0, -1: 1.0}
    rest: dict[int, list[Expression]] = {1: [], -1: []}
    for node, power in factors:
        number = _number(node)
        if number is None:
            rest[power].append(node)
        else:
            over[power] *= number
    if over[1] == 0.0:
        return ast.Constant(0.0)
    sign = math.copysign(1.0, over[1] * over[-1])
    if sign < 0:
        sign = _turned(rest[1])
    above, below = _reduced(abs(over[1]), abs(over[-1]))
    top = _multiplied(above, rest[1])
    value = top
    if below != 1.0 or rest[-1]:
        value = ast.BinOp(top, ast.Div(), _multiplied(below, rest[-1]))
    return value if sign > 0 else ast.UnaryOp(ast.USub(), value)


def _turned(factors: list[Expression]) -> float:
    """The sign left of -1 times `factors`: -(a - b) is written (b - a), in place."""
    for i, x in enumerate(factors):
        if isinstance(x, ast.BinOp) and isinstance(x.op, ast.Sub):
            inner = getattr(x.left, "op", None)
            if not isinstance(inner, ast.Add | ast.Sub | ast.USub):
                factors[i] = ast.BinOp(x.right, ast.Sub(), x.left)
                return 1.0
    return -1.0


def _reduced(above: float, below: float) -> tuple[float, float]:
    """above/below as one number in front where that is short to write."""
    ratio = above / below
    short = float(f"{ratio:.6g}")
    exact = math.isinf(ratio) or math.isclose(short, ratio, rel_tol=1e-12)
    half = above == 1.0 and below in range(2, 10)  # x/2, not 0.5 x
    return (ratio, 1.0) if exact and not half else (above, below)


def _multiplied(number: float, factors: list[Expression]) -> Expression:
    if number != 1.0 or not factors:
        factors = [ast.Constant(number), *factors]
    value = factors[0]
    for factor in factors[1:]:
        value = ast.BinOp(value, ast.Mult(), factor)
    return value


def _power(base: Expression, exponent: Expression) -> Expression:
    n, b = _number(exponent), _number(base)
    if n == 1.0:
        return base
    if n == 0.0 or b == 1.0:
        return ast.Constant(1.0)
    if n is not None and b is not None:
        return _constant(b**n)
    if isinstance(base, ast.BinOp) and isinstance(base.op, ast.Pow) and n is not None:
        return _power(base.left, _product([(base.right, 1), (exponent, 1)]))
    return ast.BinOp(base, ast.Pow(), exponent)


def _call(name: str, args: list[Expression]) -> Expression:
    """A call, without bounds at infinity and logarithms of exponentials."""
    numbers = [_number(x) for x in args]
    if name == "min":
        args = [x for x, n in zip(args, numbers, strict=True) if n != INF]
    elif name == "max":
        args = [x for x, n in zip(args, numbers, strict=True) if n != -INF]
    elif name == "clip" and numbers[1] == -INF:
        return _call("min", [args[0], args[2]])
    elif name == "clip" and numbers[2] == INF:
        return _call("max", args[:2])
    elif name == "exp" and numbers == [0.0]:
        return ast.Constant(1.0)
    elif name == "log" and numbers == [1.0]:
        return ast.Constant(0.0)
    elif name == "log" and _is_call(args[0], "exp"):
        return args[0].args[0]
    if name in ("min", "max"):
        args = _distinct(name, args)
    single = name in ("min", "max") and len(args) == 1
    return args[0] if single else ast.Call(ast.Name(name), args, [])


def _is_call(node: Expression, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and text(node.func) == name


def _distinct(name: str, args: list[Expression]) -> list[Expression]:
    """Arguments of min or max, those of an inner one with them, each once."""
    flat: list[Expression] = []
    for x in args:
        flat += x.args if _is_call(x, name) else [x]
    return list({ast.dump(x): x for x in flat}.values())
