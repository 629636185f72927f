"""Mathematics shared by every family: functions on tensors and arrays, without state and without knowledge of models.

`logprobs`, `divergence` and `affine` work on torch tensors; `ngrams` and `bootstrap` need NumPy only.
"""
