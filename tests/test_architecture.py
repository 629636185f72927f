"""The architecture, kept by reading the sources: the ladder of folders, the shape of families, the house rules.

Nothing is imported from the package except the catalog's table of families, which names their folders.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from posttrain.core.catalog import FAMILIES

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "posttrain"

# A folder imports only from itself and from folders of a strictly lower rung.
LADDER = [
    {"core"},
    {"ops"},
    {"data", "models"},
    {"quantize", "train", "decode", "measure"},
    {"adapt"},
    {"align", "distill", "guard", "bench", "registry", "curate"},
    {"pipeline"},
    {"cli", "server", "studio"},
]
RUNG = {folder: rung for rung, folders in enumerate(LADDER) for folder in folders}
# Modules beside the folders, with the only folder that may import them.
BESIDE = {"posttrain._native": "ops"}
# What `from posttrain import …` may take: the package itself stands above everything.
FROM_PACKAGE = {"__version__"}

LONGEST_MODULE = 450

# Families whose methods no machinery may know. Sources and steps are left out: `local`, `hub`, `train`, `merge` are
# words that a loop or a command can't do without; so are `reward` (a reranker), `single` (a teacher) and `response`.
SECRET_FAMILIES = (
    *("adapt", "align", "objective", "quantize", "process", "search", "measure", "schedule", "regularizer", "guard"),
)

# Everything that isn't a family's folder, less the commands (`--temperature` is the command line's contract) and the
# folders that serve one method only.
MACHINERY = (
    "core/*.py",
    "ops/__init__.py",
    "data/*.py",
    "models/*.py",
    "quantize/*.py",
    "train/*.py",
    "decode/*.py",
    "guard/__init__.py",
    "registry/*.py",
    "pipeline/*.py",
    "cli/*.py",
)

# Methods whose name is also an everyday word of programming or torch. For these only a string that is exactly the term
# counts as naming the method; as part of an identifier they mean something else.
EVERYDAY = {
    "constant": "ast.Constant, a constant",
    "dynamic": "transformers' DynamicCache",
    "full": "numpy.full, a full disk",
    "linear": "torch.nn.Linear, a linear map",
    "static": "transformers' StaticCache, staticmethod",
}

# (module, term): why this place may name this method. An entry that is no longer needed fails the test.
ALLOWED = {
    ("pipeline/api.py", "greedy"): "the default search of `posttrain.generate`, part of its signature",
    ("pipeline/api.py", "perplexity"): "`posttrain.perplexity` is a function of the public interface",
    ("pipeline/api.py", "temperature"): "`posttrain.temperature_sweep` is a function of the public interface",
    ("pipeline/speed.py", "greedy"): "speed is measured on greedy decoding, by definition",
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package: dotted name -> file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("posttrain", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(SOURCE)}:{line}" if line else str(path.relative_to(SOURCE))


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """All imports anywhere in a module, also in functions and under TYPE_CHECKING: line, module, name taken from it."""
    inside = path.relative_to(SOURCE).parts[:-1] if path.is_relative_to(SOURCE) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names if alias.name != "posttrain")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "posttrain":
            yield node.lineno, "posttrain", node.attr  # what a plain `import posttrain` is used for
        elif isinstance(node, ast.ImportFrom):
            above = ["posttrain", *inside][: len(inside) + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, base, alias.name) for alias in node.names)


def imported_modules(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The package's modules that a file imports; `from posttrain.core import files` is `posttrain.core.files`."""
    for line, base, name in imports(path, tree):
        if base.split(".")[0] == "posttrain":
            yield line, f"{base}.{name}" if f"{base}.{name}" in modules() else base


def breaks_ladder(folder: str, module: str, name: str = "") -> bool:
    """Whether a module of `folder` may not import `name` from `module`."""
    if module in BESIDE or f"{module}.{name}" in BESIDE:
        return folder != BESIDE.get(module, BESIDE.get(f"{module}.{name}"))
    parts = module.split(".")
    if len(parts) == 1:
        if name in RUNG:
            parts = [module, name]
        else:
            return name not in FROM_PACKAGE
    return parts[1] != folder and RUNG[parts[1]] >= RUNG[folder]


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the constants that stand alone as a statement: docstrings of modules, classes, functions and fields."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def words(name: str) -> tuple[str, ...]:
    """`LoraLayer`, `lora-layer` and `lora_layer` are the words lora, layer."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return tuple(word for word in re.split(r"[^a-z0-9]+", split.lower()) if word)


def names_in(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Identifiers and strings of a module: line, text, whether it is a string. Prose (with spaces) can't switch."""
    prose = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in prose and not re.search(r"\s", node.value.strip()):
                yield node.lineno, node.value, True
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr, False
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.name, False
        elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
            yield node.lineno, node.arg, False
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield node.lineno, alias.name, False
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.lineno, node.module, False


