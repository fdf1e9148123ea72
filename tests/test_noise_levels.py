"""Which timesteps a step trains on."""

from __future__ import annotations

import torch

from hiper.seeds import generator
from hiper.training import level_range, spread_levels
from hiper.training.noise_levels import draw_levels


def test_fractions_become_levels() -> None:
    assert level_range(0, 1, 1000) == (0, 1000)
    assert level_range(0.25, 0.5, 1000) == (250, 500)
    assert level_range(0.999, 0.9999, 10) == (9, 10)
    assert level_range(0.0, 0.01, 10) == (0, 1)


def test_uniform_is_a_plain_draw() -> None:
    expected = torch.randint(0, 1000, (3,), generator=generator(1))
    assert torch.equal(draw_levels(generator(1), 3, (0, 1000), "uniform"), expected)


def test_stratified_takes_one_from_each_part() -> None:
    random = generator(0)
    draws = torch.stack([draw_levels(random, 4, (200, 1000), "stratified") for _ in range(500)])
    assert torch.equal((draws - 200) // 200, torch.arange(4).expand(500, 4))
    # and fills each part evenly
    assert draws.min() < 204
    assert draws.max() > 995
    assert abs(draws.float().mean() - 599.5) < 5


def test_all_levels_can_be_drawn_and_no_others() -> None:
    for sampling in ("uniform", "stratified"):
        random = generator(0)
        drawn = torch.cat([draw_levels(random, 8, (3, 7), sampling) for _ in range(50)])
        assert sorted(set(drawn.tolist())) == [3, 4, 5, 6]


def test_the_fixed_levels_are_the_middles() -> None:
    assert spread_levels(4, (0, 1000)).tolist() == [125, 375, 625, 875]
