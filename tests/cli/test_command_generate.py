"""`posttrain generate`."""

from __future__ import annotations

import io
import sys

import pytest


def texts(ran):
    return [generation["text"] for generation in ran.json["generations"]]


def test_json_shape(invoke, model):
    result = invoke("generate", model, "The dog", "The fox", "--max-new-tokens", 4, "--json").json
    assert [generation["prompt"] for generation in result["generations"]] == ["The dog", "The fox"]
    for generation in result["generations"]:
        assert len(generation["token_ids"]) <= 4
        assert generation["logprob"] == pytest.approx(sum(generation["logprobs"]))
        assert generation["logprob"] < 0
        assert isinstance(generation["text"], str)
    assert result["tokens_per_second"] > 0
    assert result["prefill_seconds"] > 0


def test_the_same_as_transformers_greedy_search(invoke, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    inputs = tokenizer("The dog sleeps", return_tensors="pt")
    network = AutoModelForCausalLM.from_pretrained(model)
    output = network.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs.input_ids.shape[1] :]
    (generation,) = invoke("generate", model, "The dog sleeps", "--max-new-tokens", 6, "--json").json["generations"]
    assert generation["token_ids"] == output.tolist()


def test_sampling_options_mean_sampling_and_the_seed_decides(invoke, model):
    command = ["generate", model, "The dog", "--temperature", 5, "--top-k", 50, "--max-new-tokens", 8, "--json"]
    first = texts(invoke(*command, "--seed", 1))
    assert texts(invoke(*command, "--seed", 1)) == first
    assert texts(invoke(*command, "--set", "seed=1")) == first
    assert texts(invoke(*command, "--seed", 2)) != first


def test_temperature_zero_is_greedy(invoke, model):
    greedy = texts(invoke("generate", model, "The dog", "--max-new-tokens", 8, "--json"))
    cold = ["--temperature", 0, "--json"]
    assert texts(invoke("generate", model, "The dog", "--max-new-tokens", 8, *cold)) == greedy


def test_several_texts_for_a_prompt(invoke, model):
    options = ["--num-samples", 3, "--max-new-tokens", 8, "--set", "search.sampling.temperature=5", "--json"]
    found = texts(invoke("generate", model, "The dog", *options))
    assert len(set(found)) == 3


def test_settings_by_the_recipes_names(invoke, model):
    free = texts(invoke("generate", model, "The dog", "--set", "max_new_tokens=3", "--json"))
    drawn = ["--set", "search.sampling.temperature=9", "--set", "search.sampling.top_k=1", "--set", "max_new_tokens=3"]
    assert texts(invoke("generate", model, "The dog", *drawn, "--json")) == free


