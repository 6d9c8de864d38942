"""Online vector quantisation: outputs as indices of codes that follow them while they change (DGL, arXiv 2106.06401).

    1 groups     the C channels of every position in G = C / D groups of D         x  [N, G, D]
    2 assign     the nearest of a group's K codes: argmax x·c − ½|c|²              index [N, G]
    3 send       indices only, log2 K bits each             32·D / log2 K times less than float32
    4 follow     count ← γ·count + (1−γ)·n,  sum ← γ·sum + (1−γ)·Σx,  code = sum / count;  the sender alone

Problem: the receiver cannot follow, since it does not see x; and a minibatch in a replay buffer must be decoded with
the codes that coded it. Solution: codes have versions. The sender follows with every minibatch, but codes with the last
version that it published, every `refresh` minibatches; a new version travels once, with the first minibatch that it
codes. The receiver keeps a version as long as it holds something coded with it.

Counts are smoothed (Laplace, van den Oord et al., arXiv 1711.00937), so that an unused code does not divide by zero.
Where a version is published, codes that next to nothing was nearest to are put on vectors of the minibatch at hand,
drawn by a generator of that version's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

EPS = 1e-5
_DEAD = 0.05
"""A code nearest to less than this part of an equal share of the vectors is dead."""
_CHUNK = 1 << 19
"""Scores of one product: 2 MB, small enough for caches. The vectors are an odd multiple of 16, since scores a power of
two apart would share a few places of the cache."""
_FOLLOWED = 32
"""Vectors a code that a minibatch's statistics are taken from; all take longer than the assignment to few codes."""


