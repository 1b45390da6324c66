"""Zooming, and transforms that can be undone."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from augkd.augment import Invertible, zoom_in, zoom_out
from augkd.data.sampler import make_batch
from augkd.degrade import bicubic

ALL = torch.tensor(list(product([False, True], repeat=4)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 24), st.floats(0, 1))
def test_invert_undoes_every_draw(seed: int, n: int, side: int, p: float) -> None:
    transform = Invertible(torch.from_numpy(np.random.default_rng(seed).random((n, 4)) < p))
    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    for there, back in ((transform.apply, transform.invert), (transform.invert, transform.apply)):
        torch.testing.assert_close(back(there(x)), x, atol=1e-7, rtol=0)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(ALL.tolist()), st.integers(1, 20), st.integers(1, 20))
def test_invert_undoes_every_composition_on_any_size(
    flags: list[bool], height: int, width: int
) -> None:
    """One composition for the whole batch may also transpose images that are not square."""
    transform = Invertible(torch.tensor([flags, flags]))
    x = torch.rand(2, 3, height, width)
    y = transform.apply(x)
    assert y.shape[-2:] == ((width, height) if flags[3] else (height, width))
    # exact to the bit without colour inversion
    torch.testing.assert_close(transform.invert(y), x, atol=1e-7 * flags[0], rtol=0)


def test_reaches_the_eight_symmetries_with_and_without_inversion() -> None:
    """Against numpy's rotations and transposition, the symmetries of the square."""
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    turned = [np.rot90(y, k) for y in (x[0, 0].numpy(), 1 - x[0, 0].numpy()) for k in range(4)]
    expected = {image.tobytes() for one in turned for image in (one, one.T)}
    results = Invertible(ALL).apply(x.expand(16, -1, -1, -1))
    assert {result.numpy().tobytes() for result in results} == expected
    assert len(expected) == 16


def test_it_commutes_with_a_local_map_at_another_resolution() -> None:
    """F^-1(S(F(x))) = S(x) for an S that treats all directions and tones alike: enlarging."""

    def enlarge(x: Tensor) -> Tensor:
        return x.repeat_interleave(3, -1).repeat_interleave(3, -2)

    transform, x = Invertible(ALL), torch.rand(16, 3, 6, 6)
    result = transform.invert(enlarge(transform.apply(x)))
    torch.testing.assert_close(result, enlarge(x), atol=1e-7, rtol=0)


def test_draws_each_operation_independently_with_its_probability() -> None:
    def drawn(n: int, p: float) -> Tensor:
        lr, generator = torch.rand(n, 3, 2, 2), np.random.default_rng(1)
        batch = make_batch(lr, bicubic(lr, 2, up=True), 2, generator, probability=p)
        return batch.transform.flags.double()

    flags = drawn(40_000, 0.3)
    # five standard errors
    torch.testing.assert_close(flags.mean(0), torch.full((4,), 0.3).double(), atol=0.0115, rtol=0)
    correlation = torch.corrcoef(flags.T) - torch.eye(4).double()
    assert float(correlation.abs().max()) < 0.025
    for p in (0.0, 1.0):
        assert float(drawn(99, p).mean()) == p


def test_invertible_refuses() -> None:
    some = Invertible(torch.tensor([[False] * 4, [False, False, False, True]]))
    eight_bit = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images = {"square": torch.rand(2, 3, 4, 5), r"2 images in .* not 3": torch.rand(3, 3, 4, 4)}
    for message, x in (images | {r"\[0, 1\]": eight_bit}).items():
        with pytest.raises(ValueError, match=message):
            some.apply(x)


def test_zoom_in_crops() -> None:
    hr = torch.rand(2, 3, 12, 16)
    offsets = torch.tensor([[0, 0], [8, 12], [3, 5], [1, 12], [8, 0], [2, 2]])
    crops = zoom_in(hr, 4, offsets)
    assert crops.shape == (6, 3, 4, 4)
    for j, (row, column) in enumerate(offsets.tolist()):  # crop k*N + i is of image i
        assert torch.equal(crops[j], hr[j % 2, :, row : row + 4, column : column + 4])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        *(([corner], "leaves") for corner in ([9, 0], [0, 13], [-1, 0], [0, -1])),
        *((offsets, "offsets") for offsets in ([[0]], [[0, 0, 0]], [0, 0])),
    ],
)
def test_zoom_in_refuses(offsets: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoom_in(torch.rand(1, 3, 12, 16), 4, torch.tensor(offsets))
    with pytest.raises(ValueError, match="offsets"):
        zoom_in(torch.rand(2, 3, 12, 16), 4, torch.zeros(3, 2).long())


def test_zoom_out_is_not_rounded_and_repeats_edges_by_default() -> None:
    lr = torch.rand(1, 3, 12, 12)
    result = zoom_out(lr, 4)
    assert not torch.allclose((result * 255).round(), result * 255, atol=1e-3)
    assert torch.equal(zoom_out(lr, 4, "symmetric"), bicubic(lr, 4, "symmetric"))
    extended = torch.nn.functional.pad(lr, (8, 8, 8, 8), mode="replicate")
    torch.testing.assert_close(zoom_out(extended, 4)[..., 2:-2, 2:-2], result, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="scale"):
        zoom_out(torch.rand(1, 3, 12, 12), 0)
