"""Sums of products of two maps, one of them displaced: exact, for all displacements at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from semiweak.losses.pixels import in_full_precision

Route = Literal["products", "fft"]

_RUN = 8192  # pixels of a matrix product on the CPU: they stay in its cache, and sums stay short
_TILE = {2: 32, 3: 12}  # pixels along an edge of a tile of the Fourier route, by dimensions
_TILES = 64  # tiles that are transformed at once


def displaced_products(
    first: Tensor, second: Tensor, reach: list[int], route: Route | None = None
) -> Tensor:
    """The sum over images n and pixels u of first[n, i, u + t] second[n, j, u], outside 0.

    "products" is one matrix product a displacement, without a copy of the displaced map. "fft"
    multiplies spectra of tiles and goes back to the displacements only; it computes in float64, as
    the rounding of a Fourier transform is relative to the largest value, and a loss may take the
    logarithm of the smallest. Both keep the maps alone for the gradient; no second derivative
    exists.

    Args:
        first: ``(B, K, *S)``, float32 or float64.
        second: ``(B, K', *S)``, of the same type.
        reach: The largest displacement along each axis, in pixels, less than its length.
        route: None takes the one that is faster for the size; with a reach of 0, one plain product
            an image.

    Returns:
        ``(N, K, K')``, the displacements t in lexicographic order from -reach to reach.
    """
    if route is None and not any(reach):
        return (first.flatten(2) @ second.flatten(2).mT).sum(0, keepdim=True)
    chosen = route or _faster(first, reach)
    return cast(
        Tensor, (_Products if chosen == "products" else _Spectra).apply(first, second, reach)
    )


def _faster(first: Tensor, reach: list[int]) -> Route:
    # Measured on a CPU with 2 to 24 classes, 64 x 64 to 256 x 256 and 16 x 64 x 64 pixels: at 49
    # displacements both take about the same, at 81 the spectra win with any number of classes.
    few = math.prod(2 * r + 1 for r in reach) <= 50
    return "products" if few or first.device.type == "mps" else "fft"


class _Products(torch.autograd.Function):
    """One matrix product a displacement.

    The maps are laid out as one row of pixels a class, with gaps of T zeros between lines, planes
    and images, so that a displaced map is a view of its row.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, reach: list[int]) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.reach, offsets = reach, _offsets(first, reach)
        left, right = _rows(first, reach, offsets[-1]), _rows(second, reach, 0)
        joints = first.new_zeros(len(offsets), len(left), len(right))
        for start, stop in _runs(right):
            part = right[:, start:stop].T
            for joint, k in zip(joints, offsets, strict=True):
                joint.addmm_(left[:, start + k : stop + k], part)
        return joints

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, grad: Tensor) -> Any:
        first, second = ctx.saved_tensors
        offsets = _offsets(first, ctx.reach)
        margin = offsets[-1]
        left, right = _rows(first, ctx.reach, margin), _rows(second, ctx.reach, 0)
        to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
        for start, stop in _runs(right):
            for weights, k in zip(grad, offsets, strict=True):
                if ctx.needs_input_grad[0]:
                    to_left[:, start + k : stop + k].addmm_(weights, right[:, start:stop])
                if ctx.needs_input_grad[1]:
                    to_right[:, start:stop].addmm_(weights.T, left[:, start + k : stop + k])
        to_first = _images(to_left, first, ctx.reach, margin)
        return to_first, _images(to_right, second, ctx.reach, 0), None


def _offsets(maps: Tensor, reach: list[int]) -> list[int]:
    """Where the displacements begin along a row, from 0 on."""
    lengths = [s + r for s, r in zip(maps.shape[2:], reach, strict=True)]
    steps = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
    margin = sum(map(operator.mul, reach, steps))
    moves = product(*(range(-r, r + 1) for r in reach))
    return [margin + sum(map(operator.mul, t, steps)) for t in moves]


