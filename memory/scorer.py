"""A number for each slot and for the candidate, from what they hold and when they came.

The network that learned policies share: contents and ages are embedded, each is told how alike the
most alike of what came after it is, and attends to what did (a fact loses its worth to a later
word), and a layer gives a number. It knows no task.

Letters: B rows, N slots, M = N + 1 (the candidate is last), W word size, H hidden size.
"""

import torch
from torch import Tensor, nn

from stillknows.memory.interface import Features


class Scorer(nn.Module):
    """Scores whatever is held, and the candidate beside it.

    Args:
        word_size: width of a content (W).
        hidden: width of the network (H).
        outputs: numbers for each.
    """

    def __init__(self, word_size: int, hidden: int = 32, outputs: int = 1) -> None:
        super().__init__()
        self.content = nn.Linear(word_size, hidden)
        self.when = nn.Linear(4, hidden)
        self.attend, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.alike = nn.Parameter(torch.zeros(outputs))
        self.norm = nn.LayerNorm(hidden)
        self.network = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )

    def forward(self, features: Features) -> Tensor:
        """Return the numbers, `[B, M, outputs]`; those of empty slots mean nothing.

        Args:
            features: with contents.

        Raises:
            ValueError: if the memory gives no contents.
        """
        if features.content_BNW is None:
            raise ValueError("This policy looks at contents: use it with a memory that shows them.")
        vectors_BMW = torch.cat([features.content_BNW, features.candidate_BW[:, None]], dim=1)
        here_BM = nn.functional.pad(features.filled_BN, (0, 1), value=True)
        age_BM = nn.functional.pad(features.age_BN, (0, 1))
        new_BM = torch.zeros_like(age_BM)
        new_BM[:, -1] = 1
        full_BM = features.filled_BN.float().mean(dim=1, keepdim=True).expand_as(age_BM)
        later_BMM = (age_BM[:, None] < age_BM[:, :, None]) & here_BM[:, None]
        normal_BMW = nn.functional.normalize(vectors_BMW, dim=2)
        alike_BMM = (normal_BMW @ normal_BMW.transpose(1, 2)).masked_fill(~later_BMM, 0.0)
        alike_BM = alike_BMM.amax(dim=2)
        when = [torch.log1p(age_BM), new_BM, full_BM, alike_BM]
        x_BMH = self.content(vectors_BMW) + self.when(torch.stack(when, dim=2))
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
