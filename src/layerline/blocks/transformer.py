"""A decoder-only Transformer language model: tokens in, scores of the next token at every position out.

    tokens [B, T] ► Embedding ► Decoder ► … ► Decoder ► Unembedding ► scores [B, T, V]

    Decoder   x + attention(norm(x)), then x + mlp(norm(x)): pre-norm (Xiong et al., arXiv 2002.04745)

Attention is causal: position t sees the positions up to t. Positions are learned (GPT-2). Embedding and unembedding do
not share their weights: they may lie in different blocks, on different nodes.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from layerline.blocks.layer import BaseArchitecture, Layer, Stem, Unembedding
from layerline.errors import UsageError

_STD = 0.02  # of fresh weights, as in GPT-2
_SHORT = 512  # tokens


class Embedding(Stem):
    """Token and position embeddings, added. int64 [B, T] -> [B, T, D], T at most `context`."""

    def __init__(self, vocabulary: int, width: int, context: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=_STD)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length, context = tokens_BT.shape[1], self.positions.num_embeddings
        if length > context:
            raise UsageError(f"{length} tokens are more than the network's context of {context}")
        return self.dropout(self.tokens(tokens_BT) + self.positions.weight[:length])


class Attention(nn.Module):
    """Causal multi-head self-attention. [B, T, D] -> [B, T, D]"""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        batch, length, width = x_BTD.shape
        packed = self.queries_keys_values(x_BTD).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D / heads]
        dropout = self.dropout if self.training else 0.0
        mixed = attend(q, k, v, dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Causal attention: softmax(q·kᵀ / √E)·v of the positions so far, E numbers a head. Each [B, heads, T, E].

    PyTorch's fused attention saves memory in long contexts. At T = 128 in bfloat16 its backward pass on a CPU takes
    seven times as long as that of the formula written out, so there short contexts are computed as written.
    """
    length, size = q.shape[-2:]
    if q.device.type != "cpu" or length > _SHORT:
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    later = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    scores = (q * size**-0.5) @ k.transpose(-1, -2) + later
    return functional.dropout(scores.softmax(-1).to(v.dtype), dropout) @ v


class Decoder(Layer):
    """Attention and an MLP with 4·D hidden units (GELU), each behind a norm and beside a shortcut. [B, T, D]

    `closing_norm`: a norm over the sum, too. What goes on then has one size, whatever a decoder adds to the shortcut.
    `depth`: decoders of the network; what each adds to the shortcut starts smaller by √(2·depth) (GPT-2), so that the
    sum of all starts at the size of one.
    """

    def __init__(self, width: int, heads: int, dropout: float, depth: int, *, closing_norm: bool = False) -> None:
        super().__init__(width, width)
        self._given, self._closing_norm = (heads, dropout, depth), closing_norm
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_3 = nn.LayerNorm(width) if closing_norm else nn.Identity()
        self.attention = Attention(width, heads, dropout)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(widen, nn.GELU(), narrow)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.attention.queries_keys_values, self.attention.output, widen, narrow):
            adds = linear is self.attention.output or linear is narrow
            nn.init.normal_(linear.weight, std=_STD / (2 * depth) ** 0.5 if adds else _STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.norm_1(x_BTD)))
        return self.norm_3(x_BTD + self.dropout(self.mlp(self.norm_2(x_BTD))))

    def anew(self, inputs: int, stride: int) -> Decoder:
        return Decoder(inputs, *self._given, closing_norm=self._closing_norm)


class Transformer(BaseArchitecture):
    """A decoder-only language model: pre-norm, learned positions, GELU; sizes as in GPT-2 when asked for."""

    kind: Literal["transformer"] = "transformer"
    depth: int = Field(default=4, ge=1)
    """Decoder blocks."""
    width: int = Field(default=128, ge=1)
    """Numbers a token is represented by."""
    attention_heads: int = Field(default=4, ge=1)
    """Heads of the attention; they share the width."""
    context: int = Field(default=128, ge=1)
    """The most tokens the network sees at once."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of embeddings, attention weights and additions left out in training."""

    closing_norm: bool = False
    """A norm at the end of every decoder: blocks with losses of their own do not outgrow each other; GPT-2: none."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Transformer:
        if self.width % self.attention_heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.attention_heads} attention heads")
        return self

    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        if len(input_shape) != 1:
            raise UsageError(
                f"a transformer wants tokens, and the examples have the shape {list(input_shape)}",
                hint="choose a text, such as --dataset tinyshakespeare, or another network",
            )
        if input_shape[0] > self.context:
            raise UsageError(
                f"examples of {input_shape[0]} tokens are longer than the network's context of {self.context}",
                hint=f"raise the context to {input_shape[0]}, or cut shorter examples",
            )
        given = (self.width, self.attention_heads, self.dropout, self.depth)
        decoders = (Decoder(*given, closing_norm=self.closing_norm) for _ in range(self.depth))
        embedding = Embedding(classes, self.width, self.context, self.dropout)
        return [embedding, *decoders, Unembedding(self.width, classes)]
