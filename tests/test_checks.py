"""A model whose files are not whole, or do not belong together, is refused while it loads, whatever its family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from hiper.backbones import load_backbone, wrap_reader
from hiper.backbones.registry import wrap
from hiper.errors import BackboneError, HiperWarning
from tests import tiny, tiny_families

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of all families, each written when it is first asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder_of(family: str) -> Path:
        if not (root / family).is_dir():
            tiny_families.pipeline(family).save_pretrained(root / family)
        return root / family

    return folder_of


def refused(folder: Path, **settings: Any) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(BackboneError) as refusal:
        load_backbone(folder, device="cpu", **settings)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def weights(component: Path) -> Path:
    (path,) = component.glob("*.safetensors")
    return path


def rewrite(component: Path, change: Callable[[Tensors], object]) -> None:
    """Change the tensors of a component's file."""
    path = weights(component)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def configure(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def renamed(name: Callable[[str], str]) -> Callable[[Tensors], None]:
    def rename(tensors: Tensors) -> None:
        for old in list(tensors):
            tensors[name(old)] = tensors.pop(old)

    return rename


COMPONENTS = ("unet", "vae", "text_encoder")


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_missing_tensor_is_named_whatever_the_family_and_component(
    family: str, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = family_folders(family)
    loaded = load_backbone(whole, device="cpu")
    assert loaded.weights_sha256() == wrap(tiny_families.pipeline(family)).weights_sha256()
    for path in sorted(whole.glob("*/*.safetensors")):
        damaged = shutil.copytree(whole, tmp_path / path.parent.name)
        names = sorted(load_file(path))
        lost = names[len(names) // 2]
        rewrite(damaged / path.parent.name, lambda tensors, lost=lost: tensors.pop(lost))  # type: ignore[misc]
        message = refused(damaged)
        assert f"{damaged}: {path.parent.name} lacks " in message
        assert ".".join(lost.split(".")[-3:]) in message


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_first_of_several_missing_tensors_is_named(folder: Path, component: str) -> None:
    path = weights(folder / component)
    names = list(load_file(path))[:3]
    rewrite(folder / component, lambda tensors: [tensors.pop(name) for name in names])
    assert "and 2 more, which config.json describes" in refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_shard_that_lacks_what_the_table_promises(folder: Path, component: str) -> None:
    part = getattr(tiny.pipeline("sd1"), component)
    path = weights(folder / component)
    path.unlink()
    part.save_pretrained(
        folder / component, max_shard_size=path.stat().st_size // 3 if path.exists() else "40KB"
    )
    assert load_backbone(folder, device="cpu").weights_sha256() == wrap(tiny.pipeline("sd1")).weights_sha256()
    shard = min((folder / component).glob("*-00001-of-*.safetensors"))
    tensors = load_file(shard)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, shard, metadata={"format": "pt"})
    assert f"{shard} lacks {lost}" in refused(folder)
    table = next((folder / component).glob("*.index.json"))
    entries = json.loads(table.read_text())
    del entries["weight_map"][lost]
    table.write_text(json.dumps(entries))
    assert f"{component} lacks " in refused(folder)


def test_a_folder_saved_with_a_fused_lora_says_so(folder: Path) -> None:
    pipe = tiny.pipeline("sd1")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), adapter_name="dog")
    pipe.unet.fuse_lora()
    pipe.save_pretrained(folder)
    assert "unet was saved with a LoRA or another adapter inside; unload it before saving" in refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("component", "name", "words"),
    [
        ("vae", lambda name: f"module.{name}", "DataParallel"),
        ("text_encoder", lambda name: f"module.{name}", "DataParallel"),
        ("unet", lambda name: f"_orig_mod.{name}", "torch.compile"),
        ("vae", lambda name: f"_fsdp_wrapped_module.{name}", "FSDP"),
        ("unet", lambda name: f"ema.{name}", "moving averages (EMA)"),
        (
            "text_encoder",
            lambda name: name.replace("weight", "base_layer.weight"),
            "a LoRA or another adapter",
        ),
    ],
)
def test_names_that_wrappers_leave_are_recognised(
    folder: Path, component: str, name: Callable[[str], str], words: str
) -> None:
    rewrite(folder / component, renamed(name))
    assert f"{component} was saved with {words}" in refused(folder)


@pytest.mark.parametrize(
    ("component", "value"), [("unet", float("nan")), ("vae", float("inf")), ("text_encoder", -float("inf"))]
)
def test_a_number_that_is_none_is_named(folder: Path, component: str, value: float) -> None:
    path = weights(folder / component)
    name = next(name for name, tensor in load_file(path).items() if tensor.ndim == 2)
    rewrite(folder / component, lambda tensors: tensors[name][1].fill_(value))
    message = refused(folder)
    assert f"{component}: " in message
    assert "holds NaN or infinity in torch.float32" in message


