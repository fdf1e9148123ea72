"""Write the tables of README and docs/ from the files beside this module.

    python -m benchmarks.tables             writes them anew
    python -m benchmarks.tables --check     exits with status 1 when a page differs

A page names a table between two marks, `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function of this module. In
every table a difference is positive where the line is better than what it is compared with, whatever the metric.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").rglob("*.md")))
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
IDENTITY = ("primary", "secondary", "pattern", "collar", "eyes")
LOWER_IS_BETTER = ("colour_distance", "picture_distance", "source_leak", "converged", "to_first")
TABLES: dict[str, Callable[[], str]] = {}

Figures = Mapping[str, Any]


def table(made: Callable[[], str]) -> Callable[[], str]:
    """Register a function as the table of its name."""
    TABLES[made.__name__] = made
    return made


def written(page: str) -> str:
    """Return a page with every table written anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


@cache
def read(name: str) -> Any:
    """Return what a JSON file beside this module holds."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def number(value: float | None, form: str = ".2f") -> str:
    """Format a figure; nothing for None."""
    return "" if value is None else f"{value:z{form}}"


def significant(value: float) -> str:
    """Format a figure to three digits, or to whole numbers from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(found: Figures | None, form: str = ".2f", *, sign: int = 1, plus: str = "") -> str:
    """Format an estimate with its interval in brackets, both times `sign`."""
    if not found:
        return ""
    value = f"{sign * found['value']:{plus}z{form}}"
    if found["low"] is None:
        return value
    low, high = sorted(sign * found[end] for end in ("low", "high"))
    return f"{value} [{low:z{form}}, {high:z{form}}]"


def gain(difference: Figures | None, metric: str, form: str = ".2f") -> str:
    """Format a difference from something so that positive is better than it."""
    return interval(difference, form, sign=-1 if metric in LOWER_IS_BETTER else 1, plus="+")


def lead(difference: Figures | None, metric: str) -> str:
    """Format a method's difference from HiPer as HiPer's lead over it."""
    return interval(difference, sign=1 if metric in LOWER_IS_BETTER else -1, plus="+")


# README: the benchmark's first run.

EVIDENCE = {
    "none": "sentence alone (floor)",
    "hiper": "**HiPer, default preset**: 40 noise levels, from a guess",
    "hiper,initial=caption,learning_rate=0.15,t_min=0.5": "the same without the guess",
    "hiper:paper": "HiPer, the paper's preset: 1000 noise levels",
    "spelled-out": "caption with the identity in words",
    "truth": "true answer through the autoencoder (ceiling)",
    "other-tail": "control: another subject's tail",
    "random-tail": "control: a random tail",
    "source": "the source, unchanged",
}


