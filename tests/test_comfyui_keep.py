"""The nodes for ComfyUI that edit the picture itself, against `hiper edit --keep`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.backbones.sd import SdBackbone
from hiper.critters import bare_caption, draw_scene, render
from hiper.inference.keeping import CHANGED, SOURCE_SHARE, TARGET_SHARE, UNCHANGED
from tests import tiny
from tests.comfy_host import Flow, Host, Model, sample_custom

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")

CAPTION, SENTENCE = "a standing dog", "a sitting dog"
STEPS, CFG, SEED = 4, 3.0, 7


def learnt(backbone: Backbone) -> Artifact:
    subject = hiper.Subject.from_image(tiny.picture(), caption=CAPTION)
    return hiper.fit(backbone, subject, num_train_steps=1)


@pytest.fixture(scope="module")
def artifact(sd1: SdBackbone) -> Artifact:
    return learnt(sd1)


def falling(model: Model, steps: int = STEPS) -> Tensor:
    """Return ComfyUI's scheduler `ddim_uniform`."""
    levels = torch.arange(1, 1000, 1000 // steps)[:steps]
    return torch.cat([model.model.model_sampling.sigmas[levels].flip(0), torch.zeros(1)])


class Graph:
    """The graph of the example: Load Tail, two prompts with Apply Tail, Keep and Tail Source."""

    def __init__(self, pack: Any, model: Model, path: Path, *, cfg: float = CFG) -> None:
        self.model, self.tail, self._pack, self._cfg = model, pack.tail.load_tail(path), pack, cfg
        (self.latent,) = pack.classes["HiperTailSource"]().load(model, self.tail)

    def prompt(self, text: str) -> Any:
        """Return a sentence's conditioning, with the tail where it has words."""
        encoded = self.model.encode_from_tokens_scheduled(text)
        node = self._pack.classes["HiperApplyTail"]()
        return node.apply(encoded, self.tail, 0.8, "as fitted")[0] if text else encoded

    def nodes(self, keep: float, sentence: str = SENTENCE) -> tuple[Any, Any]:
        """Return GUIDER and SAMPLER."""
        texts = [self.prompt(text) for text in (sentence, self.tail.header["hiper.caption"], "")]
        guider, sampler = self._pack.classes["HiperKeep"]().guide(self.model, *texts, self._cfg, keep)
        return guider, sampler

    def sample(self, keep: float, **changes: Any) -> Tensor:
        """Return the latents that SamplerCustomAdvanced gives; changes: sentence, latent, sigmas, noise, callback."""
        guider, sampler = self.nodes(keep, changes.pop("sentence", SENTENCE))
        latent = changes.pop("latent", self.latent)
        sigmas = changes.pop("sigmas", falling(self.model))
        with torch.inference_mode():
            return sample_custom(guider, sampler, sigmas, latent, seed=SEED, **changes)


@pytest.fixture
def graph(comfy_pack: Any, comfy: Host, sd1: SdBackbone, artifact: Artifact, tmp_path: Path) -> Graph:
    return Graph(comfy_pack, Model(sd1), artifact.save(tmp_path / "dog.safetensors"))


def decoded(backbone: Backbone, model: Model, latent: Tensor) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(backbone.decode(model.model.process_latent_in(latent))[0], np.int16)


def test_an_edit_is_hipers_own(comfy_pack: Any, comfy: Host, backbone: SdBackbone, tmp_path: Path) -> None:
    """The same seed, steps and guidance give the same picture, for models of noise and of v."""
    artifact, model = learnt(backbone), Model(backbone)
    graph = Graph(comfy_pack, model, artifact.save(tmp_path / "dog.safetensors"))
    for keep, first in ((0.99, 3), (0.75, 2), (0.5, 0), (0.2, 0)):
        seen: list[tuple[int, Tensor]] = []
        found = graph.sample(
            keep, callback=lambda step, picture, x, total, seen=seen: seen.append((step, picture))
        )
        expected = hiper.edit(
            backbone,
            artifact,
            SENTENCE,
            seeds=[SEED],
            strength=0.8,
            num_inference_steps=STEPS,
            guidance_scale=CFG,
            keep=keep,
        )
        difference = decoded(backbone, model, found) - np.asarray(expected.images[0], np.int16)
        assert np.abs(difference).max() <= 1
        assert [step for step, _ in seen] == list(range(first, STEPS))
        assert torch.allclose(model.model.process_latent_out(seen[-1][1]), found, atol=1e-4)


@pytest.mark.slow
def test_an_edit_of_the_embedded_model_is_hipers_own(comfy_pack: Any, comfy: Host, tmp_path: Path) -> None:
    backbone = hiper.load_backbone("critters", device="cpu")
    scene = draw_scene(3)
    subject = hiper.Subject.from_image(render(scene, backbone.resolution), caption=bare_caption(scene))
    artifact = hiper.fit(backbone, subject, num_train_steps=10)
    sentence = bare_caption(dataclasses.replace(scene, pose="sleeping", background="snow"))
    assert isinstance(backbone, SdBackbone)
    model = Model(backbone)
    graph = Graph(comfy_pack, model, artifact.save(tmp_path / "dog.safetensors"))
    for keep in (0.8, 0.3):
        found = graph.sample(keep, sentence=sentence, sigmas=falling(model, 5))
        expected = hiper.edit(
            backbone,
            artifact,
            sentence,
            seeds=[SEED],
            strength=0.8,
            num_inference_steps=5,
            guidance_scale=CFG,
            keep=keep,
        )
        difference = decoded(backbone, model, found) - np.asarray(expected.images[0], np.int16)
        assert np.abs(difference).max() <= 1


def test_the_tuned_numbers_are_hipers(comfy_pack: Any, graph: Graph) -> None:
    guider, _ = graph.nodes(0.5)
    module = sys.modules[type(guider).__module__]
    assert (module.TARGET_SHARE, module.SOURCE_SHARE) == (TARGET_SHARE, SOURCE_SHARE)
    assert (module.UNCHANGED, module.CHANGED) == (UNCHANGED, CHANGED)


def test_a_flow_gives_what_the_same_model_of_noise_gives(graph: Graph, sd1: SdBackbone) -> None:
    """A flow's sigma is the time on the straight path, which the model of noise is brought to."""
    sigmas = falling(graph.model)
    expected = graph.sample(0.4)
    flow = Model(sd1, kind=Flow)
    graph.model = flow
    found = graph.sample(0.4, sigmas=sigmas / (1 + sigmas))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


def test_everything_is_kept_at_one(graph: Graph, artifact: Artifact) -> None:
    assert artifact.source is not None
    found = graph.model.model.process_latent_in(graph.sample(1.0))
    assert torch.allclose(found, artifact.source.float(), rtol=1e-6)


def test_what_is_outside_the_mask_stays(graph: Graph) -> None:
    """Set Latent Noise Mask; the part that is drawn changes, as without a mask it all does."""
    mask = torch.zeros_like(graph.latent["samples"])
    mask[..., :2] = 1
    found = graph.sample(0.3, latent={**graph.latent, "noise_mask": mask})
    moved = (found - graph.latent["samples"]).abs()
    assert float(moved[..., 2:].max()) < 1e-3 * float(moved[..., :2].max())
    everywhere = (graph.sample(0.3) - graph.latent["samples"]).abs()
    assert float(everywhere[..., 2:].max()) > 0.1 * float(everywhere.max())


def test_pictures_of_a_batch_have_noise_of_their_own(graph: Graph) -> None:
    two = {"samples": graph.latent["samples"].repeat(2, 1, 1, 1)}
    first, second = graph.sample(0.5, latent=two)
    assert not torch.allclose(first, second)


def test_the_guider_draws_anew_with_another_sampler(comfy_pack: Any, graph: Graph, comfy: Host) -> None:
    """As with ComfyUI's CFGGuider; and the sampler takes no other guider."""
    import comfy.samplers as samplers

    guider, sampler = graph.nodes(0.5)
    plain = samplers.CFGGuider(graph.model)
    plain.inner_set_conds({"positive": graph.prompt(SENTENCE), "negative": graph.prompt("")})
    plain.set_cfg(CFG)

    def one_call(model: Any, x: Tensor, sigmas: Tensor, *, extra_args: Any, **_: Any) -> Any:
        return model(x, sigmas[:1], **extra_args)

    drawn = [
        sample_custom(each, samplers.KSAMPLER(one_call, {}), falling(graph.model), graph.latent, seed=SEED)
        for each in (guider, plain)
    ]
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match="GUIDER of the same Keep node"):
        sample_custom(plain, sampler, falling(graph.model), graph.latent, seed=SEED)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent_image is empty"),
        ({"latent": {"samples": torch.ones(1, 16, 8, 8)}}, "16 channels and the MODEL takes 4"),
        ({"noise": torch.zeros(1, 4, 4, 4)}, "RandomNoise"),
        ({"sigmas": torch.tensor([0.0])}, "in 0 steps"),
        ({"sigmas": torch.tensor([0.0, 0.0])}, "from 0 to 0"),
        ({"sigmas": torch.tensor([14.0, 3.0])}, "from 14 to 3"),
        ({"sigmas": torch.tensor([0.0, 3.0, 14.0])}, "from 0 to 14"),
        ({"sigmas": torch.tensor([14.0, float("nan"), 0.0])}, "must fall"),
    ],
)
def test_what_the_sampler_cannot_use_is_refused(graph: Graph, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        graph.sample(0.5, **changes)
    assert "\n" not in str(caught.value)


def test_sigmas_beyond_a_flow_are_refused(graph: Graph, sd1: SdBackbone) -> None:
    graph.model = Model(sd1, kind=Flow)
    with pytest.raises(ValueError, match="the model's range"):
        graph.sample(0.5, sigmas=torch.tensor([14.6, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"keep": 1.5}, "keep is 1.5"),
        ({"keep": float("nan")}, "keep is nan"),
        ({"cfg": 0.5}, "cfg is 0.5"),
        ({"source": None}, "source holds no conditioning"),
        ({"negative": []}, "negative holds no conditioning"),
    ],
)
def test_what_the_node_cannot_use_is_refused(
    comfy_pack: Any, graph: Graph, changes: dict[str, Any], expected: str
) -> None:
    one = graph.prompt(SENTENCE)
    given = {"positive": one, "source": one, "negative": one, "cfg": CFG, "keep": 0.5, **changes}
    with pytest.raises(ValueError, match=expected):
        comfy_pack.classes["HiperKeep"]().guide(graph.model, **given)


