"""Name swap: given names become others of the same gender, the same name the same one throughout a text.

A change that must not matter, and with a `group` the counterfactual whose effect on a model is its bias by names
(Caliskan et al., 2017, "Semantics derived automatically from language corpora contain human-like biases"; the given
names of CheckList's fairness tests, Ribeiro et al., 2020). Pronouns stay right, because the gender does. Only given
names of a list of our own are known; surnames stay, so a well-known person's name no longer is one.
"""

from __future__ import annotations

from random import Random

from pydantic import field_validator

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._names import known_names, name_pattern, names_by_group
from posttrain.bench.perturbations._words import like


class NameSwap(Perturbation):
    """Exchange given names for others of the same gender."""

    group: str | None = None
    """Take names that are common in this group: english, african_american, spanish, arabic, chinese or indian; in any
    of them when not given."""

    @field_validator("group")
    @classmethod
    def _known(cls, group: str | None) -> str | None:
        if group is not None and group not in names_by_group():
            raise ValueError(f"there are names of {', '.join(names_by_group())}")
        return group

    def apply(self, text: str, random: Random) -> str:
        found = dict.fromkeys(match[0].capitalize() for match in name_pattern().finditer(text))
        others: dict[str, str] = {}
        for name in found:
            gender = known_names()[name].gender
            groups = [self.group] if self.group else list(names_by_group())
            candidates = [each for group in groups for each in names_by_group()[group][gender]]
            free = [each for each in candidates if each not in found and each not in others.values()]
            others[name] = random.choice(free) if free else name
        return name_pattern().sub(lambda match: like(match[0], others[match[0].capitalize()]), text)
