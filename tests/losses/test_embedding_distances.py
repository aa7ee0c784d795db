"""The sums over pixels: values, gradients, parts, memory layouts, precision."""

import pytest
import torch
from naive_spoco import distance, example, gradients

from semiweak.losses import distances
from semiweak.losses.distances import Term, squared_distances, sum_over_pixels
from semiweak.losses.pixels import pick


class Squares(Term):
    """The sums of the squared distances, and of their products with the pixel's number."""

    def __init__(self, *centres):
        self.centres = centres

    def sums(self, d2, pixels):
        x = sum(d2)
        number = torch.arange(pixels.start, pixels.stop, dtype=x.dtype)
        return torch.stack((x.sum(2), (x * number).sum(2)), 2)

    def slopes(self, d2, pixels, grad):
        number = torch.arange(pixels.start, pixels.stop, dtype=d2[0].dtype)
        slope = grad[..., :1] + grad[..., 1:] * number
        for x in d2:
            x.copy_(slope)


def naive_sums(embeddings, centres):
    """Centres: pairs of the position of an embedding and centres (B, K, D)."""
    number = torch.arange(embeddings[0].shape[2], dtype=torch.float64)
    x = sum((embeddings[e][:, None] - c[..., None]).square().sum(2) for e, c in centres)
    return torch.stack((x.sum(2), (x * number).sum(2)), 2)


def total(sums):
    """One number an image, in which every sum has another weight."""
    weights = torch.linspace(1, 2, sums[0].numel(), dtype=sums.dtype).view(sums.shape[1:])
    return (sums * weights).sum((1, 2))


def same_gradients(found, expected, inputs):
    for a, b in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("room", [2**19, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_terms_share_a_pass(layout, room, monkeypatch):
    monkeypatch.setitem(distances._CHUNK, "cpu", room)
    f, g, _ = example((25, 31), layout=layout)
    centres = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    others = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([[5, 774], [300, 5]])
    terms = [Squares((0, centres)), Squares((0, at), (1, others)), Squares((1, at))]
    e = [f.flatten(2), g.flatten(2)]
    found = sum_over_pixels(e, terms)
    expected = [
        naive_sums(e, [(0, centres)]),
        naive_sums(e, [(0, pick(e[0], at)), (1, others)]),
        naive_sums(e, [(1, pick(e[1], at))]),
    ]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    same_gradients(
        sum((i + 1) * total(a) for i, a in enumerate(found)),
        sum((i + 1) * total(b) for i, b in enumerate(expected)),
        (f, g, centres, others),
    )


def test_only_what_needs_a_gradient_gets_one():
    f, g, _ = example()
    centres = torch.randn(2, 4, 3, dtype=torch.float64)
    e = [f.flatten(2), g.detach().flatten(2)]
    found = sum_over_pixels(e, [Squares((0, centres), (1, centres))])[0]
    expected = naive_sums(e, [(0, centres), (1, centres)])
    same_gradients(total(found), total(expected), (f,))
    assert centres.grad is None
    assert not sum_over_pixels([e[1]], [Squares((0, centres))])[0].requires_grad


def test_no_centre_and_no_term():
    f, _, _ = example()
    sums = sum_over_pixels([f.flatten(2)], [Squares((0, f.new_zeros(2, 0, 3)))])[0]
    assert sums.shape == (2, 0, 2)
    (gradient,) = gradients(sums.sum((1, 2)), f)
    assert torch.equal(gradient, torch.zeros_like(f))
    assert sum_over_pixels([f.flatten(2)], []) == []


def test_no_image():
    f = torch.zeros(0, 3, 4, requires_grad=True)
    assert sum_over_pixels([f], [Squares((0, torch.zeros(0, 2, 3)))])[0].shape == (0, 2, 2)


def test_differentiable_once():
    f, _, _ = example()
    sums = sum_over_pixels([f.flatten(2)], [Squares((0, f.new_ones(2, 1, 3)))])[0]
    (gradient,) = torch.autograd.grad(sums.square().sum(), f, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_far_from_0_no_digits_are_lost(shift):
    exact, _, _ = example()
    centres = exact.detach().flatten(2)[:, :, :4].mT
    near = (exact + shift).detach().float().requires_grad_()
    # What float32 makes of the inputs is their business.
    e, c = near.detach().flatten(2).double(), near.detach().flatten(2)[:, :, :4].mT.double()
    expected = naive_sums([e], [(0, c)])
    assert c.shape == centres.shape
    found = sum_over_pixels([near.flatten(2)], [Squares((0, c.float()))])[0]
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    d2 = squared_distances(near.flatten(2), c.float())
    expected = (e[:, None] - c[..., None]).square().sum(2)
    torch.testing.assert_close(d2, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", [1e6, 1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_stands_in_padding_is_not_looked_at(layout, fill):
    found = []
    outside = torch.zeros(2, 5, 6, dtype=torch.bool)
    outside[0, :, 4:] = outside[1, :2] = True
    at = torch.tensor([[0, 1], [0, 20]])  # the first pixel of the second image is padding
    for value in (0.0, fill):
        f, _, _ = example(dtype=torch.float32, layout=layout)
        f = f.detach().masked_fill_(outside[:, None], value).requires_grad_()
        term = MaskedSquares(outside.flatten(1), at)
        sums = sum_over_pixels([f.flatten(2)], [term], outside.flatten(1))[0]
        found.append((sums, gradients(sums.sum((1, 2)), f)[0]))
    assert found[1][0].isfinite().all()
    torch.testing.assert_close(found[0], found[1])


class MaskedSquares(Squares):
    """As a term does that knows of padding."""

    def __init__(self, outside, at):
        super().__init__((0, at))
        self.outside = outside

    def sums(self, d2, pixels):
        return super().sums([d2[0] * ~self.outside[:, None, pixels]], pixels)

    def slopes(self, d2, pixels, grad):
        super().slopes(d2, pixels, grad)
        d2[0].mul_(~self.outside[:, None, pixels])


def test_squared_distances_are_those_of_a_loop():
    f, _, _ = example()
    e = f.flatten(2)
    centres = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    found = squared_distances(e, centres)
    for b in range(2):
        for k in range(3):
            for i in range(30):
                expected = distance(e[b, :, i], centres[b, k]) ** 2
                assert found[b, k, i].item() == pytest.approx(expected.item())
    assert torch.autograd.gradcheck(squared_distances, (f[..., :2].flatten(2), centres))
    assert (squared_distances(e, e.mT) >= 0).all()


def test_squared_distances_from_no_centre():
    f, _, _ = example()
    found = squared_distances(f.flatten(2), f.new_zeros(2, 0, 3))
    assert found.shape == (2, 0, 30)
    assert torch.equal(gradients(found.sum((1, 2)), f)[0], torch.zeros_like(f))


def test_squared_distances_under_autocast():
    f, _, _ = example(dtype=torch.float32)
    centres = torch.randn(2, 3, 3)
    plain = squared_distances(f.flatten(2), centres)
    with torch.autocast("cpu", torch.bfloat16):
        cast = squared_distances(f.flatten(2), centres)
    assert torch.equal(plain, cast)
