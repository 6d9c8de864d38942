"""The Run: one frozen description of an experiment, the same in Python, in TOML and on the command line.

    preset or run.toml → Run → training

Nothing that changes the result is decided anywhere else. Where a file or a flag leaves something out the preset's value
stands, then the default here; precedence is flag > file > preset. The defaults are not the paper's protocol (the preset
`pff-mnist` is), each field's docstring names the paper's value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from layerline.base_run import BaseRun
from layerline.blocks.network import BlockList, Mlp, Own
from layerline.data.labels import LabelInput
from layerline.data.own import NODE
from layerline.data.shards import Iid, OwnShards, Shards
from layerline.errors import UsageError
from layerline.negatives.labels import Adaptive, Fixed, LabelNegatives, Random, Sampled
from layerline.negatives.masks import MaskedHybrid
from layerline.objectives.backprop import Backprop
from layerline.objectives.cross_entropy import BaseCrossEntropy
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.optimizer import Adam
from layerline.readouts.readouts import AllHeads, Goodness, LastHead, Readout, Softmax
from layerline.schedules.dff import Dff
from layerline.schedules.exchange import Exchange, Minibatches, check_exchange
from layerline.schedules.federated import Federated
from layerline.schedules.schedule import Schedule
from layerline.schedules.sequential import Sequential
from layerline.schedules.work import Work, check_speeds
from layerline.transport.codecs import Int8
from layerline.transport.privacy import Open, Privacy

Objective = Annotated[ForwardForward | LocalCrossEntropy | Backprop, Field(discriminator="kind")]
Negatives = Annotated[Fixed | Random | Adaptive | Sampled | MaskedHybrid, Field(discriminator="kind")]


class Run(BaseRun):
    """Everything that decides the result of a training in chapters, or of all blocks side by side."""

    network: BlockList = Mlp()
    """The blocks."""
    labels: LabelInput = LabelInput()
    """How a label is written into the input (Forward-Forward only)."""
    objective: Objective = ForwardForward()
    """The local loss of every block; or backprop, to which all blocks are one."""
    negatives: Negatives = Random()
    """How the wrong half of the data is made (Forward-Forward only)."""
    readout: Readout = Goodness()
    """How the trained network predicts."""
    order: Literal["simultaneous", "chapters"] = "simultaneous"
    """All blocks on every minibatch (Hinton), or each block a chapter's epochs before the next block (PFF)."""
    chapters: int | None = Field(default=None, ge=1)
    """Equal parts the epochs are cut into, the paper's splits S = 100; left out: as many as epochs."""
    schedule: Schedule = Sequential()
    """Who trains which block when, in chapter training; the paper has sequential, single-layer, all-layers and
    federated."""
    exchange: Exchange = "chapter"
    """How often the nodes of a schedule exchange blocks: per chapter (the paper), or after every minibatch (its future
    work; all-layers, and federated where blocks are averaged)."""
    send_optimizer_state: bool = True
    """Adam's moments and step counts travel with a block that is handed on; the paper sends weights and biases only,
    so each node keeps moments that are as old as its last chapter."""
    privacy: Privacy = Open()
    """What a block that leaves a participant may say of its data (`--engine flower` only); clipping and noise are done
    by Flower's own mods."""
    shards: Shards = Iid()
    """How the training set is divided where nodes train on parts of it (federated, or more nodes than blocks); own:
    every node of a federated schedule reads a set of its own."""
    shuffle: Literal["epoch", "once"] = "epoch"
    """New minibatches every epoch, or drawn once (PFF authors' code)."""
    optimizer: Adam = Adam()
    """Adam for every block, and for the softmax readout."""
    beside: Literal["none", "fedavg"] = "none"
    """What is trained when a federated run is finished, for a table of both: FedAvg of backprop on the same nodes and
    data, with equal epochs and with equal bytes. The run itself stays as it is."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        impossible(self)
        return self

    @property
    def chapter_count(self) -> int:
        """S."""
        return self.chapters or self.epochs

    @property
    def facts(self) -> dict[str, Any]:
        return {"chapters": self.chapter_count, "schedule": self.schedule.kind}

    @property
    def settled(self) -> dict[str, Any]:
        return {"chapters": self.chapter_count}

    @property
    def epochs_per_chapter(self) -> int:
        """C = E / S."""
        return self.epochs // self.chapter_count

    @property
    def block_count(self) -> int:
        """What learns on its own, as far as the run says; 0: as many as there are modules handed in from Python."""
        if self.objective.joins_blocks:
            return 1
        return len(self.network.widths) if isinstance(self.network, Mlp) else 0

    @property
    def writes_labels(self) -> bool:
        """True where the input carries a label."""
        return isinstance(self.objective, ForwardForward) and isinstance(self.negatives, LabelNegatives)

    @property
    def full_batch(self) -> bool:
        """True where an epoch is one step on the whole set (DFF)."""
        return isinstance(self.schedule, Dff) and self.schedule.batch == "full"

    @property
    def is_planned(self) -> bool:
        return self.nodes > 1 or not isinstance(self.schedule, Sequential)

    @property
    def has_own_data(self) -> bool:
        """True where every node reads a data set of its own."""
        return isinstance(self.shards, OwnShards)

    @property
    def has_judge(self) -> bool:
        """True where a head on the first block picks the negatives."""
        sampled = isinstance(self.negatives, Sampled) and self.negatives.judge == "first-block"
        return sampled and self.writes_labels

    @property
    def judged(self) -> bool:
        """True where new negatives come from the network's scores."""
        return self.writes_labels and isinstance(self.negatives, LabelNegatives) and self.negatives.needs_scores

    def work(self, blocks: int, examples: int = 0) -> Work:
        """What the schedule plans, for a network of so many blocks; all slots cost the same.

        `examples`: images of the training set, which count where nodes exchange per batch.
        """
        minibatches = Minibatches(examples=examples, batch=self.batch_size, epochs=self.epochs_per_chapter)
        return Work(
            blocks=blocks,
            chapters=self.chapter_count,
            nodes=self.nodes,
            head=isinstance(self.readout, Softmax),
            judged=self.judged,
            speeds=self.speeds,
            minibatches=minibatches if self.exchange == "batch" else None,
        )

    def with_own_network(self) -> Run:
        """The same run for modules handed in from Python."""
        own = isinstance(self.network, Own)
        return self if own else self.replace(network=Own(normaliser=self.network.normaliser))


