"""Less memory: modules that take turns, and quantised denoisers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hiper
from hiper.backbones import load_backbone
from hiper.backbones._bitsandbytes import quantise
from hiper.conditioning import place_tail, take_tail
from hiper.errors import OptionError
from hiper.seeds import generator
from tests import tiny, tiny_families

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:pictures of 64 x 64 pixels are far below"),  # which keeps it quick
]

CAPTION, TARGET = "a standing dog", "a sitting dog"


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    tiny_families.pipeline("flux-schnell").save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> Any:
    return load_backbone(folder, device="cpu", resolution=tiny_families.SIDE, **settings)


def held(backbone: Any) -> set[str]:
    """Names of the components that have their weights in memory."""
    return {
        name
        for name, module in backbone._modules().items()
        if sum(weight.untyped_storage().nbytes() for weight in module.parameters())
    }


def watched(backbone: Any) -> list[set[str]]:
    """What is in memory each time that the denoiser or a text encoder runs, in order."""
    seen: list[set[str]] = []
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        module = getattr(backbone._pipe, part)
        module.register_forward_pre_hook(lambda *_: seen.append(held(backbone)))
    return seen


def test_text_encoders_and_denoiser_never_lie_in_memory_together(flux_folder: Path) -> None:
    backbone, plain = load(flux_folder, memory="low"), load(flux_folder)
    seen = watched(backbone)
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    options: dict[str, Any] = {"num_train_steps": 2, "batch": 2, "learning_rate": 0.1}
    fitted, expected = (hiper.fit(each, subject, **options) for each in (backbone, plain))
    drawn, wanted = (
        hiper.edit(each, expected, TARGET, num_inference_steps=1).images[0] for each in (backbone, plain)
    )
    assert torch.equal(fitted.tensors["tail"], expected.tensors["tail"])
    assert drawn.tobytes() == wanted.tobytes()
    encoding, denoising = {"text_encoder", "text_encoder_2"}, {"transformer", "vae"}
    assert {frozenset(names) for names in seen} == {
        frozenset(encoding),
        frozenset(denoising),  # while drawing
        frozenset({"transformer"}),  # while fitting
    }
    assert backbone.weights_sha256() == plain.weights_sha256()
    assert backbone.fingerprint() == plain.fingerprint()


def fitted(backbone: Any, method: str, **options: Any) -> dict[str, Tensor]:
    """What one way to learn makes of a picture."""
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    return dict(hiper.fit(backbone, subject, method=method, num_train_steps=2, batch=2, **options).tensors)


_CLASS = {"class_images": 1, "num_inference_steps": 1}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("hiper", {"learning_rate": 0.01}),
        ("dreambooth", {"learning_rate": 1e-5, **_CLASS}),
        ("dreambooth-lora", {"learning_rate": 0.01, **_CLASS}),
    ],
)
def test_low_memory_learns_the_same(model_folder: Path, method: str, options: dict[str, Any]) -> None:
    low, plain = (load_backbone(model_folder, device="cpu", memory=memory) for memory in ("low", "balanced"))
    wanted = fitted(plain, method, **options)
    for name, tensor in fitted(low, method, **options).items():
        assert torch.equal(tensor, wanted[name]), name


def kept(backbone: Any) -> int:
    """Bytes of what a step of a fit keeps for the way back."""
    sentence, sizes = backbone.encode(CAPTION), []
    tail = take_tail(sentence, 5).requires_grad_()
    noisy = torch.randn(2, *backbone.latent_shape, generator=generator(0))

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with backbone.training_mode(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backbone.predict(noisy, torch.tensor([500, 600]), place_tail(sentence, tail, "replace"))
    return sum(sizes)


def test_low_memory_keeps_less_and_leaves_the_model_as_it_was(model_folder: Path) -> None:
    low, plain, auto = (
        load_backbone(model_folder, device="cpu", memory=m) for m in ("low", "balanced", "auto")
    )
    assert kept(low) < kept(plain) / 2
    assert kept(auto) == kept(plain)
    assert not low.denoiser.is_gradient_checkpointing


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_denoiser_is_small_and_lets_gradients_through(flux_folder: Path, kind: str) -> None:
    backbone = load(flux_folder, quantise=kind, dtype="bfloat16")
    plain = load(flux_folder, dtype="bfloat16")
    sizes = [
        sum(weight.nbytes for weight in each._pipe.transformer.transformer_blocks.parameters())
        for each in (backbone, plain)
    ]
    assert sizes[0] < {"nf4": 0.45, "int8": 0.65}[kind] * sizes[1]
    sentence = backbone.encode(CAPTION)
    tail = take_tail(sentence, 5).requires_grad_()
    noise = torch.randn(1, *backbone.latent_shape, generator=generator(0))
    with backbone.training_mode():
        predicted = backbone.predict(noise, torch.tensor([500]), place_tail(sentence, tail, "replace"))
        predicted.square().mean().backward()
    with torch.no_grad():
        exact = plain.predict(noise, torch.tensor([500]), sentence)
        quantised = backbone.predict(noise, torch.tensor([500]), sentence)
    assert tail.grad is not None
    assert bool((tail.grad.abs().amax(dim=1) > 0).all())
    difference = (quantised - exact).norm() / exact.norm()
    assert 0 < difference < 0.3


def packed_layers(backbone: Any, kind: str) -> list[Any]:
    layers = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
    return [layer for layer in backbone.denoiser.modules() if isinstance(layer, layers[kind])]


def reachable(layer: Any) -> int:
    """Bytes of all that a packed layer holds but its bias."""
    weight, state = layer.weight, getattr(layer, "state", None)
    held = [weight.data, getattr(weight, "CB", None), getattr(weight, "SCB", None)]
    held += [getattr(state, "CB", None), getattr(state, "SCB", None)]
    if quantised := getattr(weight, "quant_state", None):
        held += [quantised.absmax]
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in held
        if each is not None
    }
    return sum(storages.values())


@pytest.mark.parametrize(("kind", "share"), [("nf4", 0.17), ("int8", 0.3)])
def test_a_packed_layer_is_held_once(flux_folder: Path, kind: str, share: float) -> None:
    layers = packed_layers(load(flux_folder, quantise=kind), kind)
    assert len(layers) > 10
    for layer in layers:
        assert reachable(layer) < share * 4 * layer.in_features * layer.out_features


class Quantising(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, each time that a layer is packed, how many layers still have their own weights."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights, self.left = [weakref.ref(each) for each in weights], list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(("bitsandbytes::int8_vectorwise_quant", "bitsandbytes::quantize_4bit")):
            self.left.append(sum(each() is not None for each in self._weights))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_layers_give_up_their_own_weights_one_by_one(kind: str) -> None:
    denoiser, cpu = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4)), torch.device("cpu")
    with Quantising(denoiser.parameters()) as counting:
        quantise(denoiser, kind, cpu, torch.float32, cpu)
    assert counting.left == [4, 3, 2, 1]


def test_a_quantised_denoiser_takes_turns_too(flux_folder: Path) -> None:
    backbone = load(flux_folder, quantise="nf4", memory="low")
    before = backbone.weights_sha256()
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    fitted = hiper.fit(backbone, subject, num_train_steps=2, batch=1, learning_rate=0.1)
    assert len(hiper.edit(backbone, fitted, TARGET, num_inference_steps=1).images) == 1
    assert backbone.weights_sha256() == before


def test_what_learns_weights_is_refused_on_packed_ones(flux_folder: Path) -> None:
    backbone = load(flux_folder, quantise="nf4")
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    with pytest.raises(OptionError, match=r"method dreambooth requires weights, which .* does not have"):
        hiper.fit(backbone, subject, method="dreambooth", num_train_steps=1)
    before = backbone.weights_sha256()
    learnt = hiper.fit(
        backbone, subject, method="dreambooth-lora", num_train_steps=1, batch=1, learning_rate=0.01
    )
    assert len(hiper.edit(backbone, learnt, TARGET, num_inference_steps=1).images) == 1
    assert backbone.weights_sha256() == before


def test_through_both_a_gradient_needs_both_in_memory(flux_folder: Path) -> None:
    backbone = load(flux_folder, memory="low")
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    with pytest.raises(OptionError, match="load it with memory=balanced"):
        hiper.fit(backbone, subject, method="textual-inversion", num_train_steps=1)


def test_words_that_are_none_are_refused(flux_folder: Path) -> None:
    with pytest.raises(OptionError, match=r"nf4, int8 \(did you mean nf4\?\)"):
        load(flux_folder, quantise="nf5")
    with pytest.raises(OptionError, match="choose quantise=nf4, or memory=balanced"):
        load(flux_folder, quantise="int8", memory="low")
    with pytest.raises(OptionError, match="memory is 'lo'; allowed are auto, balanced, low"):
        load(flux_folder, memory="lo")
    with pytest.raises(OptionError, match="resolution is 60; allowed are multiples of 16"):
        load_backbone(flux_folder, device="cpu", resolution=60)


def test_a_single_file_is_not_quantised(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(OptionError, match="load the model's diffusers folder"):
        load_backbone(path, device="cpu", quantise="nf4")
