"""A tokenizer as GGUF's metadata, as llama.cpp reads it.

Two kinds of byte-pair encoding: over GPT-2's bytes, where llama.cpp knows the pattern that cuts text into words by a
name, and SentencePiece's with pieces and scores, which are recovered from the order of the merges.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from posttrain.core.errors import BadRequest

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What cuts text into words, as `_cuts` writes it -> the name llama.cpp has for it.
_CUTS = {
    ("gpt-2",): "gpt-2",
    ("digits", "gpt-2"): "smollm",
    (_LLAMA_3,): "llama-bpe",
    (_QWEN_2,): "qwen2",
    (_TEKKEN,): "tekken",
}
# Those of them under which llama.cpp takes a whole word that is a token without merging.
_WHOLE_WORDS = {"llama-bpe", "tekken"}

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Write tokens, merges, special tokens and the chat template.

    Args:
        writer: Of the file; nothing has been written to disk yet.
        tokenizer: A fast tokenizer.
        rows: Of the embedding; the vocabulary is filled up with unused tokens to so many.

    Raises:
        BadRequest: If llama.cpp doesn't know such a tokenizer, or it has more tokens than the network.
    """
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = state["model"]["type"]
    if kind != "BPE":
        raise BadRequest(f"A tokenizer of type {kind} can't be exported.", "GGUF export knows byte-pair encodings.")
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(tokens) >= rows:
        raise BadRequest(f"The tokenizer has token {max(tokens)}, the network only {rows}.", "Enlarge its embedding.")
    cuts = _cuts(state.get("pre_tokenizer"))
    byte_level = cuts is not None
    if cuts is not None:
        _add_byte_level(writer, state, cuts)
    else:
        _add_pieces(writer, state, tokens, rows)
    added = {entry["id"]: entry for entry in state["added_tokens"]}
    texts = [_text(tokens.get(index), index, added, byte_level) for index in range(rows)]
    writer.add_token_list(texts)
    unknown = state["model"].get("unk_token")
    writer.add_token_types([_type(tokens.get(index), index, added, unknown, byte_level) for index in range(rows)])
    _add_special(writer, tokenizer)


def _add_byte_level(writer: GGUFWriter, state: dict[str, Any], cuts: tuple[str, ...]) -> None:
    name = _CUTS.get(cuts)
    if name is None or state["model"].get("ignore_merges", False) != (name in _WHOLE_WORDS):
        known = ", ".join(sorted(_CUTS.values()))
        raise BadRequest(
            "The tokenizer cuts text into words in a way that GGUF export has no name for.", f"It knows {known}."
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_merges([" ".join(pair) for pair in _merges(state)])
    writer.add_add_space_prefix(False)


def _add_pieces(writer: GGUFWriter, state: dict[str, Any], tokens: dict[int, str], rows: int) -> None:
    if not state["model"].get("byte_fallback"):
        raise BadRequest("The tokenizer is neither GPT-2's nor SentencePiece's kind.", "GGUF export knows these two.")
    # The first merge that makes a piece says when its turn comes; llama.cpp merges by the highest score.
    order: dict[str, int] = {}
    for rank, pair in enumerate(_merges(state)):
        order.setdefault("".join(pair), rank)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(order.get(tokens.get(index, ""), len(order))) for index in range(rows)])
    writer.add_add_space_prefix(_puts_space_in_front(state))


def _cuts(part: dict[str, Any] | None) -> tuple[str, ...] | None:
    """What cuts text into words before GPT-2's bytes; None where it isn't cut so."""
    parts = part["pretokenizers"] if part and part["type"] == "Sequence" else [part] if part else []
    if not parts or parts[-1]["type"] != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    found = [_cut(each) for each in parts[:-1]]
    return (*found, "gpt-2") if parts[-1].get("use_regex", True) else tuple(found)


def _cut(part: dict[str, Any]) -> str:
    if part["type"] == "Digits" and part.get("individual_digits"):
        return "digits"
    if part["type"] == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex", ""))
    return str(part["type"])  # nothing llama.cpp has a name for


def _merges(state: dict[str, Any]) -> list[list[str]]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in state["model"]["merges"]]


def _puts_space_in_front(state: dict[str, Any]) -> bool:
    """Whether a text's first word gets a space like all others."""
    normalizers = _flat(state.get("normalizer"), "normalizers")
    parts = _flat(state.get("pre_tokenizer"), "pretokenizers")
    return any(each["type"] == "Prepend" for each in normalizers) or any(
        each["type"] == "Metaspace" and each.get("prepend_scheme", "always") != "never" for each in parts
    )


def _flat(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    return [] if part is None else part[key] if part["type"] == "Sequence" else [part]


def _text(token: str | None, index: int, added: dict[int, Any], byte_level: bool) -> str:
    if token is None:
        return f"[PAD{index}]"
    return token if byte_level or index not in added else token.replace("▁", " ")


def _type(token: str | None, index: int, added: dict[int, Any], unknown: str | None, byte_level: bool) -> int:
    if token is None:
        return _UNUSED
    if not byte_level and token == unknown:
        return _UNKNOWN
    if index in added:
        return _CONTROL if added[index]["special"] else _USER_DEFINED
    if not byte_level and len(token) == 6 and token.startswith("<0x"):
        return _BYTE
    return _NORMAL


def _add_special(writer: GGUFWriter, tokenizer: Any) -> None:
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if (index := getattr(tokenizer, f"{name}_token_id")) is not None:
            add(index)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    extra = len(whole) > len(bare)
    writer.add_add_bos_token(extra and whole[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(extra and whole[-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        writer.add_chat_template([{"name": name, "template": text} for name, text in template.items()])
    elif template:
        writer.add_chat_template(template)