# the picture of a tail


def test_the_picture_goes_from_file_to_file(
    comfy_pack: Any, comfy: Host, graph: Graph, artifact: Artifact
) -> None:
    name = comfy_pack.classes["HiperSaveTail"]().save(graph.tail, "dog")["result"][0]
    again = Artifact.load(comfy.models / "hiper" / name)
    assert again.source is not None
    assert artifact.source is not None
    assert torch.equal(again.source, artifact.source)
    without = comfy_pack.classes["HiperSaveTail"]().save(graph.tail, "dog", source=False)["result"][0]
    assert Artifact.load(comfy.models / "hiper" / without).source is None


def test_a_file_without_a_picture_and_one_of_another_family_are_refused(
    comfy_pack: Any, graph: Graph
) -> None:
    node = comfy_pack.classes["HiperTailSource"]()
    with pytest.raises(ValueError, match="no picture"):
        node.load(graph.model, dataclasses.replace(graph.tail, source=None))
    with pytest.raises(ValueError, match="16 channels and the MODEL takes 4"):
        node.load(graph.model, dataclasses.replace(graph.tail, source=torch.ones(1, 16, 8, 8)))


@pytest.mark.parametrize(
    "source",
    [
        torch.full((1, 4, 8, 8), float("nan")),
        torch.ones(4, 8, 8),
        torch.ones(2, 4, 8, 8),
        torch.ones(1, 4, 8, 8, dtype=torch.int32),
        torch.ones(1, 1, 2049, 2048, dtype=torch.float16),
    ],
)
def test_a_damaged_picture_is_refused(
    comfy_pack: Any, artifact: Artifact, tmp_path: Path, source: Tensor
) -> None:
    path = artifact.save(tmp_path / "dog.safetensors")
    with comfy_pack.tail.safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file({**load_file(path), "hiper.source": source}, path, header)
    with pytest.raises(ValueError, match=r"dog\.safetensors: its picture"):
        comfy_pack.tail.load_tail(path)