def impossible(run: Run) -> None:
    """Raises UsageError for settings that are fine one by one and cannot work together."""
    if run.epochs % run.chapter_count:
        near = max(s for s in range(1, run.chapter_count + 1) if run.epochs % s == 0)
        raise UsageError(
            f"{run.chapter_count} chapters do not divide {run.epochs} epochs", hint=f"try --chapters {near}"
        )
    if run.order == "simultaneous" and run.is_planned:
        what = f"{run.nodes} nodes" if run.nodes > 1 else f"the {run.schedule.kind} schedule"
        raise UsageError(
            f"{what} cannot share simultaneous training, which has no chapters to hand out",
            hint="choose --order chapters",
        )
    if run.exchange == "batch":
        _exchange_per_batch(run)
    if not isinstance(run.privacy, Open):
        _private(run)
    check_speeds(run.speeds, run.nodes)
    data_for_nodes(run)
    readout = run.readout
    local = isinstance(run.objective, BaseCrossEntropy)
    if local and isinstance(readout, Goodness):
        raise UsageError(
            f"the {run.objective.kind} objective has no goodness to read",
            hint=f"choose --readout {'last-head' if run.objective.joins_blocks else 'all-heads, last-head or softmax'}",
        )
    if run.objective.joins_blocks:
        _one_block(run)
    if isinstance(run.network, Mlp):
        if any(width < 1 for width in run.network.widths):
            raise UsageError(f"a block needs at least one unit, widths are {run.network.widths}")
        something_to_read(run, run.block_count)
    if not local and isinstance(readout, LastHead | AllHeads):
        raise UsageError(
            f"Forward-Forward blocks have no heads for the {readout.kind} readout",
            hint="choose --readout goodness or softmax",
        )
    if run.beside == "fedavg":
        _beside_fedavg(run)
    if run.order == "chapters" and isinstance(run.negatives, Sampled) and run.negatives.judge == "first-block":
        raise UsageError(
            "the first block judges sampled negatives minibatch by minibatch, which chapters don't do",
            hint="choose --order simultaneous, or --negatives.judge readout",
        )
    if isinstance(run.negatives, MaskedHybrid) and isinstance(readout, Goodness) and not local:
        raise UsageError(
            "masked-hybrid negatives know no labels, so goodness cannot tell classes apart",
            hint="choose --readout softmax",
        )


