"""The habits of this repository that a linter does not know: budgets, and what may be imported where."""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for name in ("lc_jax", "configs", "benchmarks", "tests", "docs") for path in (ROOT / name).rglob("*.py")
)
PACKAGE = [path for path in SOURCES if path.is_relative_to(ROOT / "lc_jax")]

MAX_LINES, MAX_FUNCTION_LINES, MAX_NESTING, MAX_ARGUMENTS = 400, 80, 3, 7
CORE = ("models", "inference", "rl", "training", "kernels")
CORE_MAY_IMPORT = {
    "lc_jax",
    "jax",
    "flax",
    "optax",
    "orbax",
    "numpy",
    "ml_dtypes",
    "safetensors",
    "absl",
    "jaxtyping",
    "tqdm",
}
OPTIONAL_ACCELERATORS = {"tokamax"}  # imported where they are used; lc_jax does without
OPTIONAL_READERS = {"torch", "gguf", "sentence_transformers"}  # torch pickles and GGUF files; passages
FORBIDDEN_NAMES = {"utils.py", "common.py", "helpers.py"}
# Participles that say nothing as names: a value is named by a noun, such as `replies` for what was `found`.
PARTICIPLES = {
    "answered", "asked", "begun", "brought", "drawn", "found", "given", "held", "kept", "known", "left",
    "lost", "made", "meant", "moved", "named", "paid", "said", "seen", "shown", "spent", "stated", "stored", "taken",
    "told", "tried", "used", "wanted", "written",
}  # fmt: skip
# First words of fragments and questions; a docstring begins with a verb in the third person or a defining noun.
NO_OPENINGS = {
    "As", "Everything", "From", "How", "It", "Nothing", "Of", "So", "Such", "That", "Those", "What", "Whatever", "When",
    "Where", "Whether", "Which", "Who", "Whoever", "Why", "Without",
}  # fmt: skip
PICKLES = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def place(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def bound_names(node: ast.AST) -> list[str]:
    """The names that a statement or expression binds: targets of assignments, parameters, functions and classes."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.id if isinstance(node, ast.Name) else node.attr]
    if isinstance(node, ast.arg):
        return [node.arg]
    return [node.name] if isinstance(node, Function | ast.ClassDef) else []


def word_problems(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, problem) of every participle as a name, and every docstring that begins as a fragment or question."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        yield from ((line, name) for name in bound_names(node) if name.strip("_") in PARTICIPLES)
        if isinstance(node, Function | ast.ClassDef | ast.Module):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0] in NO_OPENINGS:
                yield line, f"docstring {' '.join(words[:4])!r} ..."


def nesting(node: ast.AST) -> int:
    """Most control-flow statements around one another in a function or module; `elif` is no deeper than its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            continue  # measured as a function of its own
        is_elif = (
            isinstance(node, ast.If)
            and isinstance(child, ast.If)
            and node.orelse == [child]
            and child.col_offset == node.col_offset
        )
        own = isinstance(child, BRANCHES) and not is_elif
        deepest = max(deepest, nesting(child) + own)
    return deepest


def imported(node: ast.AST, *, inside_functions: bool) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, absolute dotted name of the module) of every import under `node`; for types alone does not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"line {child.lineno}: imports here are absolute"
            yield from ((child, f"{child.module}.{alias.name}") for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        elif inside_functions or not isinstance(child, Function):
            yield from imported(child, inside_functions=inside_functions)


def test_files_fit_their_budget() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = [f"{path.relative_to(ROOT)}: {count} lines" for path, count in lines.items() if count > MAX_LINES]
    assert not long, f"split these, {MAX_LINES} lines are the budget of a file"


def test_functions_fit_their_budget() -> None:
    over = []
    for path in SOURCES:
        for node in functions(path):
            spec = node.args
            names = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
            sizes = {
                "lines": (node.end_lineno or node.lineno) - node.lineno + 1,
                "arguments": len([name for name in names if name not in ("self", "cls")]),
                "levels of control flow": nesting(node),
            }
            budgets = zip(sizes.items(), (MAX_FUNCTION_LINES, MAX_ARGUMENTS, MAX_NESTING), strict=True)
            over += [f"{place(path, node)} {node.name}: {n} {what}" for (what, n), most in budgets if n > most]
    assert not over, "split these functions, or gather their arguments in a record"


@pytest.mark.parametrize(
    ("source", "levels"),
    [
        ("if a:\n  pass\nelif b:\n  pass\nelif c:\n  pass", 1),
        ("if a:\n  pass\nelse:\n  if b:\n    pass", 2),
        ("for a in b:\n  with c:\n    try:\n      pass\n    finally:\n      while d: pass", 3),
        ("for a in b:\n  def f():\n    if c: pass", 1),
    ],
)
def test_nesting_is_counted_as_a_reader_would(source: str, levels: int) -> None:
    assert nesting(ast.parse(source)) == levels


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("found = 1", ["found"]),
        ("a, (*_kept, b) = c", ["_kept"]),
        ("self.seen = found", ["seen"]),
        ("for told in a: [asked for asked in b if (left := asked)]", ["told", "left", "asked"]),
        ("def made(given, *, known=0): pass", ["made", "given", "known"]),
        ("num_found = found_names = f(kept=seen)", []),
        ('"""What it is."""', ["docstring 'What it is.' ..."]),
        ('def f():\n  """Whether it is so."""', ["docstring 'Whether it is so.' ..."]),
        ('def f():\n  """Returns whether it is so."""', []),
    ],
)
def test_participles_and_fragments_are_seen(source: str, problems: list[str]) -> None:
    assert sorted(problem for _, problem in word_problems(ast.parse(source))) == sorted(problems)


