"""Models from folders, single files and the Hub, and every way in which they cannot be had."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import invalidate_caches
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

from hiper.backbones import (
    EMBEDDED,
    PIPELINES,
    explained,
    load_backbone,
    pipeline_names,
    resolve_device,
    resolve_dtype,
)
from hiper.backbones.registry import Embedded, wrap
from hiper.backbones.sd import SdBackbone
from hiper.errors import BackboneError, HiperWarning, OptionError
from tests import local_hub, tiny


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(model_folder, tmp_path / "model")


def refused(place: Path | str, **settings: bool) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(BackboneError) as refusal:
        load_backbone(place, device="cpu", **settings)  # type: ignore[arg-type]
    message = str(refusal.value)
    assert "\n" not in message
    return message


def edit_index(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    index = folder / "model_index.json"
    table = json.loads(index.read_text())
    change(table)
    index.write_text(json.dumps(table))


def test_a_folder_loads_bit_for_bit(folder: Path) -> None:
    expected = wrap(tiny.pipeline("sd1")).weights_sha256()
    backbone = load_backbone(folder, device="cpu")
    assert backbone.weights_sha256() == expected
    assert (backbone.id, backbone.revision, backbone.dtype) == (str(folder), "", torch.float32)


@pytest.mark.slow
def test_a_folder_of_half_precision_loads_in_one_dtype(tmp_path: Path) -> None:
    tiny.pipeline("sd1").to(torch.float16).save_pretrained(tmp_path / "half")
    assert load_backbone(tmp_path / "half", device="cpu").dtype == torch.float32
    assert load_backbone(tmp_path / "half", device="cpu", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.slow
def test_a_folder_with_fp16_files_only_is_loaded_from_them(tmp_path: Path) -> None:
    tiny.pipeline("sd1").save_pretrained(tmp_path / "half", variant="fp16")
    expected = wrap(tiny.pipeline("sd1")).weights_sha256()
    assert load_backbone(tmp_path / "half", device="cpu").weights_sha256() == expected


def test_what_is_loaded_lies_as_it_will_after_a_fit(folder: Path) -> None:
    backbone = load_backbone(folder, device="cpu")
    assert isinstance(backbone, SdBackbone)
    weights = [weight for module in backbone._modules().values() for weight in module.parameters()]
    assert all(weight.data_ptr() % 64 == 0 for weight in weights)
    with backbone.training_mode():
        pass
    assert all(weight.data_ptr() % 64 == 0 for weight in weights)


def test_loading_leaves_the_libraries_as_talkative_as_they_were(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import diffusers

    before = diffusers.utils.logging.get_verbosity()
    load_backbone(folder, device="cpu")
    assert diffusers.utils.logging.get_verbosity() == before
    assert diffusers.utils.logging.is_progress_bar_enabled()
    assert capfd.readouterr().err == ""


def test_a_mistyped_folder_names_the_nearest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert refused("./modle") == "no such folder or file: ./modle (did you mean model?)"
    assert "did you mean model?" in refused(folder.parent / "modle")
    assert "did you mean unet?" in refused("model/unnet")  # and is not taken for a Hub id
    assert "no such folder or file" in refused("some/where/model.safetensors")


def test_a_bare_word_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean critters?" in refused("criters")
    assert "Hub id such as owner/name" in refused("a b/c d")


def test_an_embedded_model_that_was_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        EMBEDDED,
        "critters",
        Embedded(folder="nowhere", guidance_scale=1.0, scheduler="ddim", num_inference_steps=1),
    )
    assert "the model critters is not part of this installation" in refused("critters")


def test_a_folder_without_index(tmp_path: Path) -> None:
    assert "has no model_index.json" in refused(tmp_path)


def test_a_broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    assert "is not valid JSON" in refused(folder)


def test_an_unsupported_pipeline(folder: Path) -> None:
    edit_index(folder, lambda table: table.update(_class_name="ShapEPipeline"))
    assert refused(folder).endswith(f"is a ShapEPipeline; supported are {', '.join(pipeline_names())}")


def test_remote_code_is_never_run(folder: Path) -> None:
    (folder / "pipeline.py").write_text("raise SystemExit('this code ran')")
    edit_index(folder, lambda table: table.update(_class_name=["pipeline", "StableDiffusionPipeline"]))
    assert "supported are" in refused(folder)
    edit_index(folder, lambda table: table.update(_class_name="StableDiffusionPipeline"))
    edit_index(folder, lambda table: table.update(unet=["pipeline", "Evil"]))
    assert "remote code never" in refused(folder)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ],
)
class TestDamagedWeights:
    def test_missing(self, folder: Path, part: str, name: str) -> None:
        (folder / part / name).unlink()
        assert refused(folder) == f"{folder / part / name} is missing; download the model again"

    def test_only_pickled(self, folder: Path, part: str, name: str) -> None:
        (folder / part / name).unlink()
        (folder / part / "pytorch_model.bin").write_bytes(pickle.dumps({}))
        assert "pickled weights (pytorch_model.bin)" in refused(folder)

    def test_truncated(self, folder: Path, part: str, name: str) -> None:
        path = folder / part / name
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1000])
        assert f"{path} is damaged: {size - 1000} bytes where {size} are promised" in refused(folder)

    def test_cut_inside_the_header(self, folder: Path, part: str, name: str) -> None:
        path = folder / part / name
        path.write_bytes(path.read_bytes()[:100])
        assert "is damaged" in refused(folder)

    @pytest.mark.parametrize(
        "content", [b"", b"abc", b"<!DOCTYPE html>" * 10, b"\x08" + b"\0" * 7 + b"nonsense"]
    )
    def test_foreign(self, folder: Path, part: str, name: str, content: bytes) -> None:
        (folder / part / name).write_bytes(content)
        assert "is not a safetensors file, or is damaged" in refused(folder)

    def test_git_lfs_pointer(self, folder: Path, part: str, name: str) -> None:
        (folder / part / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        )
        assert "run `git lfs pull`" in refused(folder)


def test_weights_that_are_no_file_are_not_waited_for(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.symlink_to("/dev/null")
    assert "no ordinary file" in refused(folder)


def test_a_missing_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    assert "config.json" in refused(folder)


def test_an_absent_safety_checker_is_no_obstacle(folder: Path) -> None:
    edit_index(
        folder,
        lambda table: table.update(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]),
    )
    with pytest.warns(HiperWarning, match="pictures are not checked"):
        assert load_backbone(folder, device="cpu").resolution == tiny.RESOLUTION


def test_other_predictions_are_refused(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    table = json.loads(config.read_text())
    config.write_text(json.dumps({**table, "prediction_type": "sample"}))
    assert "'sample'; allowed are epsilon and v_prediction" in refused(folder)


def test_a_user_s_own_pipeline_of_another_class_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"is a Linear; supported are .*StableDiffusionPipeline"):
        wrap(torch.nn.Linear(1, 1))


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sd.txt").write_text("")
    for name in ("sd.ckpt", "SD.CKPT"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        assert "is a pickle" in refused(tmp_path / name)
    (tmp_path / "SD.SAFETENSORS").write_bytes(b"cut")
    assert "download it again" in refused(tmp_path / "SD.SAFETENSORS")
    assert "no such folder or file" in refused("OTHER.SAFETENSORS")
    assert "allowed are a diffusers folder and a .safetensors file" in refused(tmp_path / "sd.txt")


def test_an_installed_backbone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = tmp_path / "other-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[hiper.backbones]\nLinear = other_backbone:Other\n")
    (tmp_path / "other_backbone.py").write_text(
        "class Other:\n    @classmethod\n    def from_pipeline(cls, pipe):\n        return pipe.in_features\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    assert pipeline_names() == sorted(["Linear", *PIPELINES])
    assert str(wrap(torch.nn.Linear(7, 1))) == "7"


def test_not_in_the_cache(empty_cache: Path) -> None:
    message = refused("owner/model", local_only=True)
    assert str(empty_cache) in message
    assert "run `hf download owner/model` once while online" in message


def answer(status: int, code: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Hub on this computer that answers everything with one refusal."""
    server = HTTPServer(("127.0.0.1", 0), answer(*request.param))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        ((403, "GatedRepo"), "owner/model is gated: accept its licence at"),
        ((404, "RepoNotFound"), "neither a folder here nor a model on the Hub"),
        ((401, ""), "the Hub answered 401; try again later, or log in with `hf auth login`"),
        ((404, "RevisionNotFound"), "has no such revision"),
        ((404, "EntryNotFound"), "has no model_index.json"),
        ((403, ""), "the Hub answered 403"),
    ],
    indirect=["hub"],
)
def test_the_hubs_refusals_are_told_in_one_line(hub: str, words: str, empty_cache: Path) -> None:
    with pytest.raises(BackboneError) as refusal, explained("owner/model"):
        hf_hub_download("owner/model", "model_index.json", endpoint=hub)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_offline_mode_is_respected(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and the Hub was not reached" in refused("owner/model")


@pytest.mark.slow
def test_a_cached_hub_model_loads_without_network(empty_cache: Path, model_folder: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = empty_cache / "models--owner--model"
    shutil.copytree(model_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    backbone = load_backbone("owner/model", device="cpu", local_only=True)
    assert (backbone.id, backbone.revision) == ("owner/model", commit)
    assert backbone.weights_sha256() == wrap(tiny.pipeline("sd1")).weights_sha256()


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for wrong in ("gpu", "cuda:one", "cpu:-1"):
        with pytest.raises(OptionError, match="allowed are cpu, cuda, cuda:N and mps"):
            resolve_device(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a computer without cuda")
def test_a_missing_accelerator_falls_back_with_a_warning() -> None:
    with pytest.warns(HiperWarning, match="no cuda device is usable here"):
        assert resolve_device("cuda") == torch.device("cpu")


def test_dtypes() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_dtype(None, cpu) == torch.float32
    assert resolve_dtype(None, cuda) == torch.float16
    assert resolve_dtype("bfloat16", cpu) == resolve_dtype(torch.bfloat16, cpu) == torch.bfloat16
    with pytest.raises(OptionError, match=r"did you mean float16\?"):
        resolve_dtype("float61", cpu)
    with pytest.warns(HiperWarning, match="slow and coarse"):
        assert resolve_dtype("float16", cpu) == torch.float16


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_apples_chips_take_bfloat16_where_they_have_it(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda *version: has_it and version == (14, 0)
    )
    assert resolve_dtype(None, torch.device("mps")) == dtype


def test_what_is_wrapped_is_the_pipeline_itself() -> None:
    pipe = tiny.pipeline("sd2")
    backbone = wrap(pipe)
    assert isinstance(backbone, SdBackbone)
    assert backbone._pipe is pipe


def test_a_hub_model_is_fetched_once(
    model_folder: Path, at_hub: Callable[[str], None], empty_cache: Path
) -> None:
    with local_hub.serve(model_folder, "owner/model") as address:
        at_hub(address)
        backbone = load_backbone("owner/model", device="cpu")
    assert (backbone.id, backbone.revision) == ("owner/model", local_hub.COMMIT)
    assert backbone.weights_sha256() == wrap(tiny.pipeline("sd1")).weights_sha256()
    again = load_backbone("owner/model", device="cpu", local_only=True)
    assert again.weights_sha256() == backbone.weights_sha256()


def test_a_hub_model_without_safetensors_is_refused(
    model_folder: Path, at_hub: Callable[[str], None], empty_cache: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "pickled")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".BIN"))
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        assert "owner/model/unet has only pickled weights" in refused("owner/model")
    assert not list(empty_cache.rglob("*.safetensors"))


def test_an_unsupported_hub_model_is_refused_before_its_weights_are_fetched(
    folder: Path, at_hub: Callable[[str], None], empty_cache: Path
) -> None:
    edit_index(folder, lambda table: table.update(_class_name="ShapEPipeline"))
    with local_hub.serve(folder, "owner/model") as address:
        at_hub(address)
        expected = f"owner/model is a ShapEPipeline; supported are {', '.join(pipeline_names())}"
        assert refused("owner/model") == expected
    assert not list(empty_cache.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("device", "quantise", "size", "memory"),
    [
        ("cuda", None, 10 * 2**30, "low"),
        ("cuda", None, 2**30, "balanced"),
        ("cuda", "int8", 10 * 2**30, "balanced"),
        ("cpu", None, 10 * 2**30, "balanced"),
    ],
)
def test_large_text_encoders_never_lie_beside_the_denoiser_on_an_accelerator(
    tmp_path: Path, device: str, quantise: str | None, size: int, memory: str
) -> None:
    from hiper.backbones import Loading
    from hiper.backbones.weights import text_encoder_bytes

    for number, component in enumerate(("text_encoder", "text_encoder_2", "unet")):
        (tmp_path / component).mkdir()
        with (tmp_path / component / "model.safetensors").open("wb") as file:
            file.truncate(size if number == 1 else 0)  # sparse: it takes no room
    how = Loading(device=torch.device(device), dtype=torch.float32, quantise=quantise)
    assert how.resolved(text_encoder_bytes(tmp_path)).memory == memory