def test_beam_search_and_its_best_texts(invoke, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    inputs = tokenizer("The dog sleeps", return_tensors="pt")
    network = AutoModelForCausalLM.from_pretrained(model)
    settings = {"num_beams": 4, "length_penalty": 0.6, "num_return_sequences": 3}
    output = network.generate(**inputs, **settings, max_new_tokens=6, do_sample=False)[:, inputs.input_ids.shape[1] :]
    beam = [f"search.beam.{setting}" for setting in ("width=4", "length_penalty=0.6", "num_return=3")]
    options = ["--search", "beam", *(word for each in beam for word in ("--set", each))]
    ran = invoke("generate", model, "The dog sleeps", *options, "--max-new-tokens", 6, "--json")
    found = ran.json["generations"]
    assert [generation["token_ids"] for generation in found] == output.tolist()
    assert [generation["sample"] for generation in found] == [0, 1, 2]
    scores = [generation["score"] for generation in found]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([g["logprob"] / len(g["token_ids"]) ** 0.6 for g in found], abs=1e-4)


def test_a_penalty_by_its_name(invoke, model):
    command = ["generate", model, "The dog", "--max-new-tokens", 16, "--json"]
    (free,) = invoke(*command).json["generations"]
    (bound,) = invoke(*command, "--set", "process.no_repeat_ngram.n=1").json["generations"]
    (mild,) = invoke(*command, "--set", "process.repetition_penalty.penalty=9").json["generations"]
    assert len(set(free["token_ids"])) < len(free["token_ids"]) == len(set(bound["token_ids"]))
    assert mild["token_ids"] != free["token_ids"]


def test_options_of_sampling_with_other_searches(invoke, model):
    """The searches see the distribution these leave: with one token left, all of them are greedy search."""
    command = ["generate", model, "The dog", "--max-new-tokens", 8, "--json"]
    greedy = texts(invoke(*command))
    for search in ("beam", "contrastive", "best_of_n"):
        assert texts(invoke(*command, "--search", search, "--top-k", 1, "--temperature", 0.5)) == greedy
    hot = ["--search", "best_of_n", "--temperature", 9, "--set", "search.best_of_n.n=3"]
    assert texts(invoke(*command, *hot)) != greedy
    by_name = ["--search", "best_of_n", "--set", "search.best_of_n.search.sampling.temperature=9"]
    assert texts(invoke(*command, *hot)) == texts(invoke(*command, *by_name, "--set", "search.best_of_n.n=3"))


def test_reshaping_comes_after_processors_given_by_name(invoke, model):
    """The one best token after a penalty isn't a penalty after the one best token."""
    command = ["generate", model, "The dog", "--max-new-tokens", 8, "--json", "--set", "process.no_repeat_ngram.n=1"]
    penalised = texts(invoke(*command))
    assert texts(invoke(*command, "--search", "best_of_n", "--top-k", 1)) == penalised


def test_text_ends_before_a_stop(invoke, model):
    (whole,) = texts(invoke("generate", model, "The dog", "--max-new-tokens", 8, "--json"))
    middle = whole[2:4]
    (cut,) = texts(invoke("generate", model, "The dog", "--max-new-tokens", 8, "--stop", middle, "--json"))
    assert cut == whole[: whole.index(middle)]


def test_chat_puts_the_prompt_through_the_template(invoke, model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    options = ["--max-new-tokens", 6, "--json"]
    assert texts(invoke("generate", model, "Who?", "--chat", *options)) == texts(
        invoke("generate", model, rendered, *options)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", "The dog\n\nThe fox\n"),
        ("prompts.jsonl", '{"prompt": "The dog"}\n{"prompt": "The fox"}\n'),
    ],
)
def test_prompts_from_a_file(invoke, model, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    ran = invoke("generate", model, "--batch-file", tmp_path / name, "--max-new-tokens", 2, "--json")
    assert [generation["prompt"] for generation in ran.json["generations"]] == ["The dog", "The fox"]


def test_prompts_from_standard_input(invoke, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The dog\n\nThe fox\n"))
    ran = invoke("generate", model, "--max-new-tokens", 2, "--json")
    assert [generation["prompt"] for generation in ran.json["generations"]] == ["The dog", "The fox"]


def test_one_text_goes_to_stdout_bare(invoke, model):
    (text,) = texts(invoke("generate", model, "The dog", "--max-new-tokens", 4, "--json"))
    assert invoke("generate", model, "The dog", "--max-new-tokens", 4).out == f"{text}\n"


def test_several_texts_stand_under_their_prompts(invoke, model):
    lines = invoke("generate", model, "The dog", "The fox", "--max-new-tokens", 4).out.splitlines()
    assert lines[0] == "The dog"
    assert "The fox" in lines


def test_a_terminal_sees_the_text_while_it_is_written(invoke, model, monkeypatch):
    class Terminal(io.StringIO):
        pieces: list[str]

        def isatty(self):
            return True

        def write(self, text):
            self.pieces.append(text)
            return super().write(text)

    (text,) = texts(invoke("generate", model, "The dog", "--max-new-tokens", 6, "--json"))
    terminal = Terminal()
    terminal.pieces = []
    monkeypatch.setattr(sys, "stdout", terminal)
    assert invoke("generate", model, "The dog", "--max-new-tokens", 6).code == 0
    assert terminal.getvalue().startswith(f"{text}\n")
    assert terminal.getvalue().count(text) == 1
    assert len(terminal.pieces) > 3  # piece by piece, not at once


def test_a_terminal_sees_several_texts_of_one_prompt_apart(invoke, model, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    several = ["--max-new-tokens", 6, "--set", "search.beam.num_return=3"]
    found = texts(invoke("generate", model, "The dog", *several, "--json"))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert invoke("generate", model, "The dog", *several).code == 0
    assert terminal.getvalue().count("The dog") == 3
    assert all(text.splitlines()[0] in terminal.getvalue() for text in found if text)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "--search", "greedy", "--top-k", "3"], "Unknown key 'generate.search.greedy.top_k'."),
        (["x", "--search", "sampleing"], "Did you mean 'sampling'?"),
        (["x", "--search", "beam", "--num-samples", "3"], "Unknown key 'generate.search.beam.num_samples'."),
        (["x", "--search", "beam", "--temperature", "-1"], "temperature' doesn't fit"),
        (["x", "--set", "search.beam.num_return=9"], "num_return 9 is more than the width 4"),
        (["x", "--set", "search.sampling.temprature=1"], "Did you mean 'temperature'?"),
        (["x", "--set", "max_new_token=1"], "Did you mean 'max_new_tokens'?"),
        (["x", "--set", "max_new_tokens"], "--set expects path=value, not 'max_new_tokens'."),
        (["x", "--max-new-tokens", "0"], "'generate.max_new_tokens' doesn't fit"),
        (["x", "--temperature", "-1"], "'generate.search.sampling.temperature' doesn't fit"),
        (["x", "--batch-file", "prompts.txt"], "Prompts are given here and in --batch-file."),
        (["--batch-file", "no/such/prompts.txt"], "no/such/prompts.txt doesn't exist"),
        (["x", "--set", "device=cuda:99"], "CUDA"),
        (["x", "--max-new-tokens", "5000"], "more than the 128 tokens of the model's context"),
    ],
)
def test_bad_requests(invoke, model, words, sentence):
    assert sentence in invoke("generate", model, *words, "--json").refused(2)


def test_no_prompt(invoke, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert invoke("generate", model).refused(2).startswith("Error: Standard input holds no prompt.")


def test_no_such_model(invoke, tmp_path):
    assert "There is no model" in invoke("generate", tmp_path / "none", "x").refused(2)
