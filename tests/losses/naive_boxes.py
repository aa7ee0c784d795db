"""The losses of BoxInst as loops over their formulas, and boxes to compare them on.

Probabilities and similarities are those of single pixels, by their position.
"""

import itertools
import math

import torch

FLAT, SOLID = (7, 6), (4, 5, 4)
BOXES = {
    # Image, starts, ends: whole ones, one of a single pixel, one of the whole frame, and cut ones.
    FLAT: [
        [0, 1, 1, 5, 4], [0, 3, 2, 6, 5], [0, 2, 2, 3, 3], [1, 0, 0, 7, 6], [1, 2, 3, 4, 6],
        [1, 0, 1, 3, 4], [1, 4, 1, 6, 3],
    ],
    SOLID: [
        [0, 1, 1, 1, 3, 4, 3], [0, 0, 1, 1, 3, 4, 3], [1, 1, 0, 0, 3, 4, 3], [1, 1, 2, 1, 2, 4, 2],
    ],
}  # fmt: skip
CLASSES = {FLAT: [1, 1, 2, 0, 1, 2, 1], SOLID: [1, 2, 1, 2]}


def example(size, seed=0):
    """Logits, boxes, classes, candidates and valid of two images, of three with one without."""
    generator = torch.Generator().manual_seed(seed)
    boxes, classes = torch.tensor(BOXES[size]), torch.tensor(CLASSES[size])
    logits = 2 * torch.randn(3, 3, *size, generator=generator, dtype=torch.float64)
    candidates = torch.rand(3, 3, *size, generator=generator) < 0.3
    for (image, *corners), c in zip(boxes.tolist(), classes.tolist(), strict=True):
        d = len(size)
        candidates[(image, c, *map(slice, corners[:d], corners[d:]))] = True
    candidates[0, 1, 2, 2] = False  # in a box, but something else says no
    valid = torch.rand(3, *size, generator=generator) < 0.9
    return logits.requires_grad_(), boxes, classes, candidates, valid


def pixels_in(size):
    return list(itertools.product(*map(range, size)))


def holds(box, at):
    d = len(at)
    return all(box[1 + a] <= at[a] < box[1 + d + a] for a in range(d))


def naive_dice(u, v):
    squares = sum(x * x for x in u) + sum(x * x for x in v)
    return 1 - 2 * sum(x * y for x, y in zip(u, v, strict=True)) / (squares + 1e-5)


def tells(box, size, axis, cut_boxes):
    """Whether each line along an axis holds a pixel of the object, though the box may be cut."""
    d = len(size)
    others = [a for a in range(d) if a != axis]
    return cut_boxes == "keep" or all(box[1 + a] > 0 and box[1 + d + a] < size[a] for a in others)


def lines_of(pixels, axis, n):
    return [[at for at in pixels if at[axis] == i] for i in range(n)]


def naive_projection_loss(
    logits, boxes, classes, candidates, valid, *, reading="box", cut_boxes="skip"
):
    p = logits.softmax(1)
    size = tuple(logits.shape[2:])
    values, known = [], []
    for b in range(len(p)):
        own = [
            (box, c) for box, c in zip(boxes.tolist(), classes.tolist(), strict=True) if box[0] == b
        ]
        known.append(bool(own))
        if not own:
            values.append(torch.zeros((), dtype=p.dtype))
            continue
        real = [at for at in pixels_in(size) if valid[(b, *at)]]
        given = (p[b], own, candidates[b], real, size, cut_boxes)
        values.append(by_box(*given) if reading == "box" else by_class(*given))
    return torch.stack(values), torch.tensor(known)


def by_box(p, own, candidates, real, size, cut_boxes):
    of_boxes = []
    for box, c in own:
        axes = []
        for axis, n in enumerate(size):
            if not tells(box, size, axis, cut_boxes):
                continue
            inside = [at for at in real if holds(box, at) and candidates[(c, *at)]]
            lines = [line for line in lines_of(inside, axis, n) if line]
            if lines:
                u = [max(p[(c, *at)] for at in line) for line in lines]
                axes.append(naive_dice(u, [1.0] * len(u)))
        if axes:
            of_boxes.append(sum(axes))
    total = sum(of_boxes) / len(of_boxes) if of_boxes else 0 * p.sum()
    for c, (axis, n) in itertools.product(range(len(p)), enumerate(size)):
        outside = [at for at in real if not candidates[(c, *at)]]
        lines = [line for line in lines_of(outside, axis, n) if line]
        if lines:
            total = total + naive_dice(
                [1 - max(p[(c, *at)] for at in line) for line in lines], [1.0] * len(lines)
            )
    return total


