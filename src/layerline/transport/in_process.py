"""All logical nodes in one process: messages are encoded, decoded, and there."""

from __future__ import annotations

from typing import final

from layerline.transport.base import Transport
from layerline.transport.codecs import Bf16, Fp32, Int8
from layerline.transport.message import Message


@final
class InProcess(Transport):
    """Transport of a process that carries out all `nodes` of a plan, one after the other or in threads."""

    def __init__(
        self, nodes: int, *, codec: Fp32 | Bf16 | Int8 | None = None, timeout: float = 600.0, delay: float = 0.0
    ) -> None:
        super().__init__([0] * nodes, 0, codec or Fp32(), timeout, delay)

    def dispatch(self, message: Message) -> None:
        self._deliver_here(message)

    def close(self) -> None:
        """There is nothing to flush."""
        if self._line:
            self._line.close()