def test_names_are_nouns_and_docstrings_are_sentences() -> None:
    problems = [
        f"{path.relative_to(ROOT).as_posix()}:{line} {problem}"
        for path in SOURCES
        for line, problem in word_problems(tree(path))
    ]
    assert not problems, "name values by nouns; begin docstrings with a verb in the third person or a defining noun"


def test_nothing_runs_text_or_unpickles() -> None:
    places = []
    for path in SOURCES:
        places += [
            place(path, node)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and (
                (isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"))
                or any(key.arg == "allow_pickle" and ast.unparse(key.value) != "False" for key in node.keywords)
            )
        ]
        names = imported(tree(path), inside_functions=True)
        places += [place(path, node) for node, name in names if name.split(".")[0] in PICKLES]
    assert not places, "eval, exec and pickle run whatever a file or a model wrote"


def test_core_modules_import_only_the_core_libraries() -> None:
    allowed = CORE_MAY_IMPORT | set(sys.stdlib_module_names)
    places = [
        f"{place(path, node)} {name}"
        for path in PACKAGE
        if path.relative_to(ROOT / "lc_jax").parts[0] in CORE
        for node, name in imported(tree(path), inside_functions=False)
        if name.split(".")[0] not in allowed
    ]
    assert not places, f"{', '.join(CORE)} run without data sets, trackers and providers' SDKs"


def test_metrics_import_nothing_of_ours() -> None:
    path = ROOT / "lc_jax" / "evaluation" / "metrics.py"
    names = [name for _, name in imported(tree(path), inside_functions=True)]
    assert not [name for name in names if name.split(".")[0] == "lc_jax"], "the metrics can be lifted out as one file"


def test_every_import_is_a_declared_requirement() -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines += project["optional-dependencies"]["train"]
    names = {normal(re.split(r"[<>=!~;\[ ]", line)[0]) for line in lines if line and not line.startswith("#")}
    providers = metadata.packages_distributions()
    declared = {"lc_jax"} | OPTIONAL_ACCELERATORS | OPTIONAL_READERS | set(sys.stdlib_module_names)
    missing = [
        f"{place(path, node)} {name}"
        for path in PACKAGE
        for node, name in imported(tree(path), inside_functions=True)
        if (top := name.split(".")[0]) not in declared and names.isdisjoint(map(normal, providers.get(top, [])))
    ]
    assert not missing, "neither requirements.txt nor the extra `train` names what these import"


def modules(package: str) -> list[str]:
    """lc_jax.<package> and the modules in it, but for llm.local, whose business is JAX."""
    inside = pkgutil.iter_modules([str(ROOT / "lc_jax" / package)])
    names = [f"lc_jax.{package}", *(f"lc_jax.{package}.{module.name}" for module in inside)]
    return [name for name in names if name != "lc_jax.llm.local"]


@pytest.mark.parametrize(
    ("names", "without"),
    [
        (["lc_jax", "lc_jax.types"], "jax transformers datasets wandb anthropic openai"),
        ([*modules("evaluation"), *modules("llm"), *modules("prompts")], "jax torch wandb anthropic openai"),
    ],
    ids=["lc_jax", "evaluation"],
)
def test_importing_stays_light(names: list[str], without: str) -> None:
    code = f"import sys, {', '.join(names)}; print(*sorted(set(sys.modules) & set({without.split()!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"importing {', '.join(names)} brings these with it"


def test_no_drawer_for_everything_and_a_license() -> None:
    assert not [path for path in SOURCES if path.name in FORBIDDEN_NAMES], "give each function the home its subject has"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
