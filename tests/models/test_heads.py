"""Task heads: the class, what is shared, what it computes, and that it loads again here and in transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.models import heads, saving
from posttrain.models.forward import hidden_states
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load
from tiny_models import make_tiny_bert, make_tiny_llama, make_tiny_tokenizer

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64}
SEQUENCES, TOKENS = "sequence_classification", "token_classification"
LABELS = ["bad", "fair", "good"]


def _model(network: nn.Module) -> LanguageModel:
    return LanguageModel(network.eval(), make_tiny_tokenizer(), reference="tiny", card={"name": "tiny"})


MODELS = {
    "bert": make_tiny_bert,
    "llama": make_tiny_llama,
    "masked": lambda: _model(BertForMaskedLM(BertConfig(**SIZES))),  # without a pooler
    "roberta": lambda: _model(RobertaModel(RobertaConfig(**{**SIZES, "pad_token_id": 1}))),  # positions from 2 on
    "distilbert": lambda: _model(
        DistilBertModel(DistilBertConfig(vocab_size=300, dim=32, n_layers=2, n_heads=2, hidden_dim=48))
    ),
    "albert": lambda: _model(AlbertModel(AlbertConfig(**SIZES, embedding_size=16))),
    "deberta": lambda: _model(DebertaV2Model(DebertaV2Config(**SIZES))),  # outside the attention interface
    "modernbert": lambda: _model(
        ModernBertModel(ModernBertConfig(**SIZES, local_attention=8, classifier_pooling="mean"))
    ),
    "gpt2": lambda: _model(GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2))),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    return MODELS[request.param]()


def _texts(pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed ids and boundaries, and the same as padded rows with their mask."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(4, 90, (length,), generator=generator) for length in (5, 1, 30, 12)]
    boundaries = torch.tensor([0, 5, 6, 36, 48])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return torch.cat(rows), boundaries, padded, mask


@pytest.mark.parametrize("kind", [SEQUENCES, TOKENS])
def test_scores_are_those_of_the_class_and_survive_saving(model, kind, tmp_path):
    before = set(model.network.base_model.parameters())
    heads.give_head(model, kind, LABELS)
    network = model.network
    assert heads.has_head(network, kind) and heads.label_names(network) == LABELS
    made = set(network.parameters()) - before
    head = {p for module in heads.task_head(network).values() for p in module.parameters()}
    assert made == head and made  # the body is shared, all that is new counts as the head, and nothing else does
    assert network.get_output_embeddings() is None and not network.training

    ids, boundaries, padded, mask = _texts(network.config.pad_token_id)
    saving.save(model, tmp_path / "model")
    auto = AutoModelForSequenceClassification if kind == SEQUENCES else AutoModelForTokenClassification
    theirs = auto.from_pretrained(tmp_path / "model").eval()
    again = load(str(tmp_path / "model")).network
    assert type(again) is type(network) is type(theirs)
    assert theirs.config.id2label == dict(enumerate(LABELS)) and theirs.config.label2id["fair"] == 1
    with torch.no_grad():
        expected = theirs(input_ids=padded, attention_mask=mask).logits
        expected = expected if kind == SEQUENCES else expected[mask.bool()]
        for own in (network, again):
            states = hidden_states(own, ids, boundaries)
            if kind == SEQUENCES:
                found = heads.sequence_scores(own, states, ids, boundaries)
            else:
                found = heads.token_scores(own, states, ids)
            torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
            assert found.hidden.shape[0] == len(expected) and found.logits.std() > 1e-4
    assert "forward" not in vars(network.base_model)


def test_hidden_states_are_what_the_last_map_gets():
    """Of a decoder the last token's state, of BERT the pooled one."""
    for make, name in ((make_tiny_llama, "score"), (make_tiny_bert, "classifier")):
        heads.give_head(model := make(), SEQUENCES, LABELS)
        ids, boundaries, *_ = _texts(0)
        with torch.no_grad():
            found = heads.sequence_scores(model.network, hidden_states(model.network, ids, boundaries), ids, boundaries)
            torch.testing.assert_close(model.network.get_submodule(name)(found.hidden), found.logits)


def test_the_seed_decides_the_head():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.give_head(model := make_tiny_bert(), SEQUENCES, LABELS)
        drawn.append(model.network.classifier.weight.detach().clone())
        assert float(drawn[-1].std()) == pytest.approx(0.02, rel=0.3)  # BERT's initializer_range
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_head_for_the_same_labels_stays_and_others_are_refused():
    model = make_tiny_bert()
    heads.give_head(model, SEQUENCES, LABELS, "single_label_classification")
    first = model.network
    heads.give_head(model, SEQUENCES, LABELS, "single_label_classification")
    assert model.network is first
    with pytest.raises(BadRequest, match="labels 'bad', 'fair', 'good', but the data has 'no', 'yes'"):
        heads.give_head(model, SEQUENCES, ["no", "yes"])
    with pytest.raises(BadRequest, match="single label classification, the data for multi label classification"):
        heads.give_head(model, SEQUENCES, LABELS, "multi_label_classification")
    heads.give_head(model, TOKENS, ["O", "B-X"])  # another task begins anew on the same body
    assert model.network.base_model is first.base_model and type(model.network) is not type(first)


def test_a_tokenizer_without_padding_takes_the_end_token():
    model = make_tiny_llama()
    model.tokenizer.pad_token = None
    model.network.config.pad_token_id = None
    seen: list[events.Event] = []
    with events.listen(seen.append):
        heads.give_head(model, SEQUENCES, LABELS)
    assert model.network.config.pad_token_id == model.tokenizer.pad_token_id == model.tokenizer.eos_token_id == 2
    assert any("no padding token" in event.name for event in seen)
    model = make_tiny_llama()
    model.tokenizer.pad_token = model.tokenizer.eos_token = model.network.config.pad_token_id = None
    with pytest.raises(BadRequest, match="neither a padding nor an end token"):
        heads.give_head(model, SEQUENCES, LABELS)


def test_architectures_without_such_a_network_are_refused():
    model = _model(T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1)))
    with pytest.raises(BadRequest, match="t5 has no network for sequence classification"):
        heads.give_head(model, SEQUENCES, LABELS)


def test_a_language_model_has_no_task_head():
    assert heads.task_head(make_tiny_llama().network) == {} == heads.task_head(make_tiny_bert().network)
    assert not heads.has_head(make_tiny_bert().network, SEQUENCES)
