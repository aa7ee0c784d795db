"""Graph-constrained contrast of pixels (Con2R, Reiss et al., ECCV 2022).

Pixels that lie close together, or that are taken for the same class, get similar embeddings. The
paper's text was not at hand: the equations are those of the authors' code, Simael/Con2R, except
where a docstring here says "inferred".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from semiweak.losses.pixels import in_full_precision


def receptive_overlap(
    query: Tensor, neighbours: Tensor, reach: Sequence[float], *, eps: float = 1e-7
) -> Tensor:
    """The share of a box around each query that the same box around each neighbour covers.

        P(q, n) = max(eps, prod_a max(r_a - |q_a - n_a|, 0) / r_a)

    Args:
        query: Positions, in pixels, ``(B, N, d)``, of any type.
        neighbours: Likewise ``(B, M, d)``.
        reach: r, the length of the box along each axis in pixels, d of them.
        eps: The smallest share.

    Returns:
        ``(B, N, M)``, in [eps, 1].
    """
    overlap = torch.ones((), device=query.device)
    for q, n, r in zip(query.unbind(2), neighbours.unbind(2), reach, strict=True):
        apart = (q[:, :, None] - n[:, None]).abs()
        overlap = overlap * (1 - apart / r).clamp_min(0)
    return overlap.clamp_min(eps)


@in_full_precision
def class_similarity(query: Tensor, neighbours: Tensor, *, eps: float = 1e-7) -> Tensor:
    """How alike the class distributions of each query and each neighbour are.

        C(q, n) = exp(-1/2 [KL(p_n || p_q) + KL(p_q || p_n)])

    Both divergences are of the same pair. (The authors' code adds two matrices of which one is
    transposed, so that each of its entries mixes the divergences of two pairs.)

    Args:
        query: Class probabilities ``(B, N, K)``. Half precision is computed in float32.
        neighbours: Likewise ``(B, M, K)``.
        eps: Smaller probabilities count as this, so that 0 has a logarithm: different one-hot
            distributions have a similarity of about ``eps`` (inferred: the code knows no zeros).

    Returns:
        ``(B, N, M)``, in (0, 1]; 1 where both distributions are the same.
    """
    p, q = (_full(x).clamp_min(eps) for x in (query, neighbours))
    log_p, log_q = p.log(), q.log()
    # Both divergences together: sum_c (p - q) (log p - log q).
    own = (p * log_p).sum(2)[:, :, None] + (q * log_q).sum(2)[:, None]
    divergence = own - p @ log_q.mT - log_p @ q.mT
    return torch.exp(-divergence.clamp_min(0) / 2)  # below 0 by rounding


def graph_targets(overlap: Tensor, similarity: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """With which weights each query has to find its neighbours, and each neighbour its queries.

        T_row(q, n) = alpha P(q, n) / sum_m P(q, m)  +  (1 - alpha) C(q, n) / sum_m C(q, m)
        T_col(q, n) = alpha P(q, n) / sum_m P(m, n)  +  (1 - alpha) C(q, n) / sum_m C(m, n)

    Args:
        overlap: P, ``(B, N, M)``, positive.
        similarity: C, ``(B, N, M)``, positive.
        alpha: The share of P, in [0, 1].

    Returns:
        T_row, of which each row sums up to 1, and T_col, of which each column does, ``(B, N, M)``.
    """
    rows, columns = (
        alpha * overlap / overlap.sum(axis, keepdim=True)
        + (1 - alpha) * similarity / similarity.sum(axis, keepdim=True)
        for axis in (2, 1)
    )
    return rows, columns


@in_full_precision
def graph_contrast_loss(
    query: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    normalize: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy between a graph of pixels and that of their embeddings.

        L = 1/2 [-1/N sum_q sum_n T_row(q, n) log softmax_n(<f_q, sg f_n> / T)]
          + 1/2 [-1/M sum_n sum_q T_col(q, n) log softmax_q(<sg f_q, f_n> / T)]

    with sg(f) a constant: the queries learn by the rows, the neighbours by the columns. The graph
    is a constant, too (inferred: in the code a gradient flows into the predictions by way of it,
    which are then drawn to what the embeddings already are).

    Args:
        query: Embeddings f_q, ``(B, N, D)``, of any length. Half precision is computed in float32.
        neighbours: Embeddings f_n, ``(B, M, D)``.
        rows: T_row, ``(B, N, M)``.
        columns: T_col, ``(B, N, M)``.
        normalize: Divide each embedding by its length first; the code takes them as given.
        temperature: T; the code has none, which is 1.

    Returns:
        The loss of each image ``(B,)``. It is no less than the entropy of the graph, not 0.
    """
    query, neighbours = _full(query), _full(neighbours)
    if normalize:
        query, neighbours = (F.normalize(x, dim=2) for x in (query, neighbours))
    by_query = query @ neighbours.detach().mT / temperature
    by_neighbour = query.detach() @ neighbours.mT / temperature
    row_term = (rows.detach() * by_query.log_softmax(2)).sum(2).mean(1)
    column_term = (columns.detach() * by_neighbour.log_softmax(1)).sum(1).mean(1)
    return -(row_term + column_term) / 2


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
