"""Search: who decides which tokens are taken. The contract, and what a search gets to work with."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class Search(Settings):
    """A way to turn the model's distributions into sequences.

    It drives ``job.engine`` (`prefill`, `step`, and `select` and `truncate` on the state), so it may keep one row a
    sequence, several (beams), try tokens and take them back, or run a second model.
    """

    @abstractmethod
    def run(self, job: Job) -> list[Generated]:
        """Continue all prompts of the job.

        Args:
            job: Prompts, engine, processors, endings.

        Returns:
            Ended sequences in any order, the same number for every prompt, numbered by `sample` with the best first.
        """
