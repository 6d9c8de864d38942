"""The Run: one frozen description of an experiment, the same in Python, in TOML and on the command line.

    preset or run.toml → Run → training

Nothing that changes the result is decided anywhere else. Where a file or a flag leaves something out the preset's value
stands, then the default here; precedence is flag > file > preset. The defaults are not the paper's protocol (the preset
`pff-mnist` is), each field's docstring names the paper's value.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from layerline.blocks.encoder import Standardise
from layerline.blocks.network import BlockList, Mlp, Own
from layerline.data.labels import LabelInput
from layerline.data.shards import Iid, Shards
from layerline.errors import UsageError
from layerline.explain import explain
from layerline.negatives.labels import Adaptive, Fixed, LabelNegatives, Random, Sampled
from layerline.negatives.masks import MaskedHybrid
from layerline.objectives.forward_forward import ForwardForward
from layerline.objectives.local_cross_entropy import LocalCrossEntropy
from layerline.objectives.optimizer import Adam, Cosine, Rate
from layerline.readouts.readouts import AllHeads, Goodness, LastHead, Readout, Softmax
from layerline.schedules.dff import Dff
from layerline.schedules.exchange import Exchange, Minibatches, check_exchange
from layerline.schedules.schedule import Schedule
from layerline.schedules.sequential import Sequential
from layerline.schedules.work import Work, check_speeds
from layerline.settings import Settings
from layerline.transport.codecs import Codec, Fp32, Int8

Objective = Annotated[ForwardForward | LocalCrossEntropy, Field(discriminator="kind")]
Negatives = Annotated[Fixed | Random | Adaptive | Sampled | MaskedHybrid, Field(discriminator="kind")]


class Augment(Settings):
    """Changes to training images, drawn anew for every image and epoch."""

    shift: int = Field(default=0, ge=0, le=8)
    """Largest shift in pixels, each way and direction. Hinton's jitter: 2; PFF: none."""
    fill: Literal["black", "reflect"] = "black"
    """What comes in where a shift uncovers pixels: 0, or the image mirrored at its edge (for photographs)."""
    flip: bool = False
    """Mirror half of the images left to right."""


