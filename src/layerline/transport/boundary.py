"""What crosses from one block of a stream to the next: outputs as they are, rounded, or as indices of codes.

    h ─► Sender.encode ─► parcel: tensors by name ─► Receiver.accept ─► parcel, perhaps in a buffer ─► .decode ─► h'

The receiver learns from h'. A parcel stays what it is while it waits, so a replay buffer of indices is as small as what
was sent. `accept` keeps what concerns later parcels, too (a new codebook), and takes it out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from layerline.errors import UsageError
from layerline.settings import Settings
from layerline.transport.vector_quantiser import (
    Codebook,
    bits,
    chosen,
    grouped,
    nearest,
    pack,
    ungrouped,
    unpack,
)

Parcel = dict[str, Tensor]


class Sender(ABC):
    """The end of a boundary that outputs come from."""

    def __init__(self, device: torch.device) -> None:
        self.tally = torch.zeros(4, dtype=torch.float64, device=device)
        """Bytes sent, bytes it would be in float32, squared error, squared outputs; over the whole training."""

    @abstractmethod
    def encode(self, h: Tensor) -> Parcel:
        """Outputs [B, …] as they travel; what the sender keeps may follow them."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, by name."""
        return {"tally": self.tally}

    def announce(self) -> None:
        """The other end is new: what it has to know comes with the next parcel."""
        return

    def facts(self) -> dict[str, float | int]:
        """What went through so far: bytes, how many times less than in float32, relative error of what arrives."""
        return facts_of(self.tally)

    def _count(self, h: Tensor, parcel: Parcel, error: Tensor | float, size: Tensor | float) -> Parcel:
        self.tally[0] += sum(tensor.nbytes for tensor in parcel.values())
        self.tally[1] += 4 * h.numel()
        self.tally[2] += error
        self.tally[3] += size
        return parcel


def facts_of(tally: Tensor) -> dict[str, float | int]:
    """What a sender's tally says."""
    sent, plain, error, size = tally.tolist()
    ratio, relative = plain / max(sent, 1), math.sqrt(error / size) if size else 0.0
    return {"bytes": int(sent), "ratio": round(ratio, 2), "error": round(relative, 5)}


class Receiver(ABC):
    """The end of a boundary that outputs go to."""

    def accept(self, parcel: Parcel) -> Parcel:
        """What is to be kept of a parcel that arrived, until it is decoded. They come in the order they were sent.
        ValueError if it does not fit."""
        return parcel

    @abstractmethod
    def decode(self, parcel: Parcel) -> Tensor:
        """Outputs [B, …] of a kept parcel, as often as one likes. LookupError, ValueError or RuntimeError if it has
        none."""

    @abstractmethod
    def keep(self, parcels: Iterable[Parcel]) -> None:
        """Nothing but these, and what comes, will be decoded from now on."""


