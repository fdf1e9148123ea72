"""`hiper edit`: from an artifact and sentences to pictures; and the part shared with `run`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hiper import files
from hiper.cli.arguments import LARGEST_SEED
from hiper.cli.fit import load_model_of
from hiper.cli.options import BatchSize, Hardware, Images, LearntFile, Overwrite, OwnBackbone, SamplingOptions
from hiper.cli.progress import Report
from hiper.cli.report import write_report
from hiper.cli.session import Session
from hiper.cli.stopping import Stopped
from hiper.errors import Interrupted, OptionError

if TYPE_CHECKING:
    from hiper.artifacts import Artifact, EditResult
    from hiper.backbones import Backbone
    from hiper.inference import EditStart, Region


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Files of what was learnt: the first, those that appear beside it, and one to keep away from."""

    file: LearntFile
    others: Annotated[
        list[Path], Option("--with", help="File of another subject to draw as well; repeatable.")
    ] = field(default_factory=list)
    other_strengths: Annotated[
        list[float],
        Option("--with-strength", help="Strength of each --with, in order; default: each file's own."),
    ] = field(default_factory=list)
    negative: Annotated[Path | None, Option(help="File of a subject that the picture should not show.")] = (
        None
    )
    negative_strength: Annotated[
        float | None, Option(help="Strength of --negative; default: the file's own.")
    ] = None

    def load(self, strength: float | None) -> Artifact:
        """Load the one file, or several combined; `strength` is the first one's, None its own."""
        from hiper.artifacts import Artifact, combine

        if len(self.other_strengths) not in (0, len(self.others)):
            raise OptionError(
                f"{len(self.other_strengths)} --with-strength for {len(self.others)} --with;"
                " give one for each, or none"
            )
        if self.negative_strength is not None and self.negative is None:
            raise OptionError("--negative-strength is given without --negative; name a file by --negative")
        artifact = Artifact.load(self.file)
        if not self.is_several:
            return artifact
        others: Sequence[float | None] = self.other_strengths or [None] * len(self.others)
        return combine(
            [artifact, *map(Artifact.load, self.others)],
            strength=[strength, *others],
            negative=Artifact.load(self.negative) if self.negative is not None else None,
            negative_strength=self.negative_strength,
        )

    @property
    def is_several(self) -> bool:
        """Whether the files are to be combined."""
        return bool(self.others) or self.negative is not None


