"""The pairwise loss of BoxInst: neighbours of the same colour are of the same class.

[BoxInst] Tian et al., "BoxInst: High-Performance Instance Segmentation with Box Annotations", CVPR
2021, and the numbers of the authors' code. Theirs compares colours of 8-bit photographs in Lab and
takes a similarity of 0.3 for the same, which says nothing about grey, 16-bit or fluorescence
images. Here a difference is measured by the noise of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from scipy.special import chdtri
from torch import Tensor

from semiweak.losses.pixels import in_full_precision, inside_boxes

Window = tuple[slice, ...]

_LEAST_NOISE = 0.01  # of the standard deviation of the grey values
_MAD = 0.6744897501960817  # median of the absolute value of a standard normal variable


def affinity_threshold(channels: int, *, theta: float = 0.5, share: float = 0.95) -> float:
    """The similarity that a share of the pairs reaches which differ by Gaussian noise alone.

    The difference of two pixels has the variance 2 sigma^2, so that C times the squared distance of
    `colour_affinity` is twice a chi-squared variable of C degrees of freedom, whose quantile is q:

        exp(-theta * sqrt(2 q / C))

    At 95 % and theta 0.5 that is 0.250 for one channel (a difference of 2.77 sigma), 0.294 for two
    and 0.319 for three.

    Args:
        channels: C.
        theta: As in `colour_affinity`.
        share: Between 0 and 1.
    """
    return math.exp(-theta * math.sqrt(2 * float(chdtri(channels, 1 - share)) / channels))


@torch.no_grad()
def noise_level(image: Tensor, valid: Tensor, *, dilation: int = 2) -> Tensor:
    """The standard deviation of the noise of each image and channel, as a robust estimate.

        sigma = median |I(x - r) - 2 I(x) + I(x + r)| / (0.6745 sqrt(6))

    over all pixels x and axes, r pixels being the distance at which pixels are compared. A second
    difference does not see the image's slope; its variance is 6 sigma^2. The result is at least a
    hundredth of the standard deviation of the grey values, for images without noise.

    Args:
        image: ``(B, C, *S)``.
        valid: False in padding, ``bool (B, *S)``.
        dilation: r, in pixels.

    Returns:
        ``(B, C)``, positive.
    """
    seen = image.masked_fill(~valid[:, None], math.nan)
    differences = []
    for axis in range(2, image.ndim):
        n = image.shape[axis] - 2 * dilation
        if n > 0:
            low, middle, high = (seen.narrow(axis, i * dilation, n) for i in range(3))
            differences.append((low - 2 * middle + high).abs().flatten(2))
    flat = seen.flatten(2)
    mean = flat.nanmean(2, keepdim=True)
    least = _LEAST_NOISE * (flat - mean).square().nanmean(2).sqrt()
    if not differences:
        differences = [torch.zeros_like(flat[..., :1])]
    median = torch.cat(differences, 2).nanmedian(2).values
    sigma = (median / (_MAD * math.sqrt(6))).nan_to_num().maximum(least.nan_to_num())
    return torch.where(sigma > 0, sigma, 1.0)


@torch.no_grad()
@in_full_precision
def colour_affinity(
    image: Tensor, valid: Tensor, *, dilation: int = 2, theta: float = 0.5, smoothing: int = 1
) -> Tensor:
    """How alike a pixel and its neighbours are.

        S = exp(-theta * sqrt(1/C sum_c (I_c(i) - I_c(j))^2 / sigma_c^2))

    with sigma the `noise_level` of the image and channel: scale and offset of the grey values are
    without effect. Of the neighbours, the 8 of a window of 3 x 3 pixels with ``dilation`` pixels
    between them (26 of 3 x 3 x 3), there is one of each opposite pair: the other is the same pair
    of pixels, seen from its other end.

    Args:
        image: ``(B, C, *S)``.
        valid: False in padding, ``bool (B, *S)``.
        dilation: Distance of the neighbours along each axis, in pixels.
        theta: BoxInst's code has 0.5.
        smoothing: Side of the window, in pixels and odd, whose mean is compared; 1 for the pixel
            itself.

    Returns:
        ``(B, 4, *S)``, in 3D ``(B, 13, *S)``, 0 to 1, and 0 where the pixel or its
        neighbour is outside or in padding.
    """
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    if smoothing > 1:
        pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
        image = pool(image, smoothing, 1, smoothing // 2, count_include_pad=False)
    sigma = noise_level(image, valid, dilation=dilation)
    image = image / sigma.view(*sigma.shape, *[1] * (image.ndim - 2))
    pairs = _neighbour_pairs(image.shape[2:], dilation)
    similarity = image.new_zeros(len(image), len(pairs), *image.shape[2:])
    for e, (here, there) in enumerate(pairs):
        distance = (image[here] - image[there]).square().mean(1).sqrt()
        both = valid[:, None][here] & valid[:, None][there]
        similarity[:, e : e + 1][here] = torch.where(both, (-theta * distance).exp()[:, None], 0.0)
    return similarity


@in_full_precision
def pairwise_loss(
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    similarity: Tensor,
    valid: Tensor,
    *,
    threshold: float,
    dilation: int = 2,
) -> tuple[Tensor, Tensor]:
    """The pairwise loss of each image: pixels that look the same are both of a class, or neither.

        P(e) = p_i p_j + (1 - p_i) (1 - p_j)
        loss = sum_e w_e (-log P(e)) / max(1, sum_e w_e)

    over the classes with boxes, the pixels i and their neighbours j, with p the probability of the
    class and w_e = 1 where i lies in a box of the class and the similarity reaches the threshold.

    Args:
        logits: ``(B, C, *S)``, at least two classes. Half precision is computed in float32.
        boxes: Image, starts and ends (half-open) of each box in pixels, ``int64 (N, 1 + 2d)``.
        classes: Their classes, ``int64 (N,)``.
        similarity: Of `colour_affinity`.
        valid: False in padding, ``bool (B, *S)``.
        threshold: Above 0.
        dilation: As there.

    Returns:
        The loss of each image ``(B,)``, and which have a box ``bool (B,)``. It is 0 for the others.
    """
    known = torch.bincount(boxes[:, 0], minlength=len(logits)) > 0
    inside = inside_boxes(boxes, classes, logits.shape)
    image, c = torch.nonzero(inside.flatten(2).any(2), as_tuple=True)
    inside, alike = inside[image, c], (similarity >= threshold)[image]
    # Padding has no similar neighbour; but a NaN there would still reach the gradient.
    near = _log_odds(logits.masked_fill(~valid[:, None], 0))[image, c]
    total, number = near.new_zeros(len(image)), near.new_zeros(len(image))
    for e, (here, there) in enumerate(_neighbour_pairs(logits.shape[2:], dilation)):
        a, b = (slice(None), *here[2:]), (slice(None), *there[2:])
        # Each end is the centre once.
        weight = alike[:, e][a] * (inside[a].to(near.dtype) + inside[b].to(near.dtype))
        same = F.softplus(near[a] + near[b]) - F.softplus(near[a]) - F.softplus(near[b])
        total = total - torch.where(weight > 0, weight * same, 0.0).flatten(1).sum(1)
        number = number + weight.flatten(1).sum(1)
    zeros = near.new_zeros(len(logits))
    summed = zeros.scatter_add(0, image, total)
    return summed / zeros.scatter_add(0, image, number).clamp_min(1), known


def _log_odds(logits: Tensor) -> Tensor:
    """The log-odds of each class, log p - log(1 - p), where p is 1 in float32, too."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    highest = logits.detach().max(1, keepdim=True).indices
    top = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, highest, True)
    rest = logits.masked_fill(top, -math.inf).logsumexp(1, keepdim=True)
    # All others are at most 1/2; -1 is a number that does no harm.
    lower = logits.log_softmax(1).masked_fill(top, -1.0)
    return torch.where(top, logits - rest, lower - torch.log1p(-lower.exp()))


def _neighbour_pairs(size: Sequence[int], dilation: int) -> list[tuple[Window, Window]]:
    """Slices of ``(B, C, *S)``: the pixels that have a neighbour, and that neighbour."""
    everything = slice(None), slice(None)
    pairs = []
    for step in product((-1, 0, 1), repeat=len(size)):
        if step > (0,) * len(size):  # one of each opposite pair
            here = _shifted(size, [-dilation * s for s in step])
            there = _shifted(size, [dilation * s for s in step])
            pairs.append(((*everything, *here), (*everything, *there)))
    return pairs


def _shifted(size: Sequence[int], shift: Sequence[int]) -> Iterator[slice]:
    for n, s in zip(size, shift, strict=True):
        yield slice(min(max(s, 0), n), max(n + min(s, 0), 0))
