"""The painted objects of a batch: which pixels they have, their mean embeddings, random pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semiweak.losses import kernels
from semiweak.losses.pixels import in_full_precision

UNLABELLED, OUTSIDE = 0, -1
"""What `Objects.number` says of a pixel that no painted object has, and of padding."""

_CHUNK = 4096  # pixels that are looked at together


@dataclass(frozen=True)
class Objects:
    """The painted objects of a batch of images, numbered in each image from 1.

    Attributes:
        number: ``int64 (B, N)``: the object that a pixel belongs to; 0 where it is unlabelled, -1
            in padding, of which no term speaks.
        sizes: Pixels of each object, ``int64 (B, C)``; C is the largest number of objects that an
            image has, and the numbers that others do not reach have no pixel.
        unlabelled: Unlabelled pixels of each image, ``int64 (B,)``.
        padded: Whether there is padding at all.
    """

    number: Tensor
    sizes: Tensor
    unlabelled: Tensor
    padded: bool

    @property
    def exists(self) -> Tensor:
        """Which numbers are objects, ``bool (B, C)``."""
        return self.sizes > 0

    @property
    def outside(self) -> Tensor | None:
        """Which pixels are padding, ``bool (B, N)``; None where there is none."""
        return self.number == OUTSIDE if self.padded else None

    def unpainted(self) -> Objects:
        """The same pixels as if nobody had painted any."""
        everywhere = self.sizes.sum(1) + self.unlabelled
        return Objects(self.number.clamp_max(0), self.sizes[:, :0], everywhere, self.padded)


def find_objects(instances: Tensor, valid: Tensor | None = None) -> Objects:
    """Numbers the objects of each image.

    Args:
        instances: Object ids from 1, 0 where unlabelled, ``int64 (B, *S)``. Ids may have gaps and
            any size.
        valid: False in padding, ``bool (B, *S)``.

    Raises:
        ValueError: An id is negative.
    """
    ids = instances.flatten(1)
    inside = None if valid is None else valid.flatten(1)
    padded = inside is not None and not bool(inside.all())
    if padded:
        ids = ids.masked_fill(~inside, 0)  # type: ignore[operator]
    low, high = (int(i) for i in ids.aminmax()) if ids.numel() else (0, 0)
    if low < 0:
        raise ValueError(f"the object id {low} is negative; ids are 0 (unlabelled) and above")
    if high > max(ids.shape[1], 2**16):  # a table of all ids would be larger than the image
        every, ids = torch.unique(ids, return_inverse=True)
        ids = ids + int(every[0] > 0)
        high = int(ids.max())

    occurs = ids.new_zeros(len(ids), high + 1).scatter_(1, ids, 1)
    occurs[:, 0] = 0
    number = occurs.cumsum(1).mul_(occurs).gather(1, ids)
    count = int(occurs.sum(1).max()) if len(ids) else 0
    if padded:
        number = number.masked_fill_(~inside, OUTSIDE)  # type: ignore[operator]
    sizes = _histogram(number, count)
    return Objects(number, sizes[:, 2:], sizes[:, 1], padded)


def object_means(embeddings: Tensor, objects: Objects) -> Tensor:
    """The mean embedding of each object, 0 where there is none.

    Args:
        embeddings: ``(B, D, N)``; half precision is computed in float32.
        objects: The objects of the N pixels.

    Returns:
        ``(B, C, D)``.
    """
    means: Tensor = _Means.apply(embeddings, objects.number, objects.sizes)
    return means


def mean_over_objects(values: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
    """The mean of ``(B, C)`` over the objects that an image has, and which images have one."""
    number = objects.exists.sum(1)
    # Selected, not multiplied: what stands where no object is must not leak.
    total = torch.where(objects.exists, values, 0.0).sum(1)
    return total / number.clamp_min(1), number > 0


def random_pixels(objects: Objects, generator: torch.Generator | None = None) -> Tensor:
    """A pixel of each object, each of its pixels equally likely.

    Returns:
        Positions ``int64 (B, C)`` among the N pixels; 0 for numbers without an object.
    """
    number, (b, c) = objects.number, objects.sizes.shape
    blocks = -(-number.shape[1] // _CHUNK)
    fill = blocks * _CHUNK - number.shape[1]
    by_block = torch.nn.functional.pad(number, (0, fill), value=OUTSIDE).view(b, blocks, _CHUNK)
    counts = _histogram(by_block.flatten(0, 1), c)[:, 2:].view(b, blocks, c).cumsum(1)
    # The rank of the pixel among the object's; then the block that holds it; then its place there.
    rank = _random_ranks(objects.sizes, generator)
    block = (counts <= rank[:, None]).sum(1).clamp_max(blocks - 1)
    before = torch.where(block > 0, counts.gather(1, (block - 1).clamp_min(0)[:, None])[:, 0], 0)
    rows = by_block[torch.arange(b, device=number.device)[:, None], block]  # (B, C, chunk)
    found = rows == torch.arange(1, c + 1, device=number.device)[:, None]
    place = (found.cumsum(2) <= (rank - before)[..., None]).sum(2)
    return torch.where(objects.exists, block * _CHUNK + place, 0)


def random_unlabelled(
    objects: Objects, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """Pixels of the unlabelled region, each equally likely, with repetition.

    Returns:
        Positions ``int64 (B, count)`` among the N pixels; 0 where an image has no such pixel.
    """
    return random_among(objects.number == UNLABELLED, count, generator)


def random_among(eligible: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Eligible pixels of each image, each equally likely, with repetition.

    The first images get the same whatever images follow them.

    Args:
        eligible: ``bool (B, N)``.
        count: How many.
        generator: Repeats the draw.

    Returns:
        Positions ``int64 (B, count)`` among the N pixels; 0 where an image has no such pixel.
    """
    _, place = torch.nonzero(eligible, as_tuple=True)
    number = eligible.sum(1)
    first = number.cumsum(0) - number
    sizes = number[:, None].expand(-1, count)
    if not len(place):
        return torch.zeros_like(sizes)
    rank = _random_ranks(sizes, generator)
    chosen = place[(first[:, None] + rank).clamp_max(len(place) - 1)]
    return torch.where(sizes > 0, chosen, 0)


