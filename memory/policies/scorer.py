"""A number for each slot and for the candidate, from what they hold and when they came.

The network that learned policies share: contents and ages are embedded, each is told how alike the
most alike of what came after it is, and attends to what did (a fact loses its worth to a later
word), and a layer gives a number. It knows no task.

What depends on contents alone, their embeddings and which is like which, is worked out once for all
decisions of a sequence where the memory lets it (`note`), and products of weights with it; the
function is the same, to rounding.

Letters: B rows, N slots, M = N + 1 (the candidate is last), P places of contents, X any of these,
W word size, H hidden size.
"""

import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from stillknows.memory import expect, native
from stillknows.memory.interface import Features
from stillknows.memory.policies.acting import Array, ArrayDesk, Desk, Kept, Products, acts
from stillknows.memory.policies.fused import NativeDesk, Network

Numbers = TypeVar("Numbers")  # tensors, or arrays

_FAR = 1e9  # what is taken from the logit of what cannot be attended to


class Weights(NamedTuple, Generic[Numbers]):
    """Products of a scorer's weights, with which it needs half as many products at a decision.

    With C = 1 - 11'/H, which takes the mean away, y = C x, and g, b and e of the first norm, the
    norm is sqrt(H) g z + b with z = y / sqrt(|y|^2 + H e). A query meets keys as (A z + a)' z, and
    what is read moves y by U z + u, where A = sqrt(H) g K'Q g, a = g K'(Q b + q),
    U = sqrt(H) C O V g and u = C (O (V b + v) + o). The bias of keys moves all logits of a query
    alike and has no effect.

    Attributes:
        query_HH: A, transposed as all that follow.
        query_H: a.
        read_HH: U.
        read_H: u.
        layer_HH: the network's first layer after its norm.
        layer_H: its bias.
        last_HO: the network's last layer.
        last_O: its bias.
        alike_O: what likeness adds.
        when_FH: C of what embeds age, fullness and likeness.
        new_H: C of what embeds being new.
        floor: H e.
    """

    query_HH: Numbers
    query_H: Numbers
    read_HH: Numbers
    read_H: Numbers
    layer_HH: Numbers
    layer_H: Numbers
    last_HO: Numbers
    last_O: Numbers
    alike_O: Numbers
    when_FH: Numbers
    new_H: Numbers
    floor: Numbers


class Noted(NamedTuple):
    """What a scorer works out before it decides about some contents.

    Attributes:
        weights: of the scorer as it was.
        embedded_XH: C of each content's embedding, those of a row together, X = B P.
        later_XP: its cosine to each content of its row that came after it, 0 to the others.
        first_B1: where those of each row begin.
    """

    weights: Weights[Tensor]
    embedded_XH: Tensor
    later_XP: Tensor
    first_B1: Tensor


