"""Texts as tokens: where they are read from, what their windows are, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.data.sources import REMOTE_FILES
from layerline.data.text import Text, Vocabulary, even_starts, load_text, window_count, windows
from layerline.data.text_set import TextSet
from layerline.errors import DataError, UsageError

DATA = os.environ.get("LAYERLINE_DATA", "")


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAYERLINE_DATA", raising=False)


def written(folder: Path, content: bytes, name: str = "own.txt") -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_characters(tmp_path: Path) -> None:
    text = load_text(written(tmp_path, "hello größe\r\n".encode()))
    assert (text.name, text.vocabulary.characters) == ("own", "\n\r eghlorßö")
    assert text.train.dtype == torch.uint8
    assert text.vocabulary.decode(torch.cat((text.train, text.validation))) == "hello größe\r\n"
    assert (len(text.train), len(text.validation)) == (11, 2)
    assert text.vocabulary.encode("hello").tolist() == text.train[:5].tolist()


def test_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) + "größe".encode()
    text = load_text(written(tmp_path, content), tokens="bytes")
    assert len(text.vocabulary) == 256
    assert torch.cat((text.train, text.validation)).tolist() == list(content)
    assert text.vocabulary.decode(text.vocabulary.encode("größe")) == "größe"


def test_many_characters_need_wider_tokens(tmp_path: Path) -> None:
    everything = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    text = load_text(written(tmp_path, everything.encode()))
    assert (text.train.dtype, len(text.vocabulary)) == (torch.int64, 300)
    assert text.train[:3].tolist() == [0, 1, 2]


def test_packed_with_gzip(tmp_path: Path) -> None:
    assert len(load_text(written(tmp_path, gzip.compress(b"abcabcabca"))).train) == 9


def test_a_published_text_from_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    written(tmp_path / "tinyshakespeare", b"to be or not", "input.txt")
    assert load_text("tinyshakespeare", data_dir=tmp_path).name == "tinyshakespeare"
    monkeypatch.setenv("LAYERLINE_DATA", str(tmp_path))
    assert len(load_text("tinyshakespeare").train) == 10


def test_the_digest_is_that_of_tokens_and_vocabulary(tmp_path: Path) -> None:
    def digest(content: bytes) -> str:
        return load_text(written(tmp_path, content)).digest()

    assert digest(b"abababababab") == digest(b"abababababab")
    assert digest(b"abababababab") != digest(b"bababababa" + b"ab")
    assert digest(b"abababababab") != digest(b"acacacacacac")


@given(st.integers(2, 60), st.integers(1, 60), st.data())
def test_targets_are_the_next_tokens(length: int, context: int, data: st.DataObject) -> None:
    tokens = torch.arange(length, dtype=torch.uint8)
    if context >= length:
        with pytest.raises(DataError, match=f"a text of {length} tokens is too short for windows of {context}"):
            window_count(tokens, context)
        return
    starts = data.draw(st.lists(st.integers(0, window_count(tokens, context) - 1), min_size=1, max_size=5))
    inputs, targets = windows(tokens, torch.tensor(starts), context)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [list(range(start, start + context)) for start in starts]
    assert torch.equal(targets, inputs + 1)


@given(st.integers(2, 80), st.integers(1, 20))
def test_side_by_side_every_token_is_a_target_once(length: int, context: int) -> None:
    tokens = torch.arange(length, dtype=torch.int64)
    if context >= length:
        return
    _, targets = windows(tokens, even_starts(tokens, context), context)
    seen = targets.flatten().tolist()
    assert seen == list(range(1, 1 + len(seen)))
    assert 0 <= length - 1 - len(seen) < context


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "a text of 0 characters"),
        (b"a", "a text of 1 characters"),
        (b"fine until here \xff and on", "byte 16 is not UTF-8 text"),
        (gzip.compress(b"abcabc", mtime=0)[:-4], "cut off"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        load_text(written(tmp_path, content))


def test_texts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load_text(str(tmp_path / "nowhere.txt"))
    with pytest.raises(UsageError, match=r"there is no text 'tinyshakespere'; did you mean 'tinyshakespeare'\?"):
        load_text("tinyshakespere")
    with pytest.raises(DataError, match="tinyshakespeare is not in"):
        load_text("tinyshakespeare", download=False)


def test_tokens_outside_the_vocabulary() -> None:
    vocabulary = Vocabulary("ab")
    with pytest.raises(UsageError, match=r"the character 'ß' \(U\+00DF\) is not in the vocabulary of 2"):
        vocabulary.encode("aß")
    with pytest.raises(DataError, match=r"the tokens run from 0 to 2, but the vocabulary has the tokens 0\.\.1"):
        vocabulary.decode(torch.tensor([0, 2]))
    fine, wrong = torch.tensor([0, 1]), torch.tensor([0, 7])
    with pytest.raises(DataError, match=r"mine: the validation tokens run from 0 to 7"):
        Text(name="mine", train=fine, validation=wrong, vocabulary=vocabulary)
    with pytest.raises(DataError, match=r"mine: tokens are uint8 or int64 \[n\], not torch.float32 \[2\]"):
        Text(name="mine", train=fine.float(), validation=fine, vocabulary=vocabulary)


@pytest.mark.parametrize("more", ["", "".join(chr(0x4E00 + each) for each in range(300))])
def test_a_text_in_another_vocabulary(tmp_path: Path, more: str) -> None:
    text = load_text(written(tmp_path, b"bad cab abc" * 3))
    other = Vocabulary(" " + "dcba" + more)
    again = text.written_in(other)
    for ours, theirs in ((again.train, text.train), (again.validation, text.validation)):
        assert other.decode(ours) == text.vocabulary.decode(theirs)
    assert text.written_in(Vocabulary(text.vocabulary.characters)) is text
    with pytest.raises(UsageError, match="the character 'd'"):
        text.written_in(Vocabulary(" abc"))
    with pytest.raises(UsageError, match="in bytes and the vocabulary in characters"):
        text.written_in(Vocabulary(None))


def test_windows_of_nothing() -> None:
    with pytest.raises(UsageError, match="a window of 0 tokens"):
        windows(torch.arange(9), torch.tensor([0]), 0)


@pytest.mark.data
def test_real_tinyshakespeare() -> None:
    text = load_text("tinyshakespeare", data_dir=DATA, download=False)
    assert (len(text.train), len(text.validation), len(text.vocabulary)) == (1_003_854, 111_540, 65)
    assert text.vocabulary.decode(text.train[:14]) == "First Citizen:"
    (file,) = REMOTE_FILES["tinyshakespeare"]
    content = (Path(DATA) / "tinyshakespeare" / file.name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == file.sha256


def test_bytes_write_as_many_characters_as_they_are_in_utf8_else_one_each() -> None:
    """Latin-1 has whole letters among the bytes that in UTF-8 only go on."""
    characters, small = "größe, ☃ und 𝄞" * 5, Vocabulary(None)
    encoded = torch.tensor(list(characters.encode()))
    assert small.written(encoded) == len(characters)
    assert small.written(encoded[3:-2]) == len(characters) - 3  # begins after ö's first byte, ends inside 𝄞
    latin = torch.tensor(list("«größe»".encode("latin-1")))
    assert small.written(latin) == 7
    assert Vocabulary("ab").written(torch.tensor([[0, 1], [1, 1]])) == 4


def test_a_text_whose_last_tenth_is_too_short_says_so() -> None:
    text = Text("own", torch.zeros(180, dtype=torch.uint8), torch.zeros(20, dtype=torch.uint8), Vocabulary("ab"))
    with pytest.raises(DataError, match="own: a validation part, the last tenth, of 20 tokens is too short"):
        TextSet(text, 20, "own")
