"""Where a ``--set`` goes."""

from __future__ import annotations

import pytest

from posttrain.cli.single_steps import overrides_of, part
from posttrain.core.errors import BadRequest


def test_overrides_reach_the_method_with_or_without_its_name():
    given = ["group_size=64", "gptq.damping=0.1", "max_tokens=9", "device=cpu", "nonsense"]
    assert overrides_of("gptq", given, {"max_tokens", "device"}) == (
        ["group_size=64", "damping=0.1", "nonsense"],
        ["max_tokens=9", "device=cpu"],
    )


def test_a_class_of_ones_own_may_have_dots_in_its_name():
    assert overrides_of("my.module:Method", ["my.module:Method.bits=4", "bits=2"], set()) == (["bits=4", "bits=2"], [])


def test_device_dtype_and_seed_stand_beside_the_step():
    values = {"steps": 3, "device": "cpu", "dtype": "bfloat16", "seed": 1}
    assert part(values, None) == ({"steps": 3}, {"device": "cpu", "dtype": "bfloat16", "seed": 1})
    assert part(values, 2)[1]["seed"] == 2


@pytest.mark.parametrize("seed", ["abc", -1, 1.5, True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(BadRequest, match="A seed is a whole number from 0 on"):
        part({"seed": seed}, None)
    assert part({"seed": seed}, 3) == ({}, {"seed": 3})
