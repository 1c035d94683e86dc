"""Mutants of a module, made mechanically from its syntax tree.

Four ways, and two that belong to them here:

* *negate* a condition: of an ``if``, a ``while``, a guard, each part of an ``and`` or
  ``or``, each comparison;
* *remove* a guard (an ``if`` that only leaves), an emit, any call or assignment;
* *swap* a statement and the next;
* *drop* one member of a set that something is looked up in;
* *flip* a row of a table of verdicts: what is legal is refused, and vice versa.

Only what stands inside functions is changed, and the rows of tables.
A mutant's name says where and what, without a line number: it outlives other changes.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Final, TypeAlias

_Edit: TypeAlias = Callable[[ast.AST], None]
_Change: TypeAlias = tuple[str, int, _Edit]
"""What is done, in words; at which line; and the deed, to the node that holds it."""

_SIMPLE: Final = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete)
_LEAVES: Final = (ast.Raise, ast.Return, ast.Continue)


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    module: str
    name: str
    line: int
    path: Path
    at: int
    """Which node, in the order of `ast.walk`, the edit is made to."""
    edit: _Edit

    def code(self) -> CodeType:
        """Return the changed module, compiled."""
        tree = ast.parse(self.path.read_bytes())
        self.edit(list(ast.walk(tree))[self.at])
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


def mutants_of(module: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of its lines."""
    found = importlib.util.find_spec(module)
    assert found, module
    assert found.origin, module
    path = Path(found.origin)
    tree = ast.parse(path.read_bytes())
    where = _functions(tree)
    short = module.removeprefix("dunnage.")
    count: Counter[str] = Counter()
    made = []
    for at, node in enumerate(ast.walk(tree)):
        scope = where.get(node, "")
        for what, line, edit in _changes(node) if scope else _rows(node):
            name = f"{short} {scope}: {what}" if scope else f"{short}: {what}"
            count[name] += 1
            if count[name] > 1:
                name += f" ({count[name]})"
            made.append(Mutant(module, name, line, path, at, edit))
    return sorted(made, key=lambda mutant: mutant.line)


def _functions(tree: ast.Module) -> dict[ast.AST, str]:
    """Return the name of the function that each node is in, itself included."""
    where: dict[ast.AST, str] = {}

    def visit(node: ast.AST, names: tuple[str, ...], is_inside: bool) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = (*names, node.name)
            is_inside |= not isinstance(node, ast.ClassDef)
        if is_inside:
            where[node] = ".".join(names)
        for child in ast.iter_child_nodes(node):
            visit(child, names, is_inside)

    visit(tree, (), False)
    return where


# -- what can be done to a node's own fields


def _changes(node: ast.AST) -> Iterator[_Change]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr) and _is_condition(node, field, value):
            yield _negation(value, field, None)
        if not isinstance(value, list):
            continue
        for i, each in enumerate(value):
            if isinstance(each, ast.expr) and _is_condition(node, field, each):
                yield _negation(each, field, i)
        if value and all(isinstance(each, ast.stmt) for each in value):
            yield from _statements(node, field, value)
    if isinstance(node, ast.Set):
        for i, each in enumerate(node.elts):
            what = f"drop {ast.unparse(each)} of {ast.unparse(node)}"
            yield what, each.lineno, _drop(i)


def _is_condition(node: ast.AST, field: str, value: ast.expr) -> bool:
    if field in {"annotation", "returns"}:
        return False
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return False  # negating the whole says the same
    if isinstance(node, ast.BoolOp) or field in {"test", "ifs", "guard"}:
        return True
    is_not = isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    return is_not or isinstance(value, ast.Compare)


def _negation(value: ast.expr, field: str, i: int | None) -> _Change:
    def edit(node: ast.AST) -> None:
        held = getattr(node, field)
        was = held if i is None else held[i]
        if isinstance(was, ast.UnaryOp) and isinstance(was.op, ast.Not):
            now = was.operand
        else:
            now = ast.UnaryOp(ast.Not(), was)
        if i is None:
            setattr(node, field, now)
        else:
            held[i] = now

    return f"negate {ast.unparse(value)}", value.lineno, edit


