"""The formulas of the SPOCO paper as loops, and images to compare them on.

All speak of a batch: embeddings (B, D, N), and labels (B, N) with the ids of objects, 0 where
unlabelled and -1 in padding. Centres are, image by image, a list of one embedding (D,) for each
object in the order of the ids. They return one value an image, 0 where they speak of nothing.
"""

import math

import torch


def regions(labels):
    """The pixels of each object of an image, and the unlabelled ones."""
    ids = sorted({int(i) for i in labels if i > 0})
    objects = [[i for i in range(len(labels)) if labels[i] == k] for k in ids]
    return objects, [i for i in range(len(labels)) if labels[i] == 0]


def distance(a, b):
    squares = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return squares.sqrt() if squares > 0 else 0 * squares  # at 0 a norm has no gradient


def hinge(x):
    return x if x > 0 else 0 * x


def nothing(*tensors):
    return sum(0 * t.sum() for t in tensors)


def naive_means(embeddings, labels):
    return [
        [sum(e[:, i] for i in pixels) / len(pixels) for pixels in regions(y)[0]]
        for e, y in zip(embeddings, labels, strict=True)
    ]


def naive_pull_loss(embeddings, labels, means, delta_v=0.5):
    values = []
    for e, y, mus in zip(embeddings, labels, means, strict=True):
        total = nothing(e)
        for mu, pixels in zip(mus, regions(y)[0], strict=True):
            over = [hinge(distance(mu, e[:, i]) - delta_v) ** 2 for i in pixels]
            total = total + sum(over) / len(pixels)
        values.append(total / max(1, len(mus)))
    return torch.stack(values)


def naive_push_loss(means, delta_d=2.0):
    values = []
    for mus in means:
        total = torch.zeros((), dtype=torch.float64)
        for k in range(len(mus)):
            for m in range(len(mus)):
                if m != k:
                    total = total + hinge(2 * delta_d - distance(mus[k], mus[m])) ** 2
        values.append(total / max(1, len(mus)) ** 2)
    return torch.stack(values)


def naive_norm_loss(means):
    values = []
    for mus in means:
        total = torch.zeros((), dtype=torch.float64)
        for mu in mus:
            total = total + distance(mu, torch.zeros_like(mu))
        values.append(total / max(1, len(mus)))
    return torch.stack(values)


def naive_unlabeled_push_loss(embeddings, labels, means, delta_d=2.0):
    values = []
    for e, y, mus in zip(embeddings, labels, means, strict=True):
        unlabelled = regions(y)[1]
        total = nothing(e)
        for mu in mus if unlabelled else []:
            near = [hinge(delta_d - distance(mu, e[:, i])) ** 2 for i in unlabelled]
            total = total + sum(near) / len(unlabelled)
        values.append(total / max(1, len(mus)))
    return torch.stack(values)


def naive_kernel_width(delta_v, threshold):
    sigma_squared = -(delta_v**2) / (2 * math.log(threshold))
    return 2 * sigma_squared


def naive_soft_mask(embeddings, anchor, delta_v=0.5, threshold=0.9):
    """One mask (N,) in one image (D, N)."""
    width = naive_kernel_width(delta_v, threshold)
    squares = [sum((x - a) ** 2 for x, a in zip(e, anchor, strict=True)) for e in embeddings.T]
    return torch.stack([torch.exp(-s / width) for s in squares])


def naive_soft_masks(embeddings, anchors, delta_v=0.5, threshold=0.9):
    """Anchors (B, K, D)."""
    return torch.stack(
        [
            torch.stack([naive_soft_mask(e, a, delta_v, threshold) for a in of_image])
            for e, of_image in zip(embeddings, anchors, strict=True)
        ]
    )


def naive_dice(s, t):
    overlap = sum(a * b for a, b in zip(s, t, strict=True))
    return 1 - 2 * overlap / (sum(a * a for a in s) + sum(b * b for b in t))


