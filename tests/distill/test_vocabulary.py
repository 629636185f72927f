"""Teachers must mean the same by the student's token ids."""

from __future__ import annotations

import pytest
from distillation_toy import llama

from posttrain.core.errors import BadRequest
from posttrain.distill.vocabulary import refuse_other_vocabulary


def test_the_same_tokens_may_have_padded_embeddings():
    refuse_other_vocabulary(llama(), llama(vocabulary=320))
    refuse_other_vocabulary(llama(vocabulary=320), llama())


def test_the_teacher_may_know_more_tokens():
    teacher = llama(vocabulary=320)
    teacher.tokenizer.add_tokens(["<extra>"])
    refuse_other_vocabulary(llama(), teacher)
    with pytest.raises(BadRequest, match=r"'<extra>' is token 300 of the student, and the teacher doesn't have it"):
        refuse_other_vocabulary(teacher, llama())


def test_other_ids_are_refused():
    """Two tokens have changed places; the lower one is named."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    teacher = llama()
    values = json.loads(teacher.tokenizer.backend_tokenizer.to_str())
    vocabulary = values["model"]["vocab"]
    first, second = (next(token for token, number in vocabulary.items() if number == n) for n in (10, 20))
    vocabulary[first], vocabulary[second] = 20, 10
    teacher.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(values)))
    with pytest.raises(BadRequest, match=r"is token 10 of the student, and the teacher has it as 20 \(2 of 300"):
        refuse_other_vocabulary(llama(), teacher)


def test_a_teacher_without_embeddings_for_all():
    teacher = llama(vocabulary=250)
    with pytest.raises(BadRequest, match="embeddings for 250 tokens"):
        refuse_other_vocabulary(llama(), teacher)
