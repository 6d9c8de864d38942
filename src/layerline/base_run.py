"""What every run has, whatever it trains: the settings all families share, and the ways to and from TOML.

BaseRun ─┬─ Run         blocks that learn in chapters or side by side, no gradient between them (FF, PFF, DFF)
         └─ StreamRun   minibatches that stream through the blocks (DGL, interlocking backprop, backprop)
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError

from layerline.data.statistics import Standardise
from layerline.errors import UsageError
from layerline.explain import explain
from layerline.objectives.optimizer import Cosine, Rate
from layerline.settings import Settings
from layerline.transport.codecs import Codec, Fp32


class Augment(Settings):
    """Changes to training images, drawn anew for every image and epoch."""

    shift: int = Field(default=0, ge=0, le=8)
    """Largest shift in pixels, each way and direction. Hinton's jitter: 2; PFF: none."""
    fill: Literal["black", "reflect"] = "black"
    """What comes in where a shift uncovers pixels: 0, or the image mirrored at its edge (for photographs)."""
    flip: bool = False
    """Mirror half of the images left to right."""


class BaseRun(Settings):
    """Everything that decides the result of a training, as far as all families have it."""

    preset: str = "custom"
    """The name it started from; also the name of the run's folder."""
    dataset: str = "mnist"
    """A known set, an .npz file, an image folder, or hf:NAME of the Hugging Face hub; with `--shards own` a path with
    the node's number in it: clinics/{node}.npz."""
    validation: bool = False
    """Hold out the end of the training set (10,000 images of MNIST and CIFAR) and judge on that; the test set stays
    unread."""
    standardise: Standardise = "global"
    """Inputs to mean 0 and deviation 1 over the whole set or per channel, or "none": pixels in [0, 1]."""
    augment: Augment = Augment()
    """Shifts and flips of the training images."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the data for every block; the PFF paper's E = 100."""
    nodes: int = Field(default=1, ge=1)
    """Logical workers of the schedule, however many processes carry them out; the PFF paper: 4, and 5 with a softmax
    readout."""
    speeds: tuple[float, ...] = ()
    """How fast each node is beside the others, for dealing out work; left out, as in the paper: all the same."""
    codec: Codec = Fp32()
    """How blocks and outputs are written when they travel between nodes; the paper: as they are."""
    batch_size: int = Field(default=256, ge=1)
    """Examples in a minibatch; the PFF paper: 64. The last one of an epoch may be smaller."""
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

    @property
    def facts(self) -> dict[str, Any]:
        """What `result.json` says of this family's runs besides what all have."""
        return {}

    @property
    def settled(self) -> dict[str, Any]:
        """Fields that were left open, decided: they are recorded before anything starts."""
        return {}

    @property
    def is_planned(self) -> bool:
        """True where a plan over logical nodes carries it out."""
        return self.nodes > 1

    @property
    def has_own_data(self) -> bool:
        """True where every node reads data of its own."""
        return False

    def replace(self, **changes: Any) -> Self:
        """A copy with some top-level fields changed, validated."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and tables; what is unset is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The run as TOML."""
        return tomli_w.dumps(self.to_dict())

    def digest(self) -> str:
        """SHA-256 of everything that decides the result; a checkpoint belongs to one digest.

        Fields at their default are left out, so that a run outlives the version that adds a setting.
        """
        indifferent = ("preset", "checkpoint_seconds", "eval_every", "beside")
        fields = type(self).model_fields
        settings = {
            name: value
            for name, value in self.to_dict().items()
            if name not in indifferent and getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str = "the settings") -> Self:
        """A run from plain tables. UsageError for unknown names and impossible values, naming `source`."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise UsageError(f"{source}: {explain(error, cls, settings)}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """A run from a TOML file."""
        return cls.from_dict(read_toml(path), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. UsageError if it is missing or not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
