"""Shapes of code: what a function does, however it is written. Tried on the standard library."""

from __future__ import annotations

import ast
import copy
import dis
import importlib
import inspect
import io
import os
import random
import sys
import tokenize
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest

from functionfuse.reuse.bytecode import Import, Shape, shape_of
from functionfuse.reuse.controlflow import _instructions, _without_swaps

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
MODULES = [
    "argparse",
    "bdb",
    "calendar",
    "cmd",
    "codeop",
    "collections",
    "configparser",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "difflib",
    "dis",
    "fractions",
    "functools",
    "gettext",
    "glob",
    "heapq",
    "imaplib",
    "inspect",
    "ipaddress",
    "json.decoder",
    "json.encoder",
    "numbers",
    "optparse",
    "pickle",
    "plistlib",
    "pprint",
    "quopri",
    "random",
    "sched",
    "shlex",
    "shutil",
    "statistics",
    "string",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "tokenize",
    "traceback",
    "types",
    "uuid",
    "warnings",
    "weakref",
    "zipfile",
]
LONG = [
    "ast",
    "asyncio.base_events",
    "datetime",
    "doctest",
    "http.client",
    "typing",
    "unittest.mock",
]
# On Python 3.11 these take every step that the others do in `bytecode` and `controlflow`, from each
# line to the next. Other Pythons compile to other steps.
SOME = ["contextlib", "csv", "dis", "fractions", "gettext", "heapq", "inspect", "types"]
TRIED = MODULES + LONG if FULL else MODULES if sys.version_info >= (3, 12) else SOME


def codes(code: CodeType) -> Iterator[CodeType]:
    """Iterate all code objects within one, from the inside."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)
            yield constant


def source_of(name: str) -> str:
    return inspect.getsource(importlib.import_module(name))


def tokens_of(source: str, lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """Iterate the tokens of a source, each formatted string as one, as it is until Python 3.11."""
    starts: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind.endswith("STRING_START"):
            starts.append(token)
        elif kind.endswith("STRING_END"):
            (row, column), (last, end) = starts.pop().start, token.end
            text = lines[row - 1 : last]
            text[-1] = text[-1][:end]
            text[0] = text[0][column:]
            if not starts:
                yield token._replace(string="".join(text), start=(row, column))
        elif not starts:
            yield token


def rewritten(source: str, chance: random.Random) -> str:
    """Return source with comments, blank lines and line breaks at random places."""
    lines = source.splitlines(keepends=True)
    out: list[str] = []
    end, depth, begins = (1, 0), 0, True
    for token in tokens_of(source, lines):
        if token.type in (tokenize.ENDMARKER, tokenize.DEDENT):
            continue
        row, column = token.start
        if end[0] == row:
            gap = lines[row - 1][end[1] : column]
        else:
            gap = lines[end[0] - 1][end[1] :] + "".join(lines[end[0] : row - 1])
            gap += lines[row - 1][:column] if token.type != tokenize.INDENT else ""
        if token.type == tokenize.NEWLINE:
            gap += "  # note" * (chance.random() < 0.3)
            out.append(gap + token.string + "\n" * chance.randrange(3))
        else:
            written = token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT)
            if written and not begins and "\n" not in gap and chance.random() < 0.3:
                gap = "  # note\n " if depth and chance.random() < 0.5 else " \\\n "
            out.append(gap + token.string)
        depth += token.string in ("(", "[", "{") and token.type == tokenize.OP
        depth -= token.string in (")", "]", "}") and token.type == tokenize.OP
        end = token.end
        begins = token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.COMMENT)
    return "".join(out)


def compiled(source: Any) -> CodeType:
    return compile(source, "module", "exec", dont_inherit=True)


@pytest.mark.battery
@pytest.mark.parametrize("name", TRIED)
def test_writing_makes_no_difference(name: str) -> None:
    """Every function of a module has the same shape when it is written in another way."""
    source, chance = source_of(name), random.Random(name)
    expected = list(codes(compiled(source)))
    plain = ast.unparse(ast.parse(source))
    others = [plain, *(rewritten(plain, chance) for _ in range(3 if FULL else 1))]
    others += [rewritten(source, chance)]
    for other in others:
        actual = list(codes(compiled(other)))
        assert len(expected) == len(actual)
        for one, two in zip(expected, actual, strict=True):
            assert shape_of(one) == shape_of(two), one.co_qualname


SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Not: ast.USub,
}


def mutations(tree: ast.Module) -> list[tuple[ast.AST, str, Any]]:
    """Return places in functions where a constant or an operator can be another."""
    found: list[tuple[ast.AST, str, Any]] = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in meant(function.body):
            for name, value in ast.iter_fields(node):
                if type(value) in SWAPPED:
                    found.append((node, name, SWAPPED[type(value)]()))
                elif name == "ops" and type(value[0]) in SWAPPED:
                    found.append((node, name, [SWAPPED[type(value[0])](), *value[1:]]))
                elif isinstance(node, ast.Constant) and name == "value":
                    found += [(node, name, other) for other in changed(value)]
                elif name == "attr":
                    found.append((node, name, value + "_"))
    return found


def meant(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Iterate what is no docstring."""
    for statement in body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            yield from ast.walk(statement)


