"""What drives a training needs to know of it, whatever is trained: a generator of events that can stop between any two.

Problem: display, evaluation, checkpoints and Ctrl-C must not be woven into the training loops, and a run that goes on
from a checkpoint must end with the same bits as one that was never disturbed.

Solution: `train()` yields after every minibatch; whoever drives it may save then, and time spent outside is not
training time. The state is explicit: tensors by name, and a `Cursor` to the next minibatch. Everything else is a
function of seed and cursor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerline.base_run import BaseRun
from layerline.data.dataset import Examples
from layerline.data.text_set import Windows
from layerline.events import Event


@dataclass(frozen=True)
class Cursor:
    """The next minibatch to train: epochs count over the whole run; blocks from 0, the readout's head comes last."""

    epoch: int = 0
    block: int = 0
    batch: int = 0


class Predictor(nn.Module, ABC):
    """A model that gives raw examples [B, *shape] a score for each class."""

    run: BaseRun
    classes: tuple[str, ...]

    @abstractmethod
    def scores(self, raw: Tensor, readout: Any = None) -> Tensor:
        """Scores per class, float32 [B, C], by a readout of `available_readouts` (None: the chosen one). Arrays of
        NumPy are taken as well."""

    @abstractmethod
    def available_readouts(self) -> list[Any]:
        """Every readout this model has, each with a `kind`, the chosen one first."""

    @abstractmethod
    def chunk_rows(self, readout: Any = None) -> int:
        """Examples that are read at once."""

    @abstractmethod
    def trained_tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers in network order, by name."""

    @property
    def readout_names(self) -> list[str]:
        """The kinds of `available_readouts`."""
        return [readout.kind for readout in self.available_readouts()]

    def predict(self, raw: Tensor) -> Tensor:
        """Class numbers, int64 [B]."""
        return self.scores(raw).argmax(-1)

    def accuracy(
        self, examples: Examples | Windows, readout: Any = None, heed: Callable[[], None] = lambda: None
    ) -> float:
        """Fraction of examples it gets right. `heed` is called between parts, and may raise."""
        predicted = []
        for part in examples.inputs.split(self.chunk_rows(readout)):
            heed()
            predicted.append(self.scores(part, readout).argmax(-1).cpu())
        return (torch.cat(predicted) == examples.labels).double().mean().item()

    def accuracies(self, examples: Examples | Windows, heed: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The same of every readout, the chosen one first."""
        return {readout.kind: self.accuracy(examples, readout, heed) for readout in self.available_readouts()}


class BaseTrainer(ABC):
    """A training that can stop, and go on, between any two minibatches."""

    run: BaseRun
    model: Predictor
    cursor: Cursor

    @abstractmethod
    def train(self) -> Iterator[Event]:
        """From the cursor to the end. Yields after every minibatch; the last of an epoch yields `EpochDone`."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Minibatches of the whole run."""

    @property
    @abstractmethod
    def steps_done(self) -> int:
        """Minibatches before the cursor."""

    @property
    @abstractmethod
    def comparable(self) -> bool:
        """Whether all blocks are equally far, so that it makes sense to judge the network."""

    @property
    @abstractmethod
    def base_lr(self) -> float:
        """The learning rate before the schedule's factor, for messages."""

    def results(self) -> dict[str, Any]:
        """What `result.json` says besides of a training of this kind."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The whole state but the cursor, by name."""

    @abstractmethod
    def load(self, tensors: dict[str, Tensor], cursor: Cursor) -> None:
        """Take over a state, in place. KeyError or RuntimeError if it is another network's or no state of this run."""


@torch.no_grad()
def take_over(own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Copy a state into tensors, in place.

    KeyError for names, RuntimeError for shapes or types that are not those of this network; then nothing is copied.
    """
    if missing := set(own) ^ set(found):
        raise KeyError(", ".join(sorted(missing)[:3]))
    for name, tensor in own.items():
        if tensor.shape != found[name].shape or tensor.dtype != found[name].dtype:
            raise RuntimeError(f"{name} is {list(found[name].shape)}, not {list(tensor.shape)}")
    for name, tensor in own.items():
        tensor.copy_(found[name])


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, named by the rest."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