class Scorer(nn.Module):
    """Scores whatever is held, and the candidate beside it.

    Args:
        word_size: width of a content (W).
        hidden: width of the network (H).
        outputs: numbers for each (O).
    """

    def __init__(self, word_size: int, hidden: int = 32, outputs: int = 1) -> None:
        super().__init__()
        expect.whole(1, word_size=word_size, hidden=hidden)
        self.content = nn.Linear(word_size, hidden)
        self.when = nn.Linear(4, hidden)
        self.attend, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.alike = nn.Parameter(torch.zeros(outputs))
        self._kept = Kept()
        self.norm = nn.LayerNorm(hidden)
        self.network = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )

    def forward(self, features: Features) -> Tensor:
        """Return the numbers, `[B, M, O]`; those of empty slots mean nothing.

        Args:
            features: with contents, or with what `note` made of them.

        Raises:
            ValueError: if the memory gives neither.
        """
        if isinstance(features.noted, Desk):
            return features.noted.scores(features).permute(1, 2, 0)
        if features.noted is not None:
            return self._recalled(features.noted, features)
        if features.content_BNW is None:
            raise ValueError("This policy looks at contents: use it with a memory that shows them.")
        vectors_BMW = torch.cat([features.content_BNW, features.candidate_BW[:, None]], dim=1)
        here_BM = nn.functional.pad(features.filled_BN, (0, 1), value=True)
        age_BM = nn.functional.pad(features.age_BN, (0, 1))
        later_BMM = (age_BM[:, None] < age_BM[:, :, None]) & here_BM[:, None]
        normal_BMW = nn.functional.normalize(vectors_BMW, dim=2)
        alike_BMM = (normal_BMW @ normal_BMW.transpose(1, 2)).masked_fill(~later_BMM, 0.0)
        alike_BM = alike_BMM.amax(dim=2)
        x_BMH = self.content(vectors_BMW) + self.when(_when(features, alike_BM))
        x_BMH = x_BMH + self.out(self._later(self.norm(x_BMH), later_BMM))
        scores: Tensor = self.network(x_BMH) + alike_BM[..., None] * self.alike
        return scores

    def _later(self, x_BMH: Tensor, later_BMM: Tensor) -> Tensor:
        """Return what each reads from those that came after it, and from itself."""
        own_MM = torch.eye(later_BMM.shape[1], dtype=torch.bool, device=later_BMM.device)
        query_BMH, key_BMH, value_BMH = self.attend(x_BMH).chunk(3, dim=2)
        read_BMH: Tensor = nn.functional.scaled_dot_product_attention(
            query_BMH, key_BMH, value_BMH, later_BMM | own_MM
        )
        return read_BMH

    def note(self, content_BPW: Tensor, mix_XO: Tensor | None = None) -> Noted | Desk:
        """Return what can be worked out before decisions: see `interface.noted_by`.

        Args:
            content_BPW: what may be held or offered, in the order in which it came.
            mix_XO: sums of the outputs that are told in their stead.
        """
        rows, places, _ = content_BPW.shape
        if acts(content_BPW):
            return self._desk(content_BPW, mix_XO)
        content_WH, content_H = self._embedding(_tensor)
        normal_BPW = nn.functional.normalize(content_BPW, dim=2)
        later_BPP = torch.bmm(normal_BPW, normal_BPW.transpose(1, 2)).triu_(1)
        return Noted(
            self._folded(mix_XO, _tensor),
            torch.addmm(content_H, content_BPW.flatten(0, 1), content_WH),
            later_BPP.flatten(0, 1),
            places * torch.arange(rows, device=content_BPW.device)[:, None],
        )

    def _desk(self, content_BPW: Tensor, mix_XO: Tensor | None) -> Desk:
        """Return a desk in native code, or in arrays, with products of the weights as they are."""
        told = [*self.parameters(), *([] if mix_XO is None else [mix_XO])]

        def parts() -> tuple[Weights[Array], Array, Array]:
            return self._folded(mix_XO, _array), *self._embedding(_array)

        if native.library() is None:
            made = self._kept.of(told, Products, lambda: Products.of(*parts()))
            return ArrayDesk(made, content_BPW.numpy())
        return NativeDesk(self._kept.of(told, Network, lambda: Network.of(*parts())), content_BPW)

    def _embedding(self, of: Callable[[Tensor], Any]) -> tuple[Any, Any]:
        """Return C of what embeds contents, and what is added, as tensors or arrays."""
        bias_H = of(self.content.bias) + of(self.when.bias)
        return _centred(of(self.content.weight)).T, _centred(bias_H)

    def _folded(self, mix_XO: Tensor | None, of: Callable[[Tensor], Any]) -> Weights[Any]:
        """Return products of weights, as tensors or arrays."""
        first, second, layer, last = self.norm, self.network[0], self.network[1], self.network[3]
        assert isinstance(second, nn.LayerNorm)
        assert isinstance(layer, nn.Linear)
        assert isinstance(last, nn.Linear)
        scale_H, shift_H, attend_H = of(first.weight), of(first.bias), of(self.attend.bias)
        width = len(scale_H)
        query_HH, key_HH, value_HH = of(self.attend.weight).reshape(3, width, width)
        query_H, _, value_H = attend_H.reshape(3, width)
        key_HH, out_HH = key_HH * scale_H, _centred(of(self.out.weight))
        scale, layer_HH = math.sqrt(width), of(layer.weight)
        when_FH = _centred(of(self.when.weight)).T
        told = of(last.weight), of(last.bias), of(self.alike)
        last_OH, last_O, alike_O = told if mix_XO is None else (of(mix_XO) @ part for part in told)
        return Weights(
            (query_HH * scale_H).T @ key_HH * scale,
            (query_HH @ shift_H + query_H) @ key_HH,
            (out_HH @ (value_HH * scale_H)).T * scale,
            out_HH @ (value_HH @ shift_H + value_H) + _centred(of(self.out.bias)),
            (layer_HH * of(second.weight)).T * scale,
            layer_HH @ of(second.bias) + of(layer.bias),
            last_OH.T,
            last_O,
            alike_O,
            when_FH[[0, 2, 3]],
            when_FH[1],
            of(first.weight.new_tensor(first.eps * width)),
        )

    def _recalled(self, noted: Noted, features: Features) -> Tensor:
        """Return the numbers from what was noted, in as few operations as can be."""
        assert features.place_BM is not None
        weights, place_BM = noted.weights, features.place_BM
        place_X = (place_BM + noted.first_B1).flatten()
        later_BMP = noted.later_XP.index_select(0, place_X).view(*place_BM.shape, -1)
        held_BP = torch.zeros_like(later_BMP[:, 0]).scatter_(1, place_BM, 1.0)
        alike_BM = (later_BMP * held_BP[:, None]).amax(dim=2)
        age_BM = torch.cat([features.age_BN.log1p(), alike_BM[:, -1:]], dim=1)  # the candidate's 0
        full_BM = features.filled_BN.float().mean(dim=1, keepdim=True).expand_as(alike_BM)
        when_XF = torch.stack([age_BM, full_BM, alike_BM]).flatten(1).t()
        embedded_XH = noted.embedded_XH.index_select(0, place_X)
        y_XH = torch.addmm(embedded_XH, when_XF, weights.when_FH)
        y_XH.view(*place_BM.shape, -1)[:, -1].add_(weights.new_H)
        z_XH = _scaled(y_XH, weights.floor)
        z_BMH = z_XH.view(*place_BM.shape, -1)
        query_BMH = torch.addmm(weights.query_H, z_XH, weights.query_HH).view_as(z_BMH)
        earlier_BMM = _earlier(place_BM, z_BMH.dtype)
        logits_BMM = torch.baddbmm(earlier_BMM, z_BMH, query_BMH.transpose(1, 2))
        read_BMM = logits_BMM.softmax(dim=1).transpose(1, 2)  # keys stand first: it is faster
        read_XH = torch.bmm(read_BMM, z_BMH).flatten(0, 1)
        y_XH = torch.addmm(y_XH, read_XH, weights.read_HH).add_(weights.read_H)
        z_XH = _scaled(y_XH, weights.floor)
        layer_XH = gelu(torch.addmm(weights.layer_H, z_XH, weights.layer_HH))
        scores_XO = torch.addmm(weights.last_O, layer_XH, weights.last_HO)
        scores_BMO = scores_XO.view(*place_BM.shape, -1)
        return torch.addcmul(scores_BMO, alike_BM[..., None], weights.alike_O)


