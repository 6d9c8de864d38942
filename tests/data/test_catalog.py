"""Data sets by name: where they are looked for, what is downloaded, and the messages when something is missing."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.data_files import SMALL_CIFAR_10, cifar_archive, cifar_contents, idx_contents, write_idx_set
from data.file_server import FileServer, Reply, file_server
from data.test_images import make
from layerline.data import catalog, dataset_names, load_dataset
from layerline.data.catalog import TEXT_NAMES
from layerline.data.class_names import CIFAR_10_CLASSES, CIFAR_100_CLASSES
from layerline.data.sources import REMOTE_FILES
from layerline.errors import DataError, UsageError

DATA = os.environ.get("LAYERLINE_DATA", "")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no data folder, and no server to download from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAYERLINE_DATA", raising=False)
    monkeypatch.setattr(catalog, "REMOTE_FILES", {})
    return tmp_path / "cache" / "layerline" / "data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that has MNIST."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as running:
        files = []
        for file, content in zip(REMOTE_FILES["mnist"], idx_contents(), strict=True):
            packed = gzip.compress(content, 1)
            url = running.serve(f"/{file.name}", Reply(packed))
            files.append(replace(file, urls=(url,), sha256=hashlib.sha256(packed).hexdigest()))
        monkeypatch.setattr(catalog, "REMOTE_FILES", {"mnist": tuple(files)})
        yield running


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_from_a_data_folder(tmp_path: Path, name: str) -> None:
    write_idx_set(tmp_path / name)
    data = load_dataset(name, data_dir=tmp_path)
    assert data.test is not None
    assert (data.name, data.shape, data.num_classes) == (name, (1, 28, 28), 10)
    assert (len(data.train), len(data.test)) == (20, 10)


def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._PUBLISHED, "cifar-10", catalog._cifar(CIFAR_10_CLASSES, SMALL_CIFAR_10))
    (tmp_path / "cifar-10").mkdir()
    archive = cifar_archive(SMALL_CIFAR_10, cifar_contents(SMALL_CIFAR_10))
    (tmp_path / "cifar-10" / SMALL_CIFAR_10.archive).write_bytes(archive)
    data = load_dataset("cifar-10", data_dir=tmp_path)
    assert (data.shape, data.classes[0], len(data.train)) == ((3, 32, 32), "airplane", 20)


def test_the_argument_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / "a" / "mnist", train=10)
    write_idx_set(tmp_path / "b" / "mnist", train=20)
    monkeypatch.setenv("LAYERLINE_DATA", str(tmp_path / "a"))
    assert len(load_dataset("mnist").train) == 10
    assert len(load_dataset("mnist", data_dir=tmp_path / "b").train) == 20


def test_cache_by_default_and_behind_a_folder_without_the_set(tmp_path: Path, cache: Path) -> None:
    write_idx_set(cache / "mnist")
    assert len(load_dataset("mnist").train) == 20
    assert len(load_dataset("mnist", data_dir=tmp_path).train) == 20


def test_download_into_the_cache(tmp_path: Path, cache: Path, server: FileServer) -> None:
    seen: list[str] = []
    data = load_dataset("mnist", data_dir=tmp_path, progress=lambda name, _, __: seen.append(name))
    assert len(data.train) == 20
    assert len(set(seen)) == 4
    assert len(list((cache / "mnist").iterdir())) == 4
    assert not (tmp_path / "mnist").exists()
    load_dataset("mnist", download=False)
    assert len(server.requests) == 4


def test_interrupted_download_is_taken_up(cache: Path, server: FileServer) -> None:
    def interrupt(name: str, _: int, __: int | None) -> None:
        if "labels" in name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset("mnist", progress=interrupt)
    assert len(load_dataset("mnist").train) == 20
    assert [path for path, _ in server.requests].count("/train-images-idx3-ubyte.gz") == 1


def test_download_not_allowed(tmp_path: Path, cache: Path, server: FileServer) -> None:
    with pytest.raises(DataError, match="mnist is neither in") as caught:
        load_dataset("mnist", data_dir=tmp_path, download=False)
    assert str(tmp_path / "mnist") in str(caught.value)
    assert str(cache / "mnist") in str(caught.value)
    with pytest.raises(DataError, match="mnist is not in"):
        load_dataset("mnist", download=False)
    assert server.requests == []


def test_part_of_a_set_is_an_error_not_a_download(tmp_path: Path, server: FileServer) -> None:
    write_idx_set(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte missing"):
        load_dataset("mnist", data_dir=tmp_path)
    assert server.requests == []


def test_images_of_another_size_are_not_mnist(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "mnist", size=(8, 8))
    with pytest.raises(DataError, match="images are 8x8, they must be 28x28"):
        load_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("by_argument", [True, False])
def test_data_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_argument: bool) -> None:
    place = tmp_path / "absent"
    if not by_argument:
        monkeypatch.setenv("LAYERLINE_DATA", str(place))
    with pytest.raises(DataError, match="--data-dir" if by_argument else "LAYERLINE_DATA"):
        load_dataset("mnist", data_dir=place if by_argument else None)
    load_dataset("digits", data_dir=place)


def test_paths(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 2)), y=[0, 1, 0, 1])
    assert load_dataset(str(tmp_path / "mine.npz")).name == "mine"
    assert load_dataset(str(make(tmp_path / "pets"))).classes == ("cat", "dog")
    own = load_dataset(str(write_idx_set(tmp_path / "own", size=(5, 4))))
    assert (own.name, own.shape, own.num_classes) == ("own", (1, 5, 4), 10)


def test_unknown_name_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="no data set 'mnits'; did you mean 'mnist'"):
        load_dataset("mnits")
    with pytest.raises(UsageError, match="did you mean 'cifar-10'"):
        load_dataset("cifar10")
    with pytest.raises(UsageError, match="fashion-mnist, kmnist"):
        load_dataset("qqqqqqqqqq")


def test_unknown_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no such file"):
        load_dataset("absent.npz")
    (tmp_path / "set.pkl").write_bytes(b"")
    with pytest.raises(UsageError, match="no kind of file that holds a data set"):
        load_dataset(str(tmp_path / "set.pkl"))


def test_hugging_face_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(catalog, "from_hugging_face", lambda name: asked.append(name))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    load_dataset("hf:owner/pets")
    with pytest.raises(UsageError, match="downloads are off"):
        load_dataset("hf:owner/pets", download=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load_dataset("hf:owner/pets", download=False)
    assert asked == ["hf:owner/pets"] * 2


def test_names() -> None:
    assert dataset_names() == ("cifar-10", "cifar-100", "digits", "fashion-mnist", "kmnist", "mnist")
    assert set(REMOTE_FILES) == set(dataset_names()) - {"digits"} | set(TEXT_NAMES)
    assert len(CIFAR_100_CLASSES) == 100


@pytest.mark.parametrize("name", ["tinyshakespeare", "my/notes.txt"])
def test_a_text_is_no_labelled_set(name: str) -> None:
    with pytest.raises(UsageError, match=r"is a text, which language models learn from"):
        load_dataset(name)


@pytest.mark.data
def test_real_mnist() -> None:
    data = load_dataset("mnist", data_dir=DATA, download=False)
    assert data.test is not None
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(float(data.train.inputs.float().mean()) / 255 - 0.1307) < 5e-5
    for file in REMOTE_FILES["mnist"]:
        content = (Path(DATA) / "mnist" / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert hashlib.md5(content).hexdigest() == file.md5


@pytest.mark.data
def test_real_cifar_10() -> None:
    data = load_dataset("cifar-10", data_dir=DATA, download=False)
    assert data.test is not None
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    means = (data.train.inputs.flatten(2).float().mean((0, 2)) / 255).tolist()
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
