"""Write the tables and charts of README, docs/ and the model card from the files beside this module.

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
from functools import cache, partial
from pathlib import Path
from typing import Any

from hiper.bench import Curve, IntervalEstimate, Metric, Point, option_figure

HERE = Path(__file__).parent
PAGES = (
    HERE.parent / "README.md",
    HERE.parent / "src/hiper/critters/weights/README.md",
    *sorted((HERE.parent / "docs").rglob("*.md")),
)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
IDENTITY = ("primary", "secondary", "pattern", "collar", "eyes")
LOWER_IS_BETTER = (
    "colour_distance",
    "picture_distance",
    "inside_distance",
    "outside_distance",
    "source_leak",
    "converged",
    "to_first",
)
TABLES: dict[str, Callable[[], str]] = {}

Columns = Mapping[str, Callable[[Any], object]]
"""Heading -> from a line's label and figures to what stands in the cell."""


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


def by_columns(
    lines: Mapping[str, Any] | Iterable[tuple[str, Any]], columns: Columns, first: str = ""
) -> str:
    """Return a table of labelled lines: label, then each column's cell of the line's figures."""
    pairs = lines.items() if isinstance(lines, Mapping) else lines
    rows = ([label, *(cell(figures) for cell in columns.values())] for label, figures in pairs)
    return markdown([first, *columns], rows)


def number(value: float | None, form: str = ".2f") -> str:
    """Format a figure; nothing for None."""
    return "" if value is None else f"{value:z{form}}"


