"""Recipes: YAML as its users expect it, errors that point, overrides by the recipe's own names."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core import recipe
from posttrain.core.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5e5", 500000.0),
        ("-1.5E+2", -150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("8", 8),
        ("-8", -8),
        ("010", 10),  # no octal numbers
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{rank: 8}", {"rank": 8}),
        # What YAML 1.1 would turn into truth values, base-60 numbers, dates and errors is text:
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-05-01", "2024-05-01"),
        ("2024-13-45", "2024-13-45"),
        ("=", "="),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("-", [None]),
        ("hub:owner/name", "hub:owner/name"),
        ("my.module:Class", "my.module:Class"),
        ("'8'", "8"),
        ("nan", "nan"),
    ],
)
def test_plain_values(text, value):
    found = recipe.load_yaml(text)
    assert (type(found), found) == (type(value), value)


def test_not_a_number_is_one():
    assert math.isnan(recipe.load_yaml(".nan"))


def test_on_is_a_key_like_any_other():
    assert recipe.parse("on: [size]\noff: no\n") == {"on": ["size"], "off": "no"}


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # other processes may want the processor
@given(st.dictionaries(st.text(max_size=8), _PLAIN, max_size=4))
def test_what_is_dumped_is_read_again(values):
    assert recipe.load_yaml(recipe.dump(values)) == values


@pytest.mark.parametrize("text", ["1e-3", "on", "true", "010", "8", "null", "", "~", "2024-05-01", "<<", "=", "1:30"])
def test_texts_that_look_like_something_else_stay_texts(text):
    """PyYAML's own writer leaves "1e-3" unquoted, because its reader takes that for a text."""
    assert recipe.load_yaml(recipe.dump({"name": text})) == {"name": text}


def test_dump_keeps_the_order_and_repeats_what_is_shared():
    shared = ["q_proj"]
    assert recipe.dump({"b": shared, "a": shared, "on": "é"}) == "b:\n- q_proj\na:\n- q_proj\non: é\n"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("model: m\nsteps:\n  - train: {a: 1\n", "line 4, column 1", "expected ',' or '}'"),
        ("model: m\n\tsteps: []\n", "line 2, column 1", "cannot start any token"),
        ("model: m\nsteps: [}\n", "line 2, column 9", "expected the node content"),
        ("model: m\nname: a: b\n", "line 2, column 8", "mapping values are not allowed here"),
        ("model: m\nseed: 1\nmodel: n\n", "line 3, column 1", "the key 'model' stands twice"),
        (
            "steps:\n  - train: {adapt: lora, data: d, adapt: full}\n",
            "line 2, column 35",
            "the key 'adapt' stands twice",
        ),
        ("model: !!python/object/apply:os.system [ls]\n", "line 1, column 8", "could not determine a constructor"),
        ("model: *missing\n", "line 1, column 8", "undefined alias"),
    ],
)
def test_a_syntax_error_names_line_and_column(tmp_path: Path, text, place, problem):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRequest) as caught:
        recipe.read(path)
    assert str(caught.value).startswith(f"{path}, {place}: not valid YAML: ")
    assert problem in str(caught.value)


def test_a_character_that_yaml_forbids():
    with pytest.raises(BadRequest, match=r"^my\.yaml: not valid YAML: .*special characters are not allowed") as caught:
        recipe.parse("model: a\x00b", "my.yaml")
    assert "\n" not in str(caught.value)


def test_an_anchor_may_be_merged_and_overridden():
    text = "a: &a {rank: 4, alpha: 8}\nb: {<<: *a, rank: 16}\n"
    assert recipe.parse(text)["b"] == {"rank": 16, "alpha": 8}


@pytest.mark.parametrize("text", ["", "- train: {}\n", "just words\n", "8\n"])
def test_a_recipe_is_a_mapping(text):
    with pytest.raises(BadRequest, match="must be a mapping with `model` and `steps`"):
        recipe.parse(text)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(BadRequest, match="There is no recipe file"):
        recipe.read(tmp_path / "none.yaml")
    with pytest.raises(BadRequest, match="There is no recipe file"):
        recipe.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(BadRequest, match="is not UTF-8 text"):
        recipe.read(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path):
    (tmp_path / "windows.yaml").write_text("model: m\n", encoding="utf-8-sig")
    assert recipe.read(tmp_path / "windows.yaml") == {"model": "m"}


# Overrides.


@pytest.mark.parametrize(
    "adapt",
    [{}, {"adapt": None}, {"adapt": "lora"}, {"adapt": {"lora": None}}, {"adapt": {"lora": {"rank": 4}}}],
    ids=["missing", "empty", "name", "empty block", "block"],
)
def test_every_way_to_write_a_block_is_reached(adapt):
    assert recipe.apply_overrides(adapt, ["adapt.lora.rank=8"]) == {"adapt": {"lora": {"rank": 8}}}