def data_for_nodes(run: Run) -> None:
    """Raises UsageError where it is not clear which data a node reads."""
    if not run.has_own_data:
        if NODE in run.dataset:
            raise UsageError(f"{run.dataset} is another file for every node", hint="say so: --shards own")
        return
    if not isinstance(run.schedule, Federated):
        raise UsageError(
            f"nodes of the {run.schedule.kind} schedule work on the same images, so they cannot have data of their own",
            hint="choose --schedule federated",
        )
    if NODE not in run.dataset or run.dataset.startswith("hf:"):
        raise UsageError(
            f"{run.dataset} does not say where each node's own data lies",
            hint="give a path with the node's number in it: --dataset 'clinics/{node}.npz'",
        )


def _exchange_per_batch(run: Run) -> None:
    """UsageError where nodes cannot exchange after every minibatch."""
    if run.order == "simultaneous":
        raise UsageError(
            "simultaneous training has no nodes that could exchange per batch",
            hint="choose --order chapters, or leave out --exchange",
        )
    check_exchange(run.schedule, run.exchange)
    if isinstance(run.codec, Int8):
        raise UsageError(
            "int8 sends differences from versions that are kept with finished chapters, and per batch none are kept",
            hint="choose --codec bf16 or fp32, or --exchange chapter",
        )


def _private(run: Run) -> None:
    """UsageError where clipping or noise would not reach all that leaves a node."""
    if not isinstance(run.schedule, Federated) or run.exchange == "batch":
        raise UsageError(
            "only federated runs that exchange per chapter know what a participant received and what it may let go",
            hint="choose --schedule federated --exchange chapter, or leave out --privacy",
        )
    if run.send_optimizer_state:
        raise UsageError(
            "Adam's moments would travel as they are, and say what clipping and noise take out of the blocks",
            hint="let them stay at home: --no-send-optimizer-state",
        )


def _beside_fedavg(run: Run) -> None:
    """UsageError where FedAvg of backprop is the run itself, or could not have what the run has."""
    impossible = {
        "only federated runs have participants for FedAvg": not isinstance(run.schedule, Federated),
        "FedAvg of backprop beside a run of backprop would say nothing": run.objective.joins_blocks,
        "a run that exchanges per batch has no rounds to compare with FedAvg's": run.exchange == "batch",
        "FedAvg is trained in one process, which cannot read what nodes have to themselves": run.has_own_data,
        "FedAvg would be trained without the run's clipping and noise": not isinstance(run.privacy, Open),
        "modules from Python are trained in place, so FedAvg has none to begin with": isinstance(run.network, Own),
    }
    for why, applies in impossible.items():
        if applies:
            raise UsageError(why, hint="train nothing beside it: --beside none")


def _one_block(run: Run) -> None:
    """UsageError for what needs several blocks, where the objective joins them."""
    if isinstance(run.readout, Softmax):
        raise UsageError(
            "backprop learns the head that reads the network, so a softmax readout would be a second one",
            hint="choose --readout last-head",
        )
    if run.objective.hardest < 1:
        raise UsageError(
            "the hardest rows are chosen by the gradient of a block, and to backprop all blocks are one",
            hint="leave out --hardest",
        )


def something_to_read(run: Run, blocks: int) -> None:
    """Raises UsageError for a readout that leaves out all the blocks there are."""
    skip: int = getattr(run.readout, "skip", 0)
    if skip >= blocks:
        raise UsageError(
            f"the {run.readout.kind} readout leaves out {skip} of {blocks} block(s), so nothing is left to read",
            hint="add a block, or read the first one too: --readout.skip 0",
        )
