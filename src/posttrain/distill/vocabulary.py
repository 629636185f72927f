"""Whether two models mean the same by a token id: the condition for teaching by ids.

Teacher and student are given the same ids, so a token of the student's tokenizer must have the same id in the
teacher's. Embedding tables may be padded beyond the tokenizer; such rows mean nothing and needn't agree. Left out:
teachers with another vocabulary, whose tokens would have to be aligned first.
"""

from __future__ import annotations

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.models.surgery import features


def refuse_other_vocabulary(student: LanguageModel, teacher: LanguageModel) -> None:
    """Refuse a teacher that means something else by the student's token ids.

    Raises:
        BadRequest: If so, or if the teacher has no embedding for one of them.
    """
    own, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    different = [(number, token) for token, number in own.items() if theirs.get(token) != number]
    if different:
        number, token = min(different)
        found = theirs.get(token)
        told = f"has it as {found}" if found is not None else "doesn't have it"
        raise BadRequest(
            f"Teacher and student have different tokenizers: {token!r} is token {number} of the student, and the "
            f"teacher {told} ({len(different):,} of {len(own):,} tokens differ).",
            "Take a student with the teacher's tokenizer, for example layers:N.",
        )
    rows, _ = features(teacher.network.get_input_embeddings())
    if rows <= max(own.values()):
        raise BadRequest(
            f"The teacher {teacher.reference} has embeddings for {rows} tokens, but the student's tokenizer goes up to "
            f"{max(own.values())}.",
            "Take a teacher of the same vocabulary.",
        )
