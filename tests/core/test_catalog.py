"""The catalog: every method of every family is found by its name, outsiders by module and class."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.settings import Settings, help_of

METHODS = [(family, term) for family in catalog.FAMILIES for term in catalog.terms(family)]


@pytest.mark.parametrize(("family", "term"), METHODS)
def test_every_method(family, term):
    """It keeps its family's contract, says what it is, explains its settings, and is found again by its own name."""
    cls = catalog.find(family, term)
    assert issubclass(cls, catalog.contract(family)) and issubclass(cls, Settings)
    assert not inspect.isabstract(cls)
    assert catalog.term_of(cls) == term
    assert len(catalog.summary(family, term)) > 20 and "\n" not in catalog.summary(family, term)
    assert all(help_of(cls).values()), f"without help: {[key for key, text in help_of(cls).items() if not text]}"


@pytest.mark.parametrize(("family", "term"), METHODS)
def test_every_method_is_built_and_dumped(family, term):
    cls = catalog.find(family, term)
    required = [field.alias or name for name, field in cls.model_fields.items() if field.is_required()]
    if required:
        with pytest.raises(BadRequest, match=f"'{family}.{term}.{required[0]}' is missing"):
            catalog.build(family, term)
        return
    try:
        method = catalog.build(family, term)
    except BadRequest as error:  # one of two settings is needed, and the sentence says which
        assert re.search(r"give either `\w+` or `\w+`", str(error))
        return
    assert method == catalog.build(family, {term: None}) == catalog.build(family, {term: {}}) == cls()
    assert catalog.build(family, method) is method
    assert catalog.build(family, catalog.dump(method)) == method


def test_terms_are_the_file_names():
    assert "lora" in catalog.terms("adapt") and "__init__" not in catalog.terms("adapt")
    assert catalog.terms("adapt") == sorted(catalog.terms("adapt"))


@pytest.mark.parametrize("written", ["warmup_stable_decay", "warmup-stable-decay", "Warmup-Stable_Decay"])
def test_dashes_and_capitals_do_not_matter(written):
    assert catalog.term_of(catalog.build("schedule", {written: {"warmup": 4}})) == "warmup_stable_decay"
    assert catalog.summary("schedule", written) == catalog.summary("schedule", "warmup_stable_decay")


@pytest.mark.parametrize("ask", [catalog.terms, catalog.contract, catalog.family_package, catalog.family_folder])
def test_an_unknown_family(ask):
    with pytest.raises(BadRequest, match=r"^There is no family 'adept'\. Did you mean 'adapt'\?$"):
        ask("adept")


@pytest.mark.parametrize("ask", [catalog.find, catalog.build, catalog.summary])
def test_an_unknown_method(ask):
    with pytest.raises(BadRequest, match=r"^There is no method 'lroa' in 'adapt'\. Did you mean 'lora'\?$"):
        ask("adapt", "lroa")


@pytest.mark.parametrize("term", ["../lora", "__init__", "lora.py", "", " ", "_private"])
def test_a_name_never_leads_out_of_the_folder(term):
    with pytest.raises(BadRequest, match="There is no method"):
        catalog.find("adapt", term)


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({}, r"^'adapt' expects a method, as in \{\w+: \{…\}\}, not \{\}\. Known: .*lora"),
        (5, r"^'adapt' expects a method, .* not 5\."),
        (None, r"^'adapt' expects a method, .* not None\."),
        (["lora"], r"^'adapt' expects a method, .* not \['lora'\]\."),
        ({"lora": {"rnak": 8}}, r"^Unknown key 'adapt\.lora\.rnak'\. Did you mean 'rank'\?$"),
        ({"lora": [8]}, r"^'adapt\.lora' expects `key: value` settings, not \[8\]\."),
        (
            {"lora": {}, "LoRA": {}},
            r"^'adapt' takes one method, not 'lora' and 'LoRA' together\. Leave one of them out\.$",
        ),
        # Of two keys one is rather misspelt, or a setting that stands outside its method.
        ({"lora": {}, "lroa": {}}, r"^There is no method 'lroa' in 'adapt'\. Did you mean 'lora'\?$"),
        ({"lora": None, "rank": 8}, r"^There is no method 'rank' in 'adapt'\."),
    ],
)
def test_malformed_blocks(block, sentence):
    with pytest.raises(BadRequest, match=sentence):
        catalog.build("adapt", block)


