"""CLIP and DINO scores against the same computed by hand, and every model that cannot be had."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from hiper.errors import BackboneError, HiperWarning, ImageError, OptionError
from hiper.metrics import ClipSimilarity, DinoSimilarity, StructureDistance, similarity
from hiper.metrics._transformers import CLIP, load_network
from tests import local_hub, tiny

Kind = type[ClipSimilarity] | type[DinoSimilarity]

EDGE, CROP = 40, 32
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
PREPROCESSING = {"size": {"shortest_edge": EDGE}, "crop_size": {"height": CROP, "width": CROP}}
COMMIT = local_hub.COMMIT


def scattered(model: Any) -> Any:
    """Large weights, and no class token or bias that all pictures share: a random network that sees differences."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if name.endswith(("bias", "class_embedding", "cls_token")):
                weight.zero_()
            elif not ("norm" in name or "lambda" in name):
                weight.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    words = tiny.tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={"vocab_size": len(words), "max_position_embeddings": 77, **sizes, **ends},
        vision_config={"image_size": CROP, "patch_size": 8, **sizes},
        projection_dim=16,
    )
    scattered(CLIPModel(config)).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(**PREPROCESSING).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=CROP, patch_size=8
    )
    scattered(Dinov2Model(config)).save_pretrained(folder)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    BitImageProcessorPil(**PREPROCESSING, **imagenet).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As facebook/dino-vitb8 is on the Hub: without a pooler, the picture scaled to a square."""
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=CROP,
        patch_size=8,
    )
    scattered(ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": CROP, "width": CROP}).save_pretrained(folder)
    return folder


@pytest.fixture(params=[ClipSimilarity, DinoSimilarity])
def kind(request: pytest.FixtureRequest) -> Any:
    """Both scores in turn."""
    return request.param


@pytest.fixture
def folder(kind: Kind, clip: Path, dino: Path, tmp_path: Path) -> Path:
    """A copy of the model of that kind, which may be damaged."""
    return shutil.copytree(clip if kind is ClipSimilarity else dino, tmp_path / "model")


def noise(seed: int, width: int = 60, height: int = 48) -> Image.Image:
    """Coarse coloured noise, so that every crop, size and colour counts."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values, "RGB").resize((width, height), Image.Resampling.BICUBIC)


def by_hand(picture: Image.Image, mean: Any = MEAN, std: Any = STD) -> torch.Tensor:
    """[1, 3, CROP, CROP]: shortest edge to EDGE (bicubic), centre crop, 0..1, normalised."""
    scale = EDGE / min(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(resized.crop((left, top, left + CROP, top + CROP)), dtype=np.float64) / 255
    return torch.from_numpy(((values - mean) / std).transpose(2, 0, 1)[None]).float()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b).item())


@torch.no_grad()
def clip_embedding(model: Any, picture: Image.Image) -> torch.Tensor:
    patches = model.vision_model(by_hand(picture)).last_hidden_state
    seen: torch.Tensor = model.visual_projection(model.vision_model.post_layernorm(patches[:, 0]))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("size", [(60, 48), (48, 75), (40, 40), (32, 32)])
def test_clip_of_two_pictures_is_the_one_computed_by_hand(clip: Path, size: tuple[int, int]) -> None:
    a, b = noise(0, *size), noise(2)
    model = CLIPModel.from_pretrained(clip).eval()
    expected = cosine(clip_embedding(model, a), clip_embedding(model, b))
    assert abs(expected) < 0.95
    assert ClipSimilarity.load(clip, device="cpu").image(a, b) == pytest.approx(expected, abs=1e-5)


def test_clip_of_picture_and_sentence_is_the_one_computed_by_hand(clip: Path) -> None:
    model, vocabulary = CLIPModel.from_pretrained(clip).eval(), tiny.tokenizer().get_vocab()
    scorer = ClipSimilarity.load(clip, device="cpu")
    scores = []
    for sentence in ("a standing dog", "a red cat on the grass"):
        pieces = [tiny.START, *(word + "</w>" for word in sentence.split()), tiny.END]
        ids = torch.tensor([[vocabulary[piece] for piece in pieces]])
        with torch.no_grad():
            said = model.text_projection(model.text_model(ids).last_hidden_state[:, -1])
        expected = cosine(clip_embedding(model, noise(0)), said)
        scores.append(scorer.text(noise(0), sentence))
        assert scores[-1] == pytest.approx(expected, abs=1e-5)
    assert abs(scores[0] - scores[1]) > 0.01