def changed(constant: Any) -> list[Any]:
    if isinstance(constant, bool):
        return [not constant, int(constant)]
    if isinstance(constant, int):
        return [constant + 1, float(constant)]
    if isinstance(constant, float):
        return [constant + 1, -constant]
    if isinstance(constant, str):
        return [constant + "x"]
    return []


def instructions(code: CodeType) -> list[Any]:
    """What is run: a change of dead code makes no difference here."""
    found: list[Any] = [code.co_exceptiontable]
    for step in dis.get_instructions(code):
        value = code.co_consts[step.arg] if step.opcode in dis.hasconst else step.argval
        value = instructions(value) if isinstance(value, CodeType) else repr(value)
        found.append((step.opname, value))
    return found


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("name", ["calendar", "textwrap", "heapq", "fractions", "shlex"])
def test_another_constant_or_operator_is_another_shape(name: str) -> None:
    """One place is changed at a time."""
    tree = ast.parse(source_of(name))
    before = compiled(tree)
    shape, same = shape_of(before), []
    places, chance = mutations(tree), random.Random(name)
    for node, field, other in chance.sample(places, min(len(places), 400 if FULL else 25)):
        original = getattr(node, field)
        setattr(node, field, other)
        try:
            after = compiled(tree)
            if shape_of(after).text == shape.text and instructions(after) != instructions(before):
                same.append((ast.unparse(node), original, node.lineno))
        finally:
            setattr(node, field, original)
    assert [] == same


# One by one.


def shape(source: str) -> Shape:
    """Return the shape of the one function in a source."""
    (code,) = [item for item in compiled(source).co_consts if isinstance(item, CodeType)]
    return shape_of(code)


ALIKE = [
    ("return x", '"Doc."\n return x'),
    ("return x", "\n\n # Note.\n return (\n  x\n )"),
    ("y = 1\n return y", "y: int = 1\n return y"),
    ("x, y = y, x\n return x", "x, \\\n y = y, x\n return x"),
    ("x, y, z = z, y, x\n return x", "(x,\n y,\n z) = z, y, x\n return x"),
    ("while True: pass", "while True:\n  pass"),
    ("return [i for i in x if i and i > y]", "return [i for i in x\n if i\n  and i > y]"),
    ("if (x and y) or z: return 1\n return 2", "if (x\n and y) or \\\n z:\n  return 1\n return 2"),
    (
        "for i in x:\n  if i: break\n else: return 1\n return 2",
        "for i in x:\n  if i:\n   break\n else:\n  return 1\n return 2",
    ),
    (
        "try: return x()\n except ValueError: return 1\n finally: x.close()",
        "try:\n  return x()\n except ValueError:\n  return 1\n finally:\n  x.close()",
    ),
    # As compilers copy a short way out, or don't:
    ("if x: y()\n else: z()\n return x", "if x: y(); return x\n else: z(); return x"),
    ("class C:\n  x = 1", "class C:\n\n  'Doc.'\n\n  x = 1"),
    # As compilers drop a value that the next store replaces, or don't:
    ("x, _, _, _ = y\n return x", "x, _, _, \\\n _ = y\n return x"),
    ("x = x = y\n return x", "x = \\\n x = y\n return x"),
    ("_, x, x, y = x, y, z, z\n return x", "_, x, \\\n x, y = x, y, z, z\n return x"),
    ("_, a = [a for a in x], {a for a in y}", "_, \\\n a = [a for a in x], {a for a in y}"),
    # As they know by the way to a load that there is a value, or check:
    (
        "if x: a = 1\n else: y()\n pass; pass; pass; return a",
        "if x: a = 1\n else: y()\n pass\n pass\n pass\n return a",
    ),
]
if sys.version_info >= (3, 12):
    ALIKE.append(('return f"{x}{y:{z}}"', 'return f"{\n x  # note\n }{y:{z\n }}"'))


