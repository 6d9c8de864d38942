"""What an objective is: the local loss of one block.

Problem: a learning rule must be usable on any module, yet cost no more than the arithmetic on the common one.
Solution: an objective states its loss once for autograd (any block), and, where it can, the gradient at the output of a
Linear + ReLU block in closed form (`relu_gradient`), from which the learner needs one more matrix product. A test holds
the two equal.

State is explicit: `init` makes an `nn.Module` with everything the objective owns at one block (its head, its running
means), which is trained, saved and hashed with the block.

Shapes: B images, R = views · B rows (view-major), N units, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field
from torch import Generator, Tensor, nn

from layerline.settings import Settings


class BaseObjective(Settings):
    """A local loss; see `ForwardForward` and `LocalCrossEntropy`."""

    needs_negatives: ClassVar[bool]
    """True: two views of each image, positive then negative, stacked. False: the image alone."""
    joins_blocks: ClassVar[bool] = False
    """True: the network's blocks are one to it, so that its gradient reaches all of them."""

    hardest: float = Field(default=1.0, gt=0, le=1)
    """Share of a minibatch's rows whose weight gradient is taken, those with the longest local gradient; 1, as in the
    papers, takes all. Heads that have most images right (MNIST) lose nothing at 0.25 and save a third of the time;
    where many are wrong (CIFAR-10) it harms."""

    @property
    def views(self) -> int:
        """Rows of a minibatch per image."""
        return 2 if self.needs_negatives else 1

    @abstractmethod
    def init(self, units: int, classes: int) -> nn.Module:
        """The objective's own parameters and buffers for a block of `units` outputs."""

    def begin_epoch(self, state: nn.Module, units: int, generator: Generator) -> None:
        """Draw what is random for an epoch (dropout masks). Nothing by default."""

    @abstractmethod
    def local_loss(self, h: Tensor, labels_B: Tensor, state: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
        """The mean loss of a minibatch (for autograd), and its record as in `relu_gradient`. h: [R, …]"""

    @abstractmethod
    def relu_gradient(
        self, h_RN: Tensor, norms_R: Tensor, labels_B: Tensor, state: nn.Module, batch: int, out_RN: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The closed form: writes dL/dz, z the input of the ReLU that gave h, into `out_RN`.

        Returns the minibatch's record ([R] or [B, C], float32) and the gradients of the state's parameters, in order.
        """

    @abstractmethod
    def summary(self, records: Iterable[Tensor], labels: Iterable[Tensor], units: int) -> dict[str, float]:
        """An epoch's numbers (loss, accuracy, …) from the records of its minibatches."""
