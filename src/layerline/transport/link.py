"""The two ends of a link (from one node to another), and the references they share.

`Outgoing` turns named tensors into a message, `Incoming` turns it back. With differences on the wire both keep, for
every tensor that travels so, the version the receiver decoded last. These references are a function of the sequence of
messages on the link, and the sender's copy is the one that counts: a receiver that starts anew is given it.

After a restart there are two ways to the same bits, and both may be used together:

- `resend` what `encode` said the reader would hold: it travels in full and becomes the reference again;
- `load` the sender's references as they were: the first difference from one is preceded by it, in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from layerline.errors import LayerlineError, MessageRefused
from layerline.transport.codecs import STREAMED, Bf16, Fp32, Int8, narrowest, stepped, steps
from layerline.transport.message import NAMES, Key, Message, Record, pack, unpack

Name = tuple[str, int, str]
"""What a reference is of: carries, stage, name of the tensor."""


@dataclass(frozen=True, eq=False)
class _Reference:
    row: int
    """The row whose version it is."""
    tensor: Tensor
    """float32; never written to."""
    held: bool = True
    """Whether the other end holds it, too."""


@final
class Outgoing:
    """The sending end."""

    def __init__(self, source: int, to: int, codec: Fp32 | Bf16 | Int8) -> None:
        self.source, self.to, self.codec = source, to, codec
        self._references: dict[Name, _Reference] = {}

    def encode(self, key: Key, tensors: dict[str, Tensor]) -> tuple[Message, dict[str, Tensor]]:
        """The message, a copy of the tensors in it; and what its reader will hold, to be read and not changed.

        LayerlineError for a type that cannot travel, or for weights that are not finite.
        """
        records: list[tuple[Record, list[Tensor]]] = []
        decoded, news = {}, {}
        for name, given in tensors.items():
            tensor = given.detach().cpu()
            if tensor.dtype not in NAMES or tensor.layout != torch.strided:
                raise LayerlineError(f"cannot send {name} of {key}: {tensor.dtype}, {tensor.layout}")
            coding = self.codec.coding(key, name, tensor)
            if coding == "int8":
                written, news[key.carries, key.stage, name] = self._difference(key, name, tensor)
                records += written
                decoded[name] = news[key.carries, key.stage, name].tensor
            elif coding == "steps":
                scale, quanta = steps(tensor.float(), None, f"{name} of {key}")
                records.append((_record(name, "difference", tensor, torch.int8), [scale, quanta]))
                decoded[name] = stepped(None, scale, quanta).to(tensor.dtype)
            else:
                wire = torch.bfloat16 if coding == "bf16" else narrowest(tensor)
                records.append((_record(name, "cast", tensor, wire), [tensor]))
                decoded[name] = tensor.to(wire).to(tensor.dtype) if coding == "bf16" else tensor
        self._references |= news
        return Message(key, self.source, self.to, *pack(records)), decoded

    def repeat(self, key: Key, decoded: dict[str, Tensor]) -> Message:
        """The message that brings what `encode` returned, in full and unchanged; later differences start from it."""
        records = []
        for name, given in decoded.items():
            tensor = given.detach().cpu()
            if self.codec.coding(key, name, tensor) == "int8":
                self._references[key.carries, key.stage, name] = _Reference(key.row, tensor.clone())
                records.append((_record(name, "reference", tensor, tensor.dtype), [tensor]))
            else:
                records.append((_record(name, "cast", tensor, narrowest(tensor)), [tensor]))
        return Message(key, self.source, self.to, *pack(records))

    def _difference(self, key: Key, name: str, tensor: Tensor) -> tuple[list[tuple[Record, list[Tensor]]], _Reference]:
        last = self._references.get((key.carries, key.stage, name))
        if last is not None and last.tensor.shape != tensor.shape:
            last = None
        first = self.codec.first if isinstance(self.codec, Int8) else "exact"
        if last is None and first != "int8":
            wire = torch.bfloat16 if first == "bf16" else tensor.dtype
            decoded = tensor.to(wire, copy=True).to(tensor.dtype)
            return [(_record(name, "reference", tensor, wire), [tensor])], _Reference(key.row, decoded)
        records: list[tuple[Record, list[Tensor]]] = []
        if last is not None and not last.held:
            again = _record(name, "reference", last.tensor, last.tensor.dtype, base=last.row)
            records.append((again, [last.tensor]))
        base = None if last is None else last.tensor
        scale, quanta = steps(tensor, base, f"{name} of {key}")
        difference = _record(name, "difference", tensor, torch.int8, base=None if last is None else last.row)
        return [*records, (difference, [scale, quanta])], _Reference(key.row, stepped(base, scale, quanta))

    def tensors(self) -> dict[str, Tensor]:
        """The references, to be saved; empty with codecs that need none."""
        return {f"{c}.{s}.{r.row}.{name}": r.tensor for (c, s, name), r in self._references.items()}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Take references back, as `tensors` gave them. The other end is assumed to hold none."""
        self._references = _references(saved, held=False)


@final
class Incoming:
    """The receiving end. Messages are to be decoded in the order they were encoded in."""

    def __init__(self) -> None:
        self._references: dict[Name, _Reference] = {}

    def decode(self, message: Message, refuse: Callable[[str], MessageRefused]) -> dict[str, Tensor]:
        """The tensors, the caller's own. MessageRefused where table, payload or reference don't fit."""
        tensors: dict[str, Tensor] = {}
        key = message.key
        for record, pieces in unpack(message.table, message.payload, refuse):
            place = (key.carries, key.stage, record.name)
            if record.coding == "cast":
                tensors[record.name] = pieces[0].to(getattr(torch, record.dtype))
                continue
            if record.coding == "reference":
                version = pieces[0].to(torch.float32, copy=True)
                row = key.row if record.base is None else record.base
                self._references[place] = _Reference(row, version)
            else:
                base = self._base(key, record, refuse)
                version = stepped(base, *pieces)
                if key.carries not in STREAMED:
                    self._references[place] = _Reference(key.row, version)
            tensors[record.name] = version.to(getattr(torch, record.dtype), copy=True)
        return tensors

    def tensors(self) -> dict[str, Tensor]:
        """The references, named as the sender names them."""
        return {f"{c}.{s}.{r.row}.{name}": r.tensor for (c, s, name), r in self._references.items()}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Take references back, as `tensors` gave them."""
        self._references = _references(saved, held=True)

    def _base(self, key: Key, record: Record, refuse: Callable[[str], MessageRefused]) -> Tensor | None:
        if record.base is None:
            return None
        held = self._references.get((key.carries, key.stage, record.name))
        if held is None or held.row != record.base or held.tensor.shape != record.shape:
            here = "none" if held is None else f"that of row {held.row}"
            raise refuse(f"{record.name} of {key} is a difference from row {record.base}, this end holds {here}")
        return held.tensor


def _references(saved: dict[str, Tensor], *, held: bool) -> dict[Name, _Reference]:
    found = {}
    for title, tensor in saved.items():
        carries, stage, row, name = title.split(".", 3)
        found[carries, int(stage), name] = _Reference(int(row), tensor.cpu(), held=held)
    return found


def _record(name: str, coding: str, tensor: Tensor, wire: torch.dtype, base: int | None = None) -> Record:
    return Record(name, coding, NAMES[tensor.dtype], NAMES[wire], tuple(tensor.shape), base)