def by_class(p, own, candidates, real, size, cut_boxes):
    of_classes = []
    for c in sorted({c for _, c in own}):
        of_c = [box for box, k in own if k == c]
        axes = []
        for axis, n in enumerate(size):
            u, v = [], []
            for line in lines_of(real, axis, n):
                inside = {
                    box_number: [at for at in line if holds(box, at) and candidates[(c, *at)]]
                    for box_number, box in enumerate(of_c)
                }
                outside = [at for at in line if not candidates[(c, *at)]]
                covered = [k for k, at in inside.items() if at]
                if any(tells(of_c[k], size, axis, cut_boxes) for k in covered):
                    v.append(1.0)
                elif covered or not outside:
                    continue
                else:
                    v.append(0.0)
                u.append(max(p[(c, *at)] for k in covered for at in inside[k]) if covered else 0.0)
                for at in outside:
                    u[-1] = max(u[-1], p[(c, *at)])
            if any(v):
                axes.append(naive_dice(u, v))
        if axes:
            of_classes.append(sum(axes))
    return sum(of_classes) / len(of_classes) if of_classes else 0 * p.sum()


def all_neighbours(size, at, dilation):
    for step in itertools.product((-1, 0, 1), repeat=len(size)):
        other = tuple(a + dilation * s for a, s in zip(at, step, strict=True))
        if any(step) and all(0 <= a < n for a, n in zip(other, size, strict=True)):
            yield step, other


def median(values):
    return sorted(values)[(len(values) - 1) // 2]


def naive_noise_level(image, valid, *, dilation=2):
    size = tuple(image.shape[2:])
    sigma = torch.ones(image.shape[:2], dtype=torch.float64)
    for b, c in itertools.product(*map(range, sigma.shape)):
        grey = {at: image[(b, c, *at)].item() for at in pixels_in(size) if valid[(b, *at)]}
        second = []
        for at, axis in itertools.product(grey, range(len(size))):
            low, high = list(at), list(at)
            low[axis], high[axis] = at[axis] - dilation, at[axis] + dilation
            if tuple(low) in grey and tuple(high) in grey:
                second.append(abs(grey[tuple(low)] - 2 * grey[at] + grey[tuple(high)]))
        mean = sum(grey.values()) / max(1, len(grey))
        deviation = math.sqrt(sum((v - mean) ** 2 for v in grey.values()) / max(1, len(grey)))
        noise = median(second) / (0.67448975 * math.sqrt(6)) if second else 0.0
        sigma[b, c] = max(noise, 0.01 * deviation) or 1.0
    return sigma


def naive_similarities(image, valid, *, dilation=2, theta=0.5, smoothing=1):
    """By image, pixel and neighbour, for all 8 (26) neighbours."""
    size, r = tuple(image.shape[2:]), smoothing // 2
    smooth = torch.zeros_like(image)
    for at in pixels_in(size):
        window = tuple(slice(max(a - r, 0), a + r + 1) for a in at)
        smooth[(..., *at)] = image[(..., *window)].flatten(2).mean(2)
    sigma = naive_noise_level(smooth, valid, dilation=dilation)
    found = {}
    for b, at in itertools.product(range(len(image)), pixels_in(size)):
        for _, other in all_neighbours(size, at, dilation):
            difference = (smooth[(b, slice(None), *at)] - smooth[(b, slice(None), *other)]) / sigma[
                b
            ]
            distance = math.sqrt(sum(x * x for x in difference.tolist()) / len(difference))
            both = valid[(b, *at)] and valid[(b, *other)]
            found[b, at, other] = math.exp(-theta * distance) if both else 0.0
    return found


def naive_pairwise_loss(logits, boxes, classes, similarities, *, threshold, dilation=2):
    """Every neighbour of every pixel, with the weight of its centre pixel."""
    p = logits.softmax(1)
    size = tuple(logits.shape[2:])
    values, known = [], []
    for b in range(len(p)):
        own = [
            (box, c) for box, c in zip(boxes.tolist(), classes.tolist(), strict=True) if box[0] == b
        ]
        total, number = torch.zeros((), dtype=p.dtype), 0
        for c, at in itertools.product(sorted({c for _, c in own}), pixels_in(size)):
            if not any(holds(box, at) for box, k in own if k == c):
                continue
            for _, other in all_neighbours(size, at, dilation):
                if similarities[b, at, other] >= threshold:
                    i, j = p[(b, c, *at)], p[(b, c, *other)]
                    total = total - torch.log(i * j + (1 - i) * (1 - j))
                    number += 1
        values.append(total / max(1, number))
        known.append(bool(own))
    return torch.stack(values), torch.tensor(known)
