"""Reading tests: which of their statements count, and which names are the completion's."""

from __future__ import annotations

import ast
import builtins


def free_names(tree: ast.Module) -> set[str]:
    """Names that the tests use and neither define nor have from Python: the completion's."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return used - made - set(dir(builtins))


def prepared(source: str) -> tuple[list[tuple[ast.stmt, bool]], set[str]] | None:
    """-> the statements of the tests and whether each is a test, and the names of the completion
    that they use. None for what cannot be used as tests: without an `assert` everything passes."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = free_names(tree)
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    body = list(tree.body)
    for s in tree.body:  # functions that pytest would call
        if isinstance(s, ast.FunctionDef) and s.name.startswith("test") and s.name not in called:
            body += ast.parse(f"{s.name}()").body
    calls = [isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) for s in body]
    kinds = (ast.Assert, ast.For, ast.While, ast.If, ast.With, ast.Try)
    tests = [
        call or isinstance(s, kinds) and any(isinstance(n, ast.Assert) for n in ast.walk(s))
        for s, call in zip(body, calls, strict=True)
    ]
    if not any(tests) or not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return None
    return list(zip(body, tests, strict=True)), names
