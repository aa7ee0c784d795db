import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import auto_cli
from torch import Tensor, nn

from semiweak.inference.tiling import Tiling, predict_tiled


class Recorder:
    """Applies a function and remembers the shape of every piece it was given."""

    def __init__(self, function=lambda piece: piece):
        self.function = function
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, piece: Tensor) -> Tensor:
        self.shapes.append(tuple(piece.shape))
        return self.function(piece)


class Disagree:
    """Gives every tile a constant of its own: the worst that tiles can do to each other."""

    def __init__(self, values):
        self.values = itertools.cycle(values)

    def __call__(self, piece: Tensor) -> Tensor:
        values = [torch.full((1, *piece.shape[2:]), next(self.values)) for _ in piece]
        return torch.stack(values)


def largest_step(image: Tensor) -> float:
    """The largest difference of two neighbouring pixels along any axis."""
    steps = [image.diff(dim=axis).abs() for axis in range(2, image.ndim)]
    return max((float(step.max()) for step in steps if step.numel()), default=0.0)


@st.composite
def cuts(draw):
    """An image's shape with tile sizes and overlaps that fit it, 2D and 3D."""
    dims = draw(st.sampled_from([2, 3]))
    most = 40 if dims == 2 else 12
    shape = [draw(st.integers(1, most)) for _ in range(dims)]
    size = [draw(st.integers(1, most)) for _ in range(dims)]
    overlap = [draw(st.integers(0, n - 1)) for n in size]
    return tuple(shape), tuple(size), tuple(overlap)


@settings(deadline=None, max_examples=150)
@given(cuts(), st.integers(1, 3), st.integers(0, 2**16))
def test_a_pointwise_function_gives_the_same_tiled_or_not(cut, batch_size, seed):
    shape, size, overlap = cut
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((2, 3, *shape), generator=generator)

    def function(piece):
        return torch.stack([piece.sum(1), piece[:, 0] * 2 - 1], dim=1)

    tiled = predict_tiled(function, image, Tiling(size, overlap, batch_size))
    torch.testing.assert_close(tiled, function(image), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=150)
@given(cuts(), st.integers(1, 3))
def test_every_piece_is_a_full_tile_inside_the_image(cut, batch_size):
    shape, size, overlap = cut
    function = Recorder()
    predict_tiled(function, torch.zeros(1, 1, *shape), Tiling(size, overlap, batch_size))
    expected = tuple(min(n, tile) for n, tile in zip(shape, size, strict=True))
    assert {piece[2:] for piece in function.shapes} == {expected}
    assert max(piece[0] for piece in function.shapes) <= batch_size


@settings(deadline=None, max_examples=150)
@given(cuts(), st.integers(0, 2**16))
def test_tiles_that_disagree_leave_no_step(cut, seed):
    shape, size, overlap = cut
    generator = torch.Generator().manual_seed(seed)
    biases = torch.rand(50, generator=generator).tolist()
    tiled = predict_tiled(Disagree(biases), torch.zeros(1, 1, *shape), Tiling(size, overlap))
    assert tiled.min() >= min(biases) - 1e-5  # a weighted mean with no negative weight
    assert tiled.max() <= max(biases) + 1e-5
    slope = (max(biases) - min(biases)) / (min(overlap) + 1)
    assert largest_step(tiled) <= slope + 1e-5


@pytest.mark.parametrize("length", [100, 161, 179, 181, 260, 341])
def test_two_values_blend_over_the_overlap(length):
    image = torch.zeros(1, 1, length, 8)
    tiled = predict_tiled(Disagree([0.0, 1.0]), image, Tiling((100, 8), (20, 0)))
    assert largest_step(tiled) <= 1 / 21 + 1e-6
    hard = predict_tiled(Disagree([0.0, 1.0]), image, Tiling((100, 8), (0, 0)))
    if length > 100:
        assert largest_step(hard) >= 0.5  # without overlap the seam is there
        assert tiled.max() == 1  # the second tile is not blended away
    assert tiled[..., 0, :].max() == 0  # the image's own border belongs to one tile alone


