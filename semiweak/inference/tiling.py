"""Images larger than the network can take at once: overlapping tiles, blended without seams.

Along each axis the tiles are laid at a fixed step, and the last one is shifted inwards so that it
ends with the image: every tile lies inside the image and nothing is ever padded. Two neighbouring
tiles are cross-faded over ``overlap`` pixels in the middle of what they share. With R_k the linear
ramp from 0 to 1 that brings in tile k of n, the tile has the weight

    w_k = R_k - R_{k+1},    R_0 = 1,    R_n = 0

so the weights add up to 1 at every pixel without a division, do not fall at the image's own border,
and leave out what a tile says close to its cut edge where a neighbour saw more. In several
dimensions the weight is the product over the axes.

All ramps have one slope, so that blending tiles which disagree by ``difference`` makes no step
larger than ``difference / (overlap + 1)`` between two neighbouring pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from math import inf

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into overlapping tiles when a network predicts.

    Attributes:
        size: Pixels that a tile is long: one number for all axes or one an axis, in the image's
            axis order, (y, x) or (z, y, x). By default 1024 in 2D and (64, 256, 256) in 3D. An axis
            on which the image is not longer than that is not cut.
        overlap: Pixels over which neighbouring tiles are blended: one number for all axes or one an
            axis, smaller than the tile. By default a quarter of the tile, at most 128. With more,
            a pixel is predicted from more of its surroundings, in more time; 0 lays the tiles edge
            to edge.
        batch_size: Tiles that go through the network together. On a GPU more is faster, as long as
            the memory lasts.

    Raises:
        ValueError: A size or a batch size below 1; an overlap below 0 or not smaller than the tile.
    """

    size: int | tuple[int, ...] | None = None
    overlap: int | tuple[int, ...] | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        _check_whole("size", self.size, least=1)
        _check_whole("overlap", self.overlap, least=0)
        _check_whole("batch_size", self.batch_size, least=1)
        if self.size is not None:
            given = [v for v in (self.size, self.overlap) if isinstance(v, Sequence)]
            self.resolve(len(given[0]) if given else 2)

    def resolve(self, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tiles' size and overlap on each axis, with the defaults filled in.

        Args:
            spatial_dims: How many axes the image has, 2 or 3.

        Raises:
            ValueError: Values for another number of axes were given, or the overlap is not smaller
                than the tile.
        """
        default = (64, 256, 256) if spatial_dims == 3 else 1024
        size = _per_axis("size", default if self.size is None else self.size, spatial_dims)
        if self.overlap is None:
            return size, tuple(min(n // 4, 128) for n in size)
        overlap = _per_axis("overlap", self.overlap, spatial_dims)
        if any(shared >= n for shared, n in zip(overlap, size, strict=True)):
            raise ValueError(
                f"the tiling has overlap {self.overlap} and tiles of {' x '.join(map(str, size))} "
                "pixels; the overlap must be smaller than the tiles on every axis"
            )
        return size, overlap


@torch.no_grad()
def predict_tiled(
    function: Callable[[Tensor], Tensor], image: Tensor, tiling: Tiling | None = None
) -> Tensor:
    """Applies a function to images of any size, tile by tile.

    Images that are not larger than a tile go through ``function`` in one piece. Larger ones take
    the memory of the result, which lies on the image's device, and of ``batch_size`` tiles. Where
    that is too much for a GPU, the image can stay on the CPU and ``function`` move each tile.

    Args:
        function: From ``(b, C, *T)`` to ``(b, K, *T)``, T not larger than a tile; probabilities,
            embeddings, or whatever else may be averaged.
        image: ``(B, C, *S)``.
        tiling: Size and overlap of the tiles; by default ``Tiling()``.

    Returns:
        ``float32 (B, K, *S)``.

    Raises:
        ValueError: The tiling does not fit the image's axes, or a result is not as large as the
            tile that it was made from.
    """
    tiling = tiling or Tiling()
    shape = image.shape[2:]
    size, overlap = tiling.resolve(len(shape))
    if all(n <= tile for n, tile in zip(shape, size, strict=True)):
        return _apply(function, image).float()

    cuts = [_cut(*axis) for axis in zip(shape, size, overlap, strict=True)]
    tiles = list(product(range(len(image)), product(*cuts)))
    result = torch.empty(0)  # its channels are known when the first tile is done
    for first in range(0, len(tiles), tiling.batch_size):
        group = tiles[first : first + tiling.batch_size]
        places = [(index, slice(None), *(where for where, _ in tile)) for index, tile in group]
        values = _apply(function, torch.stack([image[place] for place in places]))
        values = values.to(image.device, torch.float32)
        if first == 0:
            result = values.new_zeros((len(image), values.shape[1], *shape))
        for place, value, (_, tile) in zip(places, values, group, strict=True):
            weight = reduce(lambda a, b: a.unsqueeze(-1) * b, [weight for _, weight in tile])
            result[place].addcmul_(value, weight.to(value.device))
    return result


def _apply(function: Callable[[Tensor], Tensor], piece: Tensor) -> Tensor:
    values = function(piece)
    if len(values) != len(piece) or values.shape[2:] != piece.shape[2:]:
        raise ValueError(
            f"the function made {tuple(values.shape)} of a tile of {tuple(piece.shape)}; it must "
            "keep the number and the size of the tiles"
        )
    return values


def _cut(length: int, size: int, overlap: int) -> list[tuple[slice, Tensor]]:
    """The windows of the tiles along one axis, and the weight of each of their pixels."""
    if length <= size:
        return [(slice(0, length), torch.ones(length))]
    starts = [*range(0, length - size, size - overlap), length - size]
    # The middle of the pixels that each tile has in common with the one before.
    middles = [(before + size - 1 + after) / 2 for before, after in pairwise(starts)]
    tiles = []
    for start, rise, fall in zip(starts, [-inf, *middles], [*middles, inf], strict=True):
        position = torch.arange(start, start + size)
        weight = _ramp(position - rise, overlap) - _ramp(position - fall, overlap)
        tiles.append((slice(start, start + size), weight))
    return tiles


def _ramp(position: Tensor, length: int) -> Tensor:
    """From 0 to 1 in equal steps over ``length`` pixels around position 0."""
    return (position / (length + 1) + 0.5).clamp(0, 1)


def _per_axis(name: str, value: int | tuple[int, ...], spatial_dims: int) -> tuple[int, ...]:
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims:
        raise ValueError(
            f"the tiling has {name} {value} for an image with {spatial_dims} axes; it takes one "
            "number, or one for each axis"
        )
    return values


def _check_whole(name: str, value: int | tuple[int, ...] | None, least: int) -> None:
    values = value if isinstance(value, Sequence) else (value,)
    if value is not None and any(not isinstance(n, int) or n < least for n in values):
        raise ValueError(f"the tiling has {name} {value}; it takes whole numbers from {least} up")
