"""Where the published sets lie, and how to know that a file is the right one.

Every file has a digest: SHA-256, or MD5 where the publisher gave only that. MD5 protects from damage, not from a
forger; the readers check the structure of every file anyway, and no file can run code. `limit` bounds what a server may
send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to download: its name, the addresses to try in turn, its digest and the most bytes it may have."""

    name: str
    urls: tuple[str, ...]
    limit: int
    sha256: str | None = None
    md5: str | None = None


def _idx_files(
    mirrors: tuple[str, ...], md5: tuple[str, ...], sha256: tuple[str | None, ...] = (None,) * 4
) -> tuple[RemoteFile, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple(
        RemoteFile(
            name=f"{name}.gz",
            urls=tuple(f"{mirror}/{name}.gz" for mirror in mirrors),
            limit=64 * _MIB if "images" in name else _MIB,
            sha256=strong,
            md5=weak,
        )
        for name, weak, strong in zip(names, md5, sha256, strict=True)
    )


def _cifar_files(name: str, md5: str) -> tuple[RemoteFile, ...]:
    url = f"https://www.cs.toronto.edu/~kriz/{name}"
    return (RemoteFile(name=name, urls=(url,), limit=256 * _MIB, md5=md5),)


REMOTE_FILES: Mapping[str, tuple[RemoteFile, ...]] = {
    "mnist": _idx_files(
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
        md5=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": _idx_files(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ),
        md5=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "kmnist": _idx_files(
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
        md5=(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    "cifar-10": _cifar_files("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar-100": _cifar_files("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    "tinyshakespeare": (
        RemoteFile(
            name="input.txt",
            urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
            limit=2 * _MIB,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
}
"""The files of every published set."""
