"""Mutants: does a test turn red when a line of the physics is wrong?

    python benchmarks/mutants.py [NUMBER] [SEED] [FIRST]    100, 0 and 1 if not given; half an hour

Into a copy of the library one fault is put at a time: a sign, an operator, a comparison, a constant, an
index, a mean for a sum, a root left out, branches exchanged. Then the tests of that module run, and of
what survives all tests of the library. Lines that check arguments, and texts, are left as they are.
What survives is listed, and counts unless the fault can change nothing that could be seen (`UNSEEN`).
"""

import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEAR = {
    "systems/trap.py": "trap units", "systems/chain.py": "chain units", "law.py": "law", "rollout.py": "rollout arrays",
    "encoder.py": "encoder", "decoders.py": "decoders arrays", "networks.py": "networks law", "metrics.py": "metrics",
}  # fmt: skip
REST = "arrays decoders encoder goldens law layouts metrics networks rollout".split()  # the fast ones
CHECKS = {"require", "shaped", "count", "finite", "positive", "choice", "increasing", "tensor", "seeded", "ValueError"}
#: Beginnings of statements in which a fault may change nothing that could be seen, each with the reason.
UNSEEN = {
    "reach = (function(x)": "the root lies inside of the bracket, or the step after the loop leads to it",
    "x = torch.where(nearer": "halving alone finds the same root, later",
    "nearer = (newton": "halving alone finds the same root, later",
    "if bool((way <=": "more turns find the same root",
    "cell = torch.searchsorted(cumulative, aim, right=True).clamp(1, len(strains) - 1) - 1  ->  "
    "cell = torch.searchsorted(cumulative, aim, right=True).clamp(1, len(strains) - 2) - 1":
        "the last cell asks for a level of 1 but for its last digit: once in 2**53 draws",
    "weights = cloud.weights.flatten(0, -2)  ->  weights = cloud.weights.flatten(0, 2)":
        "of four axes the third is the last but one",
    "return nll + weights.sum(-1) * scale.log()  ->  return nll + weights.sum(1) * scale.log()":
        "of two axes the second is the last",
    "own = x.ndim == 3": "both ways multiply the same matrices",
}  # fmt: skip
LIMIT = 1500  # seconds, after which a mutant that never ends is counted as found

