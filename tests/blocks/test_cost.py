"""What layers cost, and that measuring leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerline.blocks.cost import layer_seconds, parameter_counts
from layerline.errors import UsageError


def test_parameters_are_counted_per_layer_and_frozen_ones_are_not() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2)))
    assert parameter_counts(network) == (16, 0, 12)
    network[0].requires_grad_(False)
    assert parameter_counts(network) == (0, 0, 12)


def test_a_heavy_layer_takes_longer_than_a_light_one() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.Linear(1024, 2))
    seconds = layer_seconds(network, torch.randn(256, 8, 8))
    assert len(seconds) == 5
    assert all(second > 0 for second in seconds)
    assert max(seconds) == seconds[3]


def test_measuring_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 2))
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sample = torch.randn(16, 4)
    untouched, random_state = sample.clone(), torch.get_rng_state()

    with torch.no_grad():
        layer_seconds(network, sample, repeats=2)

    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training
    assert torch.equal(sample, untouched)
    assert not sample.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_layer_with_parameters_is_spared_its_input_gradient() -> None:
    class Spy(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.wanted = inner, wanted

        def forward(self, inputs: Tensor) -> Tensor:
            wanted.append(inputs.requires_grad)
            return self.inner(inputs)

        def __deepcopy__(self, memo: object) -> Spy:
            return self

    wanted: list[bool] = []
    layers = [nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)]
    layer_seconds(nn.Sequential(*map(Spy, layers)), torch.randn(2, 4), repeats=1)
    assert wanted[::2] == [False, False, True, False]


def test_tokens_and_samples_from_inference_mode_can_be_measured() -> None:
    network = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    assert len(layer_seconds(network, torch.randint(10, (5, 3)), repeats=1)) == 3
    with torch.inference_mode():
        image = torch.randn(5, 4)
        assert len(layer_seconds(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), image, repeats=1)) == 2


def test_a_sample_of_the_wrong_shape_is_refused_by_the_layer_it_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"layer 1 \(Linear\) does not take what reaches it, shape \(2, 9\)"):
        layer_seconds(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), torch.randn(2, 3, 3))


def test_a_layer_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layer 0 \(LSTM\) returns a tuple"):
        layer_seconds(nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 4)), torch.randn(2, 3, 4))


def test_lazy_layers_have_no_cost_yet() -> None:
    network = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(UsageError, match=r"layer 0 \(LazyLinear\) is lazy"):
        parameter_counts(network)
    with pytest.raises(UsageError, match=r"layer 0 \(LazyLinear\) is lazy"):
        layer_seconds(network, torch.randn(2, 3))


def test_no_runs_measure_nothing() -> None:
    with pytest.raises(UsageError, match="0 runs"):
        layer_seconds(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4), repeats=0)