def test_dino_is_the_cosine_of_class_tokens_computed_by_hand(dino: Path) -> None:
    model = Dinov2Model.from_pretrained(dino).eval()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    a, b = noise(0), noise(2, 50, 90)
    with torch.no_grad():
        tokens = [model(by_hand(picture, mean, std)).last_hidden_state[:, 0] for picture in (a, b)]
    expected = cosine(*tokens)
    assert abs(expected) < 0.95
    assert DinoSimilarity.load(dino, device="cpu").image(a, b) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def self_similarity(layer: Any, tokens: torch.Tensor) -> Any:
    """Cosines of the keys of tokens [tokens, embed] that go into a layer, written out."""
    attention = layer.attention if hasattr(layer.attention, "k_proj") else layer.attention.attention
    norm = getattr(layer, "norm1", None) or layer.layernorm_before
    keys = norm(tokens).double() @ attention.k_proj.weight.double().T + attention.k_proj.bias.double()
    return [[float(a @ b / (a.norm() * b.norm())) for b in keys] for a in keys]


def test_structure_distance_is_the_one_of_its_formula(vit: Path, dino: Path) -> None:
    """Of the first DINO and of DINOv2, with the class token, of the last layer."""
    a, b = noise(0, 48, 48), noise(2, 64, 64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    squared = [
        np.asarray(picture.resize((CROP, CROP), Image.Resampling.BILINEAR)) / 127.5 - 1 for picture in (a, b)
    ]
    pixels = {
        vit: [torch.from_numpy(values.transpose(2, 0, 1)[None]).float() for values in squared],
        dino: [by_hand(picture, mean, std) for picture in (a, b)],
    }
    for folder, kind in ((vit, ViTModel), (dino, Dinov2Model)):
        model = kind.from_pretrained(folder, **({"add_pooling_layer": False} if kind is ViTModel else {}))
        last = model.layers[-1] if kind is ViTModel else model.encoder.layer[-1]
        matrices = []
        for values in pixels[folder]:
            with torch.no_grad():
                states = model(values, output_hidden_states=True).hidden_states
            matrices.append(self_similarity(last, states[1][0]))
        assert np.shape(matrices) == (2, 17, 17)
        expected = np.mean(np.square(np.subtract(*matrices)))
        assert expected > 0.01
        scorer = StructureDistance.load(folder, device="cpu")
        assert scorer.distance(a, b) == pytest.approx(expected, abs=1e-5)
        assert scorer.distance(a, a.copy()) == 0


def test_structure_distance_needs_a_vit(vit: Path, clip: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"type clip; allowed is vit and dinov2, such as facebook/dino-vitb8$"
    ):
        StructureDistance.load(clip)
    with pytest.raises(BackboneError, match="type vit; allowed is dinov2"):
        DinoSimilarity.load(vit)


@pytest.mark.slow
def test_the_same_picture_scores_one_and_order_does_not_count(kind: Kind, folder: Path) -> None:
    scorer = kind.load(folder, device="cpu")
    pictures = [noise(seed) for seed in range(4)]
    for a in pictures:
        assert scorer.image(a, a.copy()) == pytest.approx(1, abs=1e-6)
        for b in pictures:
            assert scorer.image(a, b) == scorer.image(b, a)
            assert -1 <= scorer.image(a, b) <= 1
    assert min(scorer.image(pictures[0], other) for other in pictures[1:]) < 0.95


def test_a_model_in_half_precision_computes_in_float32(kind: Kind, folder: Path) -> None:
    weights = folder / "model.safetensors"
    halves = {name: weight.half() for name, weight in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    half = kind.load(folder, device="cpu").image(noise(0), noise(1))
    save_file({name: weight.float() for name, weight in halves.items()}, weights, metadata={"format": "pt"})
    full = kind.load(folder, device="cpu").image(noise(0), noise(1))
    assert half == pytest.approx(full, abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
def test_scores_do_not_depend_on_the_device(kind: Kind, folder: Path) -> None:
    scores = [kind.load(folder, device=device).image(noise(0), noise(1)) for device in ("cpu", "cuda")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)


def test_an_unknown_device_is_refused(kind: Kind, folder: Path) -> None:
    with pytest.raises(OptionError, match="allowed are cpu, cuda"):
        kind.load(folder, device="gpu")


def test_a_long_sentence_is_cut_with_a_warning(clip: Path) -> None:
    scorer = ClipSimilarity.load(clip, device="cpu")
    read = " ".join(["dog"] * 75)
    with pytest.warns(
        HiperWarning, match=f"has 79 tokens and the model reads 77: only '{read}' is"
    ) as caught:
        cut = scorer.text(noise(0), read + " red cat")
    assert caught[0].filename == __file__
    assert cut == scorer.text(noise(0), read)
    assert cut != scorer.text(noise(0), read.removesuffix(" dog"))


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK"])
def test_other_pictures_than_rgb_are_refused(kind: Kind, folder: Path, mode: str) -> None:
    scorer = kind.load(folder, device="cpu")
    with pytest.raises(ImageError, match=f"has mode {mode}, allowed is RGB: pass it through open_image"):
        scorer.image(noise(0), noise(0).convert(mode))


def test_loading_and_scoring_are_silent(kind: Kind, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kind.load(folder, device="cpu").image(noise(0), noise(1))
    assert capfd.readouterr() == ("", "")


def refused(kind: Kind, place: Path | str, **settings: Any) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(BackboneError) as refusal:
        kind.load(place, device="cpu", **settings)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_folder(kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(kind, folder.parent / "modle")
    assert message.startswith(f"no such folder: {folder.parent / 'modle'} (did you mean model?); allowed are")
    assert "no such folder" in refused(kind, "./nowhere/model", local_only=False)
    assert "no such folder" in refused(kind, folder / "model.safetensors")
    monkeypatch.chdir(folder.parent.parent)
    assert "did you mean model?" in refused(kind, f"{folder.parent.name}/modell", local_only=False)


def test_the_wrong_kind_of_model(clip: Path, dino: Path, model_folder: Path) -> None:
    expected = "is a model of type dinov2; allowed is clip, such as openai/clip-vit-large-patch14"
    assert refused(ClipSimilarity, dino) == f"{dino} {expected}"
    assert "is a model of type clip; allowed is dinov2" in refused(DinoSimilarity, clip)
    assert "is a model of type clip_text_model" in refused(ClipSimilarity, model_folder / "text_encoder")
    assert "has no config.json; the folder of a CLIPModel is needed" in refused(ClipSimilarity, model_folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"clip"'])
def test_a_broken_configuration(kind: Kind, folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "is damaged, or names no model_type" in refused(kind, folder)


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "patch_size"])
@pytest.mark.parametrize("value", ["seven", 7, None])
def test_a_configuration_that_does_not_fit_the_weights(
    kind: Kind, folder: Path, name: str, value: object
) -> None:
    path = folder / "config.json"
    table = json.loads(path.read_text())
    table.get("vision_config", table)[name] = value
    path.write_text(json.dumps(table))
    assert refused(kind, folder).startswith((f"{folder} cannot be used (", f"{folder}: "))


def test_missing_truncated_and_foreign_weights(kind: Kind, folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    expected = f"{weights} is damaged: {len(whole) - 1000} bytes where {len(whole)} are promised"
    assert expected in refused(kind, folder)
    weights.write_bytes(b"<!DOCTYPE html>" * 10)
    assert "is not a safetensors file" in refused(kind, folder)
    weights.unlink()
    assert refused(kind, folder) == f"{weights} is missing; download the model again"


def test_pickled_weights_are_never_read(kind: Kind, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "has only pickled weights (pytorch_model.bin), which may run code" in refused(kind, folder)


def test_weights_that_lack_one_tensor(kind: Kind, folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert refused(kind, folder).startswith(f"{folder} lacks {lost}, ")


def test_weights_that_are_not_finite(kind: Kind, folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = {name: torch.full_like(weight, torch.nan) for name, weight in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "holds NaN or infinity in torch.float32" in refused(kind, folder)


def test_a_model_in_several_files_and_one_of_them_lost(kind: Kind, folder: Path) -> None:
    expected = kind.load(folder, device="cpu").image(noise(0), noise(1))
    network = (CLIPModel if kind is ClipSimilarity else Dinov2Model).from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="40KB")
    score = kind.load(folder, device="cpu").image(noise(0), noise(1))
    assert score == pytest.approx(expected, abs=1e-6)
    lost = min(folder.glob("model-*.safetensors"))
    lost.unlink()
    assert f"{lost.name!r} is missing" in refused(kind, folder)


def test_remote_code_is_never_run(kind: Kind, folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('this code ran')")
    names = ("AutoModel", "AutoConfig", "AutoImageProcessor", "AutoTokenizer", "AutoProcessor")
    for file in folder.glob("*config.json"):
        rewrite(file, auto_map=dict.fromkeys(names, "evil.Evil"))
    kind.load(folder, device="cpu")


def test_missing_and_broken_preprocessing(kind: Kind, folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text("{")
    assert f"the preprocessing of {folder} cannot be used" in refused(kind, folder)
    path.unlink()
    assert "preprocessor_config.json" in refused(kind, folder)


def test_preprocessing_to_another_size_than_clip_sees(clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "model")
    rewrite(folder / "preprocessor_config.json", crop_size={"height": 16, "width": 16})
    assert "doesn't match model" in refused(ClipSimilarity, folder)


@pytest.mark.slow
def test_missing_broken_and_foreign_tokenizers(clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "model")
    file = folder / "tokenizer.json"
    table = file.read_text()
    for content in ("{", "{}", "[]"):
        file.write_text(content)
        assert f"the tokenizer of {folder} cannot be used" in refused(ClipSimilarity, folder)
    file.unlink()
    assert "has no tokenizer.json, nor vocab.json and merges.txt" in refused(ClipSimilarity, folder)
    file.write_text(table)
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder / "config.json", text_config={**config["text_config"], "eos_token_id": 5})
    assert "end mark" in refused(ClipSimilarity, folder)
    assert "is not the model's" in refused(ClipSimilarity, folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with nothing in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    return tmp_path / "hub"


@pytest.fixture
def at_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point huggingface_hub at another address, as the environment variable HF_ENDPOINT would."""

    def point(address: str) -> None:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return point


def test_a_hub_model_is_not_fetched_unasked(kind: Kind, cache: Path) -> None:
    message = refused(kind, "owner/model")
    assert str(cache) in message
    assert "run `hf download owner/model` once while online" in message


def test_a_cached_hub_model_loads_without_network(kind: Kind, folder: Path, cache: Path) -> None:
    repository = cache / "models--owner--model"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    scorers = [kind.load(place, device="cpu") for place in ("owner/model", folder)]
    assert scorers[0].image(noise(0), noise(1)) == scorers[1].image(noise(0), noise(1))


def test_a_hub_model_is_fetched_when_allowed(
    kind: Kind, folder: Path, cache: Path, at_hub: Callable[[str], None]
) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        fetched = kind.load("owner/model", local_only=False, device="cpu")
    score = fetched.image(noise(0), noise(1))
    assert not list(cache.rglob("*.bin"))
    assert score == kind.load("owner/model", device="cpu").image(noise(0), noise(1))
    assert score == kind.load(folder, device="cpu").image(noise(0), noise(1))
    assert score == kind.load("owner/model", device="cpu", revision=COMMIT).image(noise(0), noise(1))


def test_the_wrong_hub_model_is_refused_before_its_weights_are_fetched(
    clip: Path, cache: Path, at_hub: Callable[[str], None]
) -> None:
    with local_hub.serve(clip, "owner/model") as address:
        at_hub(address)
        assert "allowed is dinov2" in refused(DinoSimilarity, "owner/model", local_only=False)
    assert list(cache.rglob("config.json"))
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("mistake", [AttributeError, TypeError])
def test_a_mistake_of_ours_is_no_damage(
    clip: Path, monkeypatch: pytest.MonkeyPatch, mistake: type[Exception]
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise mistake

    monkeypatch.setattr(similarity, "clean_text", wrong)
    with pytest.raises(mistake):
        ClipSimilarity.load(clip)


def test_a_mistake_of_ours_in_the_place_of_a_library_is_no_damage(clip: Path) -> None:
    network = replace(load_network(clip, CLIP, local_only=True, device="cpu", revision=None), processor=None)
    with pytest.raises(TypeError):
        network.pixels(Image.new("RGB", (64, 64)))
