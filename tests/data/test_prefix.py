from __future__ import annotations

from posttrain.data.prefix import common_prefix


def test_common_prefix_counts_equal_leading_elements():
    assert common_prefix("abc", "abd") == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix("x", "y") == 0
