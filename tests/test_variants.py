"""Weights under the names of variants (fp16, bf16, any other), whole or in shards: loaded, counted and fetched once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hiper.backbones import describe, load_backbone
from hiper.backbones.registry import wrap
from hiper.backbones.variants import find_variants
from hiper.backbones.weights import text_encoder_bytes
from hiper.errors import BackboneError
from tests import local_hub, tiny

COMPONENTS = ("text_encoder", "unet", "vae")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.pipeline("sd1")


@pytest.fixture(scope="module")
def expected(pipe: Any) -> str:
    return wrap(pipe).weights_sha256()


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model")


def save(pipe: Any, folder: Path, component: str, variant: str | None, shards: str = "10GB") -> None:
    """Write a component's weights as the libraries do."""
    getattr(pipe, component).save_pretrained(folder / component, variant=variant, max_shard_size=shards)


def emptied(folder: Path, *components: str) -> None:
    for component in components:
        for file in (folder / component).glob("*.safetensors*"):
            file.unlink()


@pytest.mark.parametrize(
    ("variants", "shards"),
    [
        (dict.fromkeys(COMPONENTS, "fp16"), "10GB"),
        (dict.fromkeys(COMPONENTS, "bf16"), "40KB"),
        ({"unet": "fp16"}, "10GB"),
        ({"text_encoder": "fp32", "vae": "fp16"}, "40KB"),
        ({"unet": "non_ema", "text_encoder": "my.own", "vae": "bf16"}, "40KB"),
    ],
)
def test_every_component_is_loaded_from_whichever_variant_is_there(
    folder: Path, pipe: Any, expected: str, variants: dict[str, str], shards: str
) -> None:
    plain = describe("tiny", folder)
    emptied(folder, *variants)
    for component, variant in variants.items():
        save(pipe, folder, component, variant, shards)
    assert load_backbone(folder, device="cpu").weights_sha256() == expected
    found = describe("tiny", folder)
    assert (found.parameters, found.bytes, found.denoiser) == (plain.parameters, plain.bytes, plain.denoiser)


def test_weights_are_counted_once(folder: Path, pipe: Any, expected: str) -> None:
    plain, encoder = describe("tiny", folder), text_encoder_bytes(folder)
    for component in COMPONENTS:
        for variant in ("fp16", "bf16"):
            save(pipe, folder, component, variant, "40KB")
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00009.safetensors").write_bytes(b"of another split")
    assert describe("tiny", folder) == plain
    assert text_encoder_bytes(folder) == encoder
    assert load_backbone(folder, device="cpu").weights_sha256() == expected
    shutil.copy(folder / "text_encoder" / "model.safetensors", folder / "text_encoder" / "other.safetensors")
    assert text_encoder_bytes(folder) == encoder


def test_shards_beside_the_same_weights_in_one_file(folder: Path, pipe: Any, expected: str) -> None:
    plain = describe("tiny", folder)
    for component in COMPONENTS:
        kept = [file.read_bytes() for file in (folder / component).glob("*.safetensors")]
        names = [file.name for file in (folder / component).glob("*.safetensors")]
        save(pipe, folder, component, None, "40KB")
        for name, content in zip(names, kept, strict=True):
            (folder / component / name).write_bytes(content)
    found = describe("tiny", folder)
    assert (found.parameters, found.bytes) == (plain.parameters, plain.bytes)
    assert load_backbone(folder, device="cpu").weights_sha256() == expected


def test_the_former_names_of_shards_are_read(folder: Path, pipe: Any, expected: str) -> None:
    emptied(folder, "text_encoder")
    save(pipe, folder, "text_encoder", "fp16", "40KB")
    (table,) = (folder / "text_encoder").glob("*.index.fp16.json")
    for file in (folder / "text_encoder").glob("model.fp16-*.safetensors"):
        name = f"model-{file.name.removeprefix('model.fp16-').removesuffix('.safetensors')}.fp16.safetensors"
        file.rename(file.with_name(name))
        table.write_text(table.read_text().replace(file.name, name))
    assert load_backbone(folder, device="cpu").weights_sha256() == expected


