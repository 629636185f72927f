"""Search: who decides which tokens are taken. The contract, and what a search gets to work with."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class Search(Settings):
    """A way to turn the model's distributions into sequences.

    It drives ``job.engine`` (`prefill`, `step`, and `select` and `truncate` on the state), by itself or through
    ``job.drive``, so it may keep one row a sequence, several (beams), try tokens and take them back, run other searches
    or a second model.
    """

    @abstractmethod
    def run(self, job: Job) -> list[Generated]:
        """Continue all prompts of the job.

        Args:
            job: Prompts, engine, processors, endings.

        Returns:
            Ended sequences in any order, numbered by `sample` with the best first; `continuations` for every prompt, or
            as many as the processors allow at all.
        """

    def inputs(self) -> dict[str, Any]:
        """What besides the settings, the seed and the model decides the outcome: hashes of files."""
        return {}

    @property
    def continuations(self) -> int:
        """How many continuations of each prompt it gives."""
        return 1
