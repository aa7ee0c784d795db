"""Invariant information clustering of pixels (IIC): joint class distributions and their loss.

[IIC] Ji et al., "Invariant Information Clustering for Unsupervised Image Classification and
Segmentation", ICCV 2019, Section 3.4.

The classes of a pixel and those of the pixels around it in another view should tell as much of
each other as can be: their mutual information is maximised, which is high only if the predictions
agree, are certain, and use all classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semiweak.losses.displacements import Route, displaced_products
from semiweak.losses.pixels import in_full_precision

_SMALLEST = torch.finfo(torch.float64).eps  # what the authors raise probabilities to before a log
_EMPTY = 1e-9  # share of the most pairs of a displacement below which there is none but rounding


@in_full_precision
def joint_matrices(
    first: Tensor,
    second: Tensor,
    *,
    valid: Tensor | None = None,
    radius: int = 0,
    route: Route | None = None,
) -> Tensor:
    """How often class i in one view comes with class j in the other, for each displacement.

        P_t(i, j) = sum_{n,u} v(u + t) Phi_i(u + t) v(u) Phi'_j(u)     for t in [-T, T]^d

    over the pixels u of the images n, with v = 1 at valid pixels and 0 elsewhere and outside the
    frame. They are sums, so that those of several ranks may be added before the loss.

    All displacements at once, by the route of `displaced_products` that is faster for the size.

    Args:
        first: Phi, probabilities ``(B, K, *S)`` with S = (H, W) or (D, H, W). Half precision is
            computed in float32.
        second: Phi', probabilities ``(B, K', *S)``, in the frame of the first.
        valid: The pixels that count, in both maps, ``bool (B, *S)``; None for all. What stands at
            the others, also NaN, changes nothing.
        radius: T, the largest displacement along each axis, in pixels.
        route: Of `displaced_products`, ``"products"`` or ``"fft"``, to have one of them.

    Returns:
        ``((2T+1)^d, K, K')``, of at least float32; t in lexicographic order from -T to T.

    Raises:
        ValueError: The shapes do not fit, or the radius is negative.
    """
    dims, size = first.ndim - 2, first.shape[2:]
    if dims not in (2, 3) or first.shape[:1] + size != second.shape[:1] + second.shape[2:]:
        raise ValueError(
            "joint_matrices wants probabilities (B, K, *S) and (B, K', *S) of the same 2D or 3D "
            f"images, but got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != first.shape[:1] + size):
        raise ValueError(
            f"valid has to be bool {(len(first), *size)} for maps {tuple(first.shape)}, but is "
            f"{valid.dtype} {tuple(valid.shape)}"
        )
    if radius < 0:
        raise ValueError(f"radius has to be 0 or more pixels, but is {radius}")
    if route not in (None, "products", "fft"):
        raise ValueError(f'route has to be "products", "fft" or None, but is {route!r}')
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    first, second = first.to(dtype), second.to(dtype)
    if valid is not None:
        # Selected, not multiplied: 0 * NaN is NaN.
        first, second = (x.masked_fill(~valid[:, None], 0) for x in (first, second))
    reach = [min(radius, max(s - 1, 0)) for s in size]  # farther away there is no pair
    joints = displaced_products(first, second, reach, route)
    if reach == [radius] * dims:
        return joints
    spread = joints.view(*(2 * r + 1 for r in reach), *joints.shape[1:])
    missing = [side for r in reversed(reach) for side in (radius - r,) * 2]
    return F.pad(spread, [0, 0, 0, 0, *missing]).flatten(0, dims - 1)


def mutual_information_loss(
    joints: Tensor, *, lamb: float = 1.0, collapsed: bool = False
) -> Tensor:
    """The negative mutual information of two views, of joint matrices (Ji et al., Eq 3 and 5).

        P_t <- (P_t + P_t^T) / 2 / sum P_t
        L_t = -sum_ij P_t(i, j) [log P_t(i, j) - lamb log P_t(i) - lamb log P_t(j)]

    the mean over the displacements t that any pair of pixels has. With lamb = 1 it lies between
    -log K and 0, which it is where the views are independent, and also where all pixels have one
    class: a loss of 0 that does not move shows a collapse. A larger lamb asks for more equal
    shares of the classes.

    Computed in float64, as information is a small difference of large entropies. Logarithms are
    taken of at least 2.2e-16, as the authors do; the gradient at an impossible pair of classes is
    finite, and draws it up.

    Args:
        joints: Of `joint_matrices`, ``(N, K, K)``, not normalised, of all ranks.
        lamb: Weight of the two entropies of the classes; the authors take 1 or 1.5.
        collapsed: One matrix for all displacements: the sum of P_t in place of P_t.

    Returns:
        A scalar, 0 with a graph if there is no pair of pixels at all.

    Raises:
        ValueError: The matrices are not square.
    """
    if joints.ndim != 3 or joints.shape[1] != joints.shape[2]:
        raise ValueError(
            "mutual_information_loss wants joint matrices (N, K, K) of two views with the same "
            f"classes, but got {tuple(joints.shape)}"
        )
    dtype = torch.promote_types(joints.dtype, torch.float32)
    together = _doubled(joints)
    if collapsed:
        together = together.sum(0, keepdim=True)
    pairs = together.sum((1, 2), keepdim=True)
    known = pairs > _EMPTY * pairs.amax()
    together = (together + together.mT) / (2 * torch.where(known, pairs, 1))
    # Of a symmetric matrix both marginals are the same.
    losses = 2 * lamb * _p_log_p(together.sum(2)).sum(1) - _p_log_p(together).sum((1, 2))
    known = known.flatten()
    return (torch.where(known, losses, 0).sum() / known.sum().clamp_min(1)).to(dtype)


def _p_log_p(p: Tensor) -> Tensor:
    return p * p.clamp_min(_SMALLEST).log()


def _doubled(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()  # Apple's devices have no float64
