"""The suite with ground truth: splits, true answers, and what its scores say of known pictures."""

from __future__ import annotations

import numpy as np
import pytest
from training.critters.readers import FRESH, accuracy

from hiper.bench import CrittersSuite
from hiper.bench.critters_suite import KINDS, METRICS, SPLITS
from hiper.critters import FIELDS, Kind, draw_scene, load_reader, render
from hiper.errors import OptionError


@pytest.fixture(scope="module")
def suite() -> CrittersSuite:
    return CrittersSuite(split="tuning", seed=900)


@pytest.mark.slow
def test_an_edit_changes_what_its_kind_says_and_nothing_else(suite: CrittersSuite) -> None:
    pairs = set()
    for subject in suite.subjects()[:12]:
        for case in suite.cases(subject):
            before, after = vars(case.before), vars(case.after)
            changed = {name for name in before if before[name] != after[name]}
            assert changed == set(KINDS[case.edit]) or (case.edit == "two-at-once" and len(changed) == 2)
            pairs.add(frozenset(changed))
            assert case.source_caption != case.target_caption
    assert len(pairs) == 6  # three kinds, and all three pairs of them


def test_the_truth_is_the_same_animal_drawn_again(suite: CrittersSuite) -> None:
    case = suite.cases("003")[0]
    assert case.before.identity == case.after.identity
    assert case.truth is not None
    assert np.array_equal(np.asarray(case.truth.image), np.asarray(render(case.after)))
    assert case.before.identity.primary in case.truth.spelled_out
    assert case.before.identity.primary not in case.target_caption
    assert case.before.style == "drawing"


@pytest.mark.slow
def test_splits_and_seeds_share_no_animal_and_repeat_exactly() -> None:
    suites = [CrittersSuite(split=split, seed=seed) for split in SPLITS for seed in (0, 1)]
    animals = [
        suite.cases(subject)[0].before.identity for suite in suites for subject in suite.subjects()[::50]
    ]
    assert len(set(animals)) == len(animals)
    again = CrittersSuite(split="tuning", seed=0)
    assert again.cases("007") == suites[0].cases("007")
    assert {suite.identity()["seed"] for suite in suites} == {0, 1}


@pytest.mark.parametrize(
    ("split", "seed", "expected"), [("tets", 0, "did you mean test"), ("test", -1, "from 0")]
)
def test_an_unknown_split_is_refused(split: str, seed: int, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        CrittersSuite(split=split, seed=seed)


@pytest.mark.slow
def test_the_true_answer_scores_full_marks_and_the_source_none(suite: CrittersSuite) -> None:
    scores: dict[str, list[dict[str, float | None]]] = {"truth": [], "source": []}
    for subject in suite.subjects()[:10]:
        for case in suite.cases(subject):
            assert case.truth is not None
            scores["truth"].append(dict(suite.score(case, case.truth.image)))
            scores["source"].append(dict(suite.score(case, case.source)))
    assert list(scores["truth"][0]) == list(METRICS)

    def mean(arm: str, metric: str) -> float:
        return float(np.mean([score[metric] for score in scores[arm] if score[metric] is not None]))

    assert mean("truth", "edit_success") >= 0.95
    assert mean("source", "edit_success") <= 0.05
    assert mean("truth", "source_leak") <= 0.05
    assert mean("source", "source_leak") >= 0.95
    assert mean("truth", "colour_distance") == mean("truth", "picture_distance") == 0
    assert mean("source", "picture_distance") > 5
    assert {mean("truth", name) for name in FIELDS["identity"]} == {1.0}
    assert mean("source", "preservation") >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "floor"), [("caption", 0.97), ("identity", 0.6)])
def test_the_shipped_readers_read_fresh_pictures(kind: Kind, floor: float) -> None:
    """The model card has the figures of a larger examination; these bounds catch a broken file."""
    found = accuracy(load_reader(kind), kind, 200, first=FRESH + 10**6)
    assert min(found.values()) >= floor


def test_a_reading_names_values_of_the_world() -> None:
    (reading,) = load_reader("caption").read([render(draw_scene(FRESH), 96)])
    for name, values in FIELDS["caption"].items():
        assert reading.values[name] in values
        assert 1 / len(values) <= reading.certainty[name] <= 1
