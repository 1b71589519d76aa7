"""Label tree: a trie of the labels' tokens, and the probability distribution over the labels.

At each branch, the next-token probabilities are restricted to the children of the branch and normalised. A
label's probability is the product of the normalised probabilities along the label's path. The result equals
the distribution of constrained decoding, but nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

END = -1
"""Placeholder for all end tokens. Each path in the tree ends with this placeholder, so that no label is a
prefix of another."""


@dataclass(slots=True, eq=False)
class Branch:
    """A node of the label tree; ``label`` is the index of the label that ends at this node, None if no label
    does."""

    children: dict[int, Branch] = field(default_factory=dict)
    label: int | None = None

    def depth(self) -> int:
        return max((1 + child.depth() for child in self.children.values()), default=0)

    def rows(self) -> int:
        """Number of label tokens that a pass over all branches computes: only tokens that lead to a further
        choice are computed."""
        return sum(len(path) + below.rows() for _, path, below in self.edges() if below.children)

    def is_branched(self) -> bool:
        """Whether some labels share their first token, so that the tree has a choice below the root."""
        return any(below.children for _, _, below in self.edges())

    def tokens(self, end_ids: Iterable[int]) -> set[int]:
        """Ids of all tokens whose logits are needed to score the labels."""
        own = {token for token in self.children if token != END}
        if END in self.children:
            own |= set(end_ids)
        return own.union(*(below.tokens(end_ids) for _, _, below in self.edges()))

    def edges(self) -> Iterator[tuple[int, tuple[int, ...], Branch]]:
        """For each child, yields its index, the tokens on the path to the next choice or to the end of a
        label, and the node at the end of this path."""
        for place, (token, child) in enumerate(self.children.items()):
            path = [token]
            while len(child.children) == 1:
                only, child = next(iter(child.children.items()))
                path.append(only)
            yield place, tuple(path), child

    def log_shares(
        self, logits: Mapping[int, float] | npt.NDArray[np.float64], end_ids: Iterable[int]
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of the children, in the order of ``children``.

        :param logits: logits by token id, for at least the tokens returned by the method ``tokens``.
        """
        # A model may end its turn with any of its end tokens (Gemma-2 and Qwen2.5 have two).
        ends = np.logaddexp.reduce([logits[end] for end in sorted(end_ids)]) if END in self.children else 0.0
        own = np.array([ends if token == END else logits[token] for token in self.children])
        shares: npt.NDArray[np.float64] = own - np.logaddexp.reduce(own)
        return shares


def make_tree(labels: Sequence[Sequence[int]]) -> Branch:
    """:param labels: the tokens of each label."""
    root = Branch()
    for number, tokens in enumerate(labels):
        node = root
        for token in (*tokens, END):
            node = node.children.setdefault(token, Branch())
        node.label = number
    return root