def grouped(h: Tensor, dims: int) -> Tensor:
    """Outputs [B, C, H, W], [B, T, C] or [B, C] as float32 vectors [N, G, dims], N positions in reading order."""
    positions = h.movedim(1, -1) if h.ndim == 4 else h
    return positions.reshape(-1, h.shape[1 if h.ndim == 4 else -1] // dims, dims).float()


def ungrouped(x_NGD: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Back to outputs of `shape`; images in channels-last layout."""
    if len(shape) == 4:
        batch, channels, height, width = shape
        return x_NGD.reshape(batch, height, width, channels).movedim(-1, 1)
    return x_NGD.reshape(shape)


def nearest(x_NGD: Tensor, codes_GKD: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the nearest code, int64 [N, G], the first of equal ones; and the sum of |x|² − |distance|²,
    float64 []."""
    minus_half = codes_GKD.square().sum(2, keepdim=True) / -2
    rows = 32 * max(1, _CHUNK // (32 * codes_GKD.shape[0] * codes_GKD.shape[1])) - 16
    indices, nearness = [], torch.zeros((), dtype=torch.float64, device=x_NGD.device)
    for part in x_NGD.split(rows):
        best, index_GN = _highest(torch.baddbmm(minus_half, codes_GKD, part.permute(1, 2, 0)))
        indices.append(index_GN)
        nearness += 2 * best.sum()
    return torch.cat(indices, 1).T, nearness


def _highest(scores_GKN: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of K scores and its index, the first of equal ones; [G, N] each."""
    if scores_GKN.device.type != "cpu":
        return scores_GKN.max(1)
    # On CPUs `max` with indices goes score by score. Pooling has the same meaning, a window over K in N channels that
    # lie side by side, and takes as many of them at once as fit into a register.
    groups, entries, count = scores_GKN.shape
    images = scores_GKN.view(groups, entries, 1, count).permute(0, 3, 1, 2)
    best, index = functional.max_pool2d(images, (entries, 1), return_indices=True)
    return best.flatten(1), index.flatten(1)


def summed(x_NGD: Tensor, indices_NG: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """How many vectors have each index, [G, K], and their sums, [G, K, D]."""
    count, groups, dims = x_NGD.shape
    lifted_NGE = functional.pad(x_NGD, (0, 1), value=1.0)  # a one beside each vector, which adds up to the count
    sums = x_NGD.new_zeros(groups * entries, dims + 1)
    if x_NGD.device.type == "cpu":
        sums.index_add_(0, _flat(indices_NG, entries), lifted_NGE.flatten(0, 1))
    else:  # accelerators would add rows in any order, with other bits each time
        hits_GNK = x_NGD.new_zeros(groups, count, entries).scatter_(2, indices_NG.T[:, :, None], 1.0)
        torch.bmm(hits_GNK.transpose(1, 2), lifted_NGE.transpose(0, 1), out=sums.view(groups, entries, dims + 1))
    sums_GKE = sums.view(groups, entries, dims + 1)
    return sums_GKE[:, :, dims], sums_GKE[:, :, :dims]


def chosen(codes_GKD: Tensor, indices_NG: Tensor) -> Tensor:
    """The codes of these indices, [N, G, D]."""
    entries, dims = codes_GKD.shape[1:]
    return codes_GKD.reshape(-1, dims).index_select(0, _flat(indices_NG, entries)).view(*indices_NG.shape, dims)


def _flat(indices_NG: Tensor, entries: int) -> Tensor:
    """The same among the codes of all groups in a row, [N · G]."""
    return (indices_NG + torch.arange(indices_NG.shape[1], device=indices_NG.device) * entries).flatten()


@dataclass
class Codebook:
    """What the sender keeps: running counts and sums, and the version that it codes with. Changed in place."""

    decay: float
    draw: Callable[[int], Generator]
    """The generator of everything drawn for a version."""
    count_GK: Tensor
    sum_GKD: Tensor
    codes_GKD: Tensor
    version: Tensor
    """int64 []; 0 before the first minibatch."""
    age: Tensor
    """int64 []: minibatches coded with this version."""

    @staticmethod
    def around(codes_GKD: Tensor, decay: float, draw: Callable[[int], Generator], device: torch.device) -> Codebook:
        """Before the first minibatch, from whose vectors the first codes are drawn. They are written to `codes_GKD`."""
        zeros = torch.zeros(codes_GKD.shape, device=device)
        version, age = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        return Codebook(decay, draw, zeros[:, :, 0].clone(), zeros, codes_GKD, version, age)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, by name."""
        return {
            "count": self.count_GK,
            "sum": self.sum_GKD,
            "codes": self.codes_GKD,
            "version": self.version,
            "age": self.age,
        }

    def publish(self, x_NGD: Tensor) -> None:
        """A new version from what was followed so far; unused codes, at first all of them, go to vectors of `x`."""
        self.version += 1
        self.age.zero_()
        total = self.count_GK.sum(1, keepdim=True)
        smoothed = (self.count_GK + EPS) / (total + EPS * self.count_GK.shape[1]) * total
        self.codes_GKD.copy_(self.sum_GKD / smoothed.clamp(min=EPS)[:, :, None])
        dead = self.count_GK <= _DEAD * total / self.count_GK.shape[1]
        drawn = self._vectors(x_NGD)
        self.codes_GKD[dead] = drawn[dead]
        self.count_GK.copy_(torch.where(dead, (total / self.count_GK.shape[1]).clamp(min=1), self.count_GK))
        self.sum_GKD[dead] = (drawn * self.count_GK[:, :, None])[dead]

    def follow(self, x_NGD: Tensor, indices_NG: Tensor) -> None:
        """4: move the running counts and sums towards this minibatch; of many vectors, some stand for all."""
        entries = self.count_GK.shape[1]
        if len(x_NGD) > _FOLLOWED * entries:  # the distance is no whole number, so it falls on every column of an image
            spread = torch.linspace(0, len(x_NGD) - 1, _FOLLOWED * entries, dtype=torch.float64).long()
            x_NGD, indices_NG = (all_N[spread.to(x_NGD.device)] for all_N in (x_NGD, indices_NG))
        count_GK, sum_GKD = summed(x_NGD, indices_NG, entries)
        self.count_GK.lerp_(count_GK, 1 - self.decay)
        self.sum_GKD.lerp_(sum_GKD, 1 - self.decay)
        self.age += 1

    def _vectors(self, x_NGD: Tensor) -> Tensor:
        """As many vectors of each group as it has codes, drawn for this version. [G, K, D]"""
        groups, entries = self.count_GK.shape
        rows = torch.randint(len(x_NGD), (entries, groups), generator=self.draw(int(self.version))).to(x_NGD.device)
        return x_NGD.gather(0, rows[:, :, None].expand(-1, -1, x_NGD.shape[2])).transpose(0, 1)


def bits(entries: int) -> int:
    """Bits an index takes when it travels."""
    return (entries - 1).bit_length()


def pack(indices: Tensor, width: int) -> Tensor:
    """Indices of `width` bits, at most 16, one after another: uint8 [⌈N · width / 8⌉]. Machines are little-endian."""
    if width > 8:
        return torch.cat((pack(indices & 255, 8), pack(indices >> 8, width - 8)))
    flat = indices.to(torch.uint8).flatten()
    words = functional.pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    return _spaced(words, 8, width).view(torch.uint8).view(-1, 8)[:, :width].flatten()[: -(-len(flat) * width // 8)]


def unpack(packed: Tensor, width: int, count: int) -> Tensor:
    """`count` indices, int64."""
    if width > 8:
        return unpack(packed[:count], 8, count) | unpack(packed[count:], width - 8, count) << 8
    eights = functional.pad(packed, (0, -len(packed) % width)).view(-1, width)
    words = functional.pad(eights, (0, 8 - width)).flatten().view(torch.int64)
    return _spaced(words, width, 8).view(torch.uint8)[:count].long()


def _spaced(words: Tensor, before: int, after: int) -> Tensor:
    """Words of eight indices, every `after` bits instead of every `before`; the first lowest."""
    if before == after:
        return words
    lowest = 2 ** min(before, after) - 1
    return sum((words >> place * before & lowest) << place * after for place in range(8))
