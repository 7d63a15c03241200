"""Which names a cell reads from the notebook, and which it assigns.

The answer decides what is sent before a cell runs and what comes back after it, so it errs on the side of
"read": a name that is read on one path only, or in a function that may never be called, counts.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_MAGICS_OVER_CODE = frozenset({"time", "timeit", "prun", "memit", "mprun", "lprun"})
_CELL_MAGICS_OVER_CODE = _MAGICS_OVER_CODE | {"capture"}
_MAGIC_OPTIONS = re.compile(r"^\s*(?:-[a-zA-Z]+(?:\s*\d+)?\s+|--[a-z-]+\s+)*")
_SHELL_VARIABLE = re.compile(r"(?<![\\$\w])\$(?:\{)?([A-Za-z_]\w*)")
_BRACED = re.compile(r"(?<!\{)\{([^{}]+)\}(?!\})")


@dataclass(frozen=True)
class CellNames:
    """What a cell does with the notebook's names."""

    reads: frozenset[str]
    """Read before the cell can have assigned them."""
    maybe_reads: frozenset[str]
    """Read where the cell may have assigned them by then, or may not: sent where that is possible."""
    assigned: tuple[str, ...]
    """Bound, changed in place by ``x[…] =`` or ``x.a =``, or deleted; in order of appearance."""
    mutated: frozenset[str]
    """Names with a method called for its effect, as in ``losses.append(x)``."""
    deleted: frozenset[str]
    """With a ``del`` of the name itself."""


@dataclass
class _Found:
    reads: set[str] = field(default_factory=set)
    maybe_reads: set[str] = field(default_factory=set)
    assigned: dict[str, None] = field(default_factory=dict)
    mutated: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


def cell_names(python: str, transform: Callable[[str], str] = str) -> CellNames:
    """The names of a cell, given as plain Python (IPython's transformer has been over it).

    `transform` is that transformer, for code inside magics such as ``%time``. Raises SyntaxError where
    `python` is none.
    """
    found = _Found()
    _CellVisitor(found, transform).run(ast.parse(python))
    return CellNames(
        reads=frozenset(found.reads),
        maybe_reads=frozenset(found.maybe_reads - found.reads),
        assigned=tuple(found.assigned),
        mutated=frozenset(found.mutated - found.assigned.keys()),
        deleted=frozenset(found.deleted),
    )