@pytest.mark.parametrize(
    ("component", "shape"),
    [("unet", (0,)), ("vae", (3, 5)), ("text_encoder", (3, 5)), ("text_encoder", (0,))],
)
def test_a_tensor_of_another_shape_is_named(folder: Path, component: str, shape: tuple[int, ...]) -> None:
    path = weights(folder / component)
    name = next(name for name, tensor in load_file(path).items() if tensor.ndim == 2)
    rewrite(folder / component, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    assert f"has the shape {list(shape)}, by config.json it has [" in refused(folder)


def test_layers_that_the_configuration_leaves_out(folder: Path) -> None:
    configure(folder / "unet" / "config.json", layers_per_block=0)
    assert "which config.json does not describe" in refused(folder)


def test_an_encoder_that_is_cut_short_by_its_configuration_is_told(folder: Path) -> None:
    configure(folder / "text_encoder" / "config.json", num_hidden_layers=1)
    with pytest.warns(HiperWarning, match="text_encoder has .*which config.json does not describe"):
        load_backbone(folder, device="cpu")


@pytest.mark.slow
def test_tensors_that_nobody_misses(folder: Path) -> None:
    others = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.weight": torch.ones(1),
    }
    rewrite(folder / "text_encoder", lambda tensors: tensors.update(others))
    expected = wrap(tiny.pipeline("sd1")).weights_sha256()
    assert load_backbone(folder, device="cpu").weights_sha256() == expected
    rewrite(folder / "vae", lambda tensors: tensors.update({"loss.logvar": torch.ones(1)}))
    with pytest.warns(HiperWarning, match="vae has loss.logvar"):
        assert load_backbone(folder, device="cpu").weights_sha256() == expected


@pytest.mark.slow
def test_a_text_encoder_beside_its_decoder_and_under_its_other_name(
    family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = family_folders("flux-schnell")
    expected = load_backbone(whole, device="cpu").weights_sha256()
    encoder = transformers.T5EncoderModel.from_pretrained(whole / "text_encoder_2")
    both = transformers.T5ForConditionalGeneration(encoder.config)
    both.shared.load_state_dict(encoder.shared.state_dict())
    both.encoder.load_state_dict(encoder.encoder.state_dict())
    folder = shutil.copytree(whole, tmp_path / "flux")
    config = (folder / "text_encoder_2" / "config.json").read_text()
    both.save_pretrained(folder / "text_encoder_2")
    (folder / "text_encoder_2" / "config.json").write_text(config)
    assert load_backbone(folder, device="cpu").weights_sha256() == expected
    other = renamed(lambda name: name.replace("shared.weight", "encoder.embed_tokens.weight"))
    rewrite(folder / "text_encoder_2", other)
    assert load_backbone(folder, device="cpu").weights_sha256() == expected


def replaced(folder: Path, component: str, part: Any) -> Path:
    """Write another model in a component's place."""
    shutil.rmtree(folder / component)
    part.save_pretrained(folder / component)
    return folder


def inpainting(channels: int) -> Any:
    """A denoiser that is also given a mask and a picture, or the like."""
    settings = dict(tiny.unet().config)
    del settings["_use_default_values"]
    return diffusers.UNet2DConditionModel.from_config({**settings, "in_channels": channels})


@pytest.mark.parametrize("channels", [8, 9])
def test_a_denoiser_that_takes_more_than_latents_is_refused(folder: Path, channels: int) -> None:
    unet = inpainting(channels)
    message = refused(replaced(folder, "unet", unet))
    assert f"takes {channels} latent channels where its vae makes 4" in message
    with pytest.raises(BackboneError, match=f"takes {channels} latent channels"):
        wrap(tiny.pipeline("sd1", unet=unet))


@pytest.mark.parametrize(("source", "place"), [("tokenizer", "tokenizer_2"), ("tokenizer_2", "tokenizer")])
def test_a_tokenizer_of_another_text_encoder_is_refused(
    source: str, place: str, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family_folders("flux-schnell"), tmp_path / "flux")
    shutil.rmtree(folder / place)
    shutil.copytree(folder / source, folder / place)
    message = refused(folder)
    assert str(folder / place / "tokenizer_config.json") in message
    assert "belongs to another text encoder" in message


def configured(folder: Path, component: str, *without: str) -> None:
    (file,) = (each for each in (folder / component).glob("*config.json"))
    left = {name: value for name, value in json.loads(file.read_text()).items() if name not in without}
    file.write_text(json.dumps(left))


@pytest.mark.slow
def test_numbers_that_a_folder_leaves_to_diffusers_are_told(
    folder: Path, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first folders of Stable Diffusion lack the vae's factor, which was the same for all."""
    configured(folder, "vae", "scaling_factor")
    load_backbone(folder, device="cpu")
    configured(folder, "scheduler", "beta_start", "beta_schedule")
    with pytest.warns(HiperWarning, match=r"scheduler does not say beta_start, beta_schedule: .*0\.0001, "):
        load_backbone(folder, device="cpu")
    later = shutil.copytree(family_folders("sdxl"), tmp_path / "later")
    configured(later, "vae", "scaling_factor")
    with pytest.warns(HiperWarning, match="vae does not say scaling_factor"):
        load_backbone(later, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_vae_of_other_channels_is_refused(
    family: str, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family_folders(family), tmp_path / family)
    settings = json.loads((folder / "vae" / "config.json").read_text())
    kind = getattr(diffusers, settings.pop("_class_name"))
    name = "z_dim" if "z_dim" in settings else "latent_channels"
    statistics = {each: settings[each] * 2 for each in ("latents_mean", "latents_std") if settings.get(each)}
    replaced(folder, "vae", kind.from_config({**settings, **statistics, name: 8}))
    assert "latent channels where its vae makes" in refused(folder)


def test_a_text_encoder_of_another_width_is_refused(folder: Path) -> None:
    other = tiny.text_encoder(len(tiny.tokenizer()), embed=64)
    message = refused(replaced(folder, "text_encoder", other))
    assert "reads token embeddings of 32 numbers, the text encoders make 64" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "component", "words"),
    [
        ("sdxl", "text_encoder", "token embeddings of 64 numbers, the text encoders make 96"),
        ("sdxl", "text_encoder_2", "token embeddings of 64 numbers, the text encoders make 96"),
        ("sd3", "text_encoder_2", "pooled vectors of 64 numbers, the text encoders make 96"),
        ("flux-dev", "text_encoder", "pooled vectors of 32 numbers, the text encoders make 64"),
    ],
)
def test_the_second_encoder_too(
    family: str, component: str, words: str, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family_folders(family), tmp_path / family)
    config = transformers.CLIPTextConfig.from_pretrained(
        folder / component, hidden_size=64, projection_dim=64
    )
    kind = json.loads((folder / component / "config.json").read_text())["architectures"][0]
    assert words in refused(replaced(folder, component, getattr(transformers, kind)(config)))


@pytest.mark.parametrize("component", ["text_encoder", "tokenizer", "vae", "unet", "scheduler"])
def test_a_component_that_is_not_there_is_named(folder: Path, component: str) -> None:
    configure(folder / "model_index.json", **{component: [None, None]})
    assert component in refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "file", "says"),
    [
        ("sd3", "tokenizer/tokenizer.json", "tokenizer knows no words"),
        ("sd3", "tokenizer_2/tokenizer_config.json", "tokenizer_config.json is missing"),
        ("sd3", "tokenizer_3/tokenizer.json", "tokenizer_3 knows no words"),
        ("sana", "tokenizer/tokenizer.json", "tokenizer knows no words"),
        ("z-image", "tokenizer/tokenizer.json", "tokenizer knows no words"),
        ("z-image", "tokenizer/chat_template.jinja", "no chat_template"),
        ("klein", "tokenizer/chat_template.jinja", "no chat_template"),
    ],
)
def test_a_tokenizer_without_one_of_its_files_is_refused(
    family: str, file: str, says: str, family_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family_folders(family), tmp_path / "model")
    (folder / file).unlink()
    assert says in refused(folder)


