"""What the steps that name benchmark tasks have in common: the names are their body, one or a list."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.settings import place_of
from posttrain.pipeline.steps import Step


class NamedTasks(Step):
    """Base of a step whose body names benchmark tasks."""

    body: ClassVar[str | None] = "tasks"

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, as `posttrain list task` shows them, of their members or categories (mmlu_anatomy, mmlu_stem), or
    task files of your own, which end in .yaml."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):  # keys that are none of the step's, see Step.parse
            key = str(next(iter(value), ""))
            place = f"{place_of(info)}.{key}".strip(".")
            raise BadRequest(f"Unknown key '{place}'.", did_you_mean(key, cls.model_fields))
        return [value] if isinstance(value, str) else value
