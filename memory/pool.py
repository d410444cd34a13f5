"""What slots may hold while decisions are made: a pool of contents, and which of them each holds.

Nothing is moved before the last decision. The pool is what the slots held, in the order of its
writing, and the items after it; a slot holds a place in the pool. So a policy can note once what
can be worked out of contents alone.

Letters: B rows, N slots, T items, P = N + T places, W word size.
"""

import torch
from torch import Tensor, nn

from stillknows.memory.interface import Features, Policy, needs, needs_content, noted_by


class Pool:
    """The contents that slots hold and those that are offered to them.

    Args:
        values_BNW: what the slots hold, `[B, N, W]`.
        birth_BN: when each was written, -1 where empty, `[B, N]`.
        items_BTW: what is offered, in its order, `[B, T, W]`.
        policy: who decides.
    """

    def __init__(
        self, values_BNW: Tensor, birth_BN: Tensor, items_BTW: Tensor, policy: Policy
    ) -> None:
        order_BN = birth_BN.argsort(dim=1, stable=True)
        self.slots, self.policy = birth_BN.shape[1], policy
        self.contents_BPW = torch.cat([pick(values_BNW, order_BN), items_BTW], dim=1)
        self.source_BN = order_BN.argsort(dim=1)
        self.noted = noted_by(policy, self.contents_BPW)
        self._items_BTW, self._similarity_BPT = items_BTW, None
        if needs(policy, "similarity"):
            self._similarity_BPT = _cosine(self.contents_BPW, items_BTW)

    def held(self) -> Tensor:
        """Return what the slots hold now, `[B, N, W]`."""
        return pick(self.contents_BPW, self.source_BN)

    def similarity(self, number: int) -> Tensor | None:
        """Return the cosine of an item to what each slot holds, `[B, N]`, if anybody asks."""
        if self._similarity_BPT is None:
            return None
        return self._similarity_BPT[..., number].gather(1, self.source_BN)

    def show(self, features: Features, number: int) -> Features:
        """Return the features of an item with what its policy wants to see of contents."""
        if self.noted is not None:
            own_B1 = torch.full_like(self.source_BN[:, :1], self.slots + number)
            place_BM = torch.cat([self.source_BN, own_B1], dim=1)
            return features._replace(noted=self.noted, place_BM=place_BM)
        if needs_content(self.policy):
            return features._replace(content_BNW=self.held().detach())
        return features

    def put(self, number: int, target_BN: Tensor, merge_B: Tensor) -> None:
        """Let slots hold an item; where it merges, halfway between it and what it meets.

        Args:
            number: of the item.
            target_BN: the slot of each row that holds it from now on, if any; bool.
            merge_B: where it merges, 0 or 1.
        """
        place = self.slots + number
        if merge_B.device.type != "cpu" or merge_B.any():  # a GPU is not waited for
            met_B1 = self.source_BN.gather(1, target_BN.long().argmax(dim=1, keepdim=True))
            met_BW, item_BW = pick(self.contents_BPW, met_B1)[:, 0], self._items_BTW[:, number]
            merged_B1W = torch.lerp(item_BW, met_BW, 0.5 * merge_B[:, None].to(item_BW))[:, None]
            before, after = self.contents_BPW[:, :place], self.contents_BPW[:, place + 1 :]
            self.contents_BPW = torch.cat([before, merged_B1W, after], dim=1)
            self.noted = noted_by(self.policy, self.contents_BPW)
            if self._similarity_BPT is not None:
                self._similarity_BPT[:, place] = _cosine(merged_B1W, self._items_BTW)[:, 0]
        self.source_BN = torch.where(target_BN, place, self.source_BN)


def pick(values_BPW: Tensor, place_BX: Tensor) -> Tensor:
    """Return the vectors at some places of each row, `[B, X, W]`."""
    rows, places, width = values_BPW.shape
    first_B1 = places * torch.arange(rows, device=place_BX.device)[:, None]
    picked = values_BPW.reshape(-1, width).index_select(0, (place_BX + first_B1).flatten())
    return picked.view(*place_BX.shape, width)


def _cosine(contents_BPW: Tensor, items_BTW: Tensor) -> Tensor:
    """Return the cosine of every content to every item, `[B, P, T]`, no gradient."""
    contents, items = contents_BPW.detach(), items_BTW.detach()
    normal = nn.functional.normalize
    return normal(contents, dim=-1) @ normal(items, dim=-1).transpose(1, 2)