def _random_ranks(sizes: Tensor, generator: torch.Generator | None) -> Tensor:
    """A whole number below each size, 0 where the size is 0."""
    # In double precision: a float32 has fewer values than a volume has voxels. MPS has no double.
    place = generator.device if generator is not None else torch.device("cpu")
    share = torch.rand(sizes.shape, dtype=torch.float64, generator=generator, device=place)
    ranks = (share.cpu() * sizes.cpu()).long()
    return ranks.to(sizes.device).clamp(max=(sizes - 1).clamp_min(0))


def _histogram(number: Tensor, count: int) -> Tensor:
    """How often each row ``(B, N)`` has -1, 0, 1, ... ``count``, ``int64 (B, count + 2)``."""
    rows, bins = len(number), count + 2
    start = torch.arange(rows, device=number.device)[:, None] * bins + 1
    return torch.bincount((number + start).flatten(), minlength=rows * bins).view(rows, bins)


class _Means(torch.autograd.Function):
    @staticmethod
    @in_full_precision
    def forward(ctx: Any, embeddings: Tensor, number: Tensor, sizes: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, number, sizes)
        if kernels.can_look_at(embeddings):
            of_objects = kernels.object_sums(number.numpy(), embeddings, sizes.shape[1])
            return torch.from_numpy(of_objects).to(embeddings) / sizes.clamp_min(1)[..., None]
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        shape = (len(sizes), embeddings.shape[1], sizes.shape[1])
        sums = embeddings.new_zeros(shape, dtype=dtype)
        for i in range(0, number.shape[1], _CHUNK):
            member = _members(number[:, i : i + _CHUNK], sizes.shape[1], dtype)
            sums += torch.bmm(embeddings[:, :, i : i + _CHUNK].to(dtype), member.mT)
        return (sums / sizes.clamp_min(1)[:, None]).mT

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, grad: Tensor) -> Any:
        embeddings, number, sizes = ctx.saved_tensors
        grad = grad / sizes.clamp_min(1)[..., None]
        if kernels.can_look_at(embeddings):
            back = torch.zeros_like(embeddings)
            kernels.add_to_objects(number.numpy(), grad.contiguous().numpy(), back)
            return back, None, None
        grad = grad.mT.contiguous()  # (B, D, C)
        back = torch.empty_like(embeddings)
        for i in range(0, number.shape[1], _CHUNK):
            member = _members(number[:, i : i + _CHUNK], sizes.shape[1], grad.dtype)
            back[:, :, i : i + _CHUNK] = torch.bmm(grad, member)
        return back, None, None


def _members(number: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """1 where a pixel belongs to an object, ``(B, C, n)``."""
    each = torch.arange(1, count + 1, device=number.device)
    return (number[:, None] == each[:, None]).to(dtype)
