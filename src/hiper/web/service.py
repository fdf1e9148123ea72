"""The page's work without the page: one model, one library, and the jobs of its sessions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import final

from PIL import Image, ImageChops, ImageOps

from hiper import files
from hiper.analysis import CrittersRanker, SimilarityRanker
from hiper.artifacts import Artifact, Library, LibraryEntry, Listing, cached_fit, check_family, fit_path, fits
from hiper.backbones import EMBEDDED, Backbone
from hiper.errors import OptionError
from hiper.images import Subject, png_bytes
from hiper.inference import (
    EditedPicture,
    Preview,
    Ranker,
    Region,
    Score,
    edit,
    fit_with_previews,
    parse_box,
    prepare_picture,
    preview_steps,
    region_mask,
    resolve_settings,
    search_seeds,
)
from hiper.methods import HiPer, HiPerOptions
from hiper.metrics import ClipSimilarity, DinoSimilarity
from hiper.options import KEEP, sampling_of
from hiper.seeds import resolve_seed
from hiper.training import CheckpointFile, FitControl, ProgressEvent, checkpoint_beside
from hiper.web.jobs import BackgroundJob
from hiper.web.pictures import Picture, write_pictures
from hiper.web.sessions import Sessions

PREVIEWS = 4
"""Pictures in the strip of a fit that shows previews."""
MAX_SENTENCES, MAX_PICTURES, MAX_PER_SENTENCE = 20, 64, 16
"""Of one drawing: sentences, pictures in all, and of one sentence, between two of which others get their turn."""
CANVAS = 512
"""Pixels of the longer side of the copy that a part is painted on."""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Models, local or Hub ids in the local cache, that rank pictures of models other than critters."""

    clip: str | None = None
    dino: str | None = None


@dataclass(frozen=True, kw_only=True)
class DrawRequest:
    """What a session asks to be drawn; all but the sentences as in `edit`, images per sentence."""

    sentences: Sequence[str]
    images: int
    first_seed: int
    strength: float
    guidance_scale: float
    num_inference_steps: int
    scheduler: str | None
    negative_prompt: str
    keep: float = 0.0
    part: EditedPart | None = None
    show_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class EditedPart:
    """Where a picture may change: what was painted over its `canvas`, or a box, "left,top,right,bottom" in pixels."""

    layers: Sequence[Image.Image]
    box: str = ""

    def region(self, size: tuple[int, int], canvas: tuple[int, int]) -> Region:
        """Return it as a region of a picture of `size`; the canvas has another size."""
        if self.box.strip():
            box = parse_box(self.box)
            if box is None:
                raise OptionError(f"the box is {self.box!r}; write left,top,right,bottom in whole pixels")
            if any(layer.getbbox() for layer in self.layers):
                raise OptionError("a part is painted, and a box is given; clear one of them")
            region_mask(box, size)
            return box
        mask = Image.new("L", canvas)
        for layer in self.layers:
            if layer.size != canvas:
                raise OptionError("the part was painted over another picture; tick it again, and paint anew")
            mask = ImageChops.lighter(mask, layer.getchannel("A"))
        if not mask.getbbox():
            raise OptionError("no part is painted; paint over what may change, or write a box")
        return mask.resize(size, Image.Resampling.BOX).point(lambda level: 255 * (level > 0))


@dataclass(frozen=True, kw_only=True)
class FitWatch:
    """The progress of a fit; it grows."""

    records: list[ProgressEvent] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DrawState:
    """The pictures of a drawing so far, and notes for the session; both grow."""

    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Report = Callable[[int, int], None]


@final
class _Stoppable:
    """A ranker that can be stopped between two pictures."""

    def __init__(self, ranker: Ranker, report: Report) -> None:
        self._ranker, self._report, self._done = ranker, report, 0

    def score(self, picture: Image.Image, sentence: str) -> Score:
        self._report(self._done, 0)
        self._done += 1
        return self._ranker.score(picture, sentence)

    def order(self, scores: Sequence[Score]) -> list[int]:
        return self._ranker.order(scores)


DrawOne = Callable[[str, Report, DrawState], None]


