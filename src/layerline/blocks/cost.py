"""What each layer of a network costs: trainable parameters, multiply-accumulates, outputs, or measured seconds.

`layer_costs` counts and computes nothing: it sends a tensor without numbers (device "meta") through the layers, and
PyTorch's counter adds up the matrix products, convolutions and attention. Norms, activations, pooling and additions
count as nothing. Attention counts in full, also where a mask hides half of it.

`layer_seconds` measures. A locally trained block runs forward and computes its weight gradients; nobody asks for the
gradient of its input. So a layer with parameters is timed without its input gradient, and a layer without (ReLU,
pooling) with it, because the gradient has to come through it to reach the weights before it:

    block   Linear ──────► ReLU ──────► local loss       1. forward through every layer
            dL/dW  ◄────── dL/dx ◄─────                  2. backward, ending at the first weights

Layers before the first one with parameters (a leading Flatten) pass no gradient.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from layerline.blocks.network import predicting
from layerline.errors import UsageError


def learns(layer: nn.Module) -> bool:
    """Whether the layer has a parameter that training may change."""
    return any(parameter.requires_grad for parameter in layer.parameters())


def parameter_counts(sequential: nn.Sequential) -> tuple[int, ...]:
    """The number of trainable parameters (elements) of each layer.

    Raises `UsageError` for a lazy layer, whose shapes are not known yet.
    """
    for index, layer in enumerate(sequential):
        _refuse_lazy(index, layer)
    return tuple(sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in sequential)


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What a layer costs for one example."""

    macs: int
    """Multiply-accumulates of a forward pass; a weight gradient takes as many again, an input gradient too."""
    parameters: int
    """Trainable parameters (elements)."""
    output_shape: tuple[int, ...]
    """Of one example."""
    output_bytes: int
    """Of one example, in the type the layer gives."""


def layer_costs(
    layers: Iterable[nn.Module], input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[LayerCost, ...]:
    """The cost of each layer (or block, or head) in a row, for examples of `input_shape` and `dtype` (tokens: int64).

    Counted in evaluation mode and without computing anything; the layers stay as they were. Raises `UsageError` if a
    layer is lazy, does not take what reaches it, or returns something else than a tensor.
    """
    costs = []
    inputs = torch.empty(1, *input_shape, dtype=dtype, device="meta")
    for index, layer in enumerate(layers):
        _refuse_lazy(index, layer)
        counter = FlopCounterMode(display=False)
        try:
            with predicting(layer), torch.no_grad(), torch.device("meta"), counter:
                # Ties as they are: PyTorch would leave a module that comes twice without its numbers.
                outputs = functional_call(layer, _numberless(layer), (inputs,), tie_weights=False)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise _does_not_take(index, layer, inputs, error, _what_to_do(error)) from error
        if not isinstance(outputs, Tensor):
            raise _no_tensor(index, layer, outputs, "Wrap it in a module that returns the tensor.")
        shape = tuple(outputs.shape[1:])
        costs.append(
            LayerCost(
                macs=counter.get_total_flops() // 2,
                parameters=sum(p.numel() for p in layer.parameters() if p.requires_grad),
                output_shape=shape,
                output_bytes=math.prod(shape) * outputs.element_size(),
            )
        )
        inputs = outputs
    return tuple(costs)


def _numberless(layer: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, on the device "meta"; those of a module that comes twice once."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor.to("meta")
        for prefix, module in layer.named_modules()
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    }


def layer_seconds(sequential: nn.Sequential, sample: Tensor, *, repeats: int = 5) -> tuple[float, ...]:
    """Seconds of one training step of each layer (forward and weight gradient): the fastest of `repeats` runs, since
    whatever else the machine does can only add.

    `sample` is one batch as the first layer takes it, on the device of the network: (batch, ...). Each layer is
    timed in training mode, on a copy and after one run to warm up: running statistics, gradients and the random
    state stay as they were.

    Raises `UsageError` if a layer is lazy, does not take what reaches it, or returns something else than a tensor.
    """
    if repeats < 1:
        raise UsageError(f"cannot measure in {repeats} runs", hint="Ask for at least one.")
    seconds: list[float] = []
    weights_before = False
    on_cpu = sample.device.type == "cpu"
    devices = [] if on_cpu else [sample.device]
    with (
        torch.random.fork_rng(devices, device_type="cuda" if on_cpu else sample.device.type),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        inputs = sample.clone()  # made in inference mode, the sample itself could not carry a gradient
        for index, layer in enumerate(sequential):
            _refuse_lazy(index, layer)
            trained = copy.deepcopy(layer).train()
            through = weights_before and not learns(layer)
            try:
                _, outputs = _step(trained, inputs, through=through)
                seconds.append(min(_step(trained, inputs, through=through)[0] for _ in range(repeats)))
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                hint = "Give as `sample` one batch of what the network trains on, on the same device."
                raise _does_not_take(index, layer, inputs, error, hint) from error
            if not isinstance(outputs, Tensor):
                hint = 'Wrap it in a module that returns the tensor, or split with balance="parameters".'
                raise _no_tensor(index, layer, outputs, hint)
            inputs, weights_before = outputs.detach(), weights_before or learns(layer)
    return tuple(seconds)


def _step(layer: nn.Module, inputs: Tensor, *, through: bool) -> tuple[float, Any]:
    """Time forward and backward once, the latter to the weights only, or `through` to the input if there are none."""
    source = inputs.detach()
    if through and (source.is_floating_point() or source.is_complex()):
        source = source.requires_grad_()
    given = source.clone()  # a layer may work in place, which a leaf that wants a gradient forbids
    wanted = [source] if source.requires_grad else [p for p in layer.parameters() if p.requires_grad]

    begin = _now(inputs)
    outputs = layer(given)  # 1
    seconds = _now(inputs) - begin
    if isinstance(outputs, Tensor) and outputs.requires_grad and wanted:
        upstream = torch.ones_like(outputs)
        begin = _now(inputs)
        torch.autograd.grad(outputs, wanted, upstream, allow_unused=True)  # 2
        seconds += _now(inputs) - begin
    return seconds, outputs


def _now(tensor: Tensor) -> float:
    """The time in seconds, once the accelerator that holds `tensor` has done what it was given."""
    if tensor.device.type != "cpu":
        torch.accelerator.synchronize(tensor.device)
    return time.perf_counter()


def _refuse_lazy(index: int, layer: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in [*layer.parameters(), *layer.buffers()]):
        raise UsageError(
            f"layer {index} ({type(layer).__name__}) is lazy: its shapes are not known yet",
            hint="Run one batch through the network first.",
        )


def _does_not_take(index: int, layer: nn.Module, inputs: Tensor, error: Exception, hint: str) -> UsageError:
    return UsageError(
        f"layer {index} ({type(layer).__name__}) does not take what reaches it, "
        f"shape {tuple(inputs.shape)}, dtype {inputs.dtype}: {error}",
        hint=hint,
    )


def _what_to_do(error: Exception) -> str:
    said = str(error)
    if "meta" in said:  # nothing is computed when costs are counted
        return "keep constants in buffers (register_buffer), and let nothing depend on what the numbers in a tensor are"
    if "dtype" in said or "type (" in said:
        return "give the layers parameters in float32: network.float()"
    return "check the shapes of the layers"


def _no_tensor(index: int, layer: nn.Module, outputs: object, hint: str) -> UsageError:
    return UsageError(
        f"layer {index} ({type(layer).__name__}) returns a {type(outputs).__name__}, not a tensor", hint=hint
    )
