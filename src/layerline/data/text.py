"""Texts for language models: one long row of tokens, of which minibatches are windows.

    text        the first 90 %  training              the last 10 %  validation
    window      inputs    t₀ t₁ t₂ … tₙ₋₁             targets: the next token of each
                targets      t₁ t₂ … tₙ₋₁ tₙ

A token is a character (the vocabulary: every character of the whole file, sorted) or a byte (256 of them). Tokens lie
in memory as `uint8` where the vocabulary allows it, and become int64 a minibatch at a time.
"""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layerline.data.catalog import TEXT_NAMES, find_published
from layerline.data.download import Progress
from layerline.data.files import open_plain_or_gzip
from layerline.errors import DataError, UsageError, did_you_mean

_FILE = "input.txt"

Tokens = Literal["characters", "bytes"]


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens mean."""

    characters: str | None
    """Token k is the k-th character; None: token k is the byte k."""

    def __len__(self) -> int:
        return 256 if self.characters is None else len(self.characters)

    def encode(self, text: str) -> Tensor:
        """The tokens of a text, int64 [n]. UsageError for a character the vocabulary does not have."""
        if self.characters is None:
            return torch.tensor(list(text.encode()), dtype=torch.int64)
        number = {character: token for token, character in enumerate(self.characters)}
        strange = next((character for character in text if character not in number), None)
        if strange is not None:
            raise UsageError(
                f"the character {strange!r} (U+{ord(strange):04X}) is not in the vocabulary of {len(self)}",
                hint="leave it out, or train on bytes, which can write every text",
            )
        return torch.tensor([number[character] for character in text], dtype=torch.int64)

    def written(self, tokens: Tensor) -> int:
        """How many characters a piece of a text [...] has: in UTF-8 the bytes that no character goes on with.

        Bytes that are no UTF-8 are taken for one character each, as in Latin-1.
        """
        if self.characters is not None or not _is_utf8(tokens):
            return tokens.numel()
        return int(((tokens & 0xC0) != 0x80).sum())

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens [n]; bytes that are no UTF-8 become �. DataError for a token outside the vocabulary."""
        require_inside(tokens, len(self), "the tokens")
        if self.characters is None:
            return bytes(tokens.tolist()).decode(errors="replace")
        return "".join(self.characters[token] for token in tokens.tolist())


def _is_utf8(tokens: Tensor) -> bool:
    """Whether bytes are a piece of a text in UTF-8, which may begin and end inside a character."""
    piece = bytes(tokens.flatten().tolist())
    begin = next((place for place, byte in enumerate(piece[:4]) if byte & 0xC0 != 0x80), 0)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(piece[begin:])
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Text:
    """A text as tokens, in two parts. Raises `DataError` for tokens outside the vocabulary."""

    name: str
    train: Tensor
    """uint8, or int64 with a vocabulary of more than 256, [n]."""
    validation: Tensor
    """As `train`; the end of the text."""
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        for part, tokens in (("training", self.train), ("validation", self.validation)):
            if tokens.ndim != 1 or tokens.dtype not in (torch.uint8, torch.int64):
                raise DataError(f"{self.name}: tokens are uint8 or int64 [n], not {tokens.dtype} {list(tokens.shape)}")
            require_inside(tokens, len(self.vocabulary), f"{self.name}: the {part} tokens")

    def written_in(self, vocabulary: Vocabulary) -> Text:
        """The same text as tokens of another vocabulary. UsageError for a character that it does not have."""
        own = self.vocabulary.characters
        if vocabulary == self.vocabulary:
            return self
        if own is None or vocabulary.characters is None:
            raise UsageError(f"{self.name} is in bytes and the vocabulary in characters, or the other way round")
        number = vocabulary.encode(own)
        kind = torch.uint8 if len(vocabulary) <= 256 else torch.int64
        train, validation = (number[tokens.long()].to(kind) for tokens in (self.train, self.validation))
        return Text(self.name, train, validation, vocabulary)

    def digest(self) -> str:
        """SHA-256 over vocabulary and training tokens, as hexadecimal digits; resuming refuses another one."""
        sha = hashlib.sha256(repr(self.vocabulary.characters).encode())
        sha.update(np.ascontiguousarray(self.train.long().cpu().numpy().astype("<i8")).data)
        return sha.hexdigest()


