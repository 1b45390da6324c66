"""SwinIR (Liang et al., ICCVW 2021), classical head: the network of Tables 1, 4, 5 and 10.

Names of parameters are the official ones, which BasicSR shares; where they name a module within
a module, a ``ModuleDict`` holds it. Inside the body, tokens are (N, H, W, C) with H and W
multiples of the window.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from augkd.errors import UserError
from augkd.models.network import SRNetwork, rgb_mean, upsampler


def windows(x: Tensor, window: int) -> Tensor:
    """(N, H, W, C) to (N * windows, window * window, C), row by row."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // window, window, width // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def unwindows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undoes ``windows``."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], height, width, -1)


@lru_cache(maxsize=8)
def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, window**2, window**2): -100 between pixels that only the cyclic shift joined."""
    with torch.inference_mode(False):  # the cache outlives the mode that it was filled in

        def region(size: int) -> Tensor:
            position = torch.arange(size, device=device)
            return (position >= size - window).long() + (position >= size - shift).long()

        regions = 3 * region(height)[:, None] + region(width)
        tokens = windows(regions.view(1, height, width, 1), window).squeeze(-1)
        return (tokens[:, None, :] != tokens[:, :, None]) * -100.0


class DropPath(nn.Module):
    """Drops the residual branch of a whole sample, with the given rate, in training alone."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # a number in [0, 1) a sample; whoever trains puts in a draw that is seeded for each step
        self.draw: Callable[..., Tensor] = torch.rand

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = self.draw(len(x), device=x.device).view(-1, 1, 1, 1) >= self.rate
        return x * kept / (1 - self.rate)


class WindowAttention(nn.Module):
    """Self-attention among the tokens of a window, with a learned bias for each offset."""

    index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        row, column = torch.arange(window**2) // window, torch.arange(window**2) % window
        offset = [p[:, None] - p + window - 1 for p in (row, column)]
        index = offset[0] * (2 * window - 1) + offset[1]
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N * windows, tokens, C) to the same; ``mask`` is that of ``shift_mask``."""
        b, tokens, c = x.shape
        q, k, v = self.qkv(x).view(b, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        logits = logits + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            logits = logits.view(-1, mask.shape[0], self.heads, tokens, tokens)
            logits = (logits + mask[:, None].to(x)).view(b, self.heads, tokens, tokens)
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, tokens, c)
        return self.proj(mixed)  # type: ignore[no-any-return]


class SwinLayer(nn.Module):
    """STL: x + attention(norm(x)), then x + mlp(norm(x)); windows shifted in every other layer."""

    def __init__(
        self, dim: int, window: int, heads: int, hidden: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        mlp = {"fc1": nn.Linear(dim, hidden), "gelu": nn.GELU(), "fc2": nn.Linear(hidden, dim)}
        self.mlp = nn.Sequential(OrderedDict(mlp))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y, mask = self.norm1(x), None
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
            # an export has symbols for sizes, which no cache can hold
            made = shift_mask.__wrapped__ if torch.compiler.is_exporting() else shift_mask
            mask = made(height, width, self.window, self.shift, x.device)
        y = unwindows(self.attn(windows(y, self.window), mask), self.window, height, width)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class RSTB(nn.Module):
    """x + conv(layers(x)) on tokens (N, H, W, C)."""

    def __init__(self, dim: int, layers: list[SwinLayer]) -> None:
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.Sequential(*layers)})
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(self.residual_group["blocks"](x).movedim(-1, 1))
        return x + residual.movedim(1, -1)


def mirrored(size: int, multiple: int, device: torch.device) -> Tensor:
    """Indices that extend ``size`` pixels to a multiple by mirroring about the last, and on."""
    count = (size + multiple - 1) // multiple
    if torch.compiler.is_exporting():  # through a tensor: so that no count, such as 1, is special
        count = torch.full((), count).item()  # type: ignore[assignment]
        torch._check(count >= 1)  # type: ignore[no-untyped-call]
    period = torch.full((), 2 * size - 2, device=device).clamp(min=1)
    position = torch.arange(count * multiple, device=device) % period
    return torch.minimum(position, 2 * size - 2 - position)


class SwinIR(SRNetwork):
    """Maps (N, 3, h, w) in [0, 1] of any size to (N, 3, scale*h, scale*w), not clamped.

    Args:
        embed_dim: width of the body; a multiple of every entry of ``num_heads``.
        depths: number of Swin layers in each RSTB.
        num_heads: attention heads in each RSTB.
        window_size: side of a window, in pixels; layers alternate between no shift and half.
        mlp_ratio: hidden width of a layer's MLP, in units of ``embed_dim``.
        scale: 2, 3 or 4.
        drop_path: rate at the last layer, rising linearly from 0 at the first; in training alone.
        head_channels: width of the upsampler. In every published network it is 64, whatever the
            width of the body.

    Images are mirrored at the bottom and right up to multiples of the window, and the output and
    the features are cropped again. The official code switches the shift off where its
    ``img_size`` is no larger than the window; no published network has that.

    Raises:
        UserError: sizes that do not fit each other.
    """

    name, stage = "swinir", "rstb"
    mean: Tensor

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float,
        scale: int,
        drop_path: float = 0.1,
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads):
            given = f"depths names {len(depths)} RSTBs and num_heads {len(num_heads)}"
            raise UserError(f"swinir: {given}: give one number for each in both")
        for heads in (heads for heads in num_heads if embed_dim % heads):
            raise UserError(f"swinir: embed_dim {embed_dim} is not a multiple of {heads} heads")
        self.channels, self.stages, self.scale = embed_dim, len(depths), scale
        self.window = window_size
        self.register_buffer("mean", rgb_mean(), persistent=False)
        self.conv_first = nn.Conv2d(3, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList()
        last = max(sum(depths) - 1, 1)
        rates = iter(drop_path * i / last for i in range(sum(depths)))
        width, hidden, window = embed_dim, int(embed_dim * mlp_ratio), window_size
        for depth, heads in zip(depths, num_heads, strict=True):
            shifts = (i % 2 * (window // 2) for i in range(depth))
            layers = [SwinLayer(width, window, heads, hidden, s, next(rates)) for s in shifts]
            self.layers.append(RSTB(width, layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        narrowing = nn.Conv2d(embed_dim, head_channels, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(narrowing, nn.LeakyReLU(0.01))
        self.upsample = upsampler(head_channels, scale)
        self.conv_last = nn.Conv2d(head_channels, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def extract(self, x: Tensor) -> Iterator[Tensor]:
        """As promised; the map at rstb{i} is the output of the i-th RSTB, with its own skip."""
        if any(side % self.window for side in x.shape[2:]):
            rows, columns = (mirrored(side, self.window, x.device) for side in x.shape[2:])
            x = x[:, :, rows[:, None], columns]
        first = self.conv_first(x - self.mean)
        yield first
        y = self.patch_embed["norm"](first.movedim(1, -1))
        for layer in self.layers:
            y = layer(y)
            yield y.movedim(-1, 1)
        y = self.conv_after_body(self.norm(y).movedim(-1, 1))
        yield y
        yield y + first

    def enlarge(self, y: Tensor, height: int, width: int) -> Tensor:
        y = self.conv_last(self.upsample(self.conv_before_upsample(y))) + self.mean
        return y[..., : self.scale * height, : self.scale * width]
