"""Some rows of upsampled logits are those of the whole, and so is their gradient."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfseg.losses import upsample
from hfseg.upsampling import resize_back, upsample_rows


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([1, 3, 20]), st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 37)] * 2), st.data()
)
def test_some_rows_are_those_of_the_whole(num_labels: int, small: Any, large: Any, data: Any) -> None:
    top = data.draw(st.integers(0, large[0] - 1))
    rows = slice(top, data.draw(st.integers(top + 1, large[0])))
    logits = 4 * torch.randn(2, num_labels, *small, generator=torch.Generator().manual_seed(top))
    before = logits.clone()
    expected = upsample(logits, large)[:, :, rows].clone()
    got = upsample_rows(logits, large, rows)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got.zero_()  # it is nobody else's
    assert torch.equal(logits, before)


@settings(max_examples=60)
@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 37)] * 2), st.data())
def test_the_gradient_goes_back_through_the_transposed_resize(small: Any, large: Any, data: Any) -> None:
    """What a GPU does by two products of matrices, against autograd."""
    top = data.draw(st.integers(0, large[0] - 1))
    rows = slice(top, data.draw(st.integers(top + 1, large[0])))
    torch.manual_seed(top)
    logits, band = torch.randn(2, 3, *small, requires_grad=True), torch.randn(2, 3, rows.stop - top, large[1])
    expected = torch.autograd.grad(upsample(logits, large)[:, :, rows], logits, band)[0]
    # Up to 37 x 37 values are added, in another order.
    torch.testing.assert_close(resize_back(band, *small, large[0], rows), expected, rtol=1e-5, atol=1e-4)