@dataclass(frozen=True, kw_only=True)
class EditRequest(SamplingOptions):
    """What is to be drawn, and what is written."""

    prompts: Annotated[list[str], Argument(metavar="PROMPT", help="What to draw; one or more prompts.")]
    out: Annotated[Path, Option(metavar="DIR", help="Output folder.")]
    images: Images = 1
    seed: Annotated[
        int,
        Option(
            min=-1, max=LARGEST_SEED, help="Seed of the first picture; each further one adds 1; -1: random."
        ),
    ] = 0
    batch_size: BatchSize = 4
    source: Annotated[
        Path | None,
        Option(metavar="PICTURE", help="Picture to edit; default: the one stored in the file."),
    ] = None
    region: Annotated[
        str | None,
        Option(
            metavar="MASK|BOX",
            help="Edit only here: a mask (white) or left,top,right,bottom in pixels.",
        ),
    ] = None
    into: Annotated[
        Path | None,
        Option(metavar="PICTURE", help="Draw the subject into the --region of this picture."),
    ] = None
    into_caption: Annotated[str, Option(metavar="TEXT", help="Caption of the picture --into.")] = ""
    show_mask: Annotated[
        bool, Option(help="Also write NAME-mask.png, which shows what the edit could change.")
    ] = False
    report: Annotated[
        Path | None,
        Option(metavar="PAGE.html", help="Also write an HTML report with a grid of strengths and seeds."),
    ] = None
    no_artifact: Annotated[bool, Option(help="Do not embed the fitted file in the PNGs.")] = False
    no_metadata: Annotated[bool, Option(help="Write no settings into the PNGs.")] = False
    overwrite: Overwrite = False


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One sentence, and the file that each of its seeds is drawn to."""

    prompt: str
    paths: Mapping[int, Path]


def mask_path(path: Path) -> Path:
    """Return where the mask of the picture in `path` goes."""
    return path.with_name(f"{path.stem}-mask.png")


def edit(
    session: Session,
    learnt: Learnt,
    request: EditRequest,
    hardware: Hardware,
    *,
    backbone: OwnBackbone = None,
) -> None:
    """Edit the picture of a fit by prompts. --keep 0 draws new pictures of its subject instead."""
    artifact = learnt.load(request.strength)
    start = opened_start(request)
    if learnt.is_several:
        request = replace(request, strength=None)  # it is worked in
    with planned(session, request) as drawings, session.progress() as report:
        model = load_model_of(artifact, backbone, hardware, report)
        start = prepared_start(model, artifact, start)
        results = draw(session, model, artifact, drawings, request, report, start)
        if request.report is not None:
            write_report(
                *(session, request.report, model, artifact, results, report),
                overwrite=request.overwrite,
                start=start,
            )
    origin: dict[str, object] = {"artifact": str(learnt.file)}
    if learnt.others:
        origin["with"] = [str(path) for path in learnt.others]
    if learnt.negative is not None:
        origin["negative"] = str(learnt.negative)
    print_drawn(session, origin, drawings, results, request)


@contextmanager
def planned(session: Session, request: EditRequest) -> Iterator[list[Drawing]]:
    """Settle prompts, seeds and files before any model is loaded, and keep other processes off them."""
    from hiper.seeds import RANDOM, resolve_seed

    first = resolve_seed(request.seed)
    if request.seed == RANDOM:
        session.console.note(f"the first picture's seed is {first}, drawn at random")
    if first + request.images - 1 > LARGEST_SEED:
        raise OptionError(f"seeds {first} and {request.images - 1} more pass {LARGEST_SEED}; lower --seed")
    if request.report is not None:
        files.check_writable(request.report, overwrite=request.overwrite)
    prompts = list(dict.fromkeys(request.prompts))
    if len(prompts) < len(request.prompts):
        session.console.note("a sentence given twice is drawn once")
    seeds = range(first, first + request.images)
    with _reserved(request, prompts, seeds) as drawings:
        yield drawings


def opened_start(request: EditRequest) -> EditStart:
    """Read the pictures that an edit starts from; ImageError or OptionError before any model is loaded."""
    from hiper.images import open_image

    return {
        "source": None if request.source is None else open_image(request.source).image,
        "region": None if request.region is None else _region(request.region),
        "into": None if request.into is None else open_image(request.into).image,
        "into_caption": request.into_caption,
    }


def prepared_start(backbone: Backbone, artifact: Artifact, start: EditStart) -> EditStart:
    """Encode once, for all prompts and batches, what the edits start from."""
    from hiper.inference import prepare_picture

    picture = prepare_picture(
        backbone, artifact, source=start["source"], region=start["region"], into=start["into"]
    )
    if picture is None:
        return start
    return {"source": picture, "region": None, "into": None, "into_caption": start["into_caption"]}


def _region(text: str) -> Region:
    """Read a box, or else a mask's file."""
    from hiper.images import open_mask
    from hiper.inference import parse_box

    return parse_box(text) or open_mask(text).image


