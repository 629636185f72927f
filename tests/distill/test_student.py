"""Students: blocks of the teacher are the teacher's blocks, and what comes out is an ordinary transformers model."""

from __future__ import annotations

import json

import pytest
import torch
from distillation_toy import bert_classifier, gpt2, llama

from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest
from posttrain.distill.student import build, chosen_blocks
from posttrain.models.forward import layer_states
from posttrain.models.saving import save
from posttrain.models.sources import load
from posttrain.quantize.methods.dynamic import Dynamic

IDS, BOUNDS = torch.tensor([5, 9, 200, 7, 42]), torch.tensor([0, 5])


def no_model(reference: str):
    raise AssertionError(reference)


@pytest.mark.parametrize(
    ("rule", "count", "blocks"),
    [
        ("3", 6, [0, 3, 5]),  # 0, 2.5, 5
        ("15", 30, [0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27, 29]),
        ("2", 30, [0, 29]),
        ("1", 6, [0]),
        ("6", 6, [0, 1, 2, 3, 4, 5]),
        ("half", 6, [0, 3, 5]),
        ("half", 5, [0, 2, 4]),
        ("ends:half", 6, [0, 1, 5]),
        ("first:2", 6, [0, 1]),
        ("last:2", 6, [4, 5]),
        ("ends:3", 6, [0, 1, 5]),
        ("ends:4", 6, [0, 1, 4, 5]),
        ("ends:6", 6, [0, 1, 2, 3, 4, 5]),
        ("0,2,5", 6, [0, 2, 5]),
        ("5,0", 6, [5, 0]),
    ],
)
def test_rules(rule, count, blocks):
    assert chosen_blocks(rule, count) == blocks


@pytest.mark.parametrize("rule", ["7", "0", "first:7", "middle:2", "first", "", "a", "0,6", "1,,2", ":3", "-1"])
def test_rules_that_dont_fit(rule):
    with pytest.raises(BadRequest, match=r"can't be taken|can't be read|has no block"):
        chosen_blocks(rule, 6)


@pytest.mark.parametrize("make", [llama, bert_classifier, gpt2])
def test_blocks_of_the_teacher(make, tmp_path):
    """The first block's output is the teacher's; every block is a copy; transformers loads what is saved."""
    teacher = make(5)
    before = teacher.fingerprint()
    student = build("layers:0,2,4", teacher, no_model)
    assert type(student.network) is type(teacher.network) and not student.network.training
    assert student.network.config.num_hidden_layers == 3 and teacher.network.config.num_hidden_layers == 5
    with torch.no_grad():
        own, theirs = (layer_states(model.network, IDS, BOUNDS) for model in (student, teacher))
    assert len(own) == 4
    for place in (0, 1):
        torch.testing.assert_close(own[place], theirs[place], rtol=0, atol=0)

    blocks = {1: 2, 2: 4}
    for name, tensor in student.network.state_dict().items():
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            parts[number] = str(blocks.get(int(parts[number]), int(parts[number])))
        assert torch.equal(tensor, teacher.network.state_dict()[".".join(parts)]), name

    with torch.no_grad():  # the student owns its memory
        for parameter in student.network.parameters():
            parameter.add_(1.0)
    assert teacher.fingerprint() == before

    save(student, tmp_path / "student")
    theirs = type(teacher.network).from_pretrained(tmp_path / "student")
    again = load(str(tmp_path / "student"), device="cpu")
    with torch.no_grad():
        expected = student.network(IDS[None]).logits
        torch.testing.assert_close(theirs(IDS[None]).logits, expected)
        torch.testing.assert_close(again.network(IDS[None]).logits, expected)


def test_settings_of_each_block():
    """Qwen2's configuration lists the attention of each block; the student's lists those of the kept ones."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )
    teacher = llama()
    teacher.network = Qwen2ForCausalLM(config).eval()
    network = build("layers:1,2", teacher, no_model).network
    assert network.config.layer_types == ["sliding_attention", "full_attention"]
    assert [layer.self_attn.layer_idx for layer in network.model.layers] == [0, 1]
    assert teacher.network.config.layer_types[0] == "full_attention"


def test_all_blocks_are_the_teacher():
    teacher = llama(3)
    student = build("layers:3", teacher, no_model)
    assert student.fingerprint() == teacher.fingerprint()
    assert student.network.lm_head.weight is student.network.model.embed_tokens.weight  # still tied
    assert student.card["name"] == "tiny"


def test_teachers_without_plain_blocks():
    adapted = llama()
    adapted.adapter = Lora(rank=2)
    with pytest.raises(BadRequest, match="still carries an adapter"):
        build("layers:1", adapted, no_model)
    quantized = llama()
    Dynamic().quantize(quantized, None)
    with pytest.raises(BadRequest, match="were replaced"):
        build("layers:1", quantized, no_model)


def test_two_stacks_are_refused():
    """An encoder and a decoder of as many blocks: nobody said in which to leave some out."""
    from transformers import T5Config, T5ForConditionalGeneration

    teacher = llama()
    config = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2)
    teacher.network = T5ForConditionalGeneration(config)
    with pytest.raises(BadRequest, match="isn't one stack"):
        build("layers:1", teacher, no_model)


def test_fresh_configurations(tmp_path):
    """Another architecture with the teacher's vocabulary, labels and kind of head."""
    path = tmp_path / "small.json"
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    path.write_text(json.dumps({"model_type": "llama", "num_key_value_heads": 1, **shape}))
    teacher = llama()
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build(str(path), teacher, no_model))
    student = networks[0]
    assert type(student.network).__name__ == "LlamaForCausalLM" and student.tokenizer is teacher.tokenizer
    assert student.network.config.vocab_size == 300 and student.network.config.eos_token_id == 2
    assert [n.fingerprint() == student.fingerprint() for n in networks] == [True, True, False]
    assert student.card["source"] == {"config": str(path)}

    path.write_text(json.dumps({"model_type": "distilbert", "dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}))
    classifier = bert_classifier(labels=3)
    network = build(str(path), classifier, no_model).network
    assert type(network).__name__ == "DistilBertForSequenceClassification" and network.config.num_labels == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"hidden_size": 8}', "no `model_type`"),
        ("[]", "no `model_type`"),
        ('{"model_type": "nonsense"}', "nonsense"),
        ('{"model_type": "llama", "vocab_size": 100}', "too small for the teacher's"),
        ('{"model_type": "distilbert"}', "no network of the teacher's kind"),
    ],
)
def test_configurations_that_dont_fit(text, sentence, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadRequest, match=sentence):
        build(str(tmp_path / "c.json"), llama(), no_model)


def test_other_specs_are_references(tmp_path):
    asked = []
    student = llama()
    assert build("runs/other", llama(), lambda reference: asked.append(reference) or student) is student
    assert asked == ["runs/other"]
    with pytest.raises(BadRequest, match="There is no configuration file"):
        build(str(tmp_path / "none.json"), llama(), no_model)