def load_text(
    name: str,
    *,
    tokens: Tokens = "characters",
    data_dir: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Text:
    """The text of that name: "tinyshakespeare" (looked for and downloaded like other data sets), or a path to a file.

    Raises `UsageError` for an unknown name, `DataError` for a file that is missing, not UTF-8 or too short.
    """
    if name in TEXT_NAMES:
        folder = find_published(
            name,
            (_FILE,),
            lambda folder: () if (folder / _FILE).is_file() else (_FILE,),
            data_dir=data_dir,
            download=download,
            progress=progress,
        )
        return read_text(folder / _FILE, name, tokens)
    path = Path(name).expanduser()
    if path.suffix != ".txt" and not path.is_file():
        raise UsageError(
            f"there is no text '{name}'{did_you_mean(name, TEXT_NAMES)}",
            hint=f"texts: {', '.join(TEXT_NAMES)}; or the path of a .txt file",
        )
    return read_text(path, path.stem, tokens)


def read_text(path: Path, name: str, tokens: Tokens = "characters") -> Text:
    """The text in a file, plain or packed with gzip; see `load_text`."""
    with open_plain_or_gzip(path) as stream:
        content = stream.read()
    if tokens == "bytes":
        row, vocabulary = np.frombuffer(content, np.uint8), Vocabulary(None)
    else:
        row, vocabulary = _characters(content, path)
    if len(row) < 2:
        raise DataError(f"{path}: a text of {len(row)} {tokens}", hint="give a longer text")
    whole = torch.from_numpy(row.astype(np.uint8 if len(vocabulary) <= 256 else np.int64))
    cut = max(1, len(whole) * 9 // 10)
    return Text(name=name, train=whole[:cut], validation=whole[cut:], vocabulary=vocabulary)


def _characters(content: bytes, path: Path) -> tuple[np.ndarray, Vocabulary]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start:,} is not UTF-8 text ({error.reason})",
            hint="save the file as UTF-8, or train on its bytes: tokens bytes",
        ) from error
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known, row = np.unique(codes, return_inverse=True)
    return row, Vocabulary("".join(map(chr, known)))


def window_count(tokens: Tensor, context: int, what: str = "a text") -> int:
    """How many starts a window of `context` inputs has, with a target for the last. DataError if it is none; `what`:
    the tokens are in it."""
    if context < 1:
        raise UsageError(f"a window of {context} tokens", hint="ask for at least one")
    count = len(tokens) - context
    if count < 1:
        raise DataError(
            f"{what} of {len(tokens):,} tokens is too short for windows of {context} and the token after",
            hint=f"choose a context below {len(tokens)}, or give a longer text",
        )
    return count


def windows(tokens: Tensor, starts_B: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both int64 [B, context], of the windows that begin at `starts_B` (int64, below
    `window_count`), on the tokens' device."""
    window_count(tokens, context)
    picked = tokens.unfold(0, context + 1, 1)[starts_B.to(tokens.device)].long()
    return picked[:, :-1].contiguous(), picked[:, 1:].contiguous()


def even_starts(tokens: Tensor, context: int) -> Tensor:
    """Starts of windows side by side, int64 [n]: every token but the first is a target once, save fewer than `context`
    at the end. For evaluation."""
    return torch.arange(0, window_count(tokens, context), context)


def require_inside(tokens: Tensor, size: int, which: str) -> None:
    """DataError for a token outside a vocabulary of this size. `which`: what they are called in it."""
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise DataError(
            f"{which} run from {int(tokens.min())} to {int(tokens.max())}, but the vocabulary has the tokens "
            f"0..{size - 1}",
            hint="number the tokens as the vocabulary does",
        )