@contextmanager
def _reserved(request: EditRequest, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[list[Drawing]]:
    """Yield a file <slug>-<seed>.png for every prompt and seed, locked against other processes while the block runs.

    Raises:
        OutputError: One of them exists and `overwrite` is false, or cannot be written.
    """
    out = request.out
    files.make_folder(out)
    drawings = []
    with ExitStack() as locks:
        for prompt, slug in zip(prompts, files.distinct_slugs(prompts), strict=True):
            locks.enter_context(files.lock(out / slug))
            paths = {seed: out / f"{slug}-{seed}.png" for seed in seeds}
            for path in paths.values():
                for each in [path, mask_path(path)] if request.show_mask else [path]:
                    files.check_writable(each, overwrite=request.overwrite)
            drawings.append(Drawing(prompt=prompt, paths=paths))
        yield drawings


def draw(
    session: Session,
    backbone: Backbone,
    artifact: Artifact,
    drawings: Sequence[Drawing],
    request: EditRequest,
    report: Report,
    start: EditStart,
) -> list[EditResult]:
    """Draw batch by batch and write each picture at once; what was written survives Ctrl-C."""
    results: list[EditResult] = []
    try:
        for drawing in drawings:
            for result in _batches(backbone, artifact, drawing, request, report, start):
                with session.stop.deferred():
                    _write(backbone, artifact, drawing, result, request)
                    results.append(result)
                session.stop.raise_if_requested()
    except Stopped as stopped:
        written = sum(len(result.images) for result in results)
        wanted = sum(len(drawing.paths) for drawing in drawings)
        raise Interrupted(
            f"{stopped}; {written} of {wanted} pictures are drawn", stopped.signal_number
        ) from None
    return results


def print_drawn(
    session: Session,
    origin: Mapping[str, object],
    drawings: Sequence[Drawing],
    results: Sequence[EditResult],
    request: EditRequest,
) -> None:
    """Report where each picture, its mask and the page are, and what they were drawn with."""
    images = [
        {"path": str(path), "prompt": drawing.prompt, "seed": seed}
        | ({"mask": str(mask_path(path))} if request.show_mask else {})
        for drawing in drawings
        for seed, path in drawing.paths.items()
    ]
    flagged = [{"prompt": result.prompt, "seed": seed} for result in results for seed in result.flagged]
    record = {**origin, "images": images, "settings": asdict(results[0].settings), "flagged": flagged}
    lines = [str(image[name]) for image in images for name in ("path", "mask") if name in image]
    if request.report is not None:
        record["report"] = str(request.report)
        lines.append(str(request.report))
    session.console.result(record, lines)


def _batches(
    backbone: Backbone,
    artifact: Artifact,
    drawing: Drawing,
    request: EditRequest,
    report: Report,
    start: EditStart,
) -> Iterator[EditResult]:
    from hiper.inference import edit
    from hiper.options import sampling_of

    seeds, size = list(drawing.paths), request.batch_size
    batches = math.ceil(len(seeds) / size)
    stage = textwrap.shorten(f"drawing {drawing.prompt!r}", 50, placeholder="...")
    for batch in range(batches):

        def step(done: int, total: int, batch: int = batch) -> None:
            report(stage, batch * total + done, batches * total)

        yield edit(
            backbone,
            artifact,
            drawing.prompt,
            seeds=seeds[batch * size : (batch + 1) * size],
            batch_size=size,
            callback=step,
            **start,
            **sampling_of(request),
        )


def _write(
    backbone: Backbone, artifact: Artifact, drawing: Drawing, result: EditResult, request: EditRequest
) -> None:
    from hiper.images import png_bytes
    from hiper.inference import masks_of, overlaid, settings_of, text_chunks

    for seed, image in zip(result.seeds, result.images, strict=True):
        chunks: dict[str, str] = {}
        if not request.no_metadata:
            settings = settings_of(backbone, artifact, result, seed)
            chunks = text_chunks(settings, None if request.no_artifact else artifact)
        files.atomic_write(
            drawing.paths[seed], png_bytes(image, metadata=chunks), overwrite=request.overwrite
        )
    if request.show_mask:
        for seed, image, mask in zip(result.seeds, result.images, masks_of(result), strict=True):
            shown = png_bytes(overlaid(image, mask))
            files.atomic_write(mask_path(drawing.paths[seed]), shown, overwrite=request.overwrite)