def test_the_weights_of_a_regular_cut_by_hand():
    # Tiles [0, 6) and [3, 9): three shared pixels, ramp 1/4, 2/4, 3/4.
    tiled = predict_tiled(Disagree([0.0, 1.0]), torch.zeros(1, 1, 9, 1), Tiling((6, 1), (3, 0)))
    expected = torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    torch.testing.assert_close(tiled[0, 0, :, 0], expected)


def test_the_middle_of_a_wide_overlap_is_blended():
    # Tiles [0, 8) and [2, 10) share six pixels; the outer four go to the tile that saw more.
    tiled = predict_tiled(Disagree([0.0, 1.0]), torch.zeros(1, 1, 10, 1), Tiling((8, 1), (2, 0)))
    expected = torch.tensor([0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])
    torch.testing.assert_close(tiled[0, 0, :, 0], expected)


@pytest.mark.parametrize(
    ("conv", "shape", "tiling"),
    [
        (nn.Conv2d, (50, 61), Tiling(24, 8)),
        (nn.Conv3d, (13, 20, 9), Tiling((8, 9, 16), (4, 4, 4))),
    ],
    ids=["2d", "3d"],
)
def test_a_network_that_sees_less_than_the_overlap_gives_the_same_everywhere(conv, shape, tiling):
    # Two 3-wide convolutions see 2 pixels to each side. The blend leaves out a tile's outer pixels
    # only where tiles share more than the overlap, so that a tile's zero padding is seen at most
    # 2 pixels into each ramp: there the results differ, nowhere else.
    torch.manual_seed(0)
    network = nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 3, padding=1))
    image = torch.randn(1, 2, *shape)
    with torch.no_grad():
        whole = network(image)
    tiled = predict_tiled(network, image, tiling)
    same = (tiled - whole).abs().amax(dim=1)[0] < 1e-5
    size, overlap = tiling.resolve(len(shape))
    far = torch.ones(shape, dtype=torch.bool)
    for axis, (n, tile, shared) in enumerate(zip(shape, size, overlap, strict=True)):
        if n <= tile:
            continue
        starts = [*range(0, n - tile, tile - shared), n - tile]
        edges = [*starts[1:], *(start + tile - 1 for start in starts[:-1])]
        position = torch.arange(n)
        near = torch.stack([(position - edge).abs() <= 2 for edge in edges]).any(0)
        far &= ~near.view([-1 if i == axis else 1 for i in range(len(shape))])
    assert far.any()
    assert same[far].all()
    assert not same.all()  # or the test would show nothing
    assert (tiled - whole).abs().max() < 0.5 * whole.abs().max()


def test_an_image_no_larger_than_a_tile_goes_through_in_one_piece():
    image = torch.randn(3, 2, 20, 31)
    function = Recorder(lambda piece: piece.softmax(dim=1))
    tiled = predict_tiled(function, image, Tiling((20, 31), (4, 4)))
    assert function.shapes == [(3, 2, 20, 31)]
    assert torch.equal(tiled, image.softmax(dim=1))


def test_an_axis_shorter_than_the_tile_is_not_cut():
    function = Recorder()
    image = torch.randn(1, 1, 10, 50)
    tiled = predict_tiled(function, image, Tiling(20, 10))
    assert function.shapes == [(1, 1, 10, 20)] * 4
    torch.testing.assert_close(tiled, image)


def test_several_tiles_go_through_together():
    function = Recorder()
    predict_tiled(function, torch.zeros(2, 1, 10, 30), Tiling((10, 10), 0, batch_size=4))
    assert [shape[0] for shape in function.shapes] == [4, 2]


