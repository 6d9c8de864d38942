"""Data that each node has to itself: what is told of it, and what all agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from layerline.data.dataset import Dataset, Examples
from layerline.data.own import Account, OwnData, agree, read_parts, renumber
from layerline.data.statistics import Spread, spread, together
from layerline.errors import DataError, LayerlineError

ACCOUNT: dict[str, Any] = {
    "images": True,
    "shape": (1, 4, 4),
    "classes": ("0", "1"),
    "examples": 5,
    "mean": (3.0,),
    "std": (1.0,),
}


def account(**changes: Any) -> Account:
    return Account(**(ACCOUNT | changes))


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=40),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    far=st.sampled_from([0.0, 1e6]),
    how=st.sampled_from(["global", "channel"]),
)
@settings(max_examples=60, deadline=None)
def test_put_together_it_is_the_whole(
    values: list[float], cuts: tuple[float, float], far: float, how: Literal["global", "channel"]
) -> None:
    """Also of data far from 0, where a sum of squares would have lost the deviation."""
    inputs = torch.tensor([[value + far, -value] for value in values])
    places = sorted({round(cut * len(values)) for cut in cuts} - {0, len(values)})
    parts = [inputs[a:b] for a, b in zip([0, *places], [*places, len(values)], strict=True)]
    whole, found = spread(inputs, how), together([spread(part, how) for part in parts], how)
    assert found.count == len(values)
    assert found.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-9)
    assert found.std == pytest.approx(whole.std, rel=1e-9, abs=1e-9 * (1 + far))


def test_without_standardising_there_is_nothing_to_average() -> None:
    part = spread(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), "none")
    assert together([part] * 3, "none") == Spread(9, (0.0,), (255.0,))


def test_classes_are_known_by_their_names() -> None:
    accounts = [account(classes=("cat", "dog")), account(classes=("bird", "dog", "cow"))]
    classes = agree(accounts)
    assert classes == ("cat", "dog", "bird", "cow")
    pixels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    part = Dataset("two", Examples(pixels, torch.tensor([2, 0, 1])), None, ("bird", "dog", "cow"))
    again = renumber(part, classes)
    assert [classes[label] for label in again.train.labels] == ["cow", "bird", "dog"]
    with pytest.raises(DataError, match="two: there is no class bird"):
        renumber(part, ("cat", "dog", "cow"))


def test_numbers_are_names_where_there_are_no_others() -> None:
    assert agree([account(classes=("0",)), account(classes=("0", "1", "2"))]) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"shape": (1, 4, 5)}, "node 2 has uint8 images of shape 1 x 4 x 5, where most have uint8 images of shape 1 x"),
        ({"images": False, "shape": (16,)}, "node 2 has float features of shape 16, where most have uint8 images"),
        ({"classes": ("cat", "dog")}, "node 2 has classes with names, where most have classes without names"),
        ({"mean": (1.0, 2.0)}, "statistics of other inputs"),
    ],
)
def test_nodes_that_do_not_fit(odd: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        agree([account(), account(**odd), account(), account()])
    with pytest.raises(DataError, match="one class only"):
        agree([account(classes=("0",))] * 2)


def test_of_two_the_first_is_right() -> None:
    with pytest.raises(DataError, match=r"node 2 has .* of shape 1 x 9 x 9"):
        agree([account(), account(shape=(1, 9, 9))])


@pytest.mark.parametrize(
    "given", [None, [], "x", {}, ACCOUNT | {"examples": 0}, ACCOUNT | {"mean": ["a"]}, ACCOUNT | {"pixels": [1, 2]}]
)
def test_an_account_that_cannot_be_read(given: object) -> None:
    with pytest.raises(LayerlineError, match="what node 2 says of its data cannot be read"):
        Account.read(given, 1)


def test_an_account_says_no_more_than_it_has_to() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (7, 1, 4, 4), generator=draw).to(torch.uint8)
    data = Dataset("mine", Examples(pixels, torch.tensor([0, 1] * 3 + [1])), None, ("0", "1"))
    said = json.loads(json.dumps(Account.of(data, "global").model_dump(mode="json")))
    assert set(said) == {"images", "shape", "classes", "examples", "mean", "std"}
    assert (said["images"], said["shape"], said["classes"], said["examples"]) == (True, [1, 4, 4], ["0", "1"], 7)
    assert said["mean"] == pytest.approx([pixels.double().mean().item()])
    assert Account.read(said, 0) == Account.of(data, "global"), "not a bit is lost on the way"


def test_a_part_need_not_have_every_class(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "1.npz", x=pixels, y=[0, 0])
    np.savez(tmp_path / "2.npz", x=pixels, y=[3, 1])
    parts = read_parts(str(tmp_path / "{node}.npz"), [0, 1], validation=False)
    together = OwnData.of("both", "global", parts)
    assert together.classes == ("0", "1", "2", "3")
    assert together.parts[1].train.labels.tolist() == [3, 1]
    assert together.examples == 4


def test_image_folders(tmp_path: Path) -> None:
    for node, names in ((1, ("cat",)), (2, ("bird", "cat"))):
        for name in names:
            folder = tmp_path / str(node) / name
            folder.mkdir(parents=True)
            Image.new("L", (4, 3), 10 * node).save(folder / "1.png")
    together = OwnData.of("both", "none", read_parts(str(tmp_path / "{node}"), [0, 1], validation=False))
    assert together.classes == ("cat", "bird")
    assert together.parts[1].train.labels.tolist() == [1, 0]
    assert together.parts[1].train.inputs[0, 0, 0, 0] == 20


def test_the_digest_of_a_part_is_about_that_part_only(tmp_path: Path) -> None:
    """Another node's new class gives the labels here other numbers, not other data."""
    for node in (1, 2):
        np.savez(tmp_path / f"{node}.npz", x=np.zeros((2, 4), np.float32), y=[0, 1], classes=["a", "b"])
    name = str(tmp_path / "{node}.npz")
    before = OwnData.of(name, "none", read_parts(name, [0, 1], validation=False))
    np.savez(tmp_path / "1.npz", x=np.zeros((2, 4), np.float32), y=[0, 1], classes=["c", "b"])
    after = OwnData.of(name, "none", read_parts(name, [0, 1], validation=False))
    assert before.digests[1] == after.digests[1]
    assert before.digests[0] != after.digests[0]
    assert before.parts[1].train.labels.tolist() != after.parts[1].train.labels.tolist()


def test_errors_name_the_node(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=np.zeros((2, 4)), y=[0, 1])
    with pytest.raises(DataError, match=r"node 2: .*2\.npz: there is no such file"):
        read_parts(str(tmp_path / "{node}.npz"), [0, 1], validation=False)
    (tmp_path / "2.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"node 2: .*2\.npz: not a readable .npz file"):
        read_parts(str(tmp_path / "{node}.npz"), [1], validation=False)
