"""Greedy search: take the most probable token at every step; the first of equals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.decode.search import Search

if TYPE_CHECKING:
    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class Greedy(Search):
    """One deterministic continuation a prompt."""

    def run(self, job: Job) -> list[Generated]:
        return job.token_by_token(lambda logits, rows: logits.argmax(-1))