UNLIKE = [
    ("def f(x):\n    return x", "def f(y):\n    return y"),
    ("def f(x):\n    return x", "def f(*x):\n    return x"),
    ("def f(x):\n    return x", "def f(*, x):\n    return x"),
    ("def f(x):\n    return x", "def f(x, /):\n    return x"),
    ("def f(x):\n    return x", "def f(x):\n    yield x"),
    ("def f(x):\n    return x", "async def f(x):\n    return x"),
    ("def f():\n    return 1", "def f():\n    return True"),
    ("def f():\n    return 1", "def f():\n    return 1.0"),
    ("def f():\n    return 0.0", "def f():\n    return -0.0"),
    ("def f():\n    return (1, 2)", "def f():\n    return (1, 2.0)"),
    ("def f(x):\n    return x in {1, 2}", "def f(x):\n    return x in {1, True + 1, 3}"),
    ("def f(x):\n    return x in {1}", "def f(x):\n    return x in {True}"),
    ("def f(x):\n    return x in (1, 2)", "def f(x):\n    return x in (2, 1)"),
    ("def f():\n    return '\\udc80'", "def f():\n    return '\\udc81'"),
    (f"def f():\n    return 0x{'1' * 5000}", f"def f():\n    return 0x{'1' * 4999}2"),
    ("def f(x):\n    return x.a", "def f(x):\n    return x.b"),
    ("def f(x):\n    return x.a()", "def f(x):\n    return x.a"),
    ("def f(x):\n    return x(a=1)", "def f(x):\n    return x(b=1)"),
    ("def f(x):\n    if x: return 1\n    return 2", "def f(x):\n    if x: return 2\n    return 1"),
    (
        "def f(x):\n    if x: return 1\n    return 2",
        "def f(x):\n    if not x: return 1\n    return 2",
    ),
    ("def f(a, b):\n    return a and b", "def f(a, b):\n    return a or b"),
    ("def f(a, b, c):\n    return a and b or c", "def f(a, b, c):\n    return a and (b or c)"),
    ("def f(a):\n    x, x, _ = a\n    return x", "def f(a):\n    x, _, x = a\n    return x"),
    ("def f(a):\n    x, y = a\n    return x", "def f(a):\n    y, x = a\n    return x"),
    ("def f(a, b):\n    a, b = b, a\n    return a", "def f(a, b):\n    b, a = b, a\n    return a"),
    ("def f(x):\n    while x: x()", "def f(x):\n    if x: x()"),
    (
        "def f(x):\n    try: x()\n    except ValueError: pass\n    x()",
        "def f(x):\n    try:\n        x()\n        x()\n    except ValueError: pass",
    ),
    (
        "def f(x):\n    for i in x:\n        if i: continue\n        x()",
        "def f(x):\n    for i in x:\n        if i: break\n        x()",
    ),
    (
        "def f(x):\n try:\n  x()\n  x()\n except ValueError: raise KeyError\n return x(1) + x(2)",
        "def f(x):\n try:\n  x()\n except ValueError: raise KeyError\n x()\n return x(1) + x(2)",
    ),
    ("def f(x):\n    return lambda: x", "def f(x):\n    return lambda x: x"),
    ("def f():\n    return [x for x in a if x]", "def f():\n    return [x for x in a if not x]"),
]