class _CellVisitor(ast.NodeVisitor):
    """Walks a cell in the order of its evaluation and keeps the set of names that are surely assigned."""

    def __init__(self, found: _Found, transform: Callable[[str], str]) -> None:
        self._found = found
        self._transform = transform
        self._defined: set[str] = set()
        self._shadowed: list[set[str]] = []
        self._bodies: list[set[str]] = []

    def run(self, tree: ast.Module) -> None:
        self._visit_all(tree.body)
        for name in set().union(*self._bodies):
            self._note_read(name)

    # --- names -----------------------------------------------------------------------------------

    def _read(self, name: str) -> None:
        if name in self._defined or any(name in names for names in self._shadowed):
            return
        self._note_read(name)

    def _note_read(self, name: str) -> None:
        (self._found.maybe_reads if name in self._found.assigned else self._found.reads).add(name)

    def _bind(self, name: str) -> None:
        if self._shadowed:
            self._shadowed[-1].add(name)
            return
        self._found.assigned.setdefault(name)
        self._defined.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node.id)
        elif isinstance(node.ctx, ast.Store):
            self._bind(node.id)
        else:
            self._read(node.id)
            self._found.assigned.setdefault(node.id)
            self._found.deleted.add(node.id)
            self._defined.discard(node.id)

    def _change_in_place(self, node: ast.expr) -> None:
        """``a.b[i] = …`` reads ``a`` and changes the object it names."""
        self.visit(node)
        base = node
        while isinstance(base, (ast.Attribute, ast.Subscript)):
            base = base.value
        if isinstance(base, ast.Name) and not any(base.id in names for names in self._shadowed):
            self._found.assigned.setdefault(base.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.visit(node.value)
        else:
            self._change_in_place(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self.visit(node.value)
        else:
            self._change_in_place(node.value)
        self.visit(node.slice)

    # --- statements ------------------------------------------------------------------------------

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _branches(self, *bodies: Iterable[ast.AST]) -> None:
        """Alternatives: afterwards only what all of them assign is surely assigned."""
        before = self._defined
        after: list[set[str]] = []
        for body in bodies:
            self._defined = set(before)
            self._visit_all(body)
            after.append(self._defined)
        self._defined = set.intersection(*after)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            base = call.func.value
            while isinstance(base, (ast.Attribute, ast.Subscript)):
                base = base.value
            if isinstance(base, ast.Name):
                self._found.mutated.add(base.id)
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self._visit_all(node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._branches([node.target, *node.body], [])
        self._visit_all(node.orelse)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.visit_For(node)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._branches(node.body, [])
        self._visit_all(node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._branches(node.body, node.orelse)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self._visit_all(node.body)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.visit_With(node)

    def visit_Try(self, node: ast.Try) -> None:
        self._branches([*node.body, *node.orelse], *([handler] for handler in node.handlers))
        self._visit_all(node.finalbody)

    def visit_TryStar(self, node: Any) -> None:
        self.visit_Try(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name is None:
            self._visit_all(node.body)
            return
        # Python unbinds the name at the end of the handler, so there is nothing to bring back.
        already = node.name in self._found.assigned
        self._bind(node.name)
        self._visit_all(node.body)
        self._defined.discard(node.name)
        if not already and not self._shadowed:
            self._found.assigned.pop(node.name, None)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self._branches([], *([case] for case in node.cases))

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self._bind(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name is not None:
            self._bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self._bind(node.rest)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name != "*":
                self._bind(alias.asname or alias.name)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        # Python 3.12 and later; the value is evaluated when it is asked for.
        name = getattr(node, "name", None)
        self._function_body(node)
        if isinstance(name, ast.Name):
            self._bind(name.id)

    # --- expressions that bind or branch ---------------------------------------------------------

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._found.assigned.setdefault(node.target.id)
        self._defined.add(node.target.id)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self._branches(node.values[1:], [])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._branches([node.body], [node.orelse])

    def _comprehension(self, node: ast.expr, results: list[ast.expr]) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter)
        before = set(self._defined)
        with self._scope():
            for position, generator in enumerate(generators):
                if position:
                    self.visit(generator.iter)
                self.visit(generator.target)
                self._visit_all(generator.ifs)
            self._visit_all(results)
        self._defined = before

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        self._comprehension(node, [node.elt])

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node, [node.elt])

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, [node.elt])

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node, [node.key, node.value])

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self._shadowed.append(set())
        try:
            yield
        finally:
            self._shadowed.pop()

    # --- functions and classes -------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(node.decorator_list)
        arguments = node.args
        self._visit_all(arguments.defaults)
        self._visit_all(default for default in arguments.kw_defaults if default is not None)
        self._function_body(node)
        self._bind(node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all(node.args.defaults)
        self._visit_all(default for default in node.args.kw_defaults if default is not None)
        self._function_body(node)

    def _function_body(self, node: ast.AST) -> None:
        """What runs when the function is called: its globals, which may have been assigned by then."""
        table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
        outermost = table.get_children()
        free: set[str] = set()
        for scope in _descendants(outermost):
            for symbol in scope.get_symbols():
                if not symbol.is_global():
                    continue
                if symbol.is_referenced():
                    free.add(symbol.get_name())
                if symbol.is_declared_global() and symbol.is_assigned():
                    self._found.assigned.setdefault(symbol.get_name())
        shadowed = set().union(*self._shadowed) if self._shadowed else set()
        self._bodies.append(free - self._defined - shadowed)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(node.decorator_list)
        self._visit_all(node.bases)
        self._visit_all(keyword.value for keyword in node.keywords)
        before = set(self._defined)
        with self._scope():
            self._class_body(node.body)
        self._defined = before
        self._bind(node.name)

    def _class_body(self, body: list[ast.stmt]) -> None:
        # The scope of a class is invisible to its methods: their free names are the notebook's.
        own = self._shadowed[-1]
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._visit_all(statement.decorator_list)
                self._visit_all(statement.args.defaults)
                self._visit_all(default for default in statement.args.kw_defaults if default is not None)
                self._shadowed.pop()
                self._function_body(statement)
                self._shadowed.append(own)
                own.add(statement.name)
            else:
                self.visit(statement)

    # --- lines that IPython's transformer made of ``!`` and ``%`` ------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        magic = _ipython_call(node)
        if magic is None:
            self.generic_visit(node)
            return
        method, arguments = magic
        if method in ("system", "getoutput"):
            self._expanded(arguments[0])
        elif method == "run_line_magic" and len(arguments) >= 2:
            name, line = arguments[0], arguments[1]
            self._expanded(line)
            if name in _MAGICS_OVER_CODE:
                self._nested(_MAGIC_OPTIONS.sub("", line, count=1))
        elif method == "run_cell_magic" and len(arguments) >= 3:
            name, line, body = arguments[:3]
            self._expanded(line)
            if name in _CELL_MAGICS_OVER_CODE:
                if name == "capture":
                    for word in line.split():
                        if word.isidentifier():
                            self._bind(word)
                else:
                    self._nested(_MAGIC_OPTIONS.sub("", line, count=1))
                self._nested(body)

    def _expanded(self, text: str) -> None:
        """IPython puts the values of ``$name`` and ``{expression}`` into such lines."""
        for name in _SHELL_VARIABLE.findall(text):
            self._read(name)
        for expression in _BRACED.findall(text):
            self._nested(expression.partition("!")[0].partition(":")[0])

    def _nested(self, code: str) -> None:
        try:
            tree = ast.parse(self._transform(code))
        except (SyntaxError, ValueError):
            return
        self._visit_all(tree.body)


def _descendants(tables: Iterable[symtable.SymbolTable]) -> Iterator[symtable.SymbolTable]:
    for table in tables:
        yield table
        yield from _descendants(table.get_children())


def _ipython_call(node: ast.Call) -> tuple[str, list[str]] | None:
    """``get_ipython().method("…", …)`` as the transformer writes it: the method and its texts."""
    function = node.func
    if not (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == "get_ipython"
    ):
        return None
    texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    if not texts or len(texts) != len(node.args) or not all(isinstance(text, str) for text in texts):
        return None
    return function.attr, [str(text) for text in texts]