class Run(Settings):
    """Everything that decides the result of a training."""

    preset: str = "custom"
    """The name it started from; also the name of the run's folder."""
    dataset: str = "mnist"
    """A known set, an .npz file, an image folder, or hf:NAME of the Hugging Face hub."""
    validation: bool = False
    """Hold out the end of the training set (10,000 images of MNIST and CIFAR) and judge on that; the test set stays
    unread."""
    standardise: Standardise = "global"
    """Inputs to mean 0 and deviation 1 over the whole set or per channel, or "none": pixels in [0, 1]."""
    augment: Augment = Augment()
    """Shifts and flips of the training images."""
    network: BlockList = Mlp()
    """The blocks."""
    labels: LabelInput = LabelInput()
    """How a label is written into the input (Forward-Forward only)."""
    objective: Objective = ForwardForward()
    """The local loss of every block."""
    negatives: Negatives = Random()
    """How the wrong half of the data is made (Forward-Forward only)."""
    readout: Readout = Goodness()
    """How the trained network predicts."""
    order: Literal["simultaneous", "chapters"] = "simultaneous"
    """All blocks on every minibatch (Hinton), or each block a chapter's epochs before the next block (PFF)."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the data for every block; the paper's E = 100."""
    chapters: int | None = Field(default=None, ge=1)
    """Equal parts the epochs are cut into, the paper's splits S = 100; left out: as many as epochs."""
    schedule: Schedule = Sequential()
    """Who trains which block when, in chapter training; the paper has sequential, single-layer, all-layers and
    federated."""
    exchange: Exchange = "chapter"
    """How often the nodes of a schedule exchange blocks: per chapter (the paper), or after every minibatch (its future
    work; all-layers, and federated where blocks are averaged)."""
    nodes: int = Field(default=1, ge=1)
    """Logical workers of the schedule, however many processes carry them out; the paper: 4, and 5 with a softmax
    readout."""
    speeds: tuple[float, ...] = ()
    """How fast each node is beside the others, for dealing out work; left out, as in the paper: all the same."""
    send_optimizer_state: bool = True
    """Adam's moments and step counts travel with a block that is handed on; the paper sends weights and biases only,
    so each node keeps moments that are as old as its last chapter."""
    codec: Codec = Fp32()
    """How blocks and outputs are written when they travel between nodes; the paper: as they are."""
    shards: Shards = Iid()
    """How the training set is divided where nodes train on parts of it (federated, or more nodes than blocks)."""
    batch_size: int = Field(default=256, ge=1)
    """Images in a minibatch; the paper: 64. The last one of an epoch may be smaller."""
    shuffle: Literal["epoch", "once"] = "epoch"
    """New minibatches every epoch, or drawn once (PFF authors' code)."""
    optimizer: Adam = Adam()
    """Adam for every block, and for the softmax readout."""
    rate: Rate = Cosine()
    """How the learning rate goes: cool-down (PFF), cosine with warm-up, or constant."""
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    """Products in bfloat16 with float32 weights, moments and losses, or float32 throughout."""
    seed: int = Field(default=0, ge=0)
    """Decides weights, negatives, minibatches, shifts and masks."""
    threads: int | None = Field(default=None, ge=1)
    """Compute threads; left out: one per core. The result depends on it in the last bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""
    eval_every: int = Field(default=0, ge=0)
    """Epochs between looks at the accuracy on the validation split (without one: the test set); 0: only at the end."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Time between checkpoints; 0: after every minibatch."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        impossible(self)
        return self

    @property
    def chapter_count(self) -> int:
        """S."""
        return self.chapters or self.epochs

    @property
    def epochs_per_chapter(self) -> int:
        """C = E / S."""
        return self.epochs // self.chapter_count

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
        """True where a schedule over logical nodes carries it out."""
        return self.nodes > 1 or not isinstance(self.schedule, Sequential)

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

    def replace(self, **changes: Any) -> Run:
        """A copy with some top-level fields changed, validated."""
        return Run(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and tables; what is unset is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The Run as TOML."""
        return tomli_w.dumps(self.to_dict())

    def digest(self) -> str:
        """SHA-256 of everything that decides the result; a checkpoint belongs to one digest."""
        settings = self.to_dict()
        for name in ("preset", "checkpoint_seconds", "eval_every"):
            del settings[name]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_dict(settings: dict[str, Any], source: str = "the settings") -> Run:
        """A Run from plain tables. UsageError for unknown names and impossible values, naming `source`."""
        try:
            return Run.model_validate(settings)
        except ValidationError as error:
            raise UsageError(f"{source}: {explain(error, Run, settings)}") from None

    @staticmethod
    def from_toml(path: str | Path) -> Run:
        """A Run from a TOML file."""
        return Run.from_dict(read_toml(path), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. UsageError if it is missing or not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None


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
    check_speeds(run.speeds, run.nodes)
    readout = run.readout
    if isinstance(run.network, Mlp):
        if any(width < 1 for width in run.network.widths):
            raise UsageError(f"a block needs at least one unit, widths are {run.network.widths}")
        something_to_read(run, len(run.network.widths))
    local = isinstance(run.objective, LocalCrossEntropy)
    if local and isinstance(readout, Goodness):
        raise UsageError(
            "local cross-entropy has no goodness to read", hint="choose --readout all-heads, last-head or softmax"
        )
    if not local and isinstance(readout, LastHead | AllHeads):
        raise UsageError(
            f"Forward-Forward blocks have no heads for the {readout.kind} readout",
            hint="choose --readout goodness or softmax",
        )
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


def something_to_read(run: Run, blocks: int) -> None:
    """Raises UsageError for a readout that leaves out all the blocks there are."""
    skip: int = getattr(run.readout, "skip", 0)
    if skip >= blocks:
        raise UsageError(
            f"the {run.readout.kind} readout leaves out {skip} of {blocks} block(s), so nothing is left to read",
            hint="add a block, or read the first one too: --readout.skip 0",
        )