def _drop(i: int) -> _Edit:
    def edit(node: ast.AST) -> None:
        assert isinstance(node, ast.Set)
        del node.elts[i]
        if not node.elts:  # "{}" would be a dict
            node.elts.append(ast.Starred(ast.Tuple([], ast.Load()), ast.Load()))

    return edit


def _statements(node: ast.AST, field: str, body: list[ast.stmt]) -> Iterator[_Change]:
    for i, each in enumerate(body):
        if _is_removable(node, each):
            yield f"remove {_headline(each)}", each.lineno, _remove(field, i)
    for i, (one, two) in enumerate(pairwise(body)):
        if not _is_text(one) and not _commute(one, two):
            what = f"swap {_headline(one)} | {_headline(two)}"
            yield what, one.lineno, _swap(field, i)


def _is_removable(parent: ast.AST, each: ast.stmt) -> bool:
    if isinstance(each, ast.Expr):
        return not _is_text(each)
    if isinstance(each, ast.Raise):  # where it is not all there is to a guard
        return not (isinstance(parent, ast.If) and len(parent.body) == 1)
    if isinstance(each, ast.If):
        return not each.orelse and isinstance(each.body[-1], _LEAVES)
    return isinstance(each, _SIMPLE)


def _remove(field: str, i: int) -> _Edit:
    def edit(node: ast.AST) -> None:
        getattr(node, field)[i] = ast.Pass()

    return edit


def _swap(field: str, i: int) -> _Edit:
    def edit(node: ast.AST) -> None:
        body = getattr(node, field)
        body[i], body[i + 1] = body[i + 1], body[i]

    return edit


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _headline(statement: ast.stmt) -> str:
    first, _, rest = ast.unparse(statement).partition("\n")
    return first + (" …" if rest else "")


def _commute(one: ast.stmt, two: ast.stmt) -> bool:
    """Whether it is plain to see that the order of two assignments is nothing."""
    if not (isinstance(one, _SIMPLE) and isinstance(two, _SIMPLE)):
        return False
    calls = (ast.Call, ast.Await, ast.Subscript, ast.Delete)
    if any(isinstance(n, calls) for s in (one, two) for n in ast.walk(s)):
        return False
    return not (_stored(one) & _used(two) or _stored(two) & _used(one))


def _used(statement: ast.stmt) -> set[str]:
    nodes = (n for n in ast.walk(statement) if isinstance(n, ast.Name | ast.Attribute))
    return {ast.unparse(node) for node in nodes}


def _stored(statement: ast.stmt) -> set[str]:
    nodes = (n for n in ast.walk(statement) if isinstance(n, ast.Name | ast.Attribute))
    return {ast.unparse(n) for n in nodes if isinstance(n.ctx, ast.Store)}


# -- the rows of a table


def _rows(node: ast.AST) -> Iterator[_Change]:
    """Flip the rows of a mapping from operations to verdicts by state."""
    if not isinstance(node, ast.Dict):
        return
    for i, (op, row) in enumerate(zip(node.keys, node.values, strict=True)):
        if op is None or not isinstance(row, ast.Dict):
            continue
        for j, (state, verdict) in enumerate(zip(row.keys, row.values, strict=True)):
            if state is not None:
                what = f"{ast.unparse(op)} in {ast.unparse(state)}"
                was = ast.unparse(verdict)
                yield f"flip {what}: {was}", verdict.lineno, _flip(i, j)


def _flip(i: int, j: int) -> _Edit:
    def edit(node: ast.AST) -> None:
        assert isinstance(node, ast.Dict)
        row = node.values[i]
        assert isinstance(row, ast.Dict)
        is_legal = ast.unparse(row.values[j]) == "_LEGAL"
        text = "_no('mutant')" if is_legal else "_LEGAL"
        row.values[j] = ast.parse(text, mode="eval").body

    return edit
