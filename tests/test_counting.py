"""The counters against sums made by hand, and against torch's own allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from hiper.analysis import Work, counting
from tests import tiny

FLOAT = 4


def test_a_linear_layer_forward() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    with counting() as counter:
        layer(x)
    moved = (3 * 5 + 5 * 7 + 7 + 3 * 7) * FLOAT
    assert counter.work() == Work(flops=2 * 3 * 5 * 7, moved=moved, products=moved, peak=3 * 7 * FLOAT)


@pytest.mark.parametrize(("frozen", "products"), [(True, 2), (False, 3)])
def test_frozen_weights_save_one_product_of_three(frozen: bool, products: int) -> None:
    layer, x = nn.Linear(5, 7).requires_grad_(not frozen), torch.randn(3, 5, requires_grad=True)
    with counting() as counter:
        torch.autograd.backward(layer(x).sum())
    assert counter.work().flops == products * 2 * 3 * 5 * 7


def test_a_convolution() -> None:
    layer, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8)
    with counting() as counter:
        layer(x)
    moved = (2 * 4 * 64 + 6 * 4 * 9 + 6 + 2 * 6 * 64) * FLOAT
    flops = 2 * (2 * 6 * 8 * 8) * (4 * 3 * 3)
    assert counter.work() == Work(flops=flops, moved=moved, products=moved, peak=2 * 6 * 64 * FLOAT)


def test_attention_is_counted_on_the_cpu_as_well() -> None:
    batch, heads, cells, rows, width = 2, 3, 16, 10, 8
    q = torch.randn(batch, heads, cells, width, requires_grad=True)
    k, v = (torch.randn(batch, heads, rows, width, requires_grad=True) for _ in "kv")
    product = 2 * batch * heads * cells * rows * width
    with counting() as counter:
        attended = F.scaled_dot_product_attention(q, k, v)
        assert counter.work().flops == 2 * product
        torch.autograd.backward(attended.sum())
    # scores once more, then the gradients of both products' two sides
    assert counter.work().flops == (2 + 5) * product


def test_views_move_nothing_and_an_expanded_tensor_is_read_once() -> None:
    x = torch.randn(4, 6)
    with counting() as counter:
        x.t().reshape(4, 6)[0].unsqueeze(1)
        assert counter.work().moved == x.nbytes + x.nbytes  # reshape of the transposed one copies
        x[:1].expand(10, 6).add(1.0)
    assert counter.work().moved == 2 * x.nbytes + x.nbytes + 10 * 6 * FLOAT


def test_the_peak_is_what_is_alive_at_once_not_the_sum() -> None:
    x = torch.randn(1000)
    with counting() as counter:
        for _ in range(5):
            x = x + 1.0
    assert counter.work().peak == 2 * x.nbytes


def _step(unet: Any, side: int = 8) -> None:
    rows = torch.randn(1, 77, tiny.EMBED, requires_grad=True)
    noisy, t = torch.randn(2, 4, side, side), torch.tensor([500])
    predicted = unet(noisy, t, rows.expand(2, -1, -1), return_dict=False)[0]
    torch.autograd.backward(predicted.square().mean())


@pytest.mark.slow
def test_fake_tensors_count_what_real_ones_do() -> None:
    unet = tiny.unet().requires_grad_(False)
    with counting() as real:
        _step(unet)
    with FakeTensorMode():
        unet = tiny.unet().requires_grad_(False)
        with counting() as fake:
            _step(unet)
    assert (fake.work().flops, fake.work().products) == (real.work().flops, real.work().products)
    assert fake.work().moved == pytest.approx(real.work().moved, rel=0.001)
    assert fake.work().peak == pytest.approx(real.work().peak, rel=0.001)


@pytest.mark.slow
def test_the_peak_agrees_with_the_allocator() -> None:
    unet = tiny.unet().requires_grad_(False)
    with counting() as counter:
        _step(unet, side=32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _step(unet, side=32)
    kineto = profiled.profiler.kineto_results
    events = sorted(
        (event for event in kineto.events() if event.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    # The allocator also sees what a kernel needs for itself
    assert counter.work().peak <= 1.01 * peak
    assert counter.work().peak >= 0.7 * peak


def test_flops_are_told_by_module() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    with counting() as counter:
        model(torch.randn(2, 5))
    counts = counter.flops_of_modules()
    assert counts["Sequential.0"] == 2 * 2 * 5 * 7
    assert counts["Sequential.1"] == 2 * 2 * 7 * 3
    assert counts["Global"] == counter.work().flops == counts["Sequential"]
