"""A tiny tokenizer and a tiny Llama made in the process, for fixtures and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.models.language_model import LanguageModel

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Enough English for a few dozen merges beyond the 256 bytes.
_TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps, and the fox runs on through the field.",
    "A language model predicts the next token from the tokens that came before it.",
    "There are three things to remember: the rate, the rank and the loss. What is the answer? The answer is forty-two.",
]


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens: bytes, merges and ChatML marks.

    0 is ``<|endoftext|>`` (padding), 1 ``<|im_start|>`` (bos), 2 ``<|im_end|>`` (eos).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    fast.chat_template = CHATML
    return fast


def make_tiny_llama(seed: int = 0) -> LanguageModel:
    """A fresh float32 Llama, 93,248 parameters: 2 layers, width 64, 4 heads on 2 key-value heads, tied head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.models.language_model import LanguageModel

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config).eval()
    return LanguageModel(network=network, tokenizer=make_tiny_tokenizer(), reference="tiny", card={"name": "tiny"})


def make_tiny_wordpieces() -> PreTrainedTokenizerFast:
    """Lower-cased word pieces as BERT's: letters, digits and a few words; pairs get token types 0 and 1.

    0 is ``[PAD]``, 1 ``[UNK]``, 2 ``[CLS]``, 3 ``[SEP]``.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-"
    words = ["the", "dog", "fox", "good", "bad", "film", "very", "is", "a", "was", "##ing", "##ed"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_tiny_bert(seed: int = 0) -> LanguageModel:
    """A fresh float32 BERT without a head: 2 layers, width 64, 2 heads, 64 positions, no dropout."""
    import torch
    from transformers import BertConfig, BertModel

    from posttrain.models.language_model import LanguageModel

    tokenizer = make_tiny_wordpieces()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BertModel(config).eval()
    return LanguageModel(network=network, tokenizer=tokenizer, reference="tiny-bert", card={"name": "tiny-bert"})