class BaseBoundary(Settings):
    """How outputs travel from one block to the next."""

    @property
    @abstractmethod
    def bits(self) -> float | None:
        """Of a number that crosses, without what travels rarely; None: as many as it has."""

    def codes_for(self, shape: tuple[int, ...]) -> Tensor | None:
        """Room for the codes that outputs [B, *shape] travel as; None where there are none. A part of the model: what
        comes next has learned from coded outputs. UsageError where outputs of this shape cannot travel so."""
        return None

    @abstractmethod
    def arriving(self, h: Tensor, codes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What would arrive of outputs [B, …], for prediction: nothing is kept or counted."""

    @abstractmethod
    def ends(
        self, codes: Tensor | None, dtype: torch.dtype, draw: Callable[[int], Generator], device: torch.device
    ) -> tuple[Sender, Receiver]:
        """Both ends, decoding to `dtype`. `codes`: what `codes_for` made, which the sender changes in place. `draw`: a
        generator for each version of what both ends share."""


class _Simple(Sender, Receiver):
    """Both ends of what needs no memory: each parcel says all."""

    def __init__(self, boundary: _SimpleBoundary, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(device)
        self._boundary, self._dtype = boundary, dtype

    def encode(self, h: Tensor) -> Parcel:
        parcel = self._boundary.written(h)
        if isinstance(self._boundary, Plain):
            return self._count(h, parcel, 0.0, 0.0)
        error = self.decode(parcel).float() - h.float()
        return self._count(h, parcel, error.square().sum(), h.float().square().sum())

    def decode(self, parcel: Parcel) -> Tensor:
        return self._boundary.read(parcel, self._dtype)

    def keep(self, parcels: Iterable[Parcel]) -> None:
        pass


class _SimpleBoundary(BaseBoundary):
    @abstractmethod
    def written(self, h: Tensor) -> Parcel:
        """Outputs as they travel."""

    @abstractmethod
    def read(self, parcel: Parcel, dtype: torch.dtype) -> Tensor:
        """The outputs. KeyError or ValueError if the parcel is no such one."""

    def arriving(self, h: Tensor, codes: Tensor | None, dtype: torch.dtype) -> Tensor:
        return self.read(self.written(h), dtype)

    def ends(
        self, codes: Tensor | None, dtype: torch.dtype, draw: Callable[[int], Generator], device: torch.device
    ) -> tuple[Sender, Receiver]:
        both = _Simple(self, dtype, device)
        return both, both


class Plain(_SimpleBoundary):
    """Outputs as they are."""

    kind: Literal["plain"] = "plain"

    @property
    def bits(self) -> float | None:
        return None

    def written(self, h: Tensor) -> Parcel:
        return {"outputs": h}

    def read(self, parcel: Parcel, dtype: torch.dtype) -> Tensor:
        return parcel["outputs"]


class Bf16Outputs(_SimpleBoundary):
    """Outputs rounded to bfloat16: half the bytes of float32."""

    kind: Literal["bf16"] = "bf16"

    @property
    def bits(self) -> float | None:
        return 16

    def written(self, h: Tensor) -> Parcel:
        return {"outputs": h.bfloat16()}

    def read(self, parcel: Parcel, dtype: torch.dtype) -> Tensor:
        return parcel["outputs"].to(dtype)


class Int8Outputs(_SimpleBoundary):
    """Outputs as int8 steps, each example with its own step, a 127th of its largest output: a quarter of the bytes."""

    kind: Literal["int8"] = "int8"

    @property
    def bits(self) -> float | None:
        return 8

    def written(self, h: Tensor) -> Parcel:
        largest = h.float().abs().amax(tuple(range(1, h.ndim)), keepdim=True)
        step = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {"steps": (h.float() / step).round_().to(torch.int8), "step": step}

    def read(self, parcel: Parcel, dtype: torch.dtype) -> Tensor:
        steps, step = parcel["steps"], parcel["step"]
        if step.shape != (len(steps), *[1] * (steps.ndim - 1)):
            raise ValueError(f"of {len(steps)} examples the steps have the shape {list(step.shape)}")
        return (steps.float() * step).to(dtype)


class VectorQuantised(BaseBoundary):
    """Outputs as indices of codes that follow them: 32·dims / log2 codes times less than float32."""

    kind: Literal["vq"] = "vq"
    dims: int = Field(default=8, ge=1)
    """Channels that share an index; the literature's D."""
    codes: int = Field(default=256, ge=2, le=32768)
    """Codes of a group of channels; the literature's K. Powers of two use every bit."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Share of the running counts and sums that a minibatch leaves; the paper: 0.99, online 0.6."""
    refresh: int = Field(default=10, ge=1)
    """Minibatches that are coded with one version of the codes, fewer at first. A new version has to travel, too."""

    @property
    def bits(self) -> float | None:
        return bits(self.codes) / self.dims

    def codes_for(self, shape: tuple[int, ...]) -> Tensor:
        channels = shape[0] if len(shape) == 3 else shape[-1]
        if channels % self.dims:
            raise UsageError(
                f"{channels} channels are no groups of {self.dims}",
                hint=f"choose --dims to divide {channels}, such as {_divisor(channels, self.dims)}",
            )
        return torch.zeros(channels // self.dims, self.codes, self.dims)

    def arriving(self, h: Tensor, codes: Tensor | None, dtype: torch.dtype) -> Tensor:
        assert codes is not None
        indices, _ = nearest(grouped(h, self.dims), codes)
        return ungrouped(chosen(codes.to(dtype), indices), tuple(h.shape))

    def ends(
        self, codes: Tensor | None, dtype: torch.dtype, draw: Callable[[int], Generator], device: torch.device
    ) -> tuple[Sender, Receiver]:
        assert codes is not None
        book = Codebook.around(codes, self.decay, draw, device)
        return QuantisingSender(self, book, device), QuantisingReceiver(bits(self.codes), dtype, codes.shape)


class QuantisingSender(Sender):
    """Codes with the version published last, and publishes."""

    def __init__(self, boundary: VectorQuantised, book: Codebook, device: torch.device) -> None:
        super().__init__(device)
        self.book, self._boundary = book, boundary
        self._announces = False

    def announce(self) -> None:
        self._announces = bool(self.book.version)

    @torch.no_grad()
    def encode(self, h: Tensor) -> Parcel:
        book, x = self.book, grouped(h, self._boundary.dims)
        due = min(int(book.version), self._boundary.refresh)  # the first versions are soon outdated
        fresh = not book.version or int(book.age) >= due
        if fresh:
            book.publish(x)
        indices, nearness = nearest(x, book.codes_GKD)
        parcel = {"indices": pack(indices, bits(self._boundary.codes)), "version": book.version.clone()}
        parcel["shape"] = torch.tensor(h.shape, dtype=torch.int32)
        if fresh or self._announces:
            parcel["codes"] = book.codes_GKD.clone()
            self._announces = False
        book.follow(x, indices)
        size = torch.dot(x.flatten(), x.flatten()).double()
        return self._count(h, parcel, (size - nearness).clamp(min=0), size)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self.book.tensors()


class QuantisingReceiver(Receiver):
    """Holds the versions of the codes that something it keeps was coded with, and the latest."""

    def __init__(self, width: int, dtype: torch.dtype, shape: torch.Size) -> None:
        self.versions: dict[int, Tensor] = {}
        self._width, self._dtype, self._shape = width, dtype, shape

    def accept(self, parcel: Parcel) -> Parcel:
        version = int(parcel["version"])
        if "codes" in parcel:
            if parcel["codes"].shape != self._shape:
                raise ValueError(f"codes have the shape {list(parcel['codes'].shape)}, wanted is {list(self._shape)}")
            self.versions[version] = parcel["codes"]
        return {name: tensor for name, tensor in parcel.items() if name != "codes"}

    def decode(self, parcel: Parcel) -> Tensor:
        version = int(parcel["version"])
        if version not in self.versions:
            raise ValueError(f"version {version} of the codes never came")
        codes = self.versions[version]
        shape = tuple(parcel["shape"].tolist())
        groups, entries, dims = codes.shape
        packed, count = parcel["indices"], math.prod(shape) // dims
        if packed.dtype != torch.uint8 or packed.shape != (-(-count * self._width // 8),):
            raise ValueError(f"{count} indices of {self._width} bits are not {list(packed.shape)} of {packed.dtype}")
        indices = unpack(packed, self._width, count).view(-1, groups)
        if entries < 2**self._width and int(indices.max()) >= entries:
            raise ValueError(f"an index is {int(indices.max())}, and there are {entries} codes")
        return ungrouped(chosen(codes.to(self._dtype), indices), shape)

    def keep(self, parcels: Iterable[Parcel]) -> None:
        used = {int(parcel["version"]) for parcel in parcels} | {max(self.versions, default=0)}
        self.versions = {version: codes for version, codes in self.versions.items() if version in used}


def overtaken(older: Parcel, newer: Parcel) -> Parcel:
    """What is left of two parcels in a row where only the newer one is kept: itself, and news that came before it."""
    return {"codes": older["codes"]} | newer if "codes" in older else newer


def _divisor(channels: int, most: int) -> int:
    """The largest divisor of `channels` that is no more than `most`."""
    return max(dims for dims in range(1, most + 1) if channels % dims == 0)


Boundary = Annotated[Plain | Bf16Outputs | Int8Outputs | VectorQuantised, Field(discriminator="kind")]
