"""Networks of the papers: shapes, parameter counts of the literature, causality, and layers built anew."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from layerline.blocks.architecture import Architecture
from layerline.blocks.conv import Conv, Dni, Vgg
from layerline.blocks.layer import BaseArchitecture, Layer
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer
from layerline.errors import UsageError

CIFAR = (3, 32, 32)

FAMILIES: list[tuple[BaseArchitecture, tuple[int, ...], int]] = [
    (Conv(widths=(4, 8, 8)), (3, 8, 8), 5),
    (Conv(widths=(4, 4), classifier="linear"), (1, 6, 6), 3),
    (Dni(width=4), (3, 27, 27), 5),
    (Vgg(depth=11, width=0.1), CIFAR, 5),
    (ResNet(depth=20, width=0.5), (3, 8, 8), 5),
    (ResNet(depth=18, width=0.1), (3, 16, 16), 5),
    (ResNet(depth=50, width=0.1), (3, 16, 16), 5),
    (Transformer(depth=2, width=16, attention_heads=2, context=9), (9,), 7),
]


def sample(input_shape: tuple[int, ...], classes: int, batch: int = 3) -> Tensor:
    if len(input_shape) == 1:
        return torch.randint(classes, (batch, *input_shape))
    return torch.randn(batch, *input_shape)


def parameters(layers: list[nn.Module]) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(("network", "input_shape", "classes"), FAMILIES, ids=lambda v: getattr(v, "kind", None))
def test_scores_from_examples(network: BaseArchitecture, input_shape: tuple[int, ...], classes: int) -> None:
    layers = network.layers(input_shape, classes)
    h = sample(input_shape, classes)
    for layer in layers:
        h = layer(h)
    assert h.shape == ((3, classes) if len(input_shape) == 3 else (3, *input_shape, classes))


@pytest.mark.parametrize(("network", "input_shape", "classes"), FAMILIES, ids=lambda v: getattr(v, "kind", None))
def test_the_global_generator_decides_the_weights(
    network: BaseArchitecture, input_shape: tuple[int, ...], classes: int
) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for layer in network.layers(input_shape, classes) for p in layer.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("network", "input_shape", "classes"), FAMILIES, ids=lambda v: getattr(v, "kind", None))
def test_every_layer_takes_a_leaf_that_wants_a_gradient(
    network: BaseArchitecture, input_shape: tuple[int, ...], classes: int
) -> None:
    """In-place activations are no obstacle: the input of a block is a leaf when its gradient has to travel."""
    h = sample(input_shape, classes)
    for layer in network.layers(input_shape, classes):
        given = h.detach().requires_grad_() if h.is_floating_point() else h
        before = given.detach().clone()
        h = layer(given)
        h.sum().backward()
        assert torch.equal(given, before)
        assert given.grad is not None or not given.is_floating_point()


@pytest.mark.parametrize(("network", "input_shape", "classes"), FAMILIES, ids=lambda v: getattr(v, "kind", None))
def test_layers_anew_stand_where_their_originals_stand(
    network: BaseArchitecture, input_shape: tuple[int, ...], classes: int
) -> None:
    h = sample(input_shape, classes)
    for layer in network.layers(input_shape, classes):
        outputs = layer(h)
        if isinstance(layer, Layer):
            copy = layer.anew(layer.inputs, layer.stride)
            assert copy(h).shape == outputs.shape
            ours, theirs = dict(layer.named_parameters()), dict(copy.named_parameters())
            assert {n: p.shape for n, p in ours.items()} == {n: p.shape for n, p in theirs.items()}
            assert not any(p.data_ptr() == theirs[name].data_ptr() for name, p in ours.items())
        h = outputs


@pytest.mark.parametrize("network", [Conv(widths=(4, 8)), Vgg(depth=11, width=0.1), ResNet(depth=20, width=0.5)])
def test_image_layers_anew_for_other_inputs(network: BaseArchitecture) -> None:
    for layer in network.layers(CIFAR, 5):
        if isinstance(layer, Layer):
            assert layer.anew(3, 4)(torch.randn(2, 3, 16, 16)).shape == (2, layer.outputs, 4, 4)
            assert layer.anew(100, 1)(torch.randn(2, 100, 4, 4)).shape == (2, layer.outputs, 4, 4)


@pytest.mark.parametrize(
    ("network", "input_shape", "classes", "count"),
    [
        # He et al., table 6: 0.27 M, 0.46 M, 0.85 M and 1.7 M; exact with batch norm and shortcuts of option A
        (ResNet(depth=20), CIFAR, 10, 269_722),
        (ResNet(depth=32), CIFAR, 10, 464_154),
        (ResNet(depth=56), CIFAR, 10, 853_018),
        (ResNet(depth=110), CIFAR, 10, 1_727_962),
        # as in torchvision
        (ResNet(depth=18), (3, 224, 224), 1000, 11_689_512),
        (ResNet(depth=50), (3, 224, 224), 1000, 25_557_032),
        (ResNet(depth=152), (3, 224, 224), 1000, 60_192_808),
        # torchvision's vgg13_bn has 133,053,736, of which 2,944 are biases of convolutions
        (Vgg(depth=13), (3, 224, 224), 1000, 133_053_736 - 2_944),
        # VGG-16 with batch norm on CIFAR-10, commonly 14,728,266 with 4,224 biases of convolutions
        (Vgg(depth=16), CIFAR, 10, 14_728_266 - 4_224),
        # GPT-2 small, 124,439,808, and an unembedding of its own
        (
            Transformer(depth=12, width=768, attention_heads=12, context=1024),
            (1024,),
            50_257,
            124_439_808 + 768 * 50_257,
        ),
    ],
)
def test_parameters_as_in_the_literature(
    network: BaseArchitecture, input_shape: tuple[int, ...], classes: int, count: int
) -> None:
    with torch.device("meta"):
        assert parameters(network.layers(input_shape, classes)) == count


def test_the_dgl_network_pools_before_it_widens() -> None:
    layers = Conv().layers(CIFAR, 10)
    h, sides = torch.randn(2, *CIFAR), []
    for layer in layers[:-1]:
        h = layer(h)
        sides.append(h.shape[-1])
    assert sides == [32, 16, 16, 8, 8]
    assert [layer.outputs for layer in layers if isinstance(layer, Layer)] == [64, 128, 128, 256, 256]


def test_resnets_on_large_images_start_with_a_quarter_of_the_resolution() -> None:
    assert ResNet(depth=18, width=0.1).layers((3, 96, 96), 5)[0](torch.randn(1, 3, 96, 96)).shape[-1] == 24
    assert ResNet(depth=18, width=0.1).layers((3, 64, 64), 5)[0](torch.randn(1, 3, 64, 64)).shape[-1] == 64
    assert ResNet(depth=20, width=0.1).layers((3, 96, 96), 5)[0](torch.randn(1, 3, 96, 96)).shape[-1] == 96


def test_residual_blocks_per_depth() -> None:
    with torch.device("meta"):
        for depth, blocks in {20: 9, 110: 54, 18: 8, 34: 16, 50: 16, 101: 33, 152: 50}.items():
            assert len(ResNet(depth=depth).layers(CIFAR, 10)) == blocks + 2  # type: ignore[arg-type]


def test_future_tokens_do_not_change_past_scores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*Transformer(depth=2, width=16, attention_heads=2, context=12).layers((12,), 20)).eval()
    tokens = torch.randint(20, (2, 12))
    scores = model(tokens)
    for changed in range(12):
        others = tokens.clone()
        others[:, changed] = (others[:, changed] + 1) % 20
        after = model(others)
        assert torch.equal(after[:, :changed], scores[:, :changed])
        assert not torch.allclose(after[:, changed], scores[:, changed])


def test_positions_matter_and_shorter_texts_are_taken() -> None:
    model = nn.Sequential(*Transformer(depth=1, width=16, context=8).layers((8,), 5)).eval()
    same = model(torch.full((1, 6), 3))
    assert same.shape == (1, 6, 5)
    assert not torch.allclose(same[0, 0], same[0, 1])
    with pytest.raises(UsageError, match="9 tokens are more than the network's context of 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))


def test_a_fresh_language_model_knows_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*Transformer(depth=4, width=64, context=16).layers((16,), 65))
    tokens = torch.randint(65, (4, 16))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert abs(loss.item() - math.log(65)) < 0.1


@pytest.mark.parametrize(
    ("network", "input_shape", "what"),
    [
        (Conv(), (784,), r"a conv network wants images, and the examples have the shape \[784\]"),
        (Conv(widths=(4, 8, 16, 32, 64)), (1, 8, 8), "images of 8×8 are too small: this conv network divides"),
        (Dni(), (1, 8, 8), "images of 8×8 are too small: this dni network divides each side by 27"),
        (Vgg(), (1, 28, 28), "images of 28×28 are too small"),
        (ResNet(), (128,), "a resnet network wants images"),
        (Transformer(), CIFAR, r"a transformer wants tokens, and the examples have the shape \[3, 32, 32\]"),
        (Transformer(context=8), (9,), "examples of 9 tokens are longer than the network's context of 8"),
    ],
)
def test_examples_a_network_cannot_take(network: BaseArchitecture, input_shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        network.layers(input_shape, 10)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="width of 10 cannot be shared by 4 attention heads"):
        Transformer(width=10)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Conv(widths=(4, 0))
    with pytest.raises(ValidationError):
        ResNet(depth=19)  # type: ignore[arg-type]


def test_told_apart_by_kind() -> None:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Architecture] = TypeAdapter(Architecture)
    for network, _, _ in FAMILIES:
        assert adapter.validate_python(network.model_dump()) == network


def test_a_closing_norm_gives_what_goes_on_one_size() -> None:
    """Blocks that different losses train drive the sum up: with reach 2 a hundredfold within 80 steps."""
    for closing, size in ((True, 1.0), (False, 50.0)):
        layers = Transformer(depth=2, width=16, attention_heads=2, context=9, closing_norm=closing).layers((9,), 7)
        decoder = layers[1]
        with torch.no_grad():
            grown = decoder(50 * torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0)))
        assert grown.square().mean().sqrt().item() == pytest.approx(size, rel=0.1)
        assert isinstance(decoder, Layer)
        again = decoder.anew(16, 1)  # for a head that looks like the network
        assert {n: t.shape for n, t in again.state_dict().items()} == {
            n: t.shape for n, t in decoder.state_dict().items()
        }
