"""A node of a pipeline: its stages and PyTorch's schedule over them.

PyTorch receives, computes and sends; what is given to it are our blocks (`part`), the shapes of what travels (without
which it would send pickled ones, and run blocks on nothing to find out), the examples on the first node and the labels
on the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from layerline.baselines.action_lists import SCHEDULES, SINGLE
from layerline.baselines.part import Part, padded
from layerline.baselines.step import Loss, MethodStep
from layerline.blocks.network import predicting
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import StreamModel
from layerline.runtime.stream.node import StreamNode
from layerline.schedules.pipelined import Pipelined
from layerline.schedules.plan import Action
from layerline.schedules.stream import Mark


class NotedStage(PipelineStage):
    """PyTorch's stage, which tells its node how long each row took and what it sent."""

    noting: MethodStep

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """A microbatch through the stage."""
        with self.noting.busy(Mark(Action.FORWARD, self.stage_index, fwd_chunk_id)):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """A microbatch's gradients, or those of its input."""
        action = Action.BACKWARD if full_backward else Action.INPUT_GRADIENT
        with self.noting.busy(Mark(action, self.stage_index, bwd_chunk_id)):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """The gradients of the weights, where they come apart from those of the input."""
        with self.noting.busy(Mark(Action.WEIGHT_GRADIENT, self.stage_index, bwd_chunk_id)):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[Any]:
        """The messages to the next stage."""
        return self._counted(super().get_fwd_send_ops(fwd_chunk_id))

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[Any]:
        """The messages to the stage before."""
        return self._counted(super().get_bwd_send_ops(bwd_chunk_id))

    def _counted(self, messages: list[Any]) -> list[Any]:
        self.noting.sent += sum(message.tensor.nbytes for message in messages)
        return messages


class PipelineStep(MethodStep):
    """The stages of node `number`. The process group stands. `travels`: what `shapes` says of the whole network."""

    def __init__(
        self,
        model: StreamModel,
        node: StreamNode,
        feed: Feed,
        division: Pipelined,
        number: int,
        travels: Sequence[Tensor],
    ) -> None:
        super().__init__(node, number, feed, division.order())
        run = model.run
        assert run.method
        self._parts, self._rows = run.microbatches, len(travels[0])
        self._mine = division.stages_of(number)
        self._last = len(division.stages) - 1
        self._stages = division.stages
        self._loss = Loss(node, model.reach.blocks - 1, run.smoothing)
        stages = []
        for stage in self._mine:
            part = Part(model, division.stages[stage], feed, self._rows).train()
            entering, leaving = travels[stage].requires_grad_(stage > 0), travels[stage + 1].requires_grad_()
            stages.append(
                NotedStage(part, stage, self._last + 1, node.device, input_args=(entering,), output_args=(leaving,))
            )
            stages[-1].noting = self
        self._schedule = SCHEDULES[run.method](
            stages[0] if run.method in SINGLE else stages, run.microbatches, loss_fn=self._loss, scale_grads=False
        )

    def _learn(self, step: int) -> None:
        feed, parts = self.feed, range(len(self.feed.parts(step)))
        self._loss.total = sum(len(part) for part in feed.parts(step))
        given: dict[str, Tensor] = {"at_12": torch.tensor([[step, part] for part in range(self._parts)])}
        examples = []
        if 0 in self._mine:
            examples = [padded([feed.inputs(step, part) for part in parts], self._rows, self._parts)]
        if self._last in self._mine:
            given["target"] = padded([feed.labels(step, part) for part in parts], self._rows, self._parts, -1)
        with torch.enable_grad():
            self._schedule.step(*examples, return_outputs=False, **given)

    def _updates(self) -> Iterator[tuple[Mark, Sequence[int]]]:
        return ((Mark(Action.UPDATE, stage), self._stages[stage]) for stage in self._mine)


def shapes(model: StreamModel, division: Pipelined) -> list[Tensor]:
    """What enters the first stage, and leaves every stage: tensors without numbers. All blocks have to be here."""
    run, encoder, ends = model.run, model.encoder, [stage.stop for stage in division.stages]
    rows = -(-run.batch_size // run.microbatches)
    h = torch.zeros(1, *encoder.input_shape, dtype=encoder.dtype)
    found = [h.new_empty(rows, *h.shape[1:], device="meta")]
    with torch.no_grad(), predicting(model):
        for number, block in enumerate(model.blocks, 1):
            with model.autocast(h.device):
                h = block(h)
            if number in ends:
                found.append(h.new_empty(rows, *h.shape[1:], device="meta"))
    return found