def test_the_step_of_the_tiles_is_regular_so_that_pooling_keeps_its_phase():
    # A function of position within the tile shows where the tiles begin.
    def ramp(piece):
        return torch.arange(piece.shape[2]).float().view(1, 1, -1, 1).expand_as(piece)

    tiled = predict_tiled(ramp, torch.zeros(1, 1, 70, 1), Tiling((32, 1), (0, 0)))
    assert torch.equal(tiled[0, 0, :48, 0] % 32, torch.arange(48.0) % 32)


@pytest.mark.parametrize("size", [16, 40], ids=["tiled", "whole"])
def test_half_precision_becomes_float32_and_gradients_are_not_kept(size):
    image = torch.full((1, 1, 40, 8), 1.0, requires_grad=True)
    tiled = predict_tiled(lambda piece: piece.bfloat16() / 3, image, Tiling(size, 8))
    assert tiled.dtype == torch.float32
    assert not tiled.requires_grad
    torch.testing.assert_close(tiled, torch.full_like(tiled, float((torch.ones(1) / 3).bfloat16())))


def test_the_result_lies_where_the_image_lies():
    # As when a function moves its tile to a GPU and the image stays where it is.
    image = torch.zeros(1, 1, 8, 8, device="meta")
    tiled = predict_tiled(lambda piece: torch.zeros(piece.shape), image, Tiling(4, 0))
    assert tiled.device == image.device


@pytest.mark.parametrize(
    ("tiling", "dims", "expected"),
    [
        (Tiling(), 2, ((1024, 1024), (128, 128))),
        (Tiling(), 3, ((64, 256, 256), (16, 64, 64))),
        (Tiling(512), 2, ((512, 512), (128, 128))),
        (Tiling(64), 3, ((64, 64, 64), (16, 16, 16))),
        (Tiling(1), 2, ((1, 1), (0, 0))),
        (Tiling(64, 32), 3, ((64, 64, 64), (32, 32, 32))),
        (Tiling((8, 64, 32), (2, 8, 4)), 3, ((8, 64, 32), (2, 8, 4))),
        (Tiling(None, 7), 3, ((64, 256, 256), (7, 7, 7))),
    ],
)
def test_defaults(tiling, dims, expected):
    assert tiling.resolve(dims) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0}, "size 0"),
        ({"size": (4, -1)}, "from 1 up"),
        ({"size": 8.5}, "whole numbers"),
        ({"overlap": -1}, "overlap -1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"size": 64, "overlap": 64}, "must be smaller"),
        ({"size": (64, 16), "overlap": 16}, "must be smaller"),
        ({"size": (64, 16), "overlap": (16, 16)}, "must be smaller"),
        ({"size": (64, 64), "overlap": (16, 16, 16)}, "for each axis"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        Tiling(**arguments)


def test_a_tiling_for_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"size \(8, 8, 8\).*2 axes"):
        predict_tiled(lambda piece: piece, torch.zeros(1, 1, 9, 9), Tiling((8, 8, 8)))
    with pytest.raises(ValueError, match="must be smaller"):
        predict_tiled(lambda piece: piece, torch.zeros(1, 1, 9, 9, 9), Tiling(overlap=64))


@pytest.mark.parametrize("size", [4, 16], ids=["tiled", "whole"])
def test_a_function_that_changes_the_size_is_refused(size):
    with pytest.raises(ValueError, match="keep the number and the size"):
        predict_tiled(lambda piece: piece[..., 1:], torch.zeros(1, 1, 9, 9), Tiling(size, 0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Tiling()),
        (["--tiling.size", "512"], Tiling(512)),
        (["--tiling.size=[8, 9, 9]", "--tiling.overlap=[4, 2, 2]"], Tiling((8, 9, 9), (4, 2, 2))),
        (["--tiling.batch_size", "4"], Tiling(batch_size=4)),
    ],
)
def test_a_tiling_comes_from_the_command_line(arguments, expected):
    def command(tiling: Tiling) -> Tiling:
        return tiling

    assert auto_cli(command, args=arguments) == expected
