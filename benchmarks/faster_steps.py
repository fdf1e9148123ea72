"""What makes a step of a fit and of a drawing faster or smaller, and that the result stays the same.

    python -m benchmarks.faster_steps [--rounds 8] [--fit-steps 20] [--full-size] [--out benchmarks/faster_steps.json]

On the embedded model, in seconds that one core computes (not of the clock, so that other programs matter little): the
fastest of `rounds`, all variants in turn. Tails are compared after `fit-steps` steps of the default preset by the norm
of their difference over the norm of what was learnt.

--full-size counts, without computing anything, what a step of a fit keeps for the way back at the size of Stable
Diffusion 1.4 (512 x 512, bfloat16).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.common import animal, options, timed, write
from benchmarks.cost_model import sd14
from benchmarks.fake_gpu import fake_gpu
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import hiper
from hiper.backbones import Backbone, texts_projected_once
from hiper.conditioning import Conditioning, place_tail, stacked, take_tail
from hiper.inference import fit_with_previews, preview_steps
from hiper.methods import HiPer
from hiper.seeds import generator
from hiper.training import CheckpointFile, FitControl

PREVIEWS = 4
PICTURES = 4
LOADS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, low memory": {"memory": "low"},
    "bfloat16": {"dtype": "bfloat16"},
}
Work = Callable[[], object]


def fastest(variants: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """The least of `rounds` for each variant, which take turns; one more at first does not count."""
    seconds = [
        {name: timed(work)["processor_seconds"] for name, work in variants.items()} for _ in range(rounds + 1)
    ]
    return {name: round(min(each[name] for each in seconds[1:]), 4) for name in variants}


def fit_step(backbone: Backbone, sentence: Conditioning, tail: Tensor, batch: int) -> None:
    """Forward, mean squared error, backward, with the tail as the only input that asks for a gradient."""
    tail.grad = None
    noisy = torch.randn(batch, *backbone.latent_shape, generator=generator(0))
    conditioning = place_tail(sentence, tail, "replace")
    predicted = backbone.predict(noisy, torch.arange(batch) * 200 + 100, conditioning)
    torch.autograd.backward(predicted.square().mean())


def fit_steps(rounds: int, batch: int) -> dict[str, float]:
    steps = {}
    with ExitStack() as stack:
        for name, how in LOADS.items():
            backbone = hiper.load_backbone("critters", device="cpu", **how)
            sentence = backbone.encode("a standing dog")
            tail = take_tail(sentence, 5).requires_grad_()
            steps[name] = partial(fit_step, backbone, sentence, tail, batch)
            stack.enter_context(backbone.training_mode())
        return fastest(steps, rounds)


def tails(subject: hiper.Subject, steps: int) -> dict[str, dict[str, float]]:
    """What other arithmetic changes in the tail and in its loss."""
    plain: hiper.Artifact | None = None
    report = {}
    for name, how in LOADS.items():
        backbone = hiper.load_backbone("critters", device="cpu", **how)
        found = hiper.fit(backbone, subject, num_train_steps=steps)
        plain = plain or found
        start = backbone.encode(subject.caption).token_embeddings[0, -5:]
        moved = (plain.tensors["tail"] - start).norm()
        report[name] = {
            "difference": round(float((found.tensors["tail"] - plain.tensors["tail"]).norm() / moved), 6),
            "loss_before": found.figures["loss_before"],
            "loss_after": found.figures["loss_after"],
        }
    return report


def drawing_steps(backbone: Backbone, rounds: int) -> dict[str, float]:
    """One guided step of four pictures, with keys and values of text computed at every step, or kept."""
    rows = stacked([backbone.encode("")] * PICTURES + [backbone.encode("a dog")] * PICTURES)
    noisy = torch.randn(2 * PICTURES, *backbone.latent_shape, generator=generator(0))

    def work(*, once: bool) -> None:
        with torch.no_grad(), texts_projected_once(backbone.denoiser) if once else nullcontext():
            for _ in range(5):
                backbone.denoiser(noisy, torch.tensor(500), encoder_hidden_states=rows.token_embeddings)

    found = fastest({"at every step": partial(work, once=False), "once": partial(work, once=True)}, rounds)
    return {name: round(seconds / 5, 4) for name, seconds in found.items()}


def preview_seconds(backbone: Backbone, subject: hiper.Subject, rounds: int) -> float:
    """What one preview adds to a fit, with stopping, saving and going on."""
    options = HiPer().options(num_train_steps=PREVIEWS + 1)

    def work(count: int) -> None:
        with TemporaryDirectory() as folder:
            fit_with_previews(
                backbone,
                subject,
                options,
                at=preview_steps(options.num_train_steps, count),
                on_preview=lambda preview: None,
                control=FitControl(checkpoint=CheckpointFile(path=Path(folder) / "fit", resume=True)),
            )

    found = fastest({"with": partial(work, PREVIEWS), "without": partial(work, 0)}, rounds)
    return round((found["with"] - found["without"]) / PREVIEWS, 4)


def kept_at_full_size(batch: int) -> dict[str, float]:
    """Gigabytes that autograd keeps besides the weights, with all activations and with recomputing.

    On a GPU: torch's meta device would keep a table of probabilities for each layer of attention.
    """
    with fake_gpu(large=0):
        unet: Any = sd14()
        unet.to("cuda", torch.bfloat16).eval().requires_grad_(False)
        noisy = torch.empty(batch, 4, 64, 64, dtype=torch.bfloat16, device="cuda")
        rows = torch.empty(batch, 77, 768, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        report = {"all": _kept(unet, noisy, rows)}
        unet.enable_gradient_checkpointing()
        report["recomputing"] = _kept(unet, noisy, rows)
    return report


def _kept(unet: torch.nn.Module, noisy: Tensor, rows: Tensor) -> float:
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        held = unet(noisy, torch.tensor(500, device=noisy.device), encoder_hidden_states=rows)
    del held
    own = {weight.untyped_storage()._cdata for weight in unet.parameters()}
    return round(sum(size for key, size in storages.items() if key not in own) / 1e9, 3)


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--fit-steps", type=int, default=20)
    parser.add_argument("--full-size", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    subject = animal()
    backbone = hiper.load_backbone("critters", device="cpu")
    report: dict[str, object] = {"torch": torch.__version__, "weights": backbone.weights_sha256()[:16]}

    def tell(name: str, value: object) -> None:
        report[name] = value
        print(name, json.dumps(value), flush=True)

    batch = HiPer().options().batch
    tell(f"fit step of {batch}, core seconds", fit_steps(given.rounds, batch))
    tell("drawing step of 4 pictures, core seconds", drawing_steps(backbone, given.rounds))
    tell("preview, core seconds", preview_seconds(backbone, subject, min(3, given.rounds)))
    tell(f"tail after {given.fit_steps} steps", tails(subject, given.fit_steps))
    if given.full_size:
        tell("kept at full size, GB", {f"batch {batch}": kept_at_full_size(batch) for batch in (1, 4)})
    write(given.out, report)


if __name__ == "__main__":
    main()