def _when(features: Features, alike_BM: Tensor) -> Tensor:
    """Return age (logarithm), whether new, how full, and how alike, `[B, M, 4]`."""
    age_BM = nn.functional.pad(features.age_BN, (0, 1)).log1p()
    new_BM = nn.functional.pad(torch.zeros_like(features.age_BN), (0, 1), value=1.0)
    full_BM = features.filled_BN.float().mean(dim=1, keepdim=True).expand_as(alike_BM)
    return torch.stack([age_BM, new_BM, full_BM, alike_BM], dim=2)


def _tensor(weight: Tensor) -> Tensor:
    return weight


def _array(weight: Tensor) -> Array:
    return weight.detach().numpy()


def _centred(weight: Any) -> Any:
    """Return weights whose outputs have no mean; a tensor or an array."""
    return weight - weight.mean(0)


def _scaled(y_XH: Tensor, floor: Tensor) -> Tensor:
    """Return y / sqrt(|y|^2 + floor)."""
    length_X1 = torch.linalg.vector_norm(y_XH, dim=1, keepdim=True)
    return y_XH * torch.addcmul(floor, length_X1, length_X1).rsqrt_()


def _earlier(place_BM: Tensor, kind: torch.dtype) -> Tensor:
    """Return what keeps each query (last) from the keys of what came earlier, `[B, M, M]`."""
    place_BM = place_BM.to(kind) * _FAR
    return (place_BM[:, :, None] - place_BM[:, None]).clamp_(max=0)
