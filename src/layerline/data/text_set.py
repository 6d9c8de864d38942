"""A text as a data set: windows of so many tokens, to be trained and judged on like images with labels.

The last tenth of the text is its validation split; a text has no test set of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from layerline.data.dataset import Dataset
from layerline.data.text import Text, even_starts, window_count, windows


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a text, side by side: int64 [n, context] each."""

    inputs: Tensor
    labels: Tensor
    """The token after each."""
    characters: int
    """How many characters the labels write."""

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TextSet:
    """A text for a language model. Raises `DataError` where it is too short for one window in each part."""

    text: Text
    context: int
    """Tokens in a window."""
    name: str
    """By which it is found again: a known one, or a path."""

    def __post_init__(self) -> None:
        window_count(self.text.train, self.context, f"{self.text.name}: a training part")
        window_count(self.text.validation, self.context, f"{self.text.name}: a validation part, the last tenth,")

    @property
    def train(self) -> Tensor:
        """Its training tokens, [n]."""
        return self.text.train

    @property
    def windows(self) -> int:
        """Windows in an epoch: one fewer than there is room for, so that there are as many wherever they begin."""
        return max(1, (window_count(self.train, self.context) - 1) // self.context)

    @cached_property
    def test(self) -> Windows:
        """The validation split, every token but the first a label once."""
        tokens = self.text.validation
        inputs, labels = windows(tokens, even_starts(tokens, self.context), self.context)
        return Windows(inputs, labels, max(1, self.text.vocabulary.written(labels)))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What each token means: a character, or a byte in hexadecimal."""
        characters = self.text.vocabulary.characters
        return tuple(f"0x{byte:02x}" for byte in range(256)) if characters is None else tuple(characters)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def hold_out(self) -> TextSet:
        """Itself: what it is judged on is held out from training already."""
        return self

    def digest(self) -> str:
        """SHA-256 over vocabulary and training tokens; resuming refuses another one."""
        return self.text.digest()


AnySet = Dataset | TextSet
