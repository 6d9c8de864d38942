"""The families of networks that are trained in streams, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal, NoReturn

from pydantic import Field

from layerline.blocks.conv import Conv, Dni, Vgg
from layerline.blocks.layer import BaseArchitecture
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer
from layerline.errors import UsageError


class OwnLayers(BaseArchitecture):
    """Layers that were handed in from Python; a run knows that they were, not what they are."""

    kind: Literal["own"] = "own"

    def layers(self, input_shape: tuple[int, ...], classes: int) -> NoReturn:
        raise UsageError(
            "this run trains modules of your own, which no file describes",
            hint="hand the same modules in from Python: network=... of layerline.train, resume, load or evaluate",
        )


Architecture = Annotated[Conv | Dni | Vgg | ResNet | Transformer | OwnLayers, Field(discriminator="kind")]