def significant(value: float) -> str:
    """Format a figure to three digits, or to whole numbers from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(found: Mapping[str, Any] | None, form: str = ".2f", *, scale: float = 1, plus: str = "") -> str:
    """Format an estimate with its interval in brackets, both times `scale`; nothing for None."""
    if not found:
        return ""
    value = f"{scale * found['value']:{plus}z{form}}"
    if found["low"] is None:
        return value
    low, high = sorted(scale * found[end] for end in ("low", "high"))
    return f"{value} [{low:z{form}}, {high:z{form}}]"


def gain(difference: Mapping[str, Any] | None, metric: str, form: str = ".2f") -> str:
    """Format a difference from something so that positive is better than it."""
    return interval(difference, form, scale=-1 if metric in LOWER_IS_BETTER else 1, plus="+")


def lead(difference: Mapping[str, Any] | None, metric: str) -> str:
    """Format a method's difference from HiPer as HiPer's lead over it."""
    return interval(difference, scale=1 if metric in LOWER_IS_BETTER else -1, plus="+")


# The benchmark's first run.

EVIDENCE = {
    "none": "prompt alone (floor)",
    "hiper": "**HiPer, default preset**: 40 steps, from a guess",
    "hiper,init=caption,learning_rate=0.15,t_min=0.5": "the same without the guess",
    "hiper:paper": "HiPer, the paper's preset: 1000 steps",
    "spelled-out": "caption with the identity in words",
    "truth": "true answer through the autoencoder (ceiling)",
    "other-tail": "control: another subject's tail",
    "random-tail": "control: a random tail",
    "source": "the source, unchanged",
}


def evidence_figures() -> dict[str, dict[str, Mapping[str, str]]]:
    """Return label -> metric -> the report's line for all edits together."""
    found: dict[str, dict[str, Mapping[str, str]]] = {label: {} for label in EVIDENCE.values()}
    with (HERE / "critters_evidence.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if not line["edit"]:
                found[EVIDENCE[line["arm"]]][line["metric"]] = line
    return found


def estimate(line: Mapping[str, str], name: str) -> dict[str, float | None] | None:
    """Return an estimate of a line of the report; None where the line has none."""
    if not line[name]:
        return None
    low, high = (float(text) if (text := line[f"{name}_{end}"]) else None for end in ("low", "high"))
    return {"value": float(line[name]), "low": low, "high": high}


def _mean_of_run(metric: str) -> Callable[[Any], object]:
    return lambda figures: number(float(figures[metric]["mean"]))


def _gain_of_run(metric: str) -> Callable[[Any], object]:
    return lambda figures: gain(estimate(figures[metric], "difference"), metric)


def _gap_of_run(metric: str) -> Callable[[Any], object]:
    return lambda figures: interval(estimate(figures[metric], "gap_closed"), ".0f")


@table
def evidence() -> str:
    columns = {
        "edit succeeds": _mean_of_run("edit_success"),
        "rest preserved": _mean_of_run("preservation"),
        "colour distance": _mean_of_run("colour_distance"),
        "gain over the paper's preset": _gain_of_run("colour_distance"),
        "gap closed, %": _gap_of_run("colour_distance"),
        **{each: _mean_of_run(each) for each in IDENTITY},
    }
    return by_columns(evidence_figures(), columns)


@table
def evidence_gains() -> str:
    """The gain of both ways to start over the paper's preset, attribute by attribute."""
    columns = {each.replace("_", " "): _gain_of_run(each) for each in (*IDENTITY, "picture_distance")}
    lines = list(evidence_figures().items())[1:3]
    return by_columns(lines, columns, "gain over the paper's preset")


@table
def evidence_gaps() -> str:
    """How much of the gap is closed, beside the aims, which stand here."""
    columns = {each.replace("_", " "): _gap_of_run(each) for each in ("colour_distance", *IDENTITY)}
    aims = {metric: {"gap_closed": "70", "gap_closed_low": "", "gap_closed_high": ""} for metric in IDENTITY}
    aims["colour_distance"] = {**aims["eyes"], "gap_closed": "85"}
    lines = {"aim": aims, "HiPer, default preset": evidence_figures()[EVIDENCE["hiper"]]}
    return by_columns(lines, columns, "gap closed, %")


# Edits that keep what the prompt does not change.

KEEPING = {
    "truth": "true answer through the autoencoder",
    "source": "the source, unchanged",
    "none": "prompt alone, new picture",
    "none,keep_source=0.5": "FlowEdit without a tail",
    "hiper,keep_source=0.0": "HiPer, new picture",
    "hiper,keep_source=0.25": "HiPer, `--keep 0.25`",
    "hiper": "**HiPer, `--keep 0.5`**",
    "hiper,keep_source=0.75": "HiPer, `--keep 0.75`",
    "hiper:published": "HiPer, the paper's fit, `--keep 0.5`",
    "textual-inversion": "Textual Inversion, `--keep 0.5`",
    "dreambooth": "DreamBooth, `--keep 0.5`",
}
EDITS = ("motion", "background", "texture", "two-at-once")


def kept() -> dict[str, Any]:
    """Return label -> figures of an arm."""
    found = {row["arm"]: row for row in read("keeping")["arms"]}
    return {label: found[arm] for arm, label in KEEPING.items() if arm in found}


def keep_dial() -> str:
    """Draw identity, edit success and distance of the whole picture along the dial of keeping, as an SVG."""
    arms = {row["arm"]: row["scores"] for row in read("keeping")["arms"]}
    dial = {0.5: "hiper"} | {float(arm.partition("=")[2]): arm for arm in arms if arm.startswith("hiper,")}
    share = partial(Metric, text="", better="higher", unit="share", low=0, high=1)
    metrics = {
        "identity": share(),
        "edit_success": share(),
        "picture_distance": Metric(text="", better="lower", unit="CIE76", low=0, high=None),
    }

    def point(label: str, arm: str) -> Point:
        means = {metric: IntervalEstimate(**arms[arm][metric]["mean"]) for metric in metrics}
        return Point(label=label, arm=arm, means=means, differences={})

    curve = Curve(
        option="keep",
        points=[point(f"{keep:g}", dial[keep]) for keep in sorted(dial)],
        base=point("0.5", "hiper"),
        floor=point("prompt alone", "none"),
        ceiling=point("true answer", "truth"),
        subjects=0,
        cells=0,
    )
    return option_figure(metrics, curve) + "\n"


FIGURES: Mapping[Path, Callable[[], str]] = {HERE.parent / "docs/images/keep-dial.svg": keep_dial}
"""Pictures that are written with the tables."""


def _kept_gain(metric: str) -> Callable[[Any], object]:
    return lambda row: gain(row["scores"][metric].get("minus_anew"), metric)


@table
def keeping() -> str:
    """Every arm, and its gain over a new picture."""
    columns: Columns = {
        "pictures": lambda row: row["scores"]["edit_success"]["mean"]["cells"],
        "edit succeeds": _mean("edit_success"),
        "identity": _mean("identity"),
        "gain in it": _kept_gain("identity"),
        "colour distance": _mean("colour_distance"),
        "gap closed, %": lambda row: interval(row["gap_closed"], ".0f"),
        "whole picture": _mean("picture_distance"),
        "gain in it ": _kept_gain("picture_distance"),
        "structure": _mean("structure"),
    }
    return by_columns(kept(), columns)


@table
def keeping_short() -> str:
    """What a reader of README needs."""
    short = (
        "HiPer, new picture",
        "**HiPer, `--keep 0.5`**",
        "FlowEdit without a tail",
        "true answer through the autoencoder",
    )
    columns: Columns = {
        "edit succeeds": _mean("edit_success"),
        "identity": _mean("identity"),
        "colour distance": _mean("colour_distance"),
        "whole picture": _mean("picture_distance"),
    }
    return by_columns({label: kept()[label] for label in short if label in kept()}, columns)


@table
def keeping_edits() -> str:
    """Success and distance outside the subject's outlines, for each kind of edit."""
    columns = {
        f"{edit.replace('-', ' ')}, {name}": _mean(metric, edit)
        for edit in EDITS
        for name, metric in (("succeeds", "edit_success"), ("outside", "outside_distance"))
    }
    return by_columns(kept(), columns)


@table
def keeping_cost() -> str:
    """Processor seconds and calls of both kinds of edits, and their ratio."""
    columns: Columns = {
        "new picture, s": lambda case: significant(case["seconds"][0]),
        "kept, s": lambda case: significant(case["seconds"][1]),
        "ratio": lambda case: "{median:.2f} [{least:.2f}, {most:.2f}]".format(**case["ratio"]),
        "calls": lambda case: f"{case['counted'][0]['calls']} / {case['counted'][1]['calls']}",
        "GFLOP": lambda case: f"{case['counted'][0]['gflop']:.0f} / {case['counted'][1]['gflop']:.0f}",
    }
    return by_columns(read("keeping_cost")["cases"], columns)


# The methods compared.

DEFAULT, WITHOUT_GUESS, PAPER = (
    "hiper",
    "hiper,init=caption,learning_rate=0.15,t_min=0.5",
    "hiper:paper,edit_steps=none,guidance=none,scheduler=none",
)
BASELINES = {"source": "source", "truth": "true answer", "none": "prompt alone"}
OTHER_METHODS = {
    "textual-inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
    "dreambooth-lora": "DreamBooth, LoRA",
    "imagic": "Imagic",
    "null-text": "null-text inversion",
    "ddim-inversion": "DDIM inversion",
    "sdedit": "SDEdit",
}
METHODS = {
    **BASELINES,
    DEFAULT: "**HiPer**, default preset",
    "hiper,learning_rate=0.062,strength=0.67": "HiPer, best of eight tries",
    WITHOUT_GUESS: "**HiPer without the guess**",
    PAPER: "**HiPer, the paper's fit**",
    **OTHER_METHODS,
}


def methods(*, fitted: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield each method's label and figures; fitted: without the baselines."""
    for row in read("methods_table")["arms"]:
        if not fitted or row["cost"]:
            yield METHODS[row["arm"]], row


def _mean(metric: str, edit: str | None = None) -> Callable[[Any], object]:
    """Return what reads a mean of an arm, over all its edits or those of a kind."""

    def read(row: Any) -> str:
        scores = row["scores"] if edit is None else row["edits"][edit]
        return number((scores[metric]["mean"] or {"value": None})["value"])

    return read


def _lead(metric: str, reference: str) -> Callable[[Any], object]:
    return lambda row: lead(row["scores"][metric]["minus"].get(reference), metric)


def _leads(metric: str) -> Columns:
    return {
        "lead of the default": _lead(metric, DEFAULT),
        "lead of the paper's fit": _lead(metric, PAPER),
        "lead without the guess": _lead(metric, WITHOUT_GUESS),
    }


COST: Columns = {
    "fit, s": lambda row: significant(row["cost"]["fit_seconds"]),
    "fit, GFLOP": lambda row: f"{row['cost']['fit_flops'] / 1e9:,.0f}",
    "MB beside the weights": lambda row: f"{row['cost']['fit_peak_bytes'] / 1e6:.0f}",
    "four pictures, s": lambda row: f"{row['cost']['edit_seconds']:.2g}",
    "pictures, GFLOP": lambda row: f"{row['cost']['edit_flops'] / 1e9:.0f}",
    "file, KB": lambda row: f"{row['cost']['artifact_bytes'] / 1e3:,.0f}",
    "a fit serves": lambda row: "one sentence" if row["cost"]["per_sentence"] else "all",
}


@table
def methods_identity() -> str:
    """Identity and edits, and by how much three fits of HiPer lead."""
    columns = {
        "pictures": lambda row: row["scores"]["edit_success"]["mean"]["cells"],
        "edit succeeds": _mean("edit_success"),
        "identity": _mean("identity"),
    }
    return by_columns(methods(), {**columns, **_leads("identity")})


@table
def methods_colour() -> str:
    """Colours and the whole picture, and by how much HiPer leads."""
    columns = {
        "colour distance": _mean("colour_distance"),
        **_leads("colour_distance"),
        "gap closed, %": lambda row: interval(row["gap_closed"], ".0f"),
        "picture distance": _mean("picture_distance"),
        "lead of the paper's fit in it": _lead("picture_distance", PAPER),
    }
    return by_columns(methods(), columns)


@table
def methods_attributes() -> str:
    columns = {each: _mean(each) for each in IDENTITY}
    rest = {"rest preserved": _mean("preservation"), "source leak": _mean("source_leak")}
    return by_columns(methods(), {**columns, **rest})


@table
def methods_cost() -> str:
    return by_columns(methods(fitted=True), COST)


@table
def methods_short() -> str:
    """What README says of the comparison."""
    columns = {
        "edit succeeds": _mean("edit_success"),
        "identity": _mean("identity"),
        "lead of the paper's fit": _lead("identity", PAPER),
        **{name: COST[name] for name in ("fit, s", "file, KB", "a fit serves")},
    }
    return by_columns((line for line in methods(fitted=True) if "tries" not in line[0]), columns)


@table
def tune_methods() -> str:
    """The best of each method's tries."""
    best: dict[str, Any] = {}
    for each in sorted(read("tune_methods")["tries"], key=lambda each: each["score"] or math.inf):
        best.setdefault(f"`{each['method']}`", each)
    columns: Columns = {
        "best of eight tries": lambda each: (
            ", ".join(f"{name} {value}" for name, value in each["options"].items()) or "the preset of then"
        ),
        "colour distance": lambda each: number(each["colour_distance"]),
        "edit succeeds": lambda each: number(each["edit_success"]),
    }
    return by_columns(sorted(best.items()), columns, "method")


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

    def against(name: str) -> str:
        gained = lowered(name, SEARCHED)
        return f"{statistics.mean(gained):+z.1f} ± {statistics.stdev(gained) / len(gained) ** 0.5:.1f}"

    columns: Columns = {
        "lowers the loss by, thousandths": lambda name: number(
            statistics.mean(lowered(name, "caption alone")), ".1f"
        ),
        "gain over the line in bold": lambda name: "" if name == SEARCHED else against(name),
    }
    best_first = sorted(losses, key=lambda each: sum(losses[each]))
    return by_columns(((f"**{name}**" if name == SEARCHED else name, name) for name in best_first), columns)


REMEDIES: Columns = {
    "FLOPs of the paper's fit": lambda row: number(row["share_of_paper"], ".3f"),
    "edit succeeds": lambda row: number(row["means"]["edit_success"]),
    "colour distance": lambda row: number(row["means"]["colour_distance"]),
    "gain over the paper's fit": lambda row: gain(row["minus_paper"]["colour_distance"], "colour_distance"),
    **{each: lambda row, each=each: number(row["means"][each]) for each in IDENTITY},  # type: ignore[misc]
}


def remedy_name(row: Any) -> str:
    """Name an arm by its idea, its steps and its strength."""
    arm: str = row["arm"]
    if row["flops"] is None:
        return EVIDENCE[arm]
    if arm == "hiper:paper":
        return str(row["idea"])
    steps = re.search(r"\bnum_train_steps=(\d+)", arm)
    count = steps[1] if steps else "1000" if arm == PAPER else "40"
    strength = re.search(r"strength=([\d.]+)", arm)
    name = (
        f"{row['idea']}: {count} step{'s' * (count != '1')}{f', strength {strength[1]}' if strength else ''}"
    )
    return f"**{name}**" if arm in (DEFAULT, PAPER) else name


@table
def remedies() -> str:
    """Every idea, with more and more steps."""
    return by_columns(((remedy_name(row), row) for row in read("remedies")["arms"]), REMEDIES)


@table
def remedies_short() -> str:
    """Both ways to start beside the paper's fit and the baselines."""
    shown = {
        PAPER: "the paper's fit: 1000 steps",
        WITHOUT_GUESS: "40 steps without the guess",
        "hiper,num_train_steps=1": "the guess and one step",
        DEFAULT: "**the guess and 40 steps (default)**",
        **{each: EVIDENCE[each] for each in ("none", "truth")},
    }
    rows = {row["arm"]: row for row in read("remedies")["arms"]}
    return by_columns({label: rows[arm] for arm, label in shown.items()}, REMEDIES)


@table
def remedies_attributes() -> str:
    """The default preset's gain over the paper's fit in every attribute."""
    found = next(row["minus_paper"] for row in read("remedies")["arms"] if row["arm"] == DEFAULT)
    shown = ("edit_success", *IDENTITY)
    lines = [["gain of the default", *(gain(found[each], each) for each in shown)]]
    return markdown(["", "edit succeeds", *IDENTITY], lines)


# Performance.


def _texts(model: Any) -> float:
    weights: dict[str, float] = model["weights_gib"]
    return sum(size for part, size in weights.items() if part.startswith("text_encoder"))


def _denoiser(model: Any) -> float:
    weights: dict[str, float] = model["weights_gib"]
    return weights["unet"] if "unet" in weights else weights["transformer"]


def full_sizes(*names: str) -> Iterator[tuple[str, Any]]:
    """Yield label and figures of some checkpoints, or of all, on a GPU that is not there."""
    for name, model in read("full_size")["models"].items():
        if not names or name in names:
            yield f"{name}, {model['resolution']} px", model


@table
def full_size() -> str:
    columns: Columns = {
        "token embeddings": lambda model: " × ".join(map(str, model["rows"][1:])),
        "weights of the denoiser, of the text encoders, GiB": lambda model: (
            f"{_denoiser(model):.1f}, {_texts(model):.1f}{' in turn' if model['takes_turns'] else ''}"
        ),
        "fit step: TFLOP": lambda model: number(model["fit step"]["tflop"], ".1f"),
        "peak beside the weights, GiB": lambda model: number(model["fit step"]["peak_gib"], ".1f"),
        "kernels": lambda model: model["fit step"]["kernels"],
        "waits": lambda model: sum(model["fit step"]["syncs"].values()),
        "edit of 2 steps: TFLOP": lambda model: number(model["edit step"]["tflop"], ".1f"),
        "peak, GiB": lambda model: number(model["edit step"]["peak_gib"], ".1f"),
    }
    return by_columns(full_sizes(), columns)


@table
def hardware() -> str:
    """What README says of three models: memory, and minutes of 1000 steps at a rate of 60 TFLOP/s."""
    columns: Columns = {
        "GPU memory, GiB": lambda model: number(_denoiser(model) + model["fit step"]["peak_gib"], ".1f"),
        "minutes": lambda model: f"{1000 * model['fit step']['tflop'] / 60 / 60:.2g}",
    }
    return by_columns(
        full_sizes("Stable Diffusion 1.5", "SDXL", "FLUX.1 dev"), columns, "a fit of 1000 steps"
    )


WAYS = {
    "fit step, unfrozen, float32, batch 1": "fit step as published: unfrozen, float32",
    "fit step, frozen, float32, batch 1": "fit step, frozen, float32",
    "fit step, frozen, bfloat16, batch 1": "fit step, frozen, bfloat16",
    "fit step, frozen, bfloat16, batch 4": "fit step, frozen, bfloat16, 4 timesteps",
    "sampling step, guided, frozen, bfloat16": "two forward passes (a sampling step under guidance), bfloat16",
}
SIZES = {"sd14": "Stable Diffusion 1.4", "sdxl": "SDXL", "flux": "FLUX.1 dev"}


@table
def cost_model() -> str:
    """FLOPs, bytes and the least milliseconds on an H200, of three sizes."""
    columns: Columns = {
        "TFLOP": lambda way: significant(way["flops"] / 1e12),
        "GB moved": lambda way: f"{significant(way['moved'] / 1e9)} ({significant(way['products'] / 1e9)})",
        "memory, GB": lambda way: significant(way["memory"] / 1e9),
        "H200, ms: by arithmetic": lambda way: significant(1e3 * way["least_seconds"]["by_compute"]),
        "by memory": lambda way: "{} ({})".format(
            *(significant(1e3 * way["least_seconds"][f"by_memory_{how}"]) for how in ("unfused", "fused"))
        ),
    }
    found = read("cost_model")
    lines = [
        (f"{title}: {label}", found[model][way])
        for model, title in SIZES.items()
        for way, label in WAYS.items()
    ]
    return by_columns(lines, columns)


@table
def cost_shares() -> str:
    """What of a forward pass has to do with the text."""
    shares = {model: read("cost_model")[model]["shares of a forward pass"] for model in SIZES}
    columns: Columns = {
        title: lambda name, model=model: f"{100 * shares[model][name]:.2g}"  # type: ignore[misc]
        for model, title in SIZES.items()
    }
    return by_columns(((name, name) for name in shares["sd14"]), columns, "of one forward pass, %")


@table
def cost_reference() -> str:
    """Where the published procedure spends its FLOPs, at the size of SD 1.4."""
    spent = read("cost_model")["sd14"]["reference procedure"]
    whole = sum(spent.values())
    columns: Columns = {
        "PFLOP": lambda each: f"{each / 1e15:.2f}",
        "%": lambda each: f"{100 * each / whole:.0f}",
    }
    return by_columns({**spent, "**all**": whole}, columns)


@table
def full_size_step() -> str:
    """One fit step at the size of SD 1.4 on two CPU threads."""
    found = read("full_size_step")
    base = found["float32"]["unfrozen_seconds"]
    lines = {
        f"{how}, {dtype}": (found[dtype][f"{how}_tflop"], found[dtype][f"{how}_seconds"])
        for dtype in ("float32", "bfloat16")
        for how in ("unfrozen", "frozen")
    }
    columns: Columns = {
        "TFLOP": lambda each: number(each[0]),
        "seconds": lambda each: number(each[1], ".1f"),
        "of the first line's": lambda each: number(each[1] / base),
        "times as fast": lambda each: number(base / each[1], ".1f"),
    }
    return by_columns(lines, columns)


@table
def embedded() -> str:
    """A fit and an edit on the embedded model."""
    columns: Columns = {
        "fit, s": lambda found: number(found["fit_seconds"], ".1f"),
        "four pictures, s": lambda found: number(found["edit_seconds_4_images"], ".1f"),
        "file, KB": lambda found: number(found["artifact_bytes"] / 1e3, ".0f"),
    }
    return by_columns(
        {preset: read("embedded")[preset] for preset in ("default", "paper")}, columns, "preset"
    )


@table
def against_the_paper() -> str:
    """Whole jobs in three rounds, with the least and most of the rounds' ratios."""
    rounds: dict[str, list[float]] = {}
    for run in read("against_the_paper")["runs"]:
        rounds.setdefault(run["arm"], []).append(run["seconds"])

    def faster(base: str) -> Callable[[Any], object]:
        def cell(arm: str) -> str:
            ratios = [theirs / ours for theirs, ours in zip(rounds[base], rounds[arm], strict=True)]
            middle = statistics.median(rounds[base]) / statistics.median(rounds[arm])
            return (
                "" if arm in (base, "published") else f"{middle:.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
            )

        return cell

    columns: Columns = {
        "seconds": lambda arm: significant(statistics.median(rounds[arm])),
        "times as fast as published": faster("published"),
        "times as fast as `hiper:paper`": faster("hiper:paper"),
    }
    return by_columns(((_arm(arm), arm) for arm in rounds), columns)


@table
def against_the_methods() -> str:
    """Whole jobs of every method, one round."""
    found = read("against_the_paper_methods")["whole"]
    ours = found["hiper:default"]["processor_seconds"]
    columns: Columns = {
        "processor seconds": lambda each: significant(each["processor_seconds"]),
        "HiPer's default is so many times as fast": lambda each: significant(
            each["processor_seconds"] / ours
        ),
    }
    return by_columns(((_arm(arm), each) for arm, each in found.items()), columns)


def _arm(arm: str) -> str:
    return "the recipe as published" if arm == "published" else f"`{arm}`"


@table
def growth() -> str:
    """Exponents of time and memory; in brackets between the two largest sizes."""
    curves: dict[str, dict[str, Any]] = {}
    for curve in read("growth")["curves"]:
        curves.setdefault(curve["what"], {})[curve["model"]] = curve

    def exponent(model: str, cost: str) -> Callable[[Any], object]:
        def cell(models: Any) -> str:
            found = models[model]["exponents"][cost] if model in models else None
            return f"{found['all']:.2f} ({found['last']:.2f})" if found else ""

        return cell

    def sizes(models: Any) -> str:
        return " and ".join(
            dict.fromkeys(f"{each['sizes'][0]} to {each['sizes'][-1]}" for each in models.values())
        )

    columns = {
        "critters: time": exponent("critters", "time"),
        "critters: memory": exponent("critters", "memory"),
        "SD 1.4: FLOPs": exponent("sd14", "time"),
        "SD 1.4: memory": exponent("sd14", "memory"),
    }
    return by_columns(((f"{what}, {sizes(models)}", models) for what, models in curves.items()), columns)


SAMPLERS = {
    "ddim": "DDIM",
    "dpm++": "DPM-Solver++ 2M",
    "dpm++-karras": "DPM-Solver++ 2M, Karras",
    "unipc": "UniPC",
    "unipc-karras": "UniPC, Karras",
}


def _samplers(file: str) -> str:
    """The reference's means, and every other sampler's gain over it."""
    found = read(file)["samplers"]
    reference = found["ddim:50"]

    def cell(metric: str) -> Callable[[Any], object]:
        return lambda each: number(each[metric]["value"]) if each is reference else gain(each[metric], metric)

    columns = {
        "identity": cell("identity"),
        "colour distance": cell("colour_distance"),
        "distance to convergence": cell("converged"),
        "as good": lambda each: "reference" if each is reference else "yes" if each["as_good"] else "no",
    }
    names = (text.partition(":") for text in found)
    labels = (f"{SAMPLERS[sampler]}, {steps}" for sampler, _, steps in names)
    return by_columns(zip(labels, found.values(), strict=True), columns, "sampler, steps")


@table
def solvers() -> str:
    return _samplers("solvers")


@table
def solvers_default() -> str:
    return _samplers("solvers_default")


@table
def faster_steps() -> str:
    """Core seconds of a step of a fit and of a drawing, and what a step of a fit keeps at full size."""
    found = read("faster_steps")
    fit, drawn = found["fit step of 1, core seconds"], found["drawing step of 4 pictures, core seconds"]
    kept = found["kept at full size, GB"]["batch 1"]
    lines = {
        "a fit step of one timestep, core seconds": fit["float32"],
        "the same with `--memory low`": fit["float32, low memory"],
        "the same in bfloat16": fit["bfloat16"],
        "a sampling step of four pictures, text projected at every step, core seconds": drawn[
            "at every step"
        ],
        "the same, text projected once": drawn["once"],
        "one preview during a fit, core seconds": found["preview, core seconds"],
        "tail after 20 steps in bfloat16: difference from float32, as a share of what was learnt": found[
            "tail after 20 steps"
        ]["bfloat16"]["difference"],
        "activations that a fit step keeps at the size of SD 1.4, per timestep, GB": kept["all"],
        "activations with `--memory low`, GB": kept["recomputing"],
    }
    return by_columns(lines, {"": lambda value: number(value, ".3f")})


@table
def fit_together() -> str:
    """Several subjects in a call."""
    columns: Columns = {
        "processor seconds a subject, alone": lambda each: number(each["alone_processor_seconds"]),
        "together": lambda each: number(each["together_processor_seconds"]),
        "times as fast": lambda each: number(each["processor_speed_up"]),
    }
    lines = ((name, each) for name, each in read("fit_together").items() if isinstance(each, dict))
    return by_columns(lines, columns, "preset, 40 steps")


@table
def long_run() -> str:
    columns: Columns = {
        "edits": lambda found: found["edits"],
        "results that differ from the first": lambda found: found["results_that_differ_from_the_first"],
        "memory growth, MB per 100 fits": lambda found: number(found["growth_mb_per_100_fits_once_settled"]),
        "peak, MB": lambda found: number(found["memory_mb_peak"], ".0f"),
    }
    return by_columns({read("long_run")["fits"]: read("long_run")}, columns, "fits")


# Attention.

GROUPS = {
    "learnt, start": "start token",
    "learnt, word": "words",
    "learnt, end": "end token",
    "learnt, padding": "padding",
    "learnt, tail": "**the learnt tail**",
    "untouched, padding": "*without the tail:* all padding",
    "padding in the tail's places": "*without the tail:* the padding in its places",
}
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


def _attention(what: str, file: str = "attention") -> Callable[[Any], object]:
    """Return the cell of a figure over the true answers, in percent; `what` has a place for the line's name."""

    def cell(name: str) -> str:
        figure = read(file)["figures"].get(f"true answers: {what.format(name)}")
        return interval(figure, ".1f", scale=1 if "influence" in name else 100)

    return cell


@table
def attention() -> str:
    """Shares of attention, for tails from the guess."""
    each = _attention("{}: attention per row")
    columns: Columns = {
        "attention, %": _attention("{}: attention"),
        "per token, %": lambda name: str(each(name)).partition(" ")[0],
        "of that on the subject, %": _attention("{}: on the subject"),
    }
    return by_columns(((label, name) for name, label in GROUPS.items()), columns)


@table
def attention_contrasts() -> str:
    """Differences and influence, for tails from the guess and from the caption."""
    columns = {
        "tails from the guess": _attention("{}"),
        "tails without the guess": _attention("{}", "attention_caption"),
    }
    return by_columns(((label, name) for name, label in CONTRASTS.items()), columns)


# Several tails.


def _several(experiment: str, share: str, metric: str) -> str:
    """Distances to two animals, what they gain over the first line, and how often a metric holds."""
    found = read("several_tails")[experiment]
    first = next(iter(found.values()))

    def change(metric: str) -> Callable[[Any], object]:
        return lambda arm: "" if arm is first else gain(arm[metric]["difference"], metric, ".1f")

    columns: Columns = {
        "to the first": lambda arm: number(arm["to_first"]["mean"], ".1f"),
        "nearer to it by": change("to_first"),
        "to the second": lambda arm: number(arm["to_second"]["mean"], ".1f"),
        "further from it by": change("to_second"),
        share: lambda arm: number(arm[metric]["mean"]),
    }
    return by_columns(found, columns)


@table
def several_blend() -> str:
    return _several("two_animals", "the first is nearer", "nearer_first")


@table
def several_style() -> str:
    return _several("subject_and_style", "watercolor found", "style")


@table
def several_negative() -> str:
    return _several("negative", "species right", "species")


@table
def several_average() -> str:
    found = read("several_tails")["averaging"]
    columns: Columns = {
        "colour distance": lambda arm: number(arm["colour_distance"]["mean"], ".1f"),
        "gain": lambda arm: (
            ""
            if arm is found["one picture"]
            else gain(arm["colour_distance"]["difference"], "colour_distance", ".1f")
        ),
        "primary colour right": lambda arm: number(arm["primary"]["mean"]),
        "edit succeeds": lambda arm: number(arm["edit_success"]["mean"]),
    }
    return by_columns(found, columns)


# The embedded model.


@table
def critters_quality() -> str:
    """What is aimed at and what is found; the aims stand here."""
    found = read("critters_quality")
    words, moved = found["words"], found["padding"]
    counts = {name: words[f"{name} (n)"] for name in IDENTITY}
    right = {name: round(words[name] * counts[name]) for name in IDENTITY}
    captions = ("species", "pose", "background", "style")
    lines: dict[str, tuple[str, str]] = {
        "autoencoder, PSNR in dB": ("30", number(found["autoencoder psnr"], ".1f")),
        "caption reader on fresh renders": ("0.99", number(min(found["caption reader"].values()))),
        **{f"bare captions followed: {each}": ("0.95", number(found["captions"][each])) for each in captions},
        **{
            f"identity words followed: {each}": ("0.90", number(right[each] / counts[each]))
            for each in IDENTITY
        },
        "identity words followed, all together": ("0.90", number(sum(right.values()) / sum(counts.values()))),
        **{
            f"words read in the world's own pictures of other animals: {each}": (
                "",
                number(found["words in the world"][each]),
            )
            for each in IDENTITY
        },
        "nearest training picture of a sample": ("", number(found["memory"]["samples"], ".3f")),
        "nearest training picture of a fresh picture": ("", number(found["memory"]["fresh pictures"], ".3f")),
        "a picture moves by (CIE76): other last five tokens": (
            "",
            number(moved["tail of another caption"], ".1f"),
        ),
        "a picture moves by (CIE76): another seed": ("", number(moved["another seed"], ".1f")),
        "a picture moves by (CIE76): another caption": ("", number(moved["another caption"], ".1f")),
    }
    return by_columns(lines, {"aim": lambda each: each[0], "found": lambda each: each[1]})


# Scale.

SITES = {
    "embedded model": "embedded model, two CPU threads",
    "Stable Diffusion 1": "Stable Diffusion 1, a GPU each",
    "Stable Diffusion 1, preemptible": "Stable Diffusion 1, preemptible",
    "Stable Diffusion 1, storage a tenth": "Stable Diffusion 1, storage a tenth as fast",
}
OUTCOME: Columns = {
    "hours": lambda each: f"{each['hours']:,.1f}",
    "jobs an hour": lambda each: f"{each['jobs_per_hour']:,.0f}",
    "busy with jobs that count": lambda each: f"{each['busy']:.0%}",
    "storage busy": lambda each: f"{each['storage_busy']:.0%}",
    "driver busy": lambda each: f"{each['driver_busy']:.0%}",
    "failures": lambda each: each["failures"],
}


def _size(count: float) -> str:
    power = min(4, math.floor(math.log10(count) / 3))
    return f"{count / 1000**power:.3g} {('bytes', 'KB', 'MB', 'GB', 'TB')[power]}"


@table
def scale_cost() -> str:
    """What a job and a million jobs cost."""
    found = read("scale_simulation")
    million = 1e6 / found["jobs"]
    columns: Columns = {
        "fit and four pictures, s": lambda each: significant(each["site"]["job_seconds"]),
        "start of a worker, s": lambda each: significant(each["site"]["start_seconds"]),
        "model": lambda each: _size(each["site"]["model_bytes"]),
        "results of a job": lambda each: _size(each["site"]["result_bytes"]),
        "worker hours per million": lambda each: f"{million * each['workers']['100']['worker_hours']:,.0f}",
        "stored per million": lambda each: _size(1e6 * each["site"]["result_bytes"]),
    }
    return by_columns(((SITES[name], found[name]) for name in list(SITES)[:2]), columns)


@table
def scale_simulation() -> str:
    """Every site and number of workers."""
    found = read("scale_simulation")
    lines = (
        (f"{label}, {workers}", each)
        for name, label in SITES.items()
        for workers, each in found[name]["workers"].items()
    )
    return by_columns(lines, OUTCOME, "workers")


@table
def scale_thousand() -> str:
    """A thousand workers."""
    found = read("scale_simulation")
    lines = ((label, found[name]["workers"]["1000"]) for name, label in SITES.items())
    return by_columns(lines, OUTCOME, "1000 workers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check pages and charts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a page differs")
    given = parser.parse_args(arguments)
    new = {page: written(page.read_text(encoding="utf-8")) for page in PAGES}
    new |= {path: figure() for path, figure in FIGURES.items()}
    differing = [
        path for path, text in new.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in differing:
        print(path.relative_to(HERE.parent))
        if not given.check:
            path.write_text(new[path], encoding="utf-8")
    return int(given.check and bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