SWAPPED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"mean": "sum", "sum": "mean", "exp": "log", "sigmoid": "tanh", "tanh": "sigmoid", "min": "max", "max": "min",
         "logsigmoid": "sigmoid", "cumsum": "cumprod", "var": "std", "std": "var", "softplus": "sigmoid"}  # fmt: skip


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Nodes in bodies of functions that may be changed, each with its parent and what is done to it."""

    def within(node: ast.AST, parent: ast.AST, inside: bool) -> Iterator[tuple[ast.AST, ast.AST, str]]:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in CHECKS:
                return
        if inside:
            if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
                yield node, parent, "operator"
            if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
                yield node, parent, "comparison"
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                yield node, parent, "sign"
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                yield node, parent, "constant"
            if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if isinstance(parent, ast.Call) and parent.func is node and name in NAMES:
                    yield node, parent, "function"
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") in ("sqrt", "square", "abs", "neg")
                and not node.args
            ):
                yield node, parent, "left out"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "where" and len(node.args) == 3:
                yield node, parent, "branches"
            if isinstance(node, ast.IfExp):
                yield node, parent, "choice"
        body = isinstance(node, ast.FunctionDef)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "defaults", "kw_defaults"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from within(child, node, inside or body)

    yield from within(tree, tree, False)


def changed(node: Any, what: str) -> ast.AST:
    """The node with its fault."""
    if what == "operator":
        node.op = SWAPPED[type(node.op)]()
    elif what == "comparison":
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    elif what == "sign":
        return node.operand
    elif what == "constant":
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.1 if node.value else 0.1
    elif what == "function":
        name = "attr" if isinstance(node, ast.Attribute) else "id"
        setattr(node, name, NAMES[getattr(node, name)])
    elif what == "left out":
        return node.func.value
    elif what == "branches":
        node.args[1:] = node.args[:0:-1]
    elif what == "choice":
        node.body, node.orelse = node.orelse, node.body
    return node


def mutant(text: str, number: int) -> tuple[str, str]:
    """A module with its fault of this number, and what it is in words."""
    tree = ast.parse(text)
    node, parent, what = list(places(tree))[number]
    before, line = ast.unparse(statement(tree, node)), getattr(node, "lineno", 0)
    new = changed(node, what)
    for field, value in ast.iter_fields(parent):
        if value is node:
            setattr(parent, field, new)
        elif isinstance(value, list):
            setattr(parent, field, [new if child is node else child for child in value])
    after = ast.unparse(statement(tree, new))
    return ast.unparse(ast.fix_missing_locations(tree)), f"line {line}, {what}: {before}  ->  {after}"


def statement(tree: ast.AST, node: ast.AST) -> ast.AST:
    """The innermost statement around a node, without its body."""
    around = [s for s in ast.walk(tree) if isinstance(s, ast.stmt) and any(child is node for child in ast.walk(s))]
    found = deepcopy(min(around, key=lambda s: sum(1 for _ in ast.walk(s))))
    for field in ("body", "orelse"):
        if hasattr(found, field):
            setattr(found, field, [ast.Expr(ast.Constant(...))])
    return found


def survives(folder: Path, tests: list[str], file: str = "") -> bool:
    """Whether these tests of the copy and the doctests of a file pass; the process has the large libraries already."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        os.chdir(folder)
        sys.path[:0] = [str(folder), str(folder / "tests")]
        import pytest

        files = [str(folder / "tests" / f"test_{name}.py") for name in tests]
        files += [str(folder / "ibvonns" / file)] if file else []
        os._exit(
            int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:nbval", "--doctest-modules", *files]))
        )
    begun = time.monotonic()
    while time.monotonic() < begun + LIMIT:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(number: int = 100, seed: int = 0, first: int = 1) -> int:
    """Try so many mutants, from the first on; the exit status is 1 if more than a twentieth survives."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "IBVONNS_PROGRESS": "off"}
    sys.dont_write_bytecode = True
    for heavy in ("torch", "numba", "matplotlib.pyplot", "scipy.stats"):  # what pytest rewrites must not be
        __import__(heavy)
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for name in ("ibvonns", "tests", "benchmarks", "book", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.ipynb", "_vendor", "*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    texts = {file: (ROOT / "ibvonns" / file).read_text(encoding="utf-8") for file in NEAR}
    every = [(file, n) for file, text in texts.items() for n in range(len(list(places(ast.parse(text)))))]
    drawn = random.Random(seed).sample(every, min(number, len(every)))
    if not survives(folder, ["law", "trap", "metrics"]):
        print("The tests fail without a mutant.")
        return 2
    alive, tried, excused = list[str](), dict.fromkeys(NEAR, 0), 0
    for place, (file, n) in enumerate(sorted(drawn), 1):
        if place < first:
            continue
        text, words = mutant(texts[file], n)
        (folder / "ibvonns" / file).write_text(text, encoding="utf-8")
        near = NEAR[file].split()
        lives = survives(folder, near, file) and survives(folder, [name for name in REST if name not in near])
        (folder / "ibvonns" / file).write_text(texts[file], encoding="utf-8")
        tried[file] += 1
        unseen = next((why for start, why in UNSEEN.items() if f": {start}" in words), "")
        alive += [f"{file}, {words}"] * (lives and not unseen)
        excused += lives and bool(unseen)
        told = f"SURVIVES ({unseen or 'a test is missing'})" if lives else "found"
        print(f"{place} of {len(drawn)}: {told}: {file}, {words}", flush=True)
    number = sum(tried.values())
    print(f"{number - len(alive) - excused} of {number} found, {excused} survive that can change nothing seen, "
          f"{len(alive)} want a test (of {len(every)} in all; seed {seed}); by file: {tried}")  # fmt: skip
    shutil.rmtree(folder)
    return len(alive) > number / 20


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
