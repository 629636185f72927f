"""Passes through a network over a tree of tokens: what sequences share is computed once, and nothing is padded.

The nodes of a `PrefixTree` lie end to end in one row, cut into passes of a bounded number of tokens; a token attends to
its node's earlier tokens and to all nodes above. Keys and values are kept from one pass to the next only for the nodes
that still have something below them, which are those above the next node. It plugs into transformers' attention
interface like `posttrain.decode.packed`; networks that can't be served this way read every sequence in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from posttrain.bench.prefix_tree import PrefixTree, prefix_tree
from posttrain.decode.packed import UnsupportedAttention, refuse_additions, supports_cache
from posttrain.models.forward import body, hidden_states, takes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARED = "posttrain_shared"

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class TreePass:
    """One pass over the nodes [begin, end).

    Attributes:
        tree: The tree.
        begin: The first node of the pass.
        end: The node after its last.
        kept: By layer and node, keys and values [1, heads, tokens, head_dim] of nodes of earlier passes.
    """

    tree: PrefixTree
    begin: int
    end: int
    kept: dict[nn.Module, dict[int, Pair]]
    masks: dict[tuple[int, int | None, int], torch.Tensor] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each of its nodes."""
        return [len(node.tokens) for node in self.tree.nodes[self.begin : self.end]]

    def mask(self, node: int, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor:
        """Additive mask [groups * T, S] of a node's T tokens over the S tokens up to its end: 0 visible, -inf hidden.

        Args:
            node: The node.
            window: Number of most recent tokens (its own included) a token sees; None for all.
            groups: How often the rows are repeated: query heads of one key head lie one after the other.
            like: Gives the mask's dtype and device.
        """
        if (found := self.masks.get((node, window, groups))) is None:
            start, tokens = self.tree.nodes[node].start, len(self.tree.nodes[node].tokens)
            own = torch.arange(start, start + tokens, device=like.device)
            distance = own[:, None] - torch.arange(start + tokens, device=like.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            found = torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf).repeat(groups, 1)
            self.masks[node, window, groups] = found
        return found


def _shared_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, T, head_dim]
    key: torch.Tensor,  # [1, key_value_heads, T, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    tree_pass: TreePass | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one pass; the signature is transformers' attention interface. Returns [1, T, heads, head_dim]."""
    if tree_pass is None:
        raise UnsupportedAttention(type(module).__name__)
    refuse_additions(module, is_causal, sliding_window, others)
    parts = [part.split(tree_pass.lengths, 2) for part in (query, key, value)]
    nodes = tree_pass.tree.nodes
    known = dict(tree_pass.kept.get(module, {}))
    outputs = []
    for place, (q, k, v) in enumerate(zip(*parts), tree_pass.begin):
        known[place] = (k, v)
        if nodes[place].parent is not None:
            path = [known[above] for above in tree_pass.tree.path(place)]
            k, v = torch.cat([pair[0] for pair in path], 2), torch.cat([pair[1] for pair in path], 2)
        outputs.append(_attention(tree_pass, place, q, k, v, scaling, sliding_window))
    following = nodes[tree_pass.end].parent if tree_pass.end < len(nodes) else None
    # Copies: a view would keep the whole pass's keys and values.
    tree_pass.kept[module] = {
        above: known[above] if above < tree_pass.begin else (known[above][0].clone(), known[above][1].clone())
        for above in tree_pass.tree.path(following)
    }
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0], None


def _attention(
    tree_pass: TreePass,
    node: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One node's attention, [1, T, heads, head_dim]."""
    heads, tokens, groups = query.shape[1], query.shape[2], query.shape[1] // key.shape[1]
    if window is not None and window >= key.shape[2]:
        window = None
    if tokens == key.shape[2] and window is None:
        output = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1
        )
        return output.transpose(1, 2)
    # Heads that share keys become further query positions: no copies of the keys.
    query = query.reshape(1, key.shape[1], groups * tokens, -1)
    mask = tree_pass.mask(node, window, groups, query) if tokens > 1 or window is not None else None
    output = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    return output.reshape(1, heads, tokens, -1).transpose(1, 2)


class SharedPasses:
    """Runs distinct sequences through a network.

    Args:
        network: A causal transformers network, in evaluation mode.
        sequences: Token ids, all different and none empty.
        tokens_per_pass: Most tokens of one pass; a single node may be longer.

    Attributes:
        tree: The sequences as they are read; without sharing where the network's attention doesn't allow it.
    """

    def __init__(self, network: PreTrainedModel, sequences: list[list[int]], tokens_per_pass: int) -> None:
        self._network = network
        self._tokens_per_pass = tokens_per_pass
        self._shares = shares_prefixes(network)
        self.tree = prefix_tree(sequences, share=self._shares)

    def __iter__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """For each pass its first node, the node after its last, and the last hidden states of its tokens, [T, H]."""
        kept: dict[nn.Module, dict[int, Pair]] = {}
        begin = 0
        while begin < len(self.tree.nodes):
            end = self._end(begin)
            now = TreePass(self.tree, begin, end, kept)
            yield begin, end, _shared(self._network, now) if self._shares else _separate(self._network, now)
            begin = end

    def _end(self, begin: int) -> int:
        tokens, end = 0, begin
        while end < len(self.tree.nodes):
            tokens += len(self.tree.nodes[end].tokens)
            if tokens > self._tokens_per_pass and end > begin:
                break
            end += 1
        return end


def shares_prefixes(network: PreTrainedModel) -> bool:
    """Whether the network's attention can be computed over a tree, found out with a pass of two tokens."""
    if not supports_cache(network):
        return False
    try:
        with torch.inference_mode():
            _shared(network, TreePass(prefix_tree([[0, 0]]), 0, 1, {}))
    except UnsupportedAttention:
        return False
    return True


def _shared(network: PreTrainedModel, now: TreePass) -> torch.Tensor:
    from transformers import AttentionInterface

    if _SHARED not in AttentionInterface._global_mapping:
        AttentionInterface.register(_SHARED, _shared_attention)
    device = next(network.parameters()).device
    nodes = now.tree.nodes[now.begin : now.end]
    ids = torch.tensor([token for node in nodes for token in node.tokens], device=device)
    positions = torch.cat([torch.arange(node.start, node.start + len(node.tokens)) for node in nodes]).to(device)
    arguments: dict[str, Any] = {"use_cache": False} if takes(network, "use_cache") else {}
    # A mask that is 4-D already is handed on as it is: none is made for the whole row, and ours is never looked at.
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    before = network.config._attn_implementation
    network.config._attn_implementation = _SHARED
    try:
        output = body(network)(
            input_ids=ids[None], position_ids=positions[None], attention_mask=unused, tree_pass=now, **arguments
        )
    finally:
        network.config._attn_implementation = before
    return output.last_hidden_state[0]


def _separate(network: PreTrainedModel, now: TreePass) -> torch.Tensor:
    """The same where every node is a whole sequence."""
    device = next(network.parameters()).device
    ids = [token for node in now.tree.nodes[now.begin : now.end] for token in node.tokens]
    boundaries = torch.tensor([0, *now.lengths], device=device).cumsum(0)
    return hidden_states(network, torch.tensor(ids, device=device), boundaries)