class Holder(Settings):
    """A step with one method and a list of them."""

    how: catalog.block("adapt") = None  # type: ignore[valid-type]
    """How."""

    process: catalog.blocks("process") = []  # type: ignore[valid-type]
    """Processors."""


def test_fields_hold_methods():
    holder = Holder.parse({"how": {"lora": {"rank": 2}}, "process": {"top_k": {"k": 5}, "top_p": {"p": 0.5}}})
    assert holder.how.rank == 2
    assert [catalog.term_of(method) for method in holder.process] == ["top_k", "top_p"]
    assert holder.process == Holder.parse({"process": [{"top_k": {"k": 5}}, {"top_p": {"p": 0.5}}]}).process
    assert Holder.parse({"process": {"top_p": {}, "top_k": {}}}).process != holder.process
    assert [catalog.term_of(m) for m in Holder.parse({"process": ["top_p", "top_k"]}).process] == ["top_p", "top_k"]
    assert len(Holder.parse({"process": "top_p"}).process) == 1
    assert Holder.parse({"process": None, "how": None}) == Holder() == Holder(how=None, process=[])
    assert Holder.parse(holder.model_dump(mode="json")) == holder


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"how": {"lora": {"rnak": 1}}}, "steps[1].hold.how.lora.rnak"),
        ({"process": {"top_k": {"kk": 1}}}, "steps[1].hold.process.top_k.kk"),
    ],
)
def test_a_complaint_names_the_whole_path_through_the_field(values, path):
    with pytest.raises(BadRequest) as caught:
        Holder.parse(values, "steps[1].hold")
    assert caught.value.problem == f"Unknown key '{path}'."


def test_the_path_skips_a_field_whose_name_the_recipe_leaves_out():
    with pytest.raises(BadRequest, match=r"^Unknown key 'steps\[1\]\.hold\.lora\.rnak'\."):
        Holder.parse({"how": {"lora": {"rnak": 1}}}, "steps[1].hold", implied="how")


# Outsiders' classes.


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module into the working directory; its name is new for every test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text: str) -> str:
        name = f"own_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


OWN = '''
from posttrain.train.schedules import Schedule

class Half(Schedule):
    """Always one half."""

    share: float = 0.5
    """How much."""

    def after_warmup(self, progress: float) -> float:
        return self.share

class Unfinished(Schedule):
    """Defines nothing."""

class Stranger:
    """Not a schedule."""

number = 5
'''


def test_a_class_from_the_working_directory(beside):
    reference = f"{beside(OWN)}:Half"
    schedule = catalog.build("schedule", {reference: {"share": 0.25}})
    assert schedule.factor(0, 10) == 0.25
    assert catalog.term_of(schedule) == reference
    assert catalog.build("schedule", catalog.dump(schedule)) == schedule
    with pytest.raises(BadRequest, match=f"Unknown key 'schedule.{reference}.sahre'. Did you mean 'share'"):
        catalog.build("schedule", {reference: {"sahre": 1}})


def test_contract_violations(beside):
    name = beside(OWN)
    for wrong in ("Stranger", "number", "Missing", ""):
        with pytest.raises(
            BadRequest, match=f"^'{name}:{wrong}' is no Schedule. Subclass posttrain.train.schedules.Sch"
        ):
            catalog.find("schedule", f"{name}:{wrong}")
    with pytest.raises(BadRequest, match=f"^'{name}:Half' is no Adapter"):
        catalog.find("adapt", f"{name}:Half")
    with pytest.raises(BadRequest, match=f"^'{name}:Unfinished' doesn't fulfil Schedule. Define "):
        catalog.find("schedule", f"{name}:Unfinished")
    with pytest.raises(BadRequest, match="doesn't fulfil Schedule"):
        catalog.find("schedule", "posttrain.train.schedules:Schedule")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 +", "SyntaxError"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("undefined", "NameError"),
    ],
)
def test_an_outsiders_module_that_cannot_be_imported(beside, text, problem):
    name = beside(text)
    with pytest.raises(BadRequest, match=f"^'{name}:Half' can't be imported: {problem}"):
        catalog.find("schedule", f"{name}:Half")