@pytest.mark.parametrize("pair", ALIKE)
def test_alike(pair: tuple[str, str]) -> None:
    one, two = (shape(f"def f(x, y, z):\n {body}") for body in pair)
    assert one == two


def test_types_of_arguments_are_no_part() -> None:
    assert shape("def f(x): pass") == shape("def f(x: int) -> None: pass")


@pytest.mark.parametrize("pair", UNLIKE)
def test_unlike(pair: tuple[str, str]) -> None:
    assert shape(pair[0]).text != shape(pair[1]).text


def test_what_is_read_and_imported() -> None:
    """Names with their attributes, and imports with what is read of them."""
    found = shape(
        "def f():\n"
        "    import a.b\n"
        "    import a.b.c as x\n"
        "    from .c import d, e\n"
        "    def g():\n"
        "        return one.two.three(four)\n"
        "    return a.b.i(a.j), x, d.k.l(), e, g, len\n"
    )
    assert (("one", "two", "three"), ("four",), ("len",)) == found.names
    assert {"b", "i", "j", "k", "l", "two", "three"} == found.attributes
    assert (
        Import(0, "a.b", "*", (("b", "i"), ("j",))),
        Import(0, "a.b.c", "", None),
        Import(1, "c", "d", (("k", "l"),)),
        Import(1, "c", "e", None),
    ) == found.imports


@pytest.mark.parametrize(
    "use",
    ["x", "x.y, x", "g(x)", "lambda: x.y", "[x.y for _ in z if x]", "vars(x)", "getattr(x, 'y')"],
)
def test_a_module_that_is_used_as_a_value_counts_as_a_whole(use: str) -> None:
    """Then the attributes that are read from it tell too little."""
    for statement in ("import a as x", "from a import x"):
        (found,) = shape(f"def f(z, g):\n    {statement}\n    return {use}\n").imports
        assert found.reads is None


@pytest.mark.parametrize("name", ["__doc__", "__annotations__", "signature", "get_type_hints"])
def test_who_looks_at_types(name: str) -> None:
    assert shape(f"def f(x): return x.{name}").inspects
    assert not shape(f"def f(x): return x._{name}").inspects


def test_stores_that_swaps_stand_for() -> None:
    """As the compiler does it for what is on one line."""
    (code,) = [
        item for item in compiled("def f(a, b):\n a, \\\n b = b, a").co_consts
        if isinstance(item, CodeType)
    ]  # fmt: skip
    kept = _instructions(code)
    swapped, needless = _without_swaps(kept, set())
    assert "SWAP" in [step.opname for step in kept]
    assert ["b", "a"] == [step.argval for step in swapped if step.opname == "STORE_FAST"]
    assert 1 == len(needless)


def test_instructions_that_do_two_things_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later Pythons fuse two loads or stores, if they are on one line."""
    (code,) = [
        item
        for item in compiled("def f(a, b):\n return a, \\\n b").co_consts
        if isinstance(item, CodeType)
    ]
    steps = list(dis.get_instructions(code))
    (first,) = [place for place, step in enumerate(steps) if step.argval == "a"]
    fused = steps[first]._replace(opname="LOAD_FAST_LOAD_FAST", argval=("a", "b"))
    monkeypatch.setattr(
        dis, "get_instructions", lambda _: [*steps[:first], fused, *steps[first + 2 :]]
    )
    names = [(step.opname, step.argval) for step in _instructions(code)]
    assert [("LOAD_FAST", "a"), ("LOAD_FAST", "b")] == names[:2]


def test_a_copy_of_code_is_alike() -> None:
    """Under another name, in another file, on other lines."""
    code = shape_of.__wrapped__.__code__
    moved = code.replace(co_firstlineno=1000, co_filename="elsewhere", co_name="other")
    assert shape_of(code) == shape_of(moved)
    assert copy.copy(shape_of(code)) == shape_of(moved)
