"""What decides a result is in its key: whatever of it changes between two runs, the second is a new result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig

import hiper
from hiper.artifacts import fit_path
from hiper.backbones import Backbone
from hiper.backbones.contents import checksum
from hiper.backbones.registry import wrap
from hiper.batch import BatchSettings, Defaults, read_jobs
from hiper.batch import run as run_batch
from hiper.bench import SuiteSpec
from hiper.bench import run as run_suite
from hiper.bench.records import Run
from hiper.errors import OutputError, ResumeError
from hiper.images import Subject
from hiper.methods import get_method
from hiper.training import CheckpointFile
from tests import tiny
from tests.conftest import Cli
from tests.small_suite import NAME, installed

CAPTION = "a standing dog"
Change = Callable[[Path], None]

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


def entry(file: str, name: str, value: object) -> Change:
    """Change one entry of a JSON file of the model."""

    def change(model: Path) -> None:
        record = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**record, name: value}))

    return change


def weight(file: str) -> Change:
    """Change one number of the largest tensor, the file's size and names staying as they are."""

    def change(model: Path) -> None:
        tensors = safetensors.torch.load_file(model / file)
        largest = max(tensors.values(), key=torch.Tensor.numel)
        largest.view(-1)[largest.numel() // 3] += 0.5
        safetensors.torch.save_file(tensors, model / file, metadata={"format": "pt"})

    return change


def words_swapped(model: Path) -> None:
    """The same words of other numbers."""
    words = tiny.tokenizer()
    rules = json.loads(words.backend_tokenizer.to_str())
    table = rules["model"]["vocab"]
    table["dog</w>"], table["cat</w>"] = table["cat</w>"], table["dog</w>"]
    record = json.loads((model / "tokenizer" / "tokenizer.json").read_text())
    record["model"]["vocab"] = table
    (model / "tokenizer" / "tokenizer.json").write_text(json.dumps(record))


CHANGES: dict[str, tuple[Change, str]] = {
    "noise schedule": (entry("scheduler/scheduler_config.json", "beta_end", 0.02), "scheduler"),
    "VAE scaling": (entry("vae/config.json", "scaling_factor", 0.5), "vae"),
    "VAE shift": (entry("vae/config.json", "shift_factor", 0.1), "vae"),
    "tokenizer": (words_swapped, "tokenizer"),
    "layers read": (entry("text_encoder/config.json", "hidden_act", "gelu"), "text_encoder"),
    "denoiser": (weight("unet/diffusion_pytorch_model.safetensors"), "unet"),
    "text encoder": (weight("text_encoder/model.safetensors"), "text_encoder"),
    "picture encoder": (weight("vae/diffusion_pytorch_model.safetensors"), "vae"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_in_a_model_changes_its_key(
    model_folder: Path, tmp_path: Path, subject: Subject, what: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    options = get_method("hiper").options("default", num_train_steps=2)
    before = hiper.load_backbone(model, device="cpu")
    key, path = before.model_key(), fit_path(subject, before, "hiper", options)
    change, component = CHANGES[what]
    change(model)
    after = hiper.load_backbone(model, device="cpu")
    differing = {name for name, value in after.model_key().items() if value != key[name]}
    assert {"backbone", f"backbone's {component}"} <= differing
    assert fit_path(subject, after, "hiper", options) != path
    assert before.model_key() == key  # what is loaded stays what it is


@pytest.mark.slow
def test_a_copy_of_a_model_has_the_same_key_wherever_it_lies(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "elsewhere")
    models = [hiper.load_backbone(folder, device="cpu") for folder in (model_folder, tmp_path / "elsewhere")]
    assert models[0].model_key() == models[1].model_key()


@pytest.mark.slow
def test_a_resumed_fit_names_what_has_changed(model_folder: Path, tmp_path: Path, subject: Subject) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    hiper.fit(hiper.load_backbone(model, device="cpu"), subject, checkpoint=checkpoint, num_train_steps=2)
    CHANGES["noise schedule"][0](model)
    with pytest.raises(ResumeError, match="backbone's scheduler was"):
        hiper.fit(hiper.load_backbone(model, device="cpu"), subject, checkpoint=checkpoint, num_train_steps=2)


@pytest.mark.slow
def test_size_number_format_and_determinism_are_part_of_it(sd1: Backbone, model_folder: Path) -> None:
    half = hiper.load_backbone(model_folder, device="cpu", dtype="bfloat16")
    large = hiper.load_backbone(model_folder, device="cpu", resolution=40)
    plain = hiper.load_backbone(model_folder, device="cpu").model_key()
    assert half.model_key()["dtype"] != plain["dtype"]
    assert large.model_key()["resolution"] == 40
    assert {"hiper", "torch", "diffusers", "transformers"} <= plain.keys()


# a user's own pipeline, which may change between two calls


def add_lora(pipe: Any, alpha: int = 4) -> None:
    pipe.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=alpha, init_lora_weights=False, target_modules=["to_k", "to_v"]), "own"
    )


def write_row(pipe: Any) -> None:
    """As a textual inversion is put in by hand: past the tensor's version counter."""
    pipe.text_encoder.get_input_embeddings().weight.data[7] = 1.0


def swap_rows(pipe: Any) -> None:
    rows = pipe.text_encoder.get_input_embeddings().weight.data
    rows[[3, 4]] = rows[[4, 3]]


def merge_lora(pipe: Any) -> None:
    """Merged and taken out again: the names are what they were, the numbers are not."""
    torch.manual_seed(0)
    add_lora(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()


def other_scheduler(pipe: Any) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_start=0.001)


OWN: dict[str, Callable[[Any], object]] = {
    "adapter": add_lora,
    "merged adapter": merge_lora,
    "row": write_row,
    "rows swapped": swap_rows,
    "in place": lambda pipe: torch.nn.init.zeros_(pipe.unet.conv_out.bias),
    "token": lambda pipe: pipe.tokenizer.add_tokens(["<rex>"]),
    "scheduler": other_scheduler,
    "scaling": lambda pipe: pipe.vae.register_to_config(scaling_factor=0.2),
    "FreeU": lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.1, b2=1.2),
    "tiling": lambda pipe: pipe.vae.enable_tiling(),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", OWN)
def test_a_users_pipeline_that_changed_is_noticed_at_the_next_use(what: str) -> None:
    pipe = tiny.pipeline()
    backbone = wrap(pipe)
    key, print_ = backbone.model_key(), backbone.fingerprint()
    assert backbone.model_key() == key
    OWN[what](pipe)
    assert backbone.model_key()["backbone"] != key["backbone"]
    if what == "merged adapter":  # artifacts warn of it too
        assert backbone.fingerprint() != print_


def test_a_users_pipeline_that_is_saved_keeps_its_key(tmp_path: Path) -> None:
    pipe = tiny.pipeline()
    key = wrap(pipe).model_key()
    pipe.save_pretrained(tmp_path)
    assert wrap(pipe).model_key() == {**key, **({"id": str(tmp_path)} if "id" in key else {})}


def test_the_weight_of_an_adapter_counts() -> None:
    pipe = tiny.pipeline()
    torch.manual_seed(0)
    add_lora(pipe)
    backbone = wrap(pipe)
    key = backbone.model_key()
    pipe.unet.set_adapters(["own"], [0.5])
    assert backbone.model_key() != key


def test_a_loaded_model_that_is_written_to_is_read_again(model_folder: Path) -> None:
    backbone = hiper.load_backbone(model_folder, device="cpu")
    key, print_ = backbone.model_key(), backbone.fingerprint()
    with torch.no_grad():
        for each in backbone.denoiser.parameters():
            each.mul_(1.5)
    assert backbone.model_key()["backbone"] != key["backbone"]
    assert backbone.fingerprint() != print_


@pytest.mark.slow
def test_a_model_whose_parts_take_turns_is_not_moved(model_folder: Path) -> None:
    low = hiper.load_backbone(model_folder, device="cpu", memory="low")
    places = [weight.data_ptr() for weight in low.denoiser.parameters()]

    key, print_ = low.model_key(), low.fingerprint()
    assert [weight.data_ptr() for weight in low.denoiser.parameters()] == places
    low.encode("a dog")  # the denoiser waits in a file now
    assert all(weight.numel() == 0 for weight in low._pipe.unet.parameters())  # type: ignore[attr-defined]
    assert low.model_key() == key
    assert all(weight.numel() == 0 for weight in low._pipe.unet.parameters())  # type: ignore[attr-defined]
    plain = hiper.load_backbone(model_folder, device="cpu")
    assert (plain.model_key(), plain.fingerprint()) == (key, print_)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64])
