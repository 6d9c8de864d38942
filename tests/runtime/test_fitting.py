"""What another process sent is of the right names and shapes, or refused; nothing is spread out or half taken over."""

from __future__ import annotations

import pytest
import torch

from layerline.errors import MessageRefused
from layerline.runtime.fitting import fit
from layerline.runtime.pipeline import make_node
from layerline.runtime.planning import planned
from small_runs import small_data, small_run

DATA = small_data()
RUN = small_run(order="chapters", schedule={"kind": "all-layers"}, nodes=2, negatives={"kind": "adaptive"})
NODE = make_node(RUN, planned(RUN, 3), DATA, 0)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (None, "there is no 'w' in it"),
        ((3, 1), r"'w' is 3 × 1, wanted is 3 × 4"),
        ((4,), r"'w' is 4, wanted is 3 × 4"),
        ((), r"'w' is one number, wanted is 3 × 4"),
    ],
)
def test_names_and_shapes(shape: tuple[int, ...] | None, why: str) -> None:
    fit("it", {"w": torch.zeros(3, 4), "more": torch.zeros(1)}, {"w": (3, 4)})
    came = {} if shape is None else {"w": torch.zeros(shape)}
    with pytest.raises(MessageRefused, match=f"it was refused: {why}"):
        fit("it", came, {"w": (3, 4)})


def test_a_block_that_does_not_fit_changes_nothing() -> None:
    """A bias of one number was spread over all units: copying broadcasts."""
    before = {name: tensor.clone() for name, tensor in NODE.learner_tensors(1).items()}
    name, matrix = next((n, t) for n, t in before.items() if t.dim() == 2)
    for wrong in ({name: matrix[:1]}, {name: torch.zeros(())}):
        with pytest.raises(MessageRefused, match=f"stage 2 as it came was refused: '{name}' is"):
            NODE.load_block(1, [before, {n: t + 1 for n, t in before.items()} | wrong], moments=True)
    with pytest.raises(MessageRefused, match=f"there is no '{name}' in it"):
        NODE.load_block(1, [{n: t + 1 for n, t in before.items() if n != name}], moments=True)
    assert all(torch.equal(tensor, before[n]) for n, tensor in NODE.learner_tensors(1).items())


def test_labels_that_do_not_fit() -> None:
    whole = torch.arange(len(DATA.train.labels)) % 4
    NODE.take_labels([{"labels": whole[:20]}, {"labels": whole[20:]}])
    assert torch.equal(NODE.negatives_n, whole)
    with pytest.raises(MessageRefused, match=r"'labels' is 1, wanted is 41"):
        NODE.take_labels([{"labels": whole[:1]}])
    with pytest.raises(MessageRefused, match="there is no 'labels' in it"):
        NODE.take_labels([{"label": whole}])
    assert torch.equal(NODE.negatives_n, whole)
