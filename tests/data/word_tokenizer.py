"""A tokenizer whose tokens can be read off the text, chat templates of each sort, and a notation for ids and masks."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.data.encoded import Encoded

SPECIAL = ["<unk>", "<s>", "<eos>", "<|im_start|>", "<|im_end|>"]
WORDS = [
    " ",
    "\n",
    "!",
    "system",
    "user",
    "assistant",
    "tool",
    "Hi",
    "Hello",
    "Bye",
    "Ciao",
    "so",
    "one",
    "two",
    "tools",
]
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same with marks, which leave out the line break behind the end of the turn.
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Not prefix-stable: thoughts (what stands before "!") are kept in the last turn only, and the whole ends with <eos>.
THOUGHTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'] if loop.last else m['content'].split('!')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '<eos>' }}"
)
# No generation prompt.
HEADLESS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"


def word_tokenizer(
    chat_template: str | None = None, adds: str = "$A", eos: str | None = "<eos>"
) -> PreTrainedTokenizerFast:
    """A token per word, blank, line break and mark.

    Args:
        chat_template: One of the above.
        adds: What is added around a text by itself, as in ``<s> $A <eos>``.
        eos: The end-of-sequence token.
    """
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\w+|[^\w\s]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=adds, special_tokens=[(token, VOCABULARY[token]) for token in SPECIAL if token in adds]
    )
    tokenizer.decoder = decoders.Fuse()
    extra = ["<|im_start|>", "<|im_end|>"] + ([] if eos else ["<eos>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token=eos, additional_special_tokens=extra
    )
    fast.chat_template = chat_template
    return fast


def show(encoded: Encoded | None) -> str:
    """Tokens one by one: ``·`` is a blank, ``¶`` a line break; those that carry loss have a ``*`` before them."""
    assert encoded is not None
    pieces = {**{index: token for token, index in VOCABULARY.items()}, VOCABULARY[" "]: "·", VOCABULARY["\n"]: "¶"}
    assert len(encoded.input_ids) == len(encoded.loss_mask)
    return " ".join("*" * carries + pieces[i] for i, carries in zip(encoded.input_ids, encoded.loss_mask))
