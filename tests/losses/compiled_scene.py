"""What the tests of the compiled sums share: images, layouts, comparisons."""

import torch
from naive_spoco import (
    gradients,
)

from semiweak.losses.spoco import spoco_losses

MARGINS = {"delta_v": 0.4, "delta_d": 1.5, "threshold": 0.8}


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def scene(shape=(25, 31), batch=3, dim=5):
    """Embeddings (B, D, *S) of two networks and ids with gaps, of which another misses in each.

    The values are those of float32, so that nothing is rounded on the way from float64. Some rows
    are painted completely. No number of pixels but the second's is one of whole tiles.
    """
    generator = seeded(7)
    instances = torch.randint(0, 6, (batch, *shape), generator=generator)
    for b in range(batch):
        instances[b][instances[b] == 1 + b] = 0
    rows = instances[:, 8:18]
    rows[rows == 0] = 5
    f = 0.3 * torch.randn(batch, dim, *shape, generator=generator)
    f[:, 0] += 0.5 * instances
    f[:, -1] += 0.3 * (instances % 2)
    g = f + 0.2 * torch.randn(f.shape, generator=generator)
    return f, g, 7 * instances


def contiguous(e):
    return e.contiguous()


def channels_last(e):
    return e.contiguous(memory_format=torch.channels_last)


def every_second_number(e):
    return torch.stack((e, e.new_full(e.shape, torch.nan)), -1)[..., 0]


def some_channels(e):
    return torch.cat((e.new_full(e.shape, torch.nan), e, e + 1), 1)[:, e.shape[1] : -e.shape[1]]


def same_in_all_images(e):
    return e[:1].expand_as(e)


def leaf(e, dtype=torch.float32, layout=contiguous):
    return layout(e.detach().to(dtype)).detach().requires_grad_()


def back(values, *inputs):
    """The gradients, 0 where there is none."""
    found = zip(gradients(values, *inputs), inputs, strict=True)
    return [torch.zeros_like(e) if grad is None else grad for grad, e in found]


def results(terms, *inputs):
    """Values, known images and gradients of each term and of their weighted sum."""
    found = {n: (v, known, *back(v, *inputs)) for n, (v, known) in terms.items()}
    if terms:
        total = sum((i + 1) * values for i, (values, _) in enumerate(terms.values()))
        found["total"] = (total, *back(total, *inputs))
    return found


def spoco(f, g, instances, dtype=torch.float32, layout=(contiguous, contiguous), **options):
    f, g = leaf(f, dtype, layout[0]), None if g is None else leaf(g, dtype, layout[1])
    terms = spoco_losses(f, g, instances, generator=seeded(), **(MARGINS | options))
    return results(terms, *([f] if g is None else [f, g]))


def assert_same(found, expected, digits=5):
    """Equal; of a tensor that has numbers of many sizes, by the largest of them."""
    assert found.keys() == expected.keys()
    for name in expected:
        for a, b in zip(found[name], expected[name], strict=True):
            if b.dtype == torch.bool:
                assert torch.equal(a, b), name
                continue
            b = b.to(a.dtype)
            size = b.abs().max().item() if b.numel() else 0.0
            rtol, atol = 10.0**-digits, size * 10.0**-digits
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n} {m}")


def assert_as_in_double(f, g, instances, **options):
    found = spoco(f, g, instances, **options)
    options.pop("layout", None)
    assert_same(found, spoco(f, g, instances, torch.float64, **options))
    return found