def methods_of(families: tuple[str, ...]) -> list[str]:
    """All terms of families, from the file names."""
    folders = [SOURCE.joinpath(*FAMILIES[family][0].split(".")[1:]) for family in families]
    return sorted({path.stem for folder in folders for path in folder.glob("*.py") if not path.stem.startswith("_")})


def names_method(text: str, is_string: bool, term: str) -> bool:
    """Whether an identifier or a string names the method `term`."""
    found, sought = words(text), words(term)
    if term in EVERYDAY:
        return is_string and found == sought
    if text != text.lower():  # capitals may part a name differently: LoRA, TopK
        found, sought = (
            tuple("".join(found[i:j]) for i in range(len(found)) for j in range(i + 1, len(found) + 1)),
            ("".join(sought),),
        )
    return any(found[i : i + len(sought)] == sought for i in range(len(found) - len(sought) + 1))


def public_in(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public classes and functions in a body, less the bare signatures of an overloaded one."""
    for each in node.body:
        if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            bare = "overload" in [ast.unparse(decorator) for decorator in each.decorator_list]
            if not bare and not each.name.startswith("_"):
                yield each


def is_call_of(node: ast.AST, *functions: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in functions


# The rules about the rules: each must be able to fail.


def test_the_ladder_holds_every_folder():
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert folders - RUNG.keys() == set()


@pytest.mark.parametrize(
    ("folder", "statement", "forbidden"),
    [
        ("core", "import posttrain.ops", True),
        ("core", "from posttrain.core import files", False),
        ("models", "from posttrain.data.record import Chat", True),  # neighbours on one rung
        ("data", "from posttrain.models import surgery", True),
        ("adapt", "from posttrain.models.surgery import select", False),
        ("train", "def f():\n    from posttrain.adapt import lora", True),  # also inside a function
        ("decode", "if TYPE_CHECKING:\n    from posttrain.pipeline.run import Entry", True),
        ("cli", "from posttrain.pipeline import run", False),
        ("cli", "from posttrain.server import app", True),
        ("models", "from posttrain import core", False),
        ("models", "from posttrain import pipeline", True),
        ("models", "from posttrain import __version__", False),
        ("models", "from posttrain import generate", True),
        ("ops", "from posttrain import _native", False),
        ("data", "from posttrain import _native", True),
        ("data", "from ..pipeline import run", True),
        ("data", "from .record import Chat", False),
        ("cli", "import posttrain\nprint(posttrain.__version__)", False),
        ("cli", "import posttrain\nposttrain.generate()", True),
    ],
)
def test_the_ladder_sees(folder, statement, forbidden):
    path = SOURCE / folder / "example.py"
    found = [breaks_ladder(folder, base, name) for _, base, name in imports(path, ast.parse(statement))]
    assert found == [forbidden]


@pytest.mark.parametrize(
    ("text", "is_string", "term", "named"),
    [
        ("LoraLayer", False, "lora", True),
        ("is_lora", False, "lora", True),
        ("LoRALayer", False, "lora", True),
        ("lora", True, "lora", True),
        ("explorations", False, "lora", False),
        ("TopKProcessor", False, "top_k", True),
        ("topk", False, "top_k", False),  # torch.topk
        ("top_k", True, "top_k", True),
        ("top-k", True, "top_k", True),
        ("linear", False, "linear", False),
        ("linear", True, "linear", True),
        ("all-linear", True, "linear", False),
    ],
)
def test_a_method_is_recognised(text, is_string, term, named):
    assert names_method(text, is_string, term) is named


# The rules.


def test_imports_obey_the_ladder():
    broken = []
    for path in modules().values():
        folder = path.relative_to(SOURCE).parts[0]
        if folder not in RUNG:
            continue  # posttrain/__init__.py offers what stands on every rung
        broken += [
            f"{shown(path, line)} imports {base}{'.' + name if name else ''}"
            for line, base, name in imports(path, tree_of(path))
            if base.split(".")[0] == "posttrain" and breaks_ladder(folder, base, name)
        ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_contract_imports_no_method(family):
    package, contract = FAMILIES[family]
    path = modules()[package]
    methods = {f"{package}.{stem}" for stem in methods_of((family,))}
    taken = [module for _, module in imported_modules(path, tree_of(path)) if module in methods]
    assert not taken, f"{shown(path)} imports {taken}"
    assert contract in {node.name for node in tree_of(path).body if isinstance(node, ast.ClassDef)}


def test_no_machinery_names_a_method():
    terms = methods_of(SECRET_FAMILIES)
    assert {"lora", "perplexity", "greedy"} <= set(terms)
    families = {SOURCE.joinpath(*package.split(".")[1:]) for package, _ in FAMILIES.values()}
    found, used = [], set()
    for path in sorted({path for pattern in MACHINERY for path in SOURCE.glob(pattern)}):
        if path.parent in families:
            continue
        place = str(path.relative_to(SOURCE))
        for line, text, is_string in names_in(tree_of(path)):
            for term in terms:
                if names_method(text, is_string, term):
                    used.add((place, term))
                    if (place, term) not in ALLOWED:
                        found.append(f"{place}:{line} names the method '{term}': {text!r}")
    assert not found, "\n".join(found)
    assert used >= ALLOWED.keys(), f"no longer needed: {ALLOWED.keys() - used}"


def test_every_module_says_what_it_is():
    silent = [shown(path) for path in modules().values() if not ast.get_docstring(tree_of(path))]
    assert not silent, silent


def test_every_module_is_tested():
    """By a test file of the mirrored path, a test that imports it, or a contract test over its whole family.

    A package's own module, a family's contract for example, is also tested by the tests in the mirrored folder.
    """
    files = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    mirrored = {tuple(path.relative_to(TESTS).with_suffix("").parts) for path in files}
    imported: set[str] = set()
    contracts: set[str] = set()
    for path in files:
        tree = tree_of(path)
        imported |= {module for _, module in imported_modules(path, tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # programs run by a subprocess
                imported |= {name for name in re.findall(r"posttrain(?:\.\w+)+", node.value) if name in modules()}
            if is_call_of(node, "catalog.terms", "terms") and node.args and isinstance(node.args[0], ast.Constant):
                family = str(node.args[0].value)
                if family in FAMILIES:
                    contracts |= {f"{FAMILIES[family][0]}.{term}" for term in methods_of((family,))}
    untested = []
    for name, path in modules().items():
        *folders, stem = name.split(".")[1:] or ["posttrain"]
        empty = len(tree_of(path).body) <= 1  # a package's docstring
        mirror = (*folders, f"test_{stem}") in mirrored or (*folders[:1], f"test_command_{stem}") in mirrored
        mirror |= (*folders[:-1], f"test_{folders[-1]}" if folders else "") in mirrored  # one test for a small family
        if path.name == "__init__.py":
            mirror |= any(test[: len(folders) + 1] == (*folders, stem) for test in mirrored)
        if not (empty or mirror or name in imported or name in contracts):
            untested.append(name)
    assert not untested, "\n".join(untested)


def test_nothing_unsafe():
    """No code from data: no pickle in any of its forms, no eval, no exec, no remote code."""
    banned_modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    banned_calls = ("eval", "exec", "compile", "torch.load", "torch.save", "pandas.read_pickle", "yaml.unsafe_load")
    found = []
    for path in modules().values():
        tree = tree_of(path)
        found += [
            f"{shown(path, line)} imports {base}"
            for line, base, _ in imports(path, tree)
            if base.split(".")[0] in banned_modules
        ]
        for node in ast.walk(tree):
            if is_call_of(node, *banned_calls):
                found.append(f"{shown(path, node.lineno)} calls {ast.unparse(node.func)}")
            pairs = [(node.arg, node.value)] if isinstance(node, ast.keyword) else []
            if isinstance(node, ast.Dict):
                pairs = [
                    (key.value if isinstance(key, ast.Constant) else None, value)
                    for key, value in zip(node.keys, node.values)
                ]
            for key, value in pairs:
                if key in ("trust_remote_code", "allow_pickle") and not (
                    isinstance(value, ast.Constant) and value.value is False
                ):
                    found.append(f"{shown(path, value.lineno)} sets {key}")
    assert not found, "\n".join(found)


def test_everything_public_is_documented():
    """Public classes and functions; public methods unless one of the same name is documented, where it is declared."""
    documented = {
        node.name
        for path in modules().values()
        for cls in ast.walk(tree_of(path))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node)
    }
    # What other libraries call by these names needs no explanation of ours.
    documented |= {"forward", "backward"}
    silent = []
    for path in modules().values():
        for node in public_in(tree_of(path)):
            if not ast.get_docstring(node):
                silent.append(f"{shown(path, node.lineno)} {node.name}")
            silent += [
                f"{shown(path, method.lineno)} {node.name}.{method.name}"
                for method in (public_in(node) if isinstance(node, ast.ClassDef) else [])
                if not ast.get_docstring(method) and method.name not in documented
            ]
    assert not silent, "\n".join(silent)


def test_no_module_is_too_long():
    long = {
        shown(path): count
        for path in modules().values()
        if (count := len(path.read_text().splitlines())) > LONGEST_MODULE
    }
    assert not long, long