def test_a_checksum_sees_every_number_and_its_place(dtype: torch.dtype) -> None:
    for count in (1, 7, 8, 1001):
        tensor = torch.randint(0, 2, (count,)).to(dtype)
        sums = {int(checksum(tensor))}
        for place in {0, count // 2, count - 1}:
            other = tensor.clone()
            other[place] = 1 - other[place].int() if dtype == torch.bool else 1 - other[place]
            sums.add(int(checksum(other)))
        assert len(sums) == 1 + len({0, count // 2, count - 1})
        assert int(checksum(tensor[:])) in sums
    assert int(checksum(torch.zeros(3))) != int(checksum(torch.tensor([0.0, 0.0, 1e-38])))
    long = torch.arange(3 * 2**20)
    assert int(checksum(long)) != int(checksum(long.roll(2**20)))


# the commands


def test_the_key_of_a_fit_is_the_same_for_a_kept_one_and_a_resumed_one(
    sd1: Backbone, subject: Subject
) -> None:
    options = get_method("hiper").options("default")
    kept = get_method("hiper").key(sd1, subject, options)
    assert kept.items() >= sd1.model_key().items()
    assert (kept["image"], kept["caption"], kept["tail"]) == (subject.sha256, CAPTION, options.tail)


@pytest.mark.slow
def test_run_does_not_hand_out_a_stale_fit(cli: Cli, tmp_path: Path, model_folder: Path, dog: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    arguments = (
        *("--caption", CAPTION, "--backbone", model, "-o", "num_train_steps=2"),
        *("--num-inference-steps", "1", "--json"),
    )

    def reused(number: int) -> bool:
        return bool(
            json.loads(cli("run", dog, "a dog", *arguments, "--out", tmp_path / str(number)).out)["reused"]
        )

    assert not reused(0)
    assert reused(1)
    for number, what in enumerate(("noise schedule", "VAE scaling", "tokenizer"), start=2):
        CHANGES[what][0](model)
        assert not reused(number)


@pytest.mark.slow
def test_a_batch_does_again_what_a_changed_model_decides(
    tmp_path: Path, model_folder: Path, dog: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(dog, tmp_path / "dog.png")
    line: dict[str, Any] = {
        "image": "dog.png",
        "caption": CAPTION,
        "sentences": ["a dog"],
        "backbone": "model",
    }
    line |= {"options": {"num_train_steps": 2}, "edit": {"num_inference_steps": 1}}

    def counts(**more: Any) -> tuple[int, int]:
        (tmp_path / "jobs.jsonl").write_text(json.dumps({**line, **more}))
        jobs = read_jobs(tmp_path / "jobs.jsonl", Defaults())
        report = run_batch(jobs, str(tmp_path / "out"), BatchSettings())
        return report.count("done"), report.count("reused")

    assert (counts(), counts()) == ((1, 0), (0, 1))
    for what in ("noise schedule", "VAE scaling", "tokenizer"):
        CHANGES[what][0](tmp_path / "model")
        assert counts() == (1, 0), what
    assert counts(edit={"num_inference_steps": 1, "scheduler": "euler"}) == (1, 0)
    assert counts(negative_prompt="a cat") == (1, 0)


@pytest.mark.slow
def test_a_benchmark_of_a_changed_model_or_an_earlier_release_is_refused(
    tmp_path: Path, model_folder: Path
) -> None:
    model, folder = tmp_path / "model", tmp_path / "run"
    shutil.copytree(model_folder, model)
    (tmp_path / "suite").mkdir()
    with installed(tmp_path / "suite"):
        spec = SuiteSpec(name=NAME)
        arms = ["source"]
        run_suite(spec, str(model), arms, folder, seeds=1)
        assert run_suite(spec, str(model), arms, folder, seeds=1).drawn == 0
        CHANGES["tokenizer"][0](model)
        with pytest.raises(OutputError, match="backbone's tokenizer is"):
            run_suite(spec, str(model), arms, folder, seeds=1)
        record = json.loads((folder / "run.json").read_text())
        del record["identity"]["model"]
        (folder / "run.json").write_text(json.dumps(record))
        assert Run.load(folder).identity.model == {}  # a report can still be made of it
        with pytest.raises(OutputError, match="earlier release"):
            run_suite(spec, str(model), arms, folder, seeds=1)
