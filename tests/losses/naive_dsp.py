"""The formulas of the DSP paper as loops, and annotations to compare them on.

Scores are (B, C, *S), candidates A_j bool (B, C, *S). Positives are, class by class, the list of
the scores of Omega_c.
"""

import itertools
import math

import torch


def pixels_of(x):
    """Image and position of every pixel of (B, C, *S)."""
    return itertools.product(range(len(x)), *(range(n) for n in x.shape[2:]))


def length(vector, shortest=1e-6):
    squares = sum(x * x for x in vector)
    return squares.sqrt() if squares > shortest**2 else shortest


def naive_prototype_scores(embeddings, prototypes, temperature=0.05):
    flat = []
    for b, *at in pixels_of(embeddings):
        f = embeddings[(b, slice(None), *at)]
        for of_class in prototypes:
            cosines = [f @ p / (length(f) * length(p)) for p in of_class]
            flat.append(sum(cosines) / len(cosines) / temperature)
    size = embeddings.shape[2:]
    return torch.stack(flat).view(len(embeddings), *size, len(prototypes)).movedim(-1, 1)


def naive_log(terms):
    return torch.log(sum(terms)) if terms else torch.tensor(-math.inf, dtype=torch.float64)


def naive_log_sum_exp(x):
    """Over the last axis of (A, B)."""
    return torch.stack([naive_log([v.exp() for v in row if v > -math.inf]) for row in x])


def naive_negatives(scores, candidates, valid):
    everywhere, impossible = [], []
    for c in range(scores.shape[1]):
        terms = {True: [], False: []}
        for b, *at in pixels_of(scores):
            if valid[(b, *at)]:
                terms[bool(candidates[(b, c, *at)])].append(scores[(b, c, *at)].exp())
        everywhere.append(naive_log(terms[True] + terms[False]))
        impossible.append(naive_log(terms[False]))
    return torch.stack(everywhere), torch.stack(impossible)


def naive_log_z(scores, candidates, valid):
    """S.3, for each c: over all pixels j and classes k."""
    logs = []
    for c in range(scores.shape[1]):
        terms = []
        for b, *at in pixels_of(scores):
            for k in range(scores.shape[1]):
                if valid[(b, *at)] and (k != c or not candidates[(b, c, *at)]):
                    terms.append(scores[(b, k, *at)].exp())
        logs.append(naive_log(terms))
    return torch.stack(logs)


def naive_prototype_loss(scores, candidates, valid, positives):
    """S.8: the mean over the positives of Eq 6, summed over the classes that have some."""
    total = 0 * scores.sum()
    log_z = naive_log_z(scores, candidates, valid)
    for c, own in enumerate(positives):
        if own and log_z[c] > -math.inf:
            total = total + sum(-torch.log(s.exp() / log_z[c].exp()) for s in own) / len(own)
    return total


def naive_mask_positives(scores, labels):
    found = [[] for _ in range(scores.shape[1])]
    for b, *at in pixels_of(scores):
        if labels[(b, *at)] != 255:
            c = int(labels[(b, *at)])
            found[c].append(scores[(b, c, *at)])
    return found


def naive_point_positives(scores, pixels, classes):
    found = [[] for _ in range(scores.shape[1])]
    for (b, *at), c in zip(pixels.tolist(), classes.tolist(), strict=True):
        found[c].append(scores[(b, c, *at)])
    return found


def log_mean_exp(values):
    return torch.log(sum(v.exp() for v in values) / len(values))


def naive_box_positives(scores, boxes, classes, candidates, reading="maxima"):
    d = scores.ndim - 2
    found = [[] for _ in range(scores.shape[1])]
    for (b, *corners), c in zip(boxes.tolist(), classes.tolist(), strict=True):
        highest = []
        for axis in range(d):
            for row in range(corners[axis], corners[d + axis]):
                values = []
                for at in itertools.product(*map(range, corners[:d], corners[d:])):
                    if at[axis] == row and candidates[(b, c, *at)]:
                        values.append(scores[(b, c, *at)])
                if values:
                    highest.append(max(values))
        if reading == "pooled" and highest:
            highest = [log_mean_exp(highest)]
        found[c] += highest
    return found


def naive_tag_positives(scores, tags, candidates, valid, reading="pooled"):
    found = [[] for _ in range(scores.shape[1])]
    for b, c in itertools.product(range(len(scores)), range(scores.shape[1])):
        values = []
        for at in itertools.product(*map(range, scores.shape[2:])):
            if candidates[(b, c, *at)] and valid[(b, *at)]:
                values.append(scores[(b, c, *at)])
        if tags[b, c] == 1 and values:
            found[c] += [log_mean_exp(values)] if reading == "pooled" else values
    return found


def sums_and_counts(found):
    zero = torch.zeros((), dtype=torch.float64)
    counts = torch.tensor([len(own) for own in found], dtype=torch.float64)
    return torch.stack([zero + sum(own) for own in found]), counts


def gradients(value, *leaves):
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def assert_same(ours, naive, leaves, **tolerance):
    """Equal values, and equal gradients of a sum in which each value has a weight of its own."""
    torch.testing.assert_close(ours, naive, **tolerance)
    finite = naive.detach().isfinite()
    if not finite.any():
        return
    weights = torch.linspace(-1, 2, naive.numel(), dtype=torch.float64).view(naive.shape)[finite]
    expected = gradients((naive[finite] * weights).sum(), *leaves)
    for got, wanted in zip(
        gradients((ours[finite] * weights).sum(), *leaves), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted, **tolerance)


def example(size=(3, 4), batch=2, classes=3, seed=0):
    """Scores, candidates with empty and full sets among them, and a valid region."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    candidates = torch.rand(scores.shape, generator=generator) < 0.6
    candidates[0, :, 0, 0] = True
    candidates[0, :, 0, 1] = False
    valid = torch.ones(batch, *size, dtype=torch.bool)
    valid[-1, -1] = False
    return scores.requires_grad_(), candidates, valid