def naive_bce(s, t):
    return torch.nn.functional.binary_cross_entropy(s, t)


def naive_object_loss(embeddings, labels, anchors, delta_v=0.5, threshold=0.9, kind="dice"):
    values = []
    compare = {"dice": naive_dice, "bce": naive_bce}[kind]
    for e, y, of_image in zip(embeddings, labels, anchors, strict=True):
        inside = [i for i in range(len(y)) if y[i] >= 0]
        total = nothing(e)
        for anchor, pixels in zip(of_image, regions(y)[0], strict=True):
            mask = naive_soft_mask(e[:, inside], anchor, delta_v, threshold)
            truth = torch.tensor([float(i in pixels) for i in inside], dtype=e.dtype)
            total = total + compare(mask, truth)
        values.append(total / max(1, len(of_image)))
    return torch.stack(values)


def naive_consistency_loss(f, g, labels, anchors, delta_v=0.5, threshold=0.9):
    """Anchors: a list of pixels for each image."""
    values = []
    for a, b, y, pixels in zip(f, g, labels, anchors, strict=True):
        inside = [i for i in range(len(y)) if y[i] >= 0]
        total = nothing(a, b)
        for p in pixels:
            masks = [naive_soft_mask(e[:, inside], e[:, p], delta_v, threshold) for e in (a, b)]
            total = total + naive_dice(*masks)
        values.append(total / max(1, len(pixels)))
    return torch.stack(values)


def naive_draw_anchors(f, g, labels, order, delta_v=0.5, max_anchors=20):
    """Goes through pixels in the order given, for each image; returns the anchors of each."""
    drawn = []
    for a, b, y, pixels in zip(f, g, labels, order, strict=True):
        anchors = []
        for p in pixels if (y == 0).any() else []:
            covered = any(distance(e[:, p], e[:, q]) <= delta_v for q in anchors for e in (a, b))
            if not covered and len(anchors) < max_anchors:
                anchors.append(p)
        drawn.append(anchors)
    return drawn


def example(shape=(5, 6), batch=2, dtype=torch.float64, layout="contiguous", seed=7):
    """Embeddings (B, 3, *S) of two networks and object ids, of which a third is 0.

    Distances lie on both sides of all margins. The images have different numbers of objects.
    """
    generator = torch.Generator().manual_seed(seed)
    instances = torch.randint(0, 4, (batch, *shape), generator=generator)
    instances[1::2][instances[1::2] == 2] = 0
    f = 0.35 * torch.randn(batch, 3, *shape, dtype=torch.float64, generator=generator)
    f[:, 0] += 0.6 * instances
    g = f + 0.2 * torch.randn(f.shape, dtype=torch.float64, generator=generator)
    if layout == "channels_last":
        memory = torch.channels_last if len(shape) == 2 else torch.channels_last_3d
        f, g = (e.contiguous(memory_format=memory) for e in (f, g))
    f, g = (e.to(dtype).requires_grad_() for e in (f, g))
    return f, g, instances


def gradients(values, *inputs):
    """Gradients, with another weight for each image, so that none is taken for another's."""
    weights = torch.arange(1, len(values) + 1, dtype=values.dtype)
    return torch.autograd.grad(
        (weights * values).sum(), inputs, retain_graph=True, allow_unused=True
    )


def assert_same(values, expected, inputs, naive_inputs=None, **tolerance):
    """The values and their gradients are equal; a naive gradient that is missing is 0."""
    torch.testing.assert_close(values, expected.to(values.dtype), **tolerance)
    theirs = naive_inputs or inputs
    found = gradients(values, *inputs)
    for ours, naive, at in zip(found, gradients(expected, *theirs), inputs, strict=True):
        naive = torch.zeros_like(at) if naive is None else naive
        torch.testing.assert_close(ours, naive.to(ours.dtype).view_as(ours), **tolerance)
