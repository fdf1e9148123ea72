"""Which token embeddings the embedded model attends to, and where: words, padding and learnt ones.

    python -m benchmarks.attention --fits runs/attention [--arm hiper] [--subjects 12] [--split tuning]
        [--out benchmarks/attention.json]

Each subject's plain picture is learnt as the arm says; fits are kept in a folder, which may be that of a benchmark run
(`DIR/fits`). Then the model reads five pictures under noise, of all of which the subject's place is known: the source
with its caption, and the four true answers with their sentences; each with the learnt tokens and without. Figures are
means over pictures, with 95 % intervals over subjects.

influence: how far the denoiser's prediction moves when some token embeddings are those of the empty sentence, in
percent of how far it moves when all are (root mean square over the same timesteps).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from benchmarks.common import finish, options
from PIL import Image

import hiper
from hiper.analysis.attention import LabelledToken, Study, places, study_picture
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.bench import Case, CrittersSuite, Fits, mean, parse_arm
from hiper.conditioning import Conditioning
from hiper.images import fit_square
from hiper.methods import get_method
from hiper.seeds import generator
from hiper.training import spread_levels

LEVELS = 10
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A picture of which all is known: what it shows, and where."""

    edit: str
    picture: Image.Image
    mask: Image.Image
    prompt: str


def pictures(cases: Sequence[Case]) -> Iterator[Known]:
    """The source, and the true answer to each edit."""
    for case in cases:
        assert case.truth is not None
        if case is cases[0]:
            yield Known(
                edit="source", picture=case.source, mask=case.truth.source_mask, prompt=case.source_caption
            )
        yield Known(
            edit=case.edit, picture=case.truth.image, mask=case.truth.mask, prompt=case.target_caption
        )


def looked_at(study: Study) -> Figures:
    """Attention of one study: mass per row, what is on the subject beyond its area, distances of maps."""
    record = study.as_record(maps=False)
    contrast, area = study.contrast(), study.subject_area
    assert contrast is not None
    assert area is not None
    found: Figures = {"subject's area": area}
    for run, rows in (("learnt", study.learnt.tokens), ("untouched", study.untouched.tokens)):
        for kind, each in record["groups"][run].items():  # type: ignore[index]
            count = len(places(rows, kind))
            found[f"{run}, {kind}: attention"] = each["mass"]
            found[f"{run}, {kind}: attention per row"] = each["mass"] / count
            found[f"{run}, {kind}: on the subject"] = each["on_subject"]
            found[f"{run}, {kind}: on the subject, less its area"] = each["on_subject"] - area
    before, after = contrast.padding, contrast.tail
    assert before.on_subject is not None
    assert after.on_subject is not None
    return {
        **found,
        "padding in the tail's places: attention": before.mass,
        "padding in the tail's places: on the subject": before.on_subject,
        "tail less that padding: attention": after.mass - before.mass,
        "tail less that padding: on the subject": after.on_subject - before.on_subject,
        "tail less words: on the subject": after.on_subject - found["learnt, word: on the subject"],
        "tail to words: distance": contrast.tail_to_words,
        "that padding to words: distance": contrast.padding_to_words,
        "tail to words less that padding to words: distance": contrast.tail_to_words
        - contrast.padding_to_words,
    }


def influence(
    backbone: Backbone, artifact: Artifact, known: Known, rows: Sequence[LabelledToken], tail: Sequence[int]
) -> Figures:
    """Percent of the sentence's effect on the denoiser that some of its token embeddings carry."""
    plain, empty = backbone.encode(known.prompt), backbone.encode("")
    strength = float(artifact.edit["strength"])
    with get_method(artifact.method).attach(backbone, artifact, strength) as attached:
        whole = attached.encode(known.prompt)
    swapped = {
        "words and end mark": [*places(rows, "word"), *places(rows, "end")],
        "padding": places(rows, "padding"),
        "padding in the tail's places": tail,
    }
    variants = [_with(plain, empty, some) for some in swapped.values()]
    conditionings = [plain, empty, *variants, whole]
    own, none, *others = _predictions(backbone, known.picture, conditionings)
    effect = (own - none).square().mean().sqrt()
    names = [*swapped, "learnt tail instead of its padding"]
    return {
        f"influence, {name}": float(100 * (own - other).square().mean().sqrt() / effect)
        for name, other in zip(names, others, strict=True)
    }


def _with(sentence: Conditioning, other: Conditioning, some: Sequence[int]) -> Conditioning:
    rows = sentence.token_embeddings.clone()
    rows[:, list(some)] = other.token_embeddings[:, list(some)]
    return replace(sentence, token_embeddings=rows)


def _predictions(
    backbone: Backbone, picture: Image.Image, conditionings: Sequence[Conditioning]
) -> list[torch.Tensor]:
    """What the denoiser says of one picture at the same noise, for each sentence: [LEVELS, c, h, w]."""
    random = generator(0)
    latents = backbone.latents(fit_square(picture, backbone.resolution), random)
    t = spread_levels(LEVELS, (0, backbone.timesteps))
    noisy = backbone.add_noise(latents, torch.randn(LEVELS, *latents.shape[1:], generator=random), t).noisy
    with torch.no_grad():
        return [backbone.predict(noisy, t, each) for each in conditionings]


def subject_figures(backbone: Backbone, artifact: Artifact, cases: Sequence[Case]) -> dict[str, Figures]:
    """Picture -> its figures."""
    found = {}
    for known in pictures(cases):
        study = study_picture(backbone, artifact, known.picture, known.prompt, mask=known.mask, levels=LEVELS)
        tail = places(study.learnt.tokens, "tail")
        rows = study.untouched.tokens
        found[known.edit] = {**looked_at(study), **influence(backbone, artifact, known, rows, tail)}
    return found


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--fits", type=Path, required=True)
    parser.add_argument("--arm", default="hiper")
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--split", default="tuning")
    arguments = parser.parse_args()
    backbone, suite = hiper.load_backbone("critters"), CrittersSuite(split=arguments.split)
    arm, fits = parse_arm(arguments.arm), Fits(arguments.fits, suite, backbone, lambda: None)
    values: dict[str, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for subject in suite.subjects()[: arguments.subjects]:
        artifact = fits.of(arm, subject).artifact
        for edit, found in subject_figures(backbone, artifact, suite.cases(subject)).items():
            for name, value in found.items():
                group = "source" if edit == "source" else "true answers"
                values[f"{group}: {name}"][subject].append((value,))
        print(f"subject {subject} done", flush=True)
    report = {
        "suite": dict(suite.identity()),
        "arm": arm.text,
        "weights": backbone.weights_sha256()[:16],
        "torch": torch.__version__,
        "figures": {name: asdict(each) for name, rows in values.items() if (each := mean(rows))},
    }
    finish(arguments.out, report)


if __name__ == "__main__":
    main()
