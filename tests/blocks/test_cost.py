"""What layers cost, and that measuring leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerline.blocks.conv import Conv, Vgg
from layerline.blocks.cost import layer_costs, layer_seconds, parameter_counts
from layerline.blocks.layer import BaseArchitecture
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer
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


def test_costs_by_hand() -> None:
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 5)]
    conv, norm, flat, linear = layer_costs(layers, (3, 8, 8))
    assert (conv.macs, conv.parameters, conv.output_shape, conv.output_bytes) == (16 * 27 * 8, 216, (8, 4, 4), 512)
    assert (norm.macs, norm.parameters, norm.output_bytes) == (0, 16, 512)
    assert (flat.macs, flat.parameters, flat.output_shape) == (0, 0, (128,))
    assert (linear.macs, linear.parameters, linear.output_shape, linear.output_bytes) == (640, 645, (5,), 20)


def test_attention_is_counted() -> None:
    layers = Transformer(depth=1, width=16, attention_heads=2, context=10).layers((10,), 7)
    embedding, decoder, unembedding = layer_costs(layers, (10,), torch.int64)
    assert embedding.macs == 0
    assert decoder.macs == 10 * 12 * 16 * 16 + 2 * 10 * 10 * 16  # four and eight matrices; q·k and the mixing of v
    assert unembedding.macs == 10 * 16 * 7
    assert unembedding.output_shape == (10, 7)


@pytest.mark.parametrize(
    ("network", "input_shape", "millions"),
    [
        (Conv(), (3, 32, 32), 117),  # 115 of convolutions, 2 of the classifier
        (ResNet(depth=20), (3, 32, 32), 41),  # He et al.'s CIFAR form, commonly 41 M
        (ResNet(depth=110), (3, 32, 32), 253),  # commonly 253 M
        (ResNet(depth=18), (3, 224, 224), 1_814),  # torchvision: 1.81 G
        (ResNet(depth=50), (3, 224, 224), 4_089),  # torchvision: 4.09 G
        (Vgg(depth=13), (3, 224, 224), 11_308),  # torchvision: 11.31 G
    ],
)
def test_multiply_accumulates_as_in_the_literature(
    network: BaseArchitecture, input_shape: tuple[int, ...], millions: int
) -> None:
    with torch.device("meta"):
        layers = network.layers(input_shape, 10 if input_shape[1] == 32 else 1000)
    assert round(sum(cost.macs for cost in layer_costs(layers, input_shape)) / 1e6) == millions


def test_counting_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    layer_costs(network, (4,))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(layer.training for layer in network)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_layer_that_comes_twice_keeps_its_numbers() -> None:
    """They stayed on the device "meta" once, and the network's first step failed with an error of PyTorch's."""
    twice, tied = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    tied.weight = twice.weight
    network = nn.Sequential(twice, nn.ReLU(), twice, tied)
    assert layer_costs([network], (4,))[0].macs == 3 * 16
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert tied.weight is twice.weight


def test_what_cannot_be_counted() -> None:
    with pytest.raises(UsageError, match=r"layer 0 \(Conv2d\) does not take(.|\n)*in float32: network.float\(\)"):
        layer_costs([nn.Conv2d(1, 2, 3).double()], (1, 4, 4))
    with pytest.raises(UsageError, match=r"layer 1 \(Linear\) does not take what reaches it, shape \(1, 9\)"):
        layer_costs([nn.Flatten(), nn.Linear(4, 4)], (3, 3))
    with pytest.raises(UsageError, match=r"layer 0 \(LSTM\) returns a tuple"):
        layer_costs([nn.LSTM(4, 4)], (3, 4))
    with pytest.raises(UsageError, match=r"layer 0 \(LazyLinear\) is lazy"):
        layer_costs([nn.LazyLinear(4)], (3,))