def test_other_settings_of_the_method_stay():
    before = {"adapt": {"lora": {"rank": 4, "alpha": 16}}, "batch_size": 2}
    after = recipe.apply_overrides(before, ["adapt.lora.rank=8"])
    assert after == {"adapt": {"lora": {"rank": 8, "alpha": 16}}, "batch_size": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("", None),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{cosine: {warmup: 0.1}}", {"cosine": {"warmup": 0.1}}),
        ("a=b", "a=b"),  # the first = parts path and value
        ("'8'", "8"),
        ("builtin:prose", "builtin:prose"),
        ("[unclosed", "[unclosed"),  # what isn't YAML is text
        ("@home", "@home"),
        ("%5", "%5"),
    ],
)
def test_values_are_yaml(text, value):
    found = recipe.apply_overrides({}, [f"x={text}"])["x"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("override", ["rank", "=8", " =8", ".rank=8", "adapt..rank=8", "adapt.=8", ""])
def test_malformed_overrides(override):
    with pytest.raises(BadRequest, match="--set expects path=value"):
        recipe.apply_overrides({}, [override])


def test_a_number_has_no_settings():
    with pytest.raises(BadRequest, match=r"^--set seed\.x=1: 'seed' is 5 and has no settings of its own\.$"):
        recipe.apply_overrides({"seed": 5}, ["seed.x=1"])


def test_the_last_of_several_wins_and_the_original_is_untouched():
    before = {"adapt": {"lora": {"rank": 4}}}
    kept = copy.deepcopy(before)
    assert recipe.apply_overrides(before, ["adapt.lora.rank=8", "adapt.lora.rank=16"])["adapt"]["lora"]["rank"] == 16
    assert before == kept


def test_reaching_another_method_replaces_the_one_there():
    """An adapter, a search, a quantizer is one method: whoever sets the width of a beam wants the beam."""
    before = {"search": {"greedy": {}}, "schedule": "linear"}
    after = recipe.apply_overrides(before, ["search.sampling.temperature=0.5", "schedule.cosine.warmup=0.1"])
    assert after == {"search": {"sampling": {"temperature": 0.5}}, "schedule": {"cosine": {"warmup": 0.1}}}
    own = recipe.apply_overrides({"adapt": {"lora": {"rank": 4}}}, ["adapt.mine:Adapter={}"])
    assert own == {"adapt": {"mine:Adapter": {}}}


def test_a_misspelt_method_replaces_nothing():
    """The catalog then says which of the two isn't one."""
    after = recipe.apply_overrides({"adapt": {"lora": {"rank": 4}}}, ["adapt.lroa.rank=8"])
    assert after == {"adapt": {"lora": {"rank": 4}, "lroa": {"rank": 8}}}


def test_methods_that_work_together_are_added():
    after = recipe.apply_overrides({"process": {"top_k": {"k": 5}}}, ["process.top_p.p=0.9"])
    assert after == {"process": {"top_k": {"k": 5}, "top_p": {"p": 0.9}}}


def test_lists_of_methods_are_reached_by_name_and_by_position():
    before = {"process": ["top_k", {"temperature": {"temperature": 0.7}}]}
    by_name = recipe.apply_overrides(before, ["process.top_k.k=5", "process.temperature.temperature=2"])
    assert by_name == {"process": [{"top_k": {"k": 5}}, {"temperature": {"temperature": 2}}]}
    by_position = recipe.apply_overrides(before, ["process.0.top_k.k=5", "process.1=top_p"])
    assert by_position == {"process": [{"top_k": {"k": 5}}, "top_p"]}
    assert recipe.apply_overrides(before, ["process.top_p.p=0.9"])["process"][2:] == [{"top_p": {"p": 0.9}}]
    assert recipe.apply_overrides(before, ["process.top_p=null"])["process"][2:] == [{"top_p": None}]
    with pytest.raises(BadRequest, match=r"^--set process\.tpo_p\.p=1: there is no 'tpo_p' in \["):
        recipe.apply_overrides(before, ["process.tpo_p.p=1"])
    with pytest.raises(BadRequest, match="there is no '2' in"):
        recipe.apply_overrides(before, ["process.2=top_p"])


def test_a_field_may_be_named_by_the_plural_of_its_family():
    for written in ({"l2_sp": None}, ["l2_sp"], [{"l2_sp": {}}]):
        after = recipe.apply_overrides({"regularizers": written}, ["regularizers.kl_to_base.weight=0.2"])
        assert len(after["regularizers"]) == 2
    assert after["regularizers"] == [{"l2_sp": {}}, {"kl_to_base": {"weight": 0.2}}]
    alone = recipe.apply_overrides({}, ["regularizers.l2_sp.weight=1"])
    assert alone == {"regularizers": {"l2_sp": {"weight": 1}}}


STEPS: dict[str, Any] = {
    "model": "m",
    "steps": [
        {"measure": {"perplexity": {"window": 64}}},
        {"train": {"data": "d", "adapt": "lora"}},
        {"train": {"name": "again", "data": "d", "adapt": {"lora": {"rank": 4}}}},
        {"quantize": "dynamic"},
        {"merge": None},
    ],
}


def changed(*overrides: str) -> dict[str, Any]:
    """What an override changed: the recipe's other keys, and its changed steps by position."""
    after = recipe.apply_overrides(STEPS, overrides)
    steps = after["steps"]
    other = {key: value for key, value in after.items() if key != "steps" and value != STEPS.get(key)}
    return other | {f"steps.{i}": step for i, step in enumerate(steps) if step != STEPS["steps"][i]}


def test_a_step_by_its_number_its_name_and_its_verb():
    assert changed("steps.1.train.batch_size=2") == {
        "steps.1": {"train": {"data": "d", "adapt": "lora", "batch_size": 2}}
    }
    assert changed("again.adapt.lora.rank=8") == {
        "steps.2": {"train": {"name": "again", "data": "d", "adapt": {"lora": {"rank": 8}}}}
    }
    assert changed("train.data=e") == {
        "steps.1": {"train": {"data": "e", "adapt": "lora"}},
        "steps.2": {"train": {"name": "again", "data": "e", "adapt": {"lora": {"rank": 4}}}},
    }
    assert changed("merge.name=whole") == {"steps.4": {"merge": {"name": "whole"}}}
    assert changed("quantize.name=small") == {"steps.3": {"quantize": {"dynamic": {}, "name": "small"}}}
    assert changed("measure.perplexity.window=8") == {"steps.0": {"measure": {"perplexity": {"window": 8}}}}


def test_the_recipes_own_keys():
    assert changed("seed=7", "model=n") == {"seed": 7, "model": "n"}


def test_a_value_for_several_steps_isnt_shared_between_them():
    after = changed("train.adapt={lora: {rank: 2}}", "again.adapt.lora.rank=8")
    assert after["steps.1"]["train"]["adapt"] == {"lora": {"rank": 2}}
    assert after["steps.2"]["train"]["adapt"] == {"lora": {"rank": 8}}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps.9.train.seed=1", "There is no step 'steps.9'; the recipe has 5, counted from 0."),
        ("steps.x.train.seed=1", "There is no step 'steps.x'; the recipe has 5, counted from 0."),
        ("steps.1=5", "--set steps.1=5 names no setting. For example --set steps.1.train.name=first."),
        ("steps.1.data=e", "--set steps.1.data=e: step 1 is `train`. Write steps.1.train.data."),
        ("trian.data=e", "--set trian.data=e: the recipe has no step or key 'trian'. Did you mean 'train'?"),
        ("agian.data=e", "--set agian.data=e: the recipe has no step or key 'agian'. Did you mean 'again' or 'train'?"),
    ],
)
def test_paths_that_lead_nowhere(override, sentence):
    with pytest.raises(BadRequest) as caught:
        recipe.apply_overrides(STEPS, [override])
    assert str(caught.value) == sentence


def test_the_frame():
    frame = recipe.Recipe.parse({"model": "m", "steps": [{"merge": None}]})
    assert (frame.name, frame.seed, frame.device, frame.dtype) == ("recipe", 0, "auto", "float32")
    with pytest.raises(BadRequest, match="'steps' is missing"):
        recipe.Recipe.parse({"model": "m"})
    with pytest.raises(BadRequest, match=r"Unknown key 'sede'\. Did you mean 'seed'"):
        recipe.Recipe.parse({"model": "m", "steps": [], "sede": 1})


def test_the_loader_is_a_safe_one():
    with pytest.raises(yaml.YAMLError):
        recipe.load_yaml("!!python/name:os.system")


def test_files_that_hold_something_else_are_not_called_recipes(tmp_path: Path):
    place = tmp_path / "ways.yaml"
    with pytest.raises(BadRequest, match=r"There is no file .*ways\.yaml\. It is to hold ways by name\.$"):
        recipe.read(place, "ways by name")
    place.write_text("- greedy\n")
    with pytest.raises(BadRequest, match="must be a mapping of ways by name"):
        recipe.read(place, "ways by name")
    with pytest.raises(BadRequest, match="with `model` and `steps`"):
        recipe.read(place)