@final
class Service:
    """Starts jobs and keeps their results. Its methods return at once."""

    def __init__(
        self, backbone: Backbone, library: Library, sessions: Sessions, similarity: Similarity
    ) -> None:
        self.backbone, self.library, self.sessions = backbone, library, sessions
        self._similarity = similarity

    @property
    def embedded(self) -> bool:
        """Whether the loaded model is the one that the package carries."""
        return self.backbone.id in EMBEDDED

    def learn(
        self, session: str, subject: Subject, options: HiPerOptions, *, previews: bool
    ) -> tuple[BackgroundJob[LibraryEntry], FitWatch]:
        """Start a fit; a stopped one with the same key resumes, a finished one is reused."""
        watch = FitWatch()
        resolved = replace(options, seed=resolve_seed(options.seed))
        at = preview_steps(options.num_train_steps, PREVIEWS) if previews else ()

        def work(job: BackgroundJob[LibraryEntry]) -> LibraryEntry:
            job.check()
            path = fit_path(subject, self.backbone, HiPer.name, resolved)
            files.make_folder(path.parent, within=files.cache_dir())
            with files.lock(path):
                artifact = cached_fit(path) or self._fitted(job, subject, resolved, path, at, watch)
            return self.library.add(artifact, subject.image)

        return self.sessions.start(session, work), watch

    def _fitted(
        self,
        job: BackgroundJob[LibraryEntry],
        subject: Subject,
        options: HiPerOptions,
        path: Path,
        at: Sequence[int],
        watch: FitWatch,
    ) -> Artifact:
        checkpoint = CheckpointFile(path=checkpoint_beside(path), resume=True)

        def note(record: ProgressEvent) -> None:
            job.progress.report("Learning", record.step, record.steps)
            watch.records.append(record)

        artifact = fit_with_previews(
            self.backbone,
            subject,
            options,
            at=at,
            on_preview=watch.previews.append,
            control=FitControl(callback=note, checkpoint=checkpoint, should_stop=job.stop_request),
        )
        artifact.save(path, overwrite=True)
        checkpoint.remove()
        return artifact

    def draw(self, session: str, name: str, request: DrawRequest) -> tuple[BackgroundJob[None], DrawState]:
        """Start drawing every prompt, with consecutive seeds."""
        artifact, start = self._entry(name).artifact, self._start(name, request.part)

        def one(sentence: str, report: Report, watch: DrawState) -> None:
            result = edit(
                self.backbone,
                artifact,
                sentence,
                seeds=range(request.first_seed, request.first_seed + request.images),
                source=start(),
                callback=report,
                **sampling_of(request),
            )
            watch.notes.extend(result.notes)
            folder = self.sessions.new_folder(session)
            watch.pictures.extend(
                write_pictures(self.backbone, artifact, result, folder, show_mask=request.show_mask)
            )

        return self._each(session, "Drawing", request.sentences, request.images, one)

    def search(
        self, session: str, name: str, request: DrawRequest, *, candidates: int
    ) -> tuple[BackgroundJob[None], DrawState]:
        """Start a seed search for every prompt, which draws the best pictures."""
        artifact, ranker = self._entry(name).artifact, self._ranker(name)
        start = self._start(name, request.part)

        def one(sentence: str, report: Report, watch: DrawState) -> None:
            found = search_seeds(
                self.backbone,
                artifact,
                sentence,
                _Stoppable(ranker, report),
                first_seed=request.first_seed,
                candidates=candidates,
                best=request.images,
                source=start(),
                callback=report,
                **sampling_of(request),
            )
            folder = self.sessions.new_folder(session)
            remarks = [f"text {score.text:z.2f}, likeness {score.identity:z.2f}" for score in found.scores]
            watch.notes.extend(found.drawn.notes)
            watch.pictures.extend(
                write_pictures(
                    *(self.backbone, artifact, found.drawn, folder),
                    remarks=remarks,
                    show_mask=request.show_mask,
                )
            )

        return self._each(session, "Searching", request.sentences, request.images, one)

    def canvas(self, name: str) -> Image.Image:
        """Return what a part is painted on: the subject's picture, of a size that a browser takes.

        Raises:
            OptionError: No subject is chosen, or nothing of its picture can be kept.
        """
        entry = self._entry(name)
        picture = ImageOps.fit(entry.picture or Image.new("RGB", (1, 1), "grey"), self._size(entry))
        return ImageOps.contain(picture, (CANVAS, CANVAS), Image.Resampling.LANCZOS)

    def _size(self, entry: LibraryEntry) -> tuple[int, int]:
        """Return width and height of the picture that is edited in part: itself, or what the latents decode to."""
        if entry.picture is not None and not entry.is_thumbnail:
            return entry.picture.size
        artifact = entry.artifact
        if artifact.source is None:
            raise OptionError("this subject came without its picture, so that no part of it can be kept")
        held = resolve_settings(artifact.edit, self.backbone, [], keep=KEEP, source=artifact.source)
        return held.width, held.height

    def _start(self, name: str, part: EditedPart | None) -> Callable[[], EditedPicture | None]:
        """Check the part at once, and return what encodes the picture that it belongs to, once."""
        if part is None:
            return lambda: None
        entry = self._entry(name)
        region = part.region(self._size(entry), self.canvas(name).size)
        source = None if entry.is_thumbnail else entry.picture
        return cache(lambda: prepare_picture(self.backbone, entry.artifact, source=source, region=region))

    def _each(
        self, session: str, what: str, sentences: Sequence[str], images: int, one: DrawOne
    ) -> tuple[BackgroundJob[None], DrawState]:
        if not 1 <= len(sentences) <= MAX_SENTENCES:
            raise OptionError(f"{len(sentences)} sentences; write 1 to {MAX_SENTENCES}, one on each line")
        if not (1 <= images <= MAX_PER_SENTENCE and len(sentences) * images <= MAX_PICTURES):
            raise OptionError(
                f"{len(sentences)} sentences with {images} pictures each; allowed are 1 to {MAX_PER_SENTENCE} each, and"
                f" at a time 1 to {MAX_PICTURES} are drawn"
            )
        watch = DrawState()
        left = deque(enumerate(sentences, start=1))

        def work(job: BackgroundJob[None]) -> None:
            while left:
                job.check()
                number, sentence = left[0]
                one(sentence, partial(job.report, f"{what}, sentence {number} of {len(sentences)}"), watch)
                left.popleft()
                if left:
                    job.give_way()

        return self.sessions.start(session, work), watch

    def picture_file(self, session: str, image: Image.Image) -> Path:
        """Write a picture to a file of the session."""
        path = self.sessions.new_folder(session) / "picture.png"
        files.atomic_write(path, png_bytes(image), overwrite=True)
        return path

    def tail_file(self, session: str, entry: LibraryEntry) -> Path:
        """Write a subject's artifact to a file of the session, named by its caption."""
        path = self.sessions.new_folder(session) / f"{files.safe_slug(entry.artifact.caption)}.safetensors"
        files.atomic_write(path, entry.artifact.to_bytes(), overwrite=True)
        return path

    def subjects(self) -> Listing:
        """Return the subjects of the library that fit the loaded model, and what cannot be read."""
        listing = self.library.listing()
        fitting = tuple(entry for entry in listing.entries if fits(entry.artifact, self.backbone))
        return replace(listing, entries=fitting)

    def adopt(self, path: Path) -> LibraryEntry:
        """Add an artifact to the library.

        Raises:
            ArtifactError: It is none, or not for the loaded model.
        """
        artifact = Artifact.load(path)
        check_family(artifact, self.backbone)
        return self.library.add(artifact, None)

    def _entry(self, name: str) -> LibraryEntry:
        if not name:
            raise OptionError("no subject is chosen; learn one, or choose one from the library")
        entry = self.library.open(name)
        check_family(entry.artifact, self.backbone)
        return entry

    def _ranker(self, name: str) -> Ranker:
        source = self.library.open(name).picture
        if source is None:
            raise OptionError("this subject came without its picture, which seed search compares with")
        if self.embedded:
            return CrittersRanker(source)
        if self._similarity.clip is None:
            raise OptionError(
                "seed search ranks by CLIP and DINO: start hiper ui with --clip FOLDER and --dino FOLDER"
            )
        return SimilarityRanker(source, *self._networks)

    @cached_property
    def _networks(self) -> tuple[ClipSimilarity, DinoSimilarity | None]:
        device = str(self.backbone.device)
        clip = ClipSimilarity.load(str(self._similarity.clip), device=device)
        dino = self._similarity.dino
        return clip, None if dino is None else DinoSimilarity.load(dino, device=device)
