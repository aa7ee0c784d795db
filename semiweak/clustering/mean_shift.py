"""Mean-shift with a flat kernel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiweak.clustering.base import Background, Clustering
from semiweak.clustering.finishing import greedy_cover, nearest
from semiweak.clustering.pixels import Pixels

Floats = NDArray[np.float32]

_CHUNK = 1 << 20  # distances held at a time
_ROUNDS = 100
_STARTS = 1000  # more than that and the bandwidth does not fit the embeddings
_SUPPORT = 3  # sampled pixels in a mode's kernel


def shift(points: Floats, starts: Floats, bandwidth: float) -> tuple[Floats, NDArray[np.int64]]:
    """Moves each start to the mean of the points within the bandwidth until it stays.

    Args:
        points: ``(M, D)``.
        starts: ``(K, D)``.
        bandwidth: The radius of the flat kernel.

    Returns:
        Where the starts end ``(K, D)``, and the number of points in their kernels ``(K,)``, 0
        where there is none.
    """
    # About one point, so that large numbers do not cancel in the distances.
    middle = torch.from_numpy(points.mean(0, dtype=np.float64).astype(np.float32))
    x = torch.from_numpy(points) - middle
    squares = x.square().sum(1)
    modes = torch.from_numpy(starts) - middle
    counts = torch.zeros(len(modes), dtype=torch.int64)
    moving = torch.arange(len(modes))
    for _ in range(_ROUNDS):
        sums, inside = _kernel_sums(x, squares, modes[moving], bandwidth)
        counts[moving] = inside
        new = torch.where(inside[:, None] > 0, sums / inside.clamp(min=1)[:, None], modes[moving])
        moved = (new - modes[moving]).norm(dim=1) > 1e-3 * bandwidth
        modes[moving] = new
        moving = moving[moved]
        if len(moving) == 0:
            break
    result: Floats = (modes + middle).numpy()
    return result, counts.numpy()


def _kernel_sums(
    x: Tensor, squares: Tensor, modes: Tensor, bandwidth: float
) -> tuple[Tensor, Tensor]:
    """Sum (K, D) and number (K,) of the points within the bandwidth of each mode."""
    limit = bandwidth**2 - modes.square().sum(1)
    sums = torch.zeros_like(modes)
    inside = torch.zeros(len(modes), dtype=torch.int64)
    rows = max(_CHUNK // max(len(modes), 1), 1)
    for begin in range(0, len(x), rows):
        part = slice(begin, begin + rows)
        within = torch.addmm(squares[part, None], x[part], modes.t(), alpha=-2) <= limit
        inside += within.sum(0)
        sums.addmm_(within.to(x.dtype).t(), x[part])
    return sums, inside


class MeanShift(Clustering):
    """Finds the modes of the embeddings' density; each pixel belongs to the nearest mode.

    A flat kernel of radius ``bandwidth`` moves to the mean of the embeddings inside it until it
    stays. It moves over an even sample of the pixels. Starts are drawn from the sample such that
    none lies within the bandwidth of another, so dense and sparse regions have starts alike. Modes
    nearer than the bandwidth to one with more embeddings in its kernel are dropped (as in
    scikit-learn), and so are those of a handful of pixels. Time grows linearly with the pixels.

    The paper notes that mean-shift finds many objects too many along borders: the mixed pixels
    there have modes of their own. ``min_core`` and ``reach`` sort them out; ``min_core=0``,
    ``merge_distance=None`` and ``reach=None`` give the plain method.

    Args:
        bandwidth: The kernel's radius. The paper takes the pull margin delta_v.
        sample: How many pixels, in even steps, the modes are sought among; None for all. All
            pixels are assigned.
        reach: Pixels further than this many bandwidths from every mode are noise; None: none is.
        min_size: See `Clustering`.
        min_core: See `Clustering`.
        merge_distance: See `Clustering`.
        connected: See `Clustering`.
        background: See `Clustering`.
        background_distance: See `Clustering`.
        fill: See `Clustering`.
        seed: Where the even steps begin and in which order starts are drawn.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        bandwidth: float = 0.5,
        sample: int | None = 10_000,
        reach: float | None = 2.0,
        min_size: int = 50,
        min_core: int = 10,
        merge_distance: float | None = 2.0,
        connected: bool = True,
        background: Background = "none",
        background_distance: float = 2.0,
        fill: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            min_size=min_size, min_core=min_core, merge_distance=merge_distance,
            background=background, background_distance=background_distance, connected=connected,
            fill=fill, seed=seed,
        )  # fmt: skip
        if not bandwidth > 0:
            raise ValueError(f"bandwidth={bandwidth}, but the radius of a kernel is positive")
        if sample is not None and sample < 1:
            raise ValueError(f"sample={sample}, but it is a number of pixels, or None for all")
        self.bandwidth = bandwidth
        if reach is not None and reach < 1:
            raise ValueError(f"reach={reach}, but it is 1 bandwidth or more, or None for no limit")
        self.sample = sample
        self.reach = reach

    def _partition(self, pixels: Pixels) -> NDArray[np.int32]:
        points = pixels.chosen
        generator = np.random.default_rng(self.seed)
        sample = points[even_steps(len(points), self.sample, generator)]
        modes = self._modes(sample, generator)
        if len(modes) == 0:
            return np.zeros(len(pixels.inside), np.int32)
        index, distance = nearest(points, modes)
        labels = (index + 1).astype(np.int32)
        if self.reach is not None:
            labels[distance > self.reach * self.bandwidth] = 0
        return pixels.spread(labels)

    def _modes(self, sample: Floats, generator: np.random.Generator) -> Floats:
        draw = generator.permutation(len(sample))
        starts = sample[greedy_cover(sample, draw, self.bandwidth, at_most=_STARTS)]
        modes, counts = shift(sample, starts, self.bandwidth)
        support = max(1, min(_SUPPORT, self.min_size))
        modes, counts = modes[counts >= support], counts[counts >= support]
        return modes[greedy_cover(modes, counts, self.bandwidth)]


def even_steps(
    number: int, at_most: int | None, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Every n-th of ``number`` indices, from a random one on, with no more than ``at_most``.

    A step that shares a divisor with the row length would look at few columns only, hence each
    index is drawn within its own step.
    """
    if at_most is None or number <= at_most:
        return np.arange(number)
    edges = np.linspace(0, number, at_most + 1).astype(np.int64)
    return edges[:-1] + (generator.random(at_most) * np.diff(edges)).astype(np.int64)
