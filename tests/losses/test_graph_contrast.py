"""The contrast of Con2R against loops over its formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from semiweak.losses.graph_contrast import (
    class_similarity,
    graph_contrast_loss,
    graph_targets,
    receptive_overlap,
)

EPS = 1e-7
B, N, M, K, D = 2, 4, 5, 3, 6
Matrices = list[list[list[Tensor]]]


def naive_receptive_overlap(query: Tensor, neighbours: Tensor, reach: list[float]) -> Tensor:
    found = torch.zeros(len(query), query.shape[1], neighbours.shape[1], dtype=torch.float64)
    for b, q, n in _entries(found):
        shared, whole = 1.0, 1.0
        for a, r in enumerate(reach):
            shared *= max(r - abs(query[b, q, a].item() - neighbours[b, n, a].item()), 0)
            whole *= r
        found[b, q, n] = max(EPS, shared / whole)
    return found


def naive_class_similarity(query: Tensor, neighbours: Tensor) -> Tensor:
    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return sum((p[c] * (p[c].log() - q[c].log()) for c in range(len(p))), torch.zeros(()))

    p, q = query.clamp_min(EPS), neighbours.clamp_min(EPS)
    return _stack(
        [
            [
                [torch.exp(-(divergence(n, one) + divergence(one, n)) / 2) for n in q[b]]
                for one in p[b]
            ]
            for b in range(len(p))
        ]
    )


def naive_graph_targets(overlap: Tensor, similarity: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    rows, columns = torch.empty_like(overlap), torch.empty_like(overlap)
    for b, q, n in _entries(overlap):
        rows[b, q, n] = columns[b, q, n] = 0
        for share, graph in ((alpha, overlap), (1 - alpha, similarity)):
            rows[b, q, n] += share * graph[b, q, n] / sum(graph[b, q])
            columns[b, q, n] += share * graph[b, q, n] / sum(graph[b, :, n])
    return rows, columns


def naive_graph_contrast_loss(
    query: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    columns: Tensor,
    normalize: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    if normalize:
        query, neighbours = (
            x / x.square().sum(2, keepdim=True).sqrt() for x in (query, neighbours)
        )
    losses = []
    for f, g, t_row, t_col in zip(query, neighbours, rows, columns, strict=True):
        loss = torch.zeros((), dtype=query.dtype)
        for q in range(len(f)):
            e = [torch.exp(f[q] @ n.detach() / temperature) for n in g]
            for n in range(len(g)):
                loss = loss - t_row[q, n] * torch.log(e[n] / sum(e)) / len(f) / 2
        for n in range(len(g)):
            e = [torch.exp(q.detach() @ g[n] / temperature) for q in f]
            for q in range(len(f)):
                loss = loss - t_col[q, n] * torch.log(e[q] / sum(e)) / len(g) / 2
        losses.append(loss)
    return torch.stack(losses)


def _entries(graph: Tensor) -> list[tuple[int, int, int]]:
    b, n, m = graph.shape
    return [(i, q, k) for i in range(b) for q in range(n) for k in range(m)]


def _stack(rows: Matrices) -> Tensor:
    return torch.stack([torch.stack([torch.stack(row) for row in image]) for image in rows])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distributions(number: int, seed: int) -> Tensor:
    return (2 * random(B, number, K, seed=seed)).softmax(2)


def graph() -> tuple[Tensor, Tensor]:
    overlap, similarity = random(B, N, M).exp(), random(B, N, M, seed=1).exp()
    return graph_targets(overlap, similarity, alpha=0.3)


def one_hot(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([classes]), K).double()


@pytest.mark.parametrize("reach", [[7.0, 4.5], [3.0, 6.0, 9.5]])
def test_overlap_is_the_formula(reach: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    query, neighbours = (torch.randint(12, (B, n, len(reach)), generator=generator) for n in (N, M))
    query[0, 0] = neighbours[0, 0]
    naive = naive_receptive_overlap(query, neighbours, reach)
    assert naive[0, 0, 0] == 1
    assert (naive == EPS).any()
    assert ((naive > EPS) & (naive < 1)).any()
    exact = receptive_overlap(query.double(), neighbours.double(), reach)
    torch.testing.assert_close(exact, naive)
    torch.testing.assert_close(receptive_overlap(query, neighbours, reach), naive.float())


def test_overlap_worked_out_by_hand() -> None:
    query, neighbours = torch.tensor([[[0, 0]]]), torch.tensor([[[1, 0], [1, 2], [2, 1], [4, 0]]])
    share = receptive_overlap(query, neighbours, [4.0, 8.0])
    assert share[0, 0].tolist() == pytest.approx([3 / 4, 3 / 4 * 6 / 8, 2 / 4 * 7 / 8, EPS])


def test_similarity_and_its_gradient_are_the_formula() -> None:
    logits = [random(B, n, K, seed=n).mul(2).requires_grad_() for n in (N, M)]
    fast, naive = (
        f(*(x.softmax(2) for x in logits)) for f in (class_similarity, naive_class_similarity)
    )
    torch.testing.assert_close(fast, naive)
    weights = random(B, N, M, seed=9)
    gradients = [torch.autograd.grad((weights * x).sum(), logits) for x in (fast, naive)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_similarity_compares_a_query_with_its_own_neighbour() -> None:
    """A sum of the two matrices with one of them transposed has 0 where the second query is."""
    similarity = class_similarity(one_hot(0, 0), one_hot(0, 1))[0]
    torch.testing.assert_close(
        similarity, torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), atol=1e-6, rtol=0
    )


def test_similarity_of_an_asymmetric_example_worked_out_by_hand() -> None:
    query = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).double()
    neighbours = torch.tensor([[[0.8, 0.2], [0.25, 0.75], [0.5, 0.5]]]).double()
    # KL there and back together: (0.5 - 0.8) ln(0.5 / 0.8) + (0.5 - 0.2) ln(0.5 / 0.2) = 0.3 ln 4,
    # 0.25 ln 3 and 0; 0.1 ln(9/4), 0.65 ln 27 and 0.4 ln 9.
    expected = [[4**-0.15, 3**-0.125, 1.0], [(9 / 4) ** -0.05, 27**-0.325, 9**-0.2]]
    torch.testing.assert_close(
        class_similarity(query, neighbours)[0], torch.tensor(expected).double()
    )
    torch.testing.assert_close(
        class_similarity(neighbours, query), class_similarity(query, neighbours).mT
    )


def test_similarity_of_one_hot_distributions_is_finite_and_nearly_zero_or_one() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        one = one_hot(0, 1, 2).to(dtype).requires_grad_()
        similarity = class_similarity(one, one)[0]
        assert (similarity.diagonal() > 1 - 1e-5).all()
        others = similarity[~torch.eye(3, dtype=torch.bool)]
        assert (others < 1e-6).all()
        assert (others > 0).all()
        assert torch.autograd.grad(similarity.sum(), one)[0].isfinite().all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_targets_are_the_formula_and_sum_up_to_one(alpha: float) -> None:
    overlap = random(B, N, M).exp().requires_grad_()
    similarity = random(B, N, M, seed=1).exp().requires_grad_()
    fast = graph_targets(overlap, similarity, alpha=alpha)
    naive = naive_graph_targets(overlap, similarity, alpha)
    for i, (got, expected) in enumerate(zip(fast, naive, strict=True)):
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(got.sum(2 - i), torch.ones_like(got.sum(2 - i)))
        weights = random(B, N, M, seed=2)
        of_fast, of_naive = (
            torch.autograd.grad((weights * x).sum(), (overlap, similarity), retain_graph=True)
            for x in (got, expected)
        )
        torch.testing.assert_close(of_fast, of_naive)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.3}, {"normalize": True}], ids=str)
def test_loss_and_gradient_are_the_formula(settings: dict[str, float]) -> None:
    embeddings = [random(B, n, D, seed=n).requires_grad_() for n in (N, M)]
    fast, naive = (
        f(*embeddings, *graph(), **settings)
        for f in (graph_contrast_loss, naive_graph_contrast_loss)
    )
    torch.testing.assert_close(fast, naive)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * x).sum(), embeddings) for x in (fast, naive)]
    for got, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected)


def test_a_loss_worked_out_by_hand() -> None:
    """Two queries, two neighbours, each like one of the other side: <f, f> is ln 3 or 0."""
    length = math.sqrt(math.log(3))
    embeddings = length * torch.eye(2, dtype=torch.float64)[None]
    target = torch.eye(2, dtype=torch.float64)[None]
    loss = graph_contrast_loss(embeddings, embeddings, target, target)
    assert loss.tolist() == pytest.approx([math.log(4 / 3)])
    crossed = graph_contrast_loss(embeddings, embeddings, target.flip(1), target)
    assert crossed.tolist() == pytest.approx([(math.log(4) + math.log(4 / 3)) / 2])


def test_queries_learn_by_rows_and_neighbours_by_columns() -> None:
    query, neighbours = (random(B, n, D, seed=n).requires_grad_() for n in (N, M))
    rows, columns = graph()
    nothing = torch.zeros_like(rows)
    for targets, learns in (((rows, nothing), query), ((nothing, columns), neighbours)):
        gradients = torch.autograd.grad(
            graph_contrast_loss(query, neighbours, *targets).sum(), (query, neighbours)
        )
        for embeddings, gradient in zip((query, neighbours), gradients, strict=True):
            assert bool(gradient.any()) == (embeddings is learns)


def test_the_graph_takes_no_gradient() -> None:
    classes = [distributions(n, n).requires_grad_() for n in (N, M)]
    targets = graph_targets(torch.ones(B, N, M).double(), class_similarity(*classes), alpha=0.5)
    assert targets[0].requires_grad
    embeddings = [random(B, n, D, seed=n).requires_grad_() for n in (N, M)]
    graph_contrast_loss(*embeddings, *targets).sum().backward()
    assert all(x.grad is None for x in classes)
    assert all(x.grad.any() for x in embeddings)


def test_long_embeddings_do_not_overflow() -> None:
    embeddings = [(1e4 * random(B, n, D, seed=n)).float().requires_grad_() for n in (N, M)]
    loss = graph_contrast_loss(*embeddings, *(t.float() for t in graph()))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(x.grad.isfinite().all() for x in embeddings)


def test_embeddings_of_length_zero_can_be_normalised() -> None:
    embeddings = [torch.zeros(B, n, D).requires_grad_() for n in (N, M)]
    loss = graph_contrast_loss(*embeddings, *(t.float() for t in graph()), normalize=True)
    assert loss.tolist() == pytest.approx([(math.log(N) + math.log(M)) / 2] * B)
    loss.sum().backward()
    assert all(x.grad.isfinite().all() for x in embeddings)


def test_half_precision_and_autocast_are_computed_in_single() -> None:
    embeddings = [random(B, n, D, seed=n).bfloat16() for n in (N, M)]
    classes = [distributions(n, n).bfloat16() for n in (N, M)]
    targets = [t.float() for t in graph()]
    with torch.autocast("cpu", torch.bfloat16):
        loss = graph_contrast_loss(*embeddings, *targets)
        similarity = class_similarity(*classes)
    assert loss.dtype == similarity.dtype == torch.float32
    exact = graph_contrast_loss(*(x.float() for x in embeddings), *targets)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(similarity, class_similarity(*(x.float() for x in classes)))
