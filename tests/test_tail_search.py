"""The comparison of ways to learn a tail: what it draws, how it steps, and that it goes on where it was stopped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from benchmarks.tail_search import (
    REFERENCE,
    TAIL,
    WAYS,
    Draw,
    Scenes,
    Way,
    behind,
    cross_attention,
    learn,
    losses,
    main,
    scenes,
    tail_by_level,
)
from torch import Tensor

from hiper.backbones.sd import SdBackbone
from hiper.seeds import generator

SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def seen(sd1: SdBackbone) -> Scenes:
    return scenes(sd1, ["000", "001"])


def tails(backbone: SdBackbone, seen: Scenes, way: Way) -> Tensor:
    return learn(backbone, seen, way, seen.rows[:, -TAIL:])[:, 0]


def test_mirrored_noise_sums_to_nothing_at_one_level() -> None:
    draw = Draw(Way(mirrored=True), 3, SHAPE)
    pairs = [(draw.next(), draw.next()) for _ in range(3)]
    for (noise, place), (other, same) in pairs:
        assert torch.equal(noise + other, torch.zeros(1, *SHAPE))
        assert torch.equal(place, same)
    assert len({float(noise[0].sum()) for (noise, _), _ in pairs}) == 3


def test_a_sequence_fills_the_range_evenly() -> None:
    draw = Draw(Way(spread="sequence"), 1, SHAPE)
    places = sorted(float(draw.next()[1]) for _ in range(40))
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert max(gaps) < 2.7 / 40  # three gap theorem


def test_subjects_draw_their_own_noise_whatever_the_way() -> None:
    first = [Draw(way, 1, SHAPE).next()[0] for way in (Way(), Way(rate=1.0, kept=False))]
    assert torch.equal(*first)
    assert not torch.equal(Draw(Way(), 2, SHAPE).next()[0], first[0])


@pytest.mark.slow
def test_the_average_is_the_mean_of_the_tails_on_the_way(sd1: SdBackbone, seen: Scenes) -> None:
    ends = [tails(sd1, seen, Way(levels=levels, cosine=False)) for levels in (1, 2, 3, 4)]
    averaged = tails(sd1, seen, Way(levels=4, cosine=False, averaged=0.5))
    assert torch.allclose(averaged, (ends[2] + ends[3]) / 2, atol=1e-6)


def test_kept_rows_keep_their_length(sd1: SdBackbone, seen: Scenes) -> None:
    own = seen.rows[:, -TAIL:].norm(dim=2)
    assert torch.allclose(tails(sd1, seen, Way(levels=4)).norm(dim=2), own, rtol=1e-5)
    assert not torch.allclose(tails(sd1, seen, Way(levels=4, kept=False)).norm(dim=2), own, rtol=1e-3)


def test_an_orthogonal_update_moves_all_directions_alike(sd1: SdBackbone, seen: Scenes) -> None:
    moved = tails(sd1, seen, Way(levels=1, update="muon", kept=False)) - seen.rows[:, -TAIL:]
    values = torch.linalg.svdvals(moved)
    assert torch.allclose(values, values[:, :1].expand_as(values), rtol=1e-3)


def test_a_tail_stands_behind_the_captions_of_its_own_subject(seen: Scenes) -> None:
    own = torch.stack([torch.full((TAIL, seen.rows.shape[2]), value) for value in (1.0, 2.0)])
    rows = behind(seen.captions, own[:, None], 0.8)[:, 0]
    assert torch.equal(rows[:, :-TAIL], seen.captions[:, :-TAIL])
    assert rows[:, -1, 0].tolist() == pytest.approx([0.8] * 4 + [1.6] * 4)


def test_rows_for_each_layer_alike_do_what_one_tail_does(sd1: SdBackbone, seen: Scenes) -> None:
    """The one tail's gradient is the sum of those of the layers' rows."""
    count = len(cross_attention(sd1))
    rows = behind(seen.rows, seen.rows[:, None, -TAIL:], 1.0)
    noise, t = torch.randn(seen.latents.shape, generator=generator(0)), torch.full((len(rows),), 700)
    one = rows.clone().requires_grad_()
    own = rows.repeat(1, count, 1, 1).requires_grad_()
    errors = [losses(sd1, seen.latents, each, noise, t) for each in (one, own)]
    assert torch.allclose(errors[0], errors[1])
    gradients = [torch.autograd.grad(e.sum(), r)[0] for e, r in zip(errors, (one, own), strict=True)]
    assert torch.allclose(gradients[0][:, 0], gradients[1].sum(1), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(gradients[1][:, 0], gradients[1][:, 1])


def test_ranges_of_noise_have_rows_of_their_own(sd1: SdBackbone, seen: Scenes) -> None:
    tail_at = tail_by_level(sd1, seen, Way(levels=4, ranges=2), 1.0)
    low, high = tail_at(620), tail_at(960)
    assert torch.equal(low, tail_at(300))
    assert torch.equal(low[:, :, :-TAIL], high[:, :, :-TAIL])
    alone = learn(sd1, seen, Way(levels=2, high=0.75), seen.rows[:, -TAIL:])
    assert torch.allclose(low, behind(seen.captions, alone, 1.0))
    assert not torch.allclose(low, high)


def test_the_weight_and_the_mirror_change_what_is_learnt(sd1: SdBackbone, seen: Scenes) -> None:
    plain = tails(sd1, seen, Way(levels=2))
    for way in (Way(levels=2, masked=True), Way(levels=2, turned=True)):
        assert not torch.allclose(tails(sd1, seen, way), plain)
    assert torch.allclose(seen.weight.mean((1, 2, 3)), torch.ones(2))


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was_stopped(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    common = ["--backbone", str(model_folder), "--subjects", "2", "--out", str(out), "--only"]
    main([*common, "20 steps of 0.25"])
    first = json.loads(out.read_text())["losses"]
    assert list(first) == [
        "caption alone",
        "caption with the identity in words",
        REFERENCE,
        "20 steps of 0.25",
    ]
    capsys.readouterr()
    main([*common, "20 steps of 0.25", "from the mean of the other subjects' tails"])
    losses = json.loads(out.read_text())["losses"]
    assert {name: losses[name] for name in first} == first
    (made,) = capsys.readouterr().out.splitlines()
    assert made.startswith("from the mean of the other subjects' tails: ")
    assert len(losses) == 5
    assert "from the mean of the other subjects' tails" in WAYS
