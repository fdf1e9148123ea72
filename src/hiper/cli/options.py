"""The options that commands share: what they are called, what they accept, and their line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import LARGEST_SEED, real, whole

SEED = whole(-1, LARGEST_SEED)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:N or mps; default: the fastest there is.")
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="float32, bfloat16 or float16; default: what suits the device."),
]
Prediction = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="epsilon or v_prediction: what a model predicts whose files do not say it."
    ),
]
Quantise = Annotated[
    str | None, typer.Option(metavar="NAME", help="nf4 or int8: the denoiser in 4 or 8 bits (bitsandbytes).")
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="low: as little as possible, slower; balanced: all stays in memory; or auto."
    ),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="The same bits every time on a GPU too; slower.")
]
Resolution = Annotated[
    int | None, typer.Option(parser=whole(8, 8192), metavar="N", help="Side in pixels; default: the model's.")
]

Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture to learn from.")]
Others = Annotated[list[str] | None, typer.Argument(hidden=True)]
Caption = Annotated[str, typer.Option(metavar="TEXT", help="What the picture shows.")]
AutoCaption = Annotated[
    str, typer.Option("--caption", metavar="TEXT", help="What the picture shows; auto: have it described.")
]
Captioner = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Who describes it for --caption auto: a folder or Hub id of a BLIP or Florence-2. On critters: no need.",
    ),
]
Backbone = Annotated[
    str, typer.Option(metavar="NAME", help="critters, a folder, a .safetensors file or a Hub id.")
]
MethodName = Annotated[
    str, typer.Option("--method", metavar="NAME", help="How to learn; see `hiper methods`.")
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="default, paper, ..., or what hiper tune wrote; auto: what suits the model."
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", metavar="NAME=VALUE", help="An option of the method; may be repeated."),
]
Mask = Annotated[
    Path | None, typer.Option(metavar="MASK", help="A picture of the same size, white where the subject is.")
]
FitSeed = Annotated[int | None, typer.Option("--seed", parser=SEED, metavar="N", help="-1: a random one.")]
Frame = Annotated[
    int | None, typer.Option(parser=whole(0), metavar="N", help="Which picture of an animation.")
]
Background = Annotated[str, typer.Option(metavar="COLOUR", help="What transparent parts are laid on.")]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Use what is left of a damaged file.")
]
CheckpointEvery = Annotated[
    int, typer.Option(parser=whole(0, 3600), metavar="SECONDS", help="How often a fit saves itself.")
]

Prompts = Annotated[list[str], typer.Argument(metavar="PROMPT", help="Sentences that say what to draw.")]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")]
Images = Annotated[int, typer.Option(parser=whole(1, 10_000), metavar="N", help="Pictures per sentence.")]
EditSeed = Annotated[
    int,
    typer.Option("--seed", parser=SEED, metavar="N", help="Of the first picture; then +1 each. -1: random."),
]
Strength = Annotated[
    float | None, typer.Option(parser=real, metavar="X", help="Of what was learnt; 0: none.")
]
With = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="FILE", help="Another file that is to appear as well; may be repeated."),
]
WithStrength = Annotated[
    list[float] | None,
    typer.Option(parser=real, metavar="X", help="Strength of each --with, in their order."),
]
Negative = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What `hiper fit` wrote of a subject to keep away from.")
]
NegativeStrength = Annotated[
    float | None, typer.Option(parser=real, metavar="X", help="Strength of --negative.")
]
Guidance = Annotated[float | None, typer.Option(parser=real, metavar="X", help="Weight of the sentence.")]
Steps = Annotated[int | None, typer.Option(parser=whole(1, 1000), metavar="N", help="Denoising steps.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="ddim, dpm++ and unipc, also with -karras behind, euler, pndm or lcm."),
]
Height = Annotated[int | None, typer.Option(parser=whole(8, 8192), metavar="N", help="Pixels.")]
Width = Annotated[int | None, typer.Option(parser=whole(8, 8192), metavar="N", help="Pixels.")]
NegativePrompt = Annotated[str, typer.Option(metavar="TEXT", help="What to keep away from.")]
Keep = Annotated[
    float | None,
    typer.Option(
        parser=real,
        metavar="X",
        help="How much of the source stays where the sentence does not change it: 0 none, 1 all.",
    ),
]
BatchSize = Annotated[int, typer.Option(parser=whole(1, 1000), metavar="N", help="Pictures drawn at a time.")]
ReportPage = Annotated[
    Path | None,
    typer.Option("--report", metavar="PAGE.html", help="Also write one page that shows it all; draws more."),
]
NoArtifact = Annotated[
    bool, typer.Option("--no-artifact", help="Write PNGs that do not carry what was learnt.")
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Write PNGs that do not tell how they were made.")
]

EngineName = Annotated[
    str, typer.Option("--engine", metavar="NAME", help="local, or ray: a cluster, or Ray on this machine.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a running Ray cluster; default: one is started here."),
]
CoresPerWorker = Annotated[
    int, typer.Option(parser=whole(1, 1024), metavar="N", help="Cores of a Ray worker that has no GPU.")
]