def test_plain_weights_come_first_then_fp16_and_bf16() -> None:
    names = ["model.zz.safetensors", "model.bf16.safetensors", "model.fp16.safetensors", "model.safetensors"]
    assert list(find_variants(names, "model")) == ["", "fp16", "bf16", "zz"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert not find_variants(shards, "model")
    (found,) = find_variants([*shards, "model.safetensors.index.json"], "model").values()
    assert found.files == tuple(shards)


def test_what_was_found_instead_is_named(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
    )
    with pytest.raises(BackboneError, match=r"fp16-00001-of-00002.safetensors"):
        load_backbone(folder, device="cpu")


def fetched(cache: Path) -> set[str]:
    (snapshot,) = cache.glob("models--*/snapshots/*")
    return {str(path.relative_to(snapshot)) for path in snapshot.rglob("*.safetensors")}


@pytest.mark.parametrize("shards", ["10GB", "40KB"])
def test_a_hub_model_of_variants_alone_is_fetched(
    folder: Path, pipe: Any, expected: str, shards: str, at_hub: Callable[[str], None], empty_cache: Path
) -> None:
    emptied(folder, *COMPONENTS)
    for component, variant in zip(COMPONENTS, ("fp16", "bf16", "mine"), strict=True):
        save(pipe, folder, component, variant, shards)
    here = {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")}
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        assert load_backbone("owner/model", device="cpu").weights_sha256() == expected
    assert fetched(empty_cache) == here
    at_hub("http://127.0.0.1:1")  # where nobody listens
    again = load_backbone("owner/model", device="cpu")
    assert again.weights_sha256() == expected


def test_one_variant_is_fetched_of_a_hub_model_that_has_several(
    folder: Path, pipe: Any, expected: str, at_hub: Callable[[str], None], empty_cache: Path
) -> None:
    here = {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")}
    for component in COMPONENTS:
        save(pipe, folder, component, "fp16", "40KB")
    (folder / "unet" / "pytorch_model.bin").write_bytes(b"pickled")
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        assert load_backbone("owner/model", device="cpu").weights_sha256() == expected
    assert fetched(empty_cache) == here
    assert not list(empty_cache.rglob("*.bin"))


def test_a_hub_model_half_fetched_is_told_when_nobody_answers(
    folder: Path, at_hub: Callable[[str], None], empty_cache: Path
) -> None:
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        load_backbone("owner/model", device="cpu")
    at_hub("http://127.0.0.1:1")  # where nobody listens
    for path in [*empty_cache.rglob("diffusion_pytorch_model.safetensors")]:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    with pytest.raises(BackboneError, match=r"is missing|is not complete in the local cache"):
        load_backbone("owner/model", device="cpu")


def test_half_precision_variants_load_in_the_dtype_that_was_asked_for(folder: Path, pipe: Any) -> None:
    halves = tiny.pipeline("sd1").to(torch.float16)
    emptied(folder, "unet")
    save(halves, folder, "unet", "fp16")
    backbone = load_backbone(folder, device="cpu")
    assert {weight.dtype for weight in backbone.denoiser.parameters()} == {torch.float32}
    assert describe("tiny", folder).parameters.keys() == {"float16", "float32"}


def test_a_table_that_is_damaged_is_named(folder: Path, pipe: Any) -> None:
    emptied(folder, "unet")
    save(pipe, folder, "unet", "fp16", "40KB")
    (table,) = (folder / "unet").glob("*.index.fp16.json")
    table.write_text(json.dumps({"weight_map": {"conv_in.weight": "../other.safetensors"}}))
    with pytest.raises(BackboneError, match="names files outside of its folder"):
        load_backbone(folder, device="cpu")