def test_a_tokenizer_that_spells_what_it_has_tokens_for_is_refused(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["model"]["merges"] = rules["model"]["merges"][:3]
    file.write_text(json.dumps(rules))
    assert "tokenizer knows no words" in refused(folder)


def test_a_token_that_the_encoder_has_no_row_for_is_refused_where_it_is_used(folder: Path) -> None:
    larger = tiny.tokenizer()
    larger.add_tokens(["zebra"])
    larger.save_pretrained(folder / "tokenizer")
    backbone = load_backbone(folder, device="cpu")
    assert backbone.encode("a dog").token_embeddings.isfinite().all()
    for encode in (backbone.encode, backbone.encode_negative):
        with pytest.raises(BackboneError, match="'zebra'"):
            encode("a zebra")


def test_a_tokenizer_that_cuts_nowhere_is_refused(folder: Path) -> None:
    configure(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    assert "set model_max_length to 77" in refused(folder)


def test_a_users_own_tokenizer_is_looked_at_too() -> None:
    empty = transformers.CLIPTokenizer(model_max_length=77)
    for wrapped in (wrap, wrap_reader):
        with pytest.raises(BackboneError, match="knows no words"):
            wrapped(tiny.pipeline(tokenizer=empty))


@pytest.mark.slow
def test_float16_is_warned_of_where_models_overflow_in_it(
    family_folders: Callable[[str], Path], model_folder: Path
) -> None:
    for folder, wide in (
        (family_folders("lumina2"), True),
        (family_folders("sd3"), False),
        (model_folder, False),
    ):
        with pytest.warns(HiperWarning) as caught:
            load_backbone(folder, device="cpu", dtype="float16")
        assert any("NaN in float16" in str(each.message) for each in caught) == wide
    load_backbone(family_folders("lumina2"), device="cpu", dtype="bfloat16")
