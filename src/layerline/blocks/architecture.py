"""The families of networks that are trained in streams, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from layerline.blocks.conv import Conv, Dni, Vgg
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer

Architecture = Annotated[Conv | Dni | Vgg | ResNet | Transformer, Field(discriminator="kind")]
