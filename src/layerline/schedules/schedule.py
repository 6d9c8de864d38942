"""All schedules, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.dff import Dff
from layerline.schedules.federated import Federated
from layerline.schedules.sequential import Sequential
from layerline.schedules.single_layer import SingleLayer

Schedule = Annotated[Sequential | SingleLayer | AllLayers | Federated | Dff, Field(discriminator="kind")]
