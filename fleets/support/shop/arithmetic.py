"""A calculator for what a model types: four operations, powers, brackets; nothing else is run."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from admiralty.tools import ToolError

MAX_CHARACTERS = 400
"""Bounds the depth of the expression too, and so the recursion of the evaluator."""

_ALLOWED = frozenset("0123456789+-*/(). ")

# All numbers are floats, so that no power can grow without bound: it overflows instead.
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: math.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> str:
    """Return the value of ``expression``, rounded to two digits, as text: ``1 + 2`` gives ``3.0``.

    Raises ToolError for anything that is not plain arithmetic with a finite result.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
    if not _ALLOWED.issuperset(expression):
        raise ToolError("invalid characters in expression")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the result is too large") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError("not an arithmetic expression") from error
    if not math.isfinite(value):
        raise ToolError("the result is too large")
    return str(round(value, 2))


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
    raise ToolError("not an arithmetic expression")