def evidence_figures() -> dict[str, dict[str, Mapping[str, str]]]:
    """Return arm -> metric -> the report's line for all edits together."""
    figures: dict[str, dict[str, Mapping[str, str]]] = {}
    with (HERE / "critters_evidence.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if not line["edit"]:
                figures.setdefault(line["arm"], {})[line["metric"]] = line
    return figures


def estimate(line: Mapping[str, str], name: str) -> dict[str, float | None] | None:
    """Return an estimate of a line of the report; None where the line has none."""
    if not line[name]:
        return None
    low, high = (float(text) if (text := line[f"{name}_{end}"]) else None for end in ("low", "high"))
    return {"value": float(line[name]), "low": low, "high": high}


@table
def evidence() -> str:
    head = ["", "edit succeeds", "rest preserved", "colour distance", "gain over the paper's preset"]
    lines = []
    for arm, label in EVIDENCE.items():
        found = evidence_figures()[arm]
        distance = found["colour_distance"]
        means = {metric: number(float(line["mean"])) for metric, line in found.items()}
        lines.append(
            [
                label,
                *(means[each] for each in ("edit_success", "preservation", "colour_distance")),
                gain(estimate(distance, "difference"), "colour_distance"),
                interval(estimate(distance, "gap_closed"), ".0f"),
                *(means[each] for each in IDENTITY),
            ]
        )
    return markdown([*head, "gap closed, %", *IDENTITY], lines)


@table
def evidence_gains() -> str:
    """The gain of both ways to start over the paper's preset, attribute by attribute."""
    arms = ("hiper", "hiper,initial=caption,learning_rate=0.15,t_min=0.5")
    found = evidence_figures()
    return markdown(
        ["gain over the paper's preset", *IDENTITY, "picture distance"],
        (
            [
                EVIDENCE[arm],
                *(
                    gain(estimate(found[arm][each], "difference"), each)
                    for each in (*IDENTITY, "picture_distance")
                ),
            ]
            for arm in arms
        ),
    )


@table
def evidence_gaps() -> str:
    """How much of the gap in each attribute is closed, beside the aims, which stand here."""
    found = evidence_figures()["hiper"]
    shown = ("colour_distance", *IDENTITY)
    closed = [interval(estimate(found[each], "gap_closed"), ".0f") for each in shown]
    return markdown(
        ["gap closed, %", *(each.replace("_", " ") for each in shown)],
        [["aim", "85", *["70"] * len(IDENTITY)], ["HiPer, default preset", *closed]],
    )


# The methods compared.

METHODS = {
    "source": "source",
    "truth": "true answer",
    "none": "sentence alone",
    "hiper": "**HiPer**, default preset",
    "hiper,learning_rate=0.062,strength=0.67": "HiPer, best of eight tries",
    "hiper,initial=caption,learning_rate=0.15,t_min=0.5": "**HiPer without the guess**",
    "hiper:paper,edit_steps=none,guidance=none,scheduler=none": "**HiPer, the paper's fit**",
    "textual-inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
    "dreambooth-lora": "DreamBooth, LoRA",
    "imagic": "Imagic",
    "null-text": "null-text inversion",
    "ddim-inversion": "DDIM inversion",
    "sdedit": "SDEdit",
}
DEFAULT, WITHOUT_GUESS, PAPER = (
    "hiper",
    "hiper,initial=caption,learning_rate=0.15,t_min=0.5",
    "hiper:paper,edit_steps=none,guidance=none,scheduler=none",
)


def methods(*, fitted: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield each method's name and figures; fitted: without the yardsticks."""
    for row in read("methods_table")["arms"]:
        if not fitted or row["cost"]:
            yield METHODS[row["arm"]], row


def mean_of(row: Any, metric: str) -> str:
    score = row["scores"][metric]["mean"]
    return number(score and score["value"])


def leads(row: Any, metric: str, *references: str) -> list[str]:
    return [lead(row["scores"][metric]["minus"].get(each), metric) for each in references]


@table
def methods_identity() -> str:
    """Identity and edits, and by how much three fits of HiPer lead."""
    head = ["", "pictures", "edit succeeds", "identity", "lead of the default", "lead of the paper's fit"]
    return markdown(
        [*head, "lead without the guess"],
        (
            [
                name,
                row["scores"]["edit_success"]["mean"]["cells"],
                mean_of(row, "edit_success"),
                mean_of(row, "identity"),
                *leads(row, "identity", DEFAULT, PAPER, WITHOUT_GUESS),
            ]
            for name, row in methods()
        ),
    )


@table
def methods_colour() -> str:
    """Colours and the whole picture, and by how much HiPer leads."""
    head = ["", "colour distance", "lead of the default", "lead of the paper's fit", "lead without the guess"]
    return markdown(
        [*head, "gap closed, %", "picture distance", "lead of the paper's fit"],
        (
            [
                name,
                mean_of(row, "colour_distance"),
                *leads(row, "colour_distance", DEFAULT, PAPER, WITHOUT_GUESS),
                interval(row["gap_closed"], ".0f"),
                mean_of(row, "picture_distance"),
                *leads(row, "picture_distance", PAPER),
            ]
            for name, row in methods()
        ),
    )


@table
def methods_attributes() -> str:
    shown = (*IDENTITY, "preservation", "source_leak")
    return markdown(
        ["", *IDENTITY, "rest preserved", "source leak"],
        ([name, *(mean_of(row, each) for each in shown)] for name, row in methods()),
    )


@table
def methods_cost() -> str:
    head = [
        "",
        "fit, s",
        "GFLOP",
        "MB beside the weights",
        "four pictures, s",
        "GFLOP",
        "file, KB",
        "a fit serves",
    ]
    return markdown(
        head,
        (
            [
                name,
                significant(spent["fit_seconds"]),
                f"{spent['fit_flops'] / 1e9:,.0f}",
                f"{spent['fit_peak_bytes'] / 1e6:.0f}",
                f"{spent['edit_seconds']:.2g}",
                f"{spent['edit_flops'] / 1e9:.0f}",
                f"{spent['artifact_bytes'] / 1e3:,.0f}",
                "one sentence" if spent["per_sentence"] else "all",
            ]
            for name, row in methods(fitted=True)
            if (spent := row["cost"])
        ),
    )


@table
def methods_short() -> str:
    """What README says of the comparison."""
    head = ["", "edit succeeds", "identity", "lead of the paper's fit", "gap closed, %", "fit, s", "file, KB"]
    return markdown(
        [*head, "a fit serves"],
        (
            [
                name,
                mean_of(row, "edit_success"),
                mean_of(row, "identity"),
                *leads(row, "identity", PAPER),
                interval(row["gap_closed"], ".0f"),
                significant(row["cost"]["fit_seconds"]),
                f"{row['cost']['artifact_bytes'] / 1e3:,.0f}",
                "one sentence" if row["cost"]["per_sentence"] else "all",
            ]
            for name, row in methods(fitted=True)
            if "eight tries" not in name
        ),
    )


@table
def tune_methods() -> str:
    """The best of each method's tries."""
    best: dict[str, Any] = {}
    for each in read("tune_methods")["tries"]:
        if each["score"] is not None and each["score"] < best.get(each["method"], {"score": 1e9})["score"]:
            best[each["method"]] = each
    return markdown(
        ["method", "best of eight tries", "colour distance", "edit succeeds"],
        (
            [
                f"`{method}`",
                ", ".join(f"{name} {value}" for name, value in each["options"].items())
                or "the preset of then",
                number(each["colour_distance"]),
                number(each["edit_success"]),
            ]
            for method, each in sorted(best.items())
        ),
    )


# Fewer steps.

SEARCHED = (
    "from the caption's token embeddings: step size 0.15 falling by a cosine, noise from 0.5, kept lengths"
)


@table
def tail_search() -> str:
    """By how much each way to learn a tail lowers the loss of the true edits, best first."""
    losses = read("tail_search")["losses"]

    def lowered(name: str, below: str) -> list[float]:
        return [1000 * (base - own) for base, own in zip(losses[below], losses[name], strict=True)]

    lines = []
    for name in sorted(losses, key=lambda each: sum(losses[each])):
        gained = lowered(name, SEARCHED)
        error = statistics.stdev(gained) / len(gained) ** 0.5
        shown, against = name, f"{statistics.mean(gained):+z.1f} ± {error:.1f}"
        if name == SEARCHED:
            shown, against = f"**{name}**", ""
        lines.append([shown, number(statistics.mean(lowered(name, "caption alone")), ".1f"), against])
    return markdown(["", "lowers the loss by, thousandths", "gain over the line in bold"], lines)


IDEAS = {
    "the paper": "the paper's fit",
    "+ step size 0.1, cosine": "+ step size 0.1, falling by a cosine",
    "+ rows keep their length": "+ kept lengths",
    "+ a guessed start (default)": "+ the guess",
    "4 levels a step": "the guess, 4 noise levels a step",
    "strength": "the default",
    "the paper, drawn its own way": "the paper's preset: 50 DDIM steps, its own guidance scale",
}


def remedy_name(row: Any) -> str:
    """Name an arm by its idea, its steps and its strength."""
    arm: str = row["arm"]
    idea: str = row["idea"]
    name = IDEAS.get(idea, idea)
    if row["flops"] is None:
        return EVIDENCE[arm]
    if "drawn its own way" in idea:
        return name
    steps = re.search(r"\bsteps=(\d+)", arm.replace("edit_steps", ""))
    count = steps[1] if steps else "1000" if arm.startswith("hiper:paper") else "40"
    strength = re.search(r"strength=([\d.]+)", arm)
    name = f"{name}: {count} {'step' if count == '1' else 'steps'}{f', strength {strength[1]}' if strength else ''}"
    return f"**{name}**" if arm in ("hiper", PAPER) else name


def remedy_lines(rows: Mapping[str, Any]) -> str:
    """Return the table of some arms by their labels."""
    head = ["", "FLOPs of the paper's fit", "edit succeeds", "colour distance", "gain over the paper's fit"]
    return markdown(
        [*head, *IDENTITY],
        (
            [
                label,
                number(row["share_of_paper"], ".3f"),
                *(number(row["means"][each]) for each in ("edit_success", "colour_distance")),
                gain(row["minus_paper"]["colour_distance"], "colour_distance"),
                *(number(row["means"][each]) for each in IDENTITY),
            ]
            for label, row in rows.items()
        ),
    )


@table
def remedies() -> str:
    """Every idea, with more and more steps."""
    return remedy_lines({remedy_name(row): row for row in read("remedies")["arms"]})


@table
def remedies_short() -> str:
    """Both ways to start beside the paper's fit and the yardsticks."""
    shown = {
        PAPER: "the paper's fit: 1000 steps",
        WITHOUT_GUESS: "40 steps without the guess",
        "hiper,steps=1": "the guess and one step",
        "hiper": "**the guess and 40 steps (default)**",
        **{each: EVIDENCE[each] for each in ("none", "truth")},
    }
    rows = {row["arm"]: row for row in read("remedies")["arms"]}
    return remedy_lines({label: rows[arm] for arm, label in shown.items()})


@table
def remedies_attributes() -> str:
    """The default preset's gain over the paper's fit in every attribute."""
    row = next(row for row in read("remedies")["arms"] if row["arm"] == "hiper")
    shown = ("edit_success", *IDENTITY)
    return markdown(
        ["", "edit succeeds", *IDENTITY],
        [["gain of the default", *(gain(row["minus_paper"][each], each) for each in shown)]],
    )


# Performance.


@table
def full_size() -> str:
    """Fourteen checkpoints on a GPU that is not there."""
    head = ["", "token embeddings", "weights of the denoiser, of the text encoders, GiB", "fit step: TFLOP"]
    head += ["peak beside the weights, GiB", "kernels", "waits", "edit of 2 steps: TFLOP", "peak, GiB"]
    lines = []
    for name, model in read("full_size")["models"].items():
        fit, edit, weights = model["fit step"], model["edit step"], model["weights_gib"]
        texts = sum(size for part, size in weights.items() if part.startswith("text_encoder"))
        denoiser = weights.get("unet", weights.get("transformer"))
        lines.append(
            [
                f"{name}, {model['resolution']} px",
                " × ".join(map(str, model["rows"][1:])),
                f"{denoiser:.1f}, {texts:.1f}{' in turn' if model['takes_turns'] else ''}",
                number(fit["tflop"], ".1f"),
                number(fit["peak_gib"], ".1f"),
                fit["kernels"],
                sum(fit["syncs"].values()),
                number(edit["tflop"], ".1f"),
                number(edit["peak_gib"], ".1f"),
            ]
        )
    return markdown(head, lines)


@table
def hardware() -> str:
    """What README says of three models: memory, and minutes of 1000 steps at a rate of 60 TFLOP/s."""
    lines = []
    for name in ("Stable Diffusion 1.5", "SDXL", "FLUX.1 dev"):
        model = read("full_size")["models"][name]
        weights, fit = model["weights_gib"], model["fit step"]
        memory = weights.get("unet", weights.get("transformer")) + fit["peak_gib"]
        minutes = 1000 * fit["tflop"] / 60 / 60
        lines.append(
            [f"{name}, {model['resolution']} px", number(memory, ".1f"), f"{minutes:.{minutes < 1:d}f}"]
        )
    return markdown(["a fit of 1000 steps", "GPU memory, GiB", "minutes"], lines)


WAYS = {
    "fit step, unfrozen, float32, batch 1": "fit step as published: unfrozen, float32",
    "fit step, frozen, float32, batch 1": "fit step, frozen, float32",
    "fit step, frozen, bfloat16, batch 1": "fit step, frozen, bfloat16",
    "fit step, frozen, bfloat16, batch 4": "fit step, frozen, bfloat16, 4 noise levels",
    "sampling step, guided, frozen, bfloat16": "two forward passes (a sampling step under guidance), bfloat16",
}
SIZES = {
    "sd14": "Stable Diffusion 1.4, 512 × 512",
    "sdxl": "SDXL, 1024 × 1024",
    "flux": "FLUX.1 dev, 1024 × 1024",
}


@table
def cost_model() -> str:
    """FLOPs, bytes and the least milliseconds on an H200, of three sizes."""
    head = ["", "TFLOP", "GB moved", "memory, GB", "H200, ms: by arithmetic", "by memory"]
    lines: list[list[str]] = []
    for model, title in SIZES.items():
        size = read("cost_model")[model]
        lines.append([f"**{title}**, {size['parameters'] / 1e9:.3g} G weights", *[""] * 5])
        for way, label in WAYS.items():
            each, least = size[way], size[way]["least_seconds"]
            memory = [significant(1e3 * least[f"by_memory_{how}"]) for how in ("unfused", "fused")]
            lines.append(
                [
                    label,
                    significant(each["flops"] / 1e12),
                    f"{significant(each['moved'] / 1e9)} ({significant(each['products'] / 1e9)})",
                    significant(each["memory"] / 1e9),
                    significant(least["by_compute"] * 1e3),
                    f"{memory[0]} ({memory[1]})",
                ]
            )
    return markdown(head, lines)


@table
def cost_shares() -> str:
    """What of a forward pass has to do with the text."""
    names = read("cost_model")["sd14"]["shares of a forward pass"]
    return markdown(
        ["of one forward pass, %", *(title.partition(",")[0] for title in SIZES.values())],
        (
            [
                name,
                *(
                    f"{100 * read('cost_model')[model]['shares of a forward pass'][name]:.2g}"
                    for model in SIZES
                ),
            ]
            for name in names
        ),
    )


@table
def cost_reference() -> str:
    """Where the published procedure spends its FLOPs, at the size of SD 1.4."""
    spent = read("cost_model")["sd14"]["reference procedure"]
    whole = sum(spent.values())
    lines = [[name, f"{each / 1e15:.2f}", f"{100 * each / whole:.0f}"] for name, each in spent.items()]
    return markdown(["", "PFLOP", "%"], [*lines, ["**all**", f"{whole / 1e15:.2f}", "100"]])


@table
def full_size_step() -> str:
    """One fit step at the size of SD 1.4 on two CPU threads."""
    found = read("full_size_step")
    base = found["float32"]["unfrozen_seconds"]
    lines = [
        [
            f"{how}, {dtype}",
            number(found[dtype][f"{how}_tflop"]),
            number(found[dtype][f"{how}_seconds"], ".1f"),
            number(found[dtype][f"{how}_seconds"] / base),
            number(base / found[dtype][f"{how}_seconds"], ".1f"),
        ]
        for dtype in ("float32", "bfloat16")
        for how in ("unfrozen", "frozen")
    ]
    return markdown(["", "TFLOP", "seconds", "of the first line's", "times as fast"], lines)


@table
def embedded() -> str:
    """A fit and an edit on the embedded model."""
    found = read("embedded")
    return markdown(
        ["preset", "fit, s", "four pictures, s", "file, KB"],
        (
            [
                preset,
                number(found[preset]["fit_seconds"], ".1f"),
                number(found[preset]["edit_seconds_4_images"], ".1f"),
                number(found[preset]["artifact_bytes"] / 1e3, ".0f"),
            ]
            for preset in ("default", "paper")
        ),
    )


@table
def against_the_paper() -> str:
    """Whole jobs in three rounds, with the least and most of the rounds' ratios."""
    rounds: dict[str, list[float]] = {}
    for run in read("against_the_paper")["runs"]:
        rounds.setdefault(run["arm"], []).append(run["seconds"])
    lines = []
    for arm, seconds in rounds.items():
        faster = []
        for base in ("published", "hiper:paper"):
            ratios = [theirs / ours for theirs, ours in zip(rounds[base], seconds, strict=True)]
            middle = statistics.median(rounds[base]) / statistics.median(seconds)
            alone = arm in (base, "published")
            faster.append("" if alone else f"{middle:.1f} [{min(ratios):.1f}, {max(ratios):.1f}]")
        lines.append([_arm(arm), significant(statistics.median(seconds)), *faster])
    return markdown(["", "seconds", "times as fast as published", "times as fast as `hiper:paper`"], lines)


@table
def against_the_methods() -> str:
    """Whole jobs of every method, one round."""
    found = read("against_the_paper_methods")["whole"]
    ours = found["hiper:default"]["processor_seconds"]
    lines = [
        [_arm(arm), significant(each["processor_seconds"]), significant(each["processor_seconds"] / ours)]
        for arm, each in found.items()
    ]
    return markdown(["", "processor seconds", "HiPer's default is so many times as fast"], lines)


def _arm(arm: str) -> str:
    return "the recipe as published" if arm == "published" else f"`{arm}`"


@table
def growth() -> str:
    """Exponents of time and memory; in brackets between the two largest sizes."""
    curves: dict[str, dict[str, Any]] = {}
    for curve in read("growth")["curves"]:
        curves.setdefault(curve["what"], {})[curve["model"]] = curve
    lines = []
    for what, models in curves.items():
        cells = []
        for model in ("critters", "sd14"):
            for cost in ("time", "memory"):
                each = models[model]["exponents"][cost] if model in models else None
                cells.append(f"{each['all']:.2f} ({each['last']:.2f})" if each else "")
        sizes = (f"{each['sizes'][0]} to {each['sizes'][-1]}" for each in models.values())
        lines.append([f"{what}, {' and '.join(dict.fromkeys(sizes))}", *cells])
    return markdown(["", "critters: time", "memory", "SD 1.4: FLOPs", "memory"], lines)


SAMPLERS = {
    "ddim": "DDIM",
    "dpm++": "DPM-Solver++ 2M",
    "dpm++-karras": "DPM-Solver++ 2M, Karras",
    "unipc": "UniPC",
    "unipc-karras": "UniPC, Karras",
}


def sampler_lines(name: str) -> str:
    """The reference's means, and every other sampler's gain over it."""
    shown = ("identity", "colour_distance", "converged")
    lines = []
    for text, found in read(name)["samplers"].items():
        sampler, _, steps = text.partition(":")
        reference = text == "ddim:50"
        cells = [number(found[each]["value"]) if reference else gain(found[each], each) for each in shown]
        verdict = "reference" if reference else "yes" if found["as_good"] else "no"
        lines.append([f"{SAMPLERS[sampler]}, {steps}", *cells, verdict])
    return markdown(
        ["sampler, steps", "identity", "colour distance", "distance to convergence", "as good"], lines
    )


@table
def solvers() -> str:
    return sampler_lines("solvers")


@table
def solvers_default() -> str:
    return sampler_lines("solvers_default")


@table
def faster_steps() -> str:
    """Core seconds of a step of a fit and of a drawing, and what a step of a fit keeps at full size."""
    found = read("faster_steps")
    fit, drawn = found["fit step of 1, core seconds"], found["drawing step of 4 pictures, core seconds"]
    kept = found["kept at full size, GB"]["batch 1"]
    moved = found["tail after 20 steps"]["bfloat16"]["difference"]
    lines = [
        ["a fit step of one noise level, core seconds", number(fit["float32"], ".3f")],
        ["the same with `--memory low`", number(fit["float32, low memory"], ".3f")],
        ["the same in bfloat16", number(fit["bfloat16"], ".3f")],
        [
            "tail after 20 steps in bfloat16: difference from float32, % of what was learnt",
            f"{100 * moved:.1f}",
        ],
        [
            "a sampling step of four pictures, text projected at every step, core seconds",
            number(drawn["at every step"], ".3f"),
        ],
        ["the same, text projected once", number(drawn["once"], ".3f")],
        ["one preview during a fit, core seconds", number(found["preview, core seconds"])],
        ["activations that a fit step keeps at the size of SD 1.4, per noise level, GB", number(kept["all"])],
        ["the same with `--memory low`", number(kept["recomputing"])],
    ]
    return markdown(["", ""], lines)


@table
def fit_together() -> str:
    """Several subjects in a call."""
    lines = []
    for name, each in read("fit_together").items():
        if isinstance(each, dict):
            preset, _, count = name.partition(", ")
            alone, both = each["alone_processor_seconds"], each["together_processor_seconds"]
            lines.append([preset, count, number(alone), number(both), number(alone / both)])
    head = ["preset, 40 steps", "together", "processor seconds a subject, alone", "together", "times as fast"]
    return markdown(head, lines)


@table
def long_run() -> str:
    found = read("long_run")
    return markdown(
        ["fits", "edits", "results that differ from the first", "memory growth, MB per 100 fits", "peak, MB"],
        [
            [
                found["fits"],
                found["edits"],
                found["results_that_differ_from_the_first"],
                number(found["growth_mb_per_100_fits_once_settled"]),
                number(found["memory_mb_peak"], ".0f"),
            ]
        ],
    )


# Attention.

GROUPS = {
    "learnt, start": "start token",
    "learnt, word": "words",
    "learnt, end": "end token",
    "learnt, padding": "padding",
    "learnt, tail": "**the learnt tail**",
    "untouched, padding": "*without the tail:* all padding",
}


@table
def attention() -> str:
    """Shares of attention, for tails from the guess."""
    found = read("attention")["figures"]

    def cells(name: str) -> list[str]:
        whole, subject = (
            found.get(f"true answers: {name}: {what}") for what in ("attention", "on the subject")
        )
        each = found.get(f"true answers: {name}: attention per row")
        return [percent(whole), number(each and 100 * each["value"], ".1f"), percent(subject)]

    lines = [[label, *cells(name)] for name, label in GROUPS.items()]
    lines.append(["*without the tail:* the padding in its places", *cells("padding in the tail's places")])
    return markdown(["", "attention, %", "per token, %", "of that on the subject, %"], lines)


CONTRASTS = {
    "tail less words: on the subject": "attention on the subject: tail less words, points",
    "tail less that padding: on the subject": "attention on the subject: tail less the padding it replaced, points",
    "tail less that padding: attention": "attention: tail less the padding it replaced, points",
    "learnt, word: on the subject, less its area": "attention of the words on the subject, less its area, points",
    "untouched, padding: on the subject, less its area": "attention of padding on the subject, less its area, points",
    "influence, words and end mark": "moved by other words and end token, % of the sentence's effect",
    "influence, padding": "moved by other padding, %",
    "influence, padding in the tail's places": "moved by other padding in the tail's places, %",
    "influence, learnt tail instead of its padding": "moved by the learnt tail, %",
}


@table
def attention_contrasts() -> str:
    """Differences and influence, for tails from the guess and from the caption."""
    lines = [
        [
            label,
            *(
                percent(
                    read(name)["figures"][f"true answers: {each}"], scale=1 if "influence" in each else 100
                )
                for name in ("attention", "attention_caption")
            ),
        ]
        for each, label in CONTRASTS.items()
    ]
    return markdown(["", "tails from the guess", "tails without the guess"], lines)


def percent(found: Figures | None, *, scale: float = 100) -> str:
    return interval(found and {end: scale * found[end] for end in ("value", "low", "high")}, ".1f")


# Several tails.


def several(experiment: str, arms: Mapping[str, str], *, second: str = "nearer", share: str = "") -> str:
    """Distances to both animals and what they change against the first line; share: a metric to add."""
    found = read("several_tails")[experiment]
    head = [
        "",
        "to the first",
        "nearer to it by",
        "to the second",
        f"{second} to it by".replace("further to", "further from"),
    ]
    lines = []
    for arm, label in arms.items():
        near, far = found[arm]["to_first"], found[arm]["to_second"]
        change = [
            gain(near["difference"], "to_first", ".1f"),
            interval(far["difference"], ".1f", sign=-1 if second == "nearer" else 1, plus="+"),
        ]
        if arm == next(iter(found)):
            change = ["", ""]
        cells = [number(near["mean"], ".1f"), change[0], number(far["mean"], ".1f"), change[1]]
        lines.append([label, *cells, *([number(found[arm][share]["mean"])] if share else [])])
    names = {"nearer_first": "the first is nearer", "style": "watercolor found", "species": "species right"}
    return markdown([*head, *([names[share]] if share else [])], lines)


@table
def several_blend() -> str:
    arms = {
        "first alone": "first alone",
        "second alone": "second alone",
        "both, appended": "both, appended",
        "both, replacing": "both, replacing the last ten",
        "both, second at 0.4": "both, the second at strength 0.4",
    }
    return several("two_animals", arms, share="nearer_first")


@table
def several_style() -> str:
    arms = {
        "subject alone": "subject alone",
        "style alone": "style alone: the tail of another animal's watercolor",
        "both, appended": "both, appended",
        "both, its animal negative": "both, the other animal's tail negative",
        "subject, style named": 'subject alone, and the sentence says "a watercolor of"',
    }
    return several("subject_and_style", arms, share="style")


@table
def several_negative() -> str:
    arms = {
        "no negative": "none",
        "negative": "behind the empty sentence",
        "negative at 0.4": "the same at strength 0.4",
        "negative, sentence too": "behind the sentence itself",
    }
    return several("negative", arms, second="further", share="species")


@table
def several_average() -> str:
    found = read("several_tails")["averaging"]
    lines = []
    for arm, each in found.items():
        change = (
            ""
            if arm == "one picture"
            else gain(each["colour_distance"]["difference"], "colour_distance", ".1f")
        )
        shares = (number(each[metric]["mean"]) for metric in ("primary", "edit_success"))
        lines.append([arm, number(each["colour_distance"]["mean"], ".1f"), change, *shares])
    return markdown(["", "colour distance", "gain", "primary colour right", "edit succeeds"], lines)


# The embedded model.


@table
def critters_quality() -> str:
    """What is aimed at and what is found; the aims stand here."""
    found = read("critters_quality")
    words, world = found["words"], found["words in the world"]
    counts = {name: words[f"{name} (n)"] for name in IDENTITY}
    right = {name: round(words[name] * counts[name]) for name in IDENTITY}
    together = sum(right.values()) / sum(counts.values())
    moved = found["padding"]
    lines = [
        ["autoencoder, PSNR in dB", "30", number(found["autoencoder psnr"], ".1f"), ""],
        ["caption reader on fresh renders", "0.99", number(min(found["caption reader"].values())), ""],
        *(
            [f"bare captions followed: {name}", "0.95", number(found["captions"][name]), ""]
            for name in ("species", "pose", "background", "style")
        ),
        *(
            [
                f"identity words followed: {name}",
                "0.90",
                number(right[name] / counts[name]),
                number(world[name]),
            ]
            for name in IDENTITY
        ),
        ["identity words followed, all together", "0.90", number(together), ""],
        [
            "distance to the nearest training picture",
            "",
            *(number(found["memory"][each], ".3f") for each in found["memory"]),
        ],
        *(
            [f"a picture moves by (CIE76) with {name}", "", number(moved[each], ".1f"), ""]
            for each, name in {
                "tail of another caption": "another caption's last five token embeddings",
                "another seed": "another seed",
                "another caption": "another caption",
            }.items()
        ),
    ]
    return markdown(["", "aim", "found", "in fresh pictures of the world"], lines)


# Scale.

SITES = {
    "embedded model": "embedded model, two CPU threads",
    "Stable Diffusion 1": "Stable Diffusion 1, a GPU each",
    "Stable Diffusion 1, preemptible": "Stable Diffusion 1, preemptible",
    "Stable Diffusion 1, storage a tenth": "Stable Diffusion 1, storage a tenth as fast",
}


def sites() -> Iterator[tuple[str, Any]]:
    for name, label in SITES.items():
        yield label, read("scale_simulation")[name]


@table
def scale_cost() -> str:
    """What a job and a million jobs cost."""
    lines = []
    jobs, tail = read("scale_simulation")["jobs"], 5 * 768 * 4
    artifacts = (read("embedded")["default"]["artifact_bytes"], tail)
    for (label, found), artifact in zip(sites(), artifacts, strict=False):
        site, hundred = found["site"], found["workers"]["100"]
        lines.append(
            [
                label,
                significant(site["job_seconds"]),
                significant(site["start_seconds"]),
                _size(site["model_bytes"]),
                _size(site["result_bytes"]),
                f"{1e6 / jobs * hundred['worker_hours']:,.0f}",
                _size(1e6 * site["result_bytes"]),
                _size(1e6 * artifact),
            ]
        )
    head = ["", "fit and four pictures, s", "start of a worker, s", "model", "results of a job"]
    return markdown([*head, "worker hours per million", "stored per million", "artifacts alone"], lines)


def _size(count: float) -> str:
    power = min(4, math.floor(math.log10(count) / 3))
    return f"{count / 1000**power:.3g} {('bytes', 'KB', 'MB', 'GB', 'TB')[power]}"


@table
def scale_simulation() -> str:
    """Every site and number of workers."""
    head = ["", "workers", "hours", "jobs an hour", "busy", "storage", "driver", "failures"]
    lines = [
        [
            label,
            workers,
            f"{each['hours']:,.1f}",
            f"{each['jobs_per_hour']:,.0f}",
            *(f"{each[share]:.1%}" for share in ("busy", "storage_busy", "driver_busy")),
            each["failures"],
        ]
        for label, found in sites()
        for workers, each in found["workers"].items()
    ]
    return markdown(head, lines)


@table
def scale_thousand() -> str:
    """A thousand workers."""
    lines = [
        [
            label,
            *(f"{found['workers']['1000'][share]:.0%}" for share in ("busy", "storage_busy", "driver_busy")),
        ]
        for label, found in sites()
    ]
    return markdown(["1000 workers", "busy with jobs that count", "storage busy", "driver busy"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a page differs")
    given = parser.parse_args(arguments)
    differing = [page for page in PAGES if written(text := page.read_text(encoding="utf-8")) != text]
    for page in differing:
        print(page.relative_to(HERE.parent))
        if not given.check:
            page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int(given.check and bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