def _rows(maps: Tensor, reach: list[int], extra: int) -> Tensor:
    """``(B, K, *S)`` to ``(K, N)``: the pixels of a class among zeros, half the extra around."""
    number = len(maps) * math.prod(s + r for s, r in zip(maps.shape[2:], reach, strict=True))
    rows = maps.new_zeros(maps.shape[1], number + extra)
    _images(rows, maps, reach, extra).copy_(maps)
    return rows


def _images(rows: Tensor, maps: Tensor, reach: list[int], extra: int) -> Tensor:
    """The pixels of rows, as a view of the shape of the maps."""
    size = maps.shape[2:]
    lengths = [s + r for s, r in zip(size, reach, strict=True)]
    inner = rows[:, extra // 2 : rows.shape[1] - extra // 2]
    # A view also of rows with a margin, as only the last axis is divided.
    return _cropped(inner.view(len(rows), len(maps), *lengths), size).transpose(0, 1)


def _cropped(maps: Tensor, size: Sequence[int], starts: Sequence[int] | None = None) -> Tensor:
    """A box of the last axes, from the corner unless said."""
    for axis, length in enumerate(size, maps.ndim - len(size)):
        start = 0 if starts is None else starts[axis - maps.ndim]
        maps = maps.narrow(axis, start, length)
    return maps


def _runs(rows: Tensor) -> Iterator[tuple[int, int]]:
    number = rows.shape[1]
    step = _RUN if rows.device.type == "cpu" else max(number, 1)
    return ((start, min(start + step, number)) for start in range(0, number, step))


class _Spectra(torch.autograd.Function):
    """Products of spectra, summed over tiles, and back to the displacements only.

    The frame is cut into tiles. Each tile of the second map meets the tile of the first that
    reaches T farther on all sides. As the displacements are the same in all tiles, their spectra
    add up before one inverse transform, whose cost and memory do not grow with the image.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, reach: list[int]) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.tiles = tiles = _Tiles(first, reach)
        shape = (math.prod(tiles.frequencies), first.shape[1], second.shape[1])
        spectrum = first.new_zeros(shape, dtype=torch.complex128)
        for b in range(len(first)):
            lefts, rights = tiles.spectra(first[b], True), tiles.spectra(second[b], False)
            for left, right in zip(lefts, rights, strict=True):
                spectrum.baddbmm_(left, right.mT.conj_physical())
        return tiles.at_displacements(spectrum).to(first.dtype)

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, grad: Tensor) -> Any:
        first, second = ctx.saved_tensors
        weights = ctx.tiles.of_displacements(grad.double())
        to_first = to_second = None
        if ctx.needs_input_grad[0]:
            starts = [2 * r for r in ctx.tiles.reach]
            to_first = ctx.tiles.filtered(second, weights, starts, first)
        if ctx.needs_input_grad[1]:
            starts = [0 for _ in ctx.tiles.reach]
            to_second = ctx.tiles.filtered(first, weights.mT.conj_physical(), starts, second)
        return to_first, to_second, None


class _Tiles:
    """How images are cut into tiles, and the transforms of these."""

    def __init__(self, maps: Tensor, reach: list[int]) -> None:
        size, self.reach = maps.shape[2:], reach
        self.axes = tuple(range(-len(size), 0))
        self.number = [-(-s // _TILE[len(size)]) for s in size]
        self.edges = [-(-s // n) for s, n in zip(size, self.number, strict=True)]
        self.lengths = [_fast(e + 2 * r) for e, r in zip(self.edges, reach, strict=True)]
        self.frequencies = [*self.lengths[:-1], self.lengths[-1] // 2 + 1]
        self.rows = max(1, _TILES // math.prod(self.number[1:]))  # of tiles, at once
        self.waves = []  # exp(2 pi i f q / L) of each axis, for q = t + T, (2T+1, F)
        for r, length, count in zip(reach, self.lengths, self.frequencies, strict=True):
            turns = torch.arange(2 * r + 1)[:, None] * torch.arange(count) % length
            angles = turns.double() * (2 * math.pi / length)
            self.waves.append(torch.polar(torch.ones_like(angles), angles).to(maps.device))

    def spectra(self, image: Tensor, around: bool) -> Iterator[Tensor]:
        """Those of an image's ``(K, *S)`` tiles, ``(F, K, tiles)``, a few rows at a time."""
        sides = [r if around else 0 for r in self.reach]
        padding: list[int] = []
        for s, n, e, r in zip(image.shape[1:], self.number, self.edges, sides, strict=True):
            padding = [r, n * e - s + r, *padding]
        tiles = F.pad(image.double(), padding)
        for axis, (e, r) in enumerate(zip(self.edges, sides, strict=True), 1):
            tiles = tiles.unfold(axis, e + 2 * r, e)
        for part in torch.split(tiles, self.rows, 1):
            found = torch.fft.rfftn(part, s=self.lengths, dim=self.axes)
            found = found.reshape(len(image), -1, math.prod(self.frequencies))
            yield found.permute(2, 0, 1).contiguous()  # else the products are done one by one

    def at_displacements(self, spectrum: Tensor) -> Tensor:
        """The inverse transform of ``(F, K, K')``, real, at the displacements."""
        found = spectrum.view(*self.frequencies, *spectrum.shape[1:])
        for axis, wave in enumerate(self.waves[:-1]):
            found = torch.tensordot(wave, found, ([1], [axis])).movedim(0, axis)
        # The other half of the frequencies of a real signal are the conjugates of these.
        double = torch.full_like(self.waves[-1].real[0], 2 / math.prod(self.lengths))
        double[0] /= 2
        if self.lengths[-1] % 2 == 0:
            double[-1] /= 2
        last, axis = self.waves[-1] * double, len(self.waves) - 1
        values: Tensor = torch.tensordot(last.real, found.real, ([1], [axis]))
        values -= torch.tensordot(last.imag, found.imag, ([1], [axis]))
        return values.movedim(0, axis).flatten(0, axis)

    def of_displacements(self, joints: Tensor) -> Tensor:
        """The spectrum ``(F, K, K')`` of values at the displacements."""
        found = joints.to(torch.complex128)
        found = found.view(*(2 * r + 1 for r in self.reach), *joints.shape[1:])
        for axis, wave in enumerate(self.waves):
            found = torch.tensordot(wave.conj(), found, ([0], [axis])).movedim(0, axis)
        return found.flatten(0, len(self.waves) - 1).contiguous()

    def filtered(self, maps: Tensor, weights: Tensor, starts: list[int], like: Tensor) -> Tensor:
        """The maps convolved with weights ``(F, K, K')``, from a place of each tile on."""
        dims = len(starts)
        blocks = [x for pair in zip(self.number, self.edges, strict=True) for x in pair]
        whole = like.new_empty(*like.shape[:2], *blocks)
        tiles = whole.permute(0, 1, *range(2, 2 + 2 * dims, 2), *range(3, 3 + 2 * dims, 2))
        for b, image in enumerate(maps):
            rows = torch.split(tiles[b], self.rows, 1)
            for into, part in zip(rows, self.spectra(image, True), strict=True):
                found = (weights @ part).permute(1, 2, 0)
                found = found.reshape(*into.shape[: 1 + dims], *self.frequencies)
                found = torch.fft.irfftn(found, s=self.lengths, dim=self.axes)
                into.copy_(_cropped(found, self.edges, starts))
        frame = [n * e for n, e in zip(self.number, self.edges, strict=True)]
        return _cropped(whole.view(*like.shape[:2], *frame), like.shape[2:])


def _fast(length: int) -> int:
    """The next length without a prime factor above 5, which transforms fast."""
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return length if rest == 1 else _fast(length + 1)