@pytest.mark.parametrize("reference", ["no_such_module:Half", ":Half", "a..b:Half", ".a:Half"])
def test_an_outsiders_module_that_is_not_there(beside, reference):
    with pytest.raises(BadRequest, match="can't be imported: "):
        catalog.find("schedule", reference)


# A family of our own, with everything that can be wrong in it.


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The family `shape` in a package of its own."""
    package = f"shapes_{tmp_path.name}"
    folder = tmp_path / package
    folder.mkdir()
    files = {
        "__init__": "from posttrain.core.settings import Settings\nclass Shape(Settings):\n    pass\n",
        "circle": f'"""A circle: all points at one distance\nfrom another.\n\nNot a disc."""\n'
        f"from {package} import Shape\nclass Circle(Shape):\n    radius: float = 1\nclass _Arc(Shape):\n    pass\n",
        "broken": f"from {package} import Shape\nclass Broken(Shape)\n",
        "missing": "import no_such_library\n",
        "none": f"from {package} import Shape\n",
        "two": f"from {package} import Shape\nclass One(Shape):\n    pass\nclass Two(Shape):\n    pass\n",
        "_private": "1 / 0",
    }
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(catalog.FAMILIES, "shape", (package, "Shape"))
    known = catalog.family_folder
    monkeypatch.setattr(catalog, "family_folder", lambda family: folder if family == "shape" else known(family))
    yield package
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def test_a_broken_neighbour_does_not_matter(shapes):
    assert catalog.terms("shape") == ["broken", "circle", "missing", "none", "two"]
    assert catalog.build("shape", {"circle": {"radius": 2}}).radius == 2
    assert catalog.summary("shape", "circle") == "A circle: all points at one distance from another."


@pytest.mark.parametrize(
    ("term", "problem"),
    [("broken", "SyntaxError: expected ':'"), ("missing", "ModuleNotFoundError: No module named 'no_such_library'")],
)
def test_a_broken_method_says_what_and_where(shapes, term, problem):
    with pytest.raises(Failure) as caught:
        catalog.find("shape", term)
    assert str(caught.value).startswith(f"The method '{term}' of 'shape' can't be loaded: {problem}")
    assert str(caught.value).endswith(f"It lies in {catalog.family_folder('shape')}/{term}.py.")


@pytest.mark.parametrize("term", ["none", "two"])
def test_a_file_is_one_method(shapes, term):
    with pytest.raises(TypeError, match=f"{shapes}.{term} must define exactly one public Shape"):
        catalog.find("shape", term)


def run(code: str) -> Any:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_names_and_summaries_cost_no_heavy_import():
    found = run(
        "import sys\n"
        "from posttrain.core import catalog, events, files, recipe, runtime, settings\n"
        "texts = [catalog.summary(f, t) for f in catalog.FAMILIES for t in catalog.terms(f)]\n"
        "recipe.apply_overrides({'adapt': 'lora'}, ['adapt.lora.rank=8'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'sklearn', 'matplotlib', 'safetensors'}\n"
        "print(len(texts), sorted(heavy & set(sys.modules)))\n"
    )
    assert found.split(" ", 1) == [str(len(METHODS)), "[]\n"]


def test_only_the_method_asked_for_is_imported():
    found = run(
        "import sys\n"
        "from posttrain.core import catalog\n"
        "catalog.find('schedule', 'cosine')\n"
        "package = 'posttrain.train.schedules.'\n"
        "print(sorted(name.removeprefix(package) for name in sys.modules if name.startswith(package)))\n"
    )
    assert found == "['cosine']\n"
