"""What a diffusion model predicts: said by the user, its files or those beside them, in whatever spelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import typer

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import load_backbone, read_header, single_file, single_file_xl
from hiper.backbones.registry import wrap
from hiper.bench import SuiteSpec, run
from hiper.cli.app import app
from hiper.errors import ArtifactError, BackboneError, HiperWarning, OptionError
from tests import test_single_file_xl, tiny, tiny_families
from tests.conftest import Cli
from tests.original_layout import export, export_xl
from tests.test_single_file import small

Header = dict[str, Any]
Version = str

V_YAML = 'model:\n  params:\n    # parameterization: "eps" is of the base model\n    parameterization: "v"  # café\n'
SGM_YAML = """model:
  params:
    denoiser_config:
      params:
        weighting_config: {target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting}
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling}
"""


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[Version, Header]:
    """The headers of whole checkpoints in the original layout, none of which says what it predicts."""
    folder = tmp_path_factory.mktemp("headers")
    checkpoints = {
        "sd1": export(small(1), 1),
        "sd2": export(small(2), 2),
        "sdxl": export_xl(test_single_file_xl.small()),
    }
    found = {}
    for version, tensors in checkpoints.items():
        safetensors.torch.save_file(tensors, folder / f"{version}.safetensors")
        found[version] = read_header(folder / f"{version}.safetensors")
    return found


def described(version: Version, path: Path, header: Header, stated: str | None = None) -> Any:
    return (single_file_xl if version == "sdxl" else single_file).describe(path, header, stated)


def text(name: str, content: str = V_YAML, encoding: str = "utf-8") -> Callable[[Path, Header], Header]:
    def write(folder: Path, header: Header) -> Header:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode(encoding))
        return header

    return write


def entry(*keys: str) -> Callable[[Path, Header], Header]:
    return lambda _, header: {**header, **{key: {"dtype": "F32", "shape": [0]} for key in keys}}


def metadata(**entries: str) -> Callable[[Path, Header], Header]:
    return lambda _, header: {**header, "__metadata__": entries}


HINTS: dict[str, Callable[[Path, Header], Header]] = {
    "a .yaml": text("Model.yaml"),
    "a .yml": text("Model.yml"),
    "another case": text("MODEL.YAML"),
    "the whole name": text("Model.safetensors.yaml"),
    "the only one of the folder": text("v2-inference-v.yaml"),
    "cp1252": text("Model.yaml", encoding="cp1252"),
    "UTF-8 with a mark": text("Model.yaml", encoding="utf-8-sig"),
    "UTF-16": text("Model.yaml", encoding="utf-16"),
    "UTF-16 without a mark": text("Model.yaml", encoding="utf-16-be"),
    "a .yaml of sgm": text("Model.yaml", SGM_YAML),
    "the entry v_pred": entry("v_pred"),
    "ModelSpec": metadata(**{"modelspec.prediction_type": "v"}),
    "ModelSpec in diffusers' word": metadata(**{"modelspec.prediction_type": "v_prediction"}),
    "a scheduler's configuration": text("scheduler_config.json", '{"prediction_type": "v_prediction"}'),
    "the one of a repository": text("scheduler/scheduler_config.json", '{"prediction_type": "v_prediction"}'),
}


@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("hint", HINTS)
def test_a_single_file_predicts_what_anything_says(
    hint: str, version: Version, headers: dict[Version, Header], tmp_path: Path
) -> None:
    (tmp_path / "Model.safetensors").touch()
    header = HINTS[hint](tmp_path, headers[version])
    layout = described(version, tmp_path / "Model.safetensors", header)
    assert (layout.prediction, layout.zero_terminal) == ("v_prediction", False)


@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
def test_the_user_states_what_nobody_says(
    version: Version, headers: dict[Version, Header], tmp_path: Path
) -> None:
    path, header = tmp_path / "model.safetensors", headers[version]
    assert described(version, path, header, "v_prediction").prediction == "v_prediction"
    assert described(version, path, header, "epsilon").prediction == "epsilon"
    if version == "sd2":
        with pytest.raises(BackboneError, match="--prediction"):
            described(version, path, header)
    else:
        assert described(version, path, header).prediction == "epsilon"


@pytest.mark.parametrize("version", ["sd1", "sdxl"])
def test_a_name_that_speaks_of_v_is_doubted(
    version: Version, headers: dict[Version, Header], tmp_path: Path
) -> None:
    with pytest.warns(HiperWarning, match="--prediction"):
        described(version, tmp_path / "noob-vPred-10.safetensors", headers[version])


@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("keys", "yaml"), [(("v_pred", "ztsnr"), ""), ((), V_YAML + "    zero_terminal_snr: True\n")]
)
def test_the_last_noise_level_may_be_noise_alone(
    keys: tuple[str, ...], yaml: str, version: Version, headers: dict[Version, Header], tmp_path: Path
) -> None:
    text("model.yaml", yaml)(tmp_path, {})
    header = entry(*keys)(tmp_path, headers[version])
    layout = described(version, tmp_path / "model.safetensors", header)
    assert (layout.prediction, layout.zero_terminal) == ("v_prediction", True)


CONTRADICTIONS: dict[str, tuple[Callable[[Path, Header], Header], str | None, str]] = {
    "the user and the file": (entry("v_pred"), "epsilon", "says epsilon|predicts epsilon"),
    "the user and the .yaml": (text("model.yaml"), "epsilon", "model.yaml"),
    "two .yaml files": (
        lambda folder, header: text("model.yml", "parameterization: eps")(
            folder, text("model.yaml")(folder, header)
        ),
        None,
        "model.yml",
    ),
    "noise alone and no v": (entry("ztsnr"), None, "ztsnr"),
    "noise alone and the noise": (entry("ztsnr"), "epsilon", "noise alone"),
    "the picture itself": (metadata(**{"modelspec.prediction_type": "sample"}), None, "'sample'"),
    "a .yaml of EDM": (
        text("model.yaml", SGM_YAML.replace("VScaling", "VScalingWithEDMcNoise")),
        None,
        "allowed are epsilon and v_prediction",
    ),
    "EDM beside it": (
        text("scheduler_config.json", '{"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}'),
        None,
        "'EDM'",
    ),
    "broken JSON beside it": (text("scheduler_config.json", "{"), None, "not valid JSON"),
}


@pytest.mark.parametrize("version", ["sd1", "sdxl"])
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused_in_a_line(
    case: str, version: Version, headers: dict[Version, Header], tmp_path: Path
) -> None:
    change, stated, words = CONTRADICTIONS[case]
    header = change(tmp_path, headers[version])
    with pytest.raises(BackboneError, match=words) as refusal:
        described(version, tmp_path / "model.safetensors", header, stated)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.usefixtures("vocabulary")
def test_a_v_model_of_sdxl_beside_its_yaml_is_fitted_towards_v(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(export_xl(test_single_file_xl.small()), path)
    text("model.yaml", SGM_YAML)(tmp_path, {})
    loaded = load_backbone(path, device="cpu", local_only=True)
    original = wrap(test_single_file_xl.small(prediction_type="v_prediction"))
    latents, noise, t = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([500])
    assert torch.equal(
        loaded.add_noise(latents, noise, t).target, original.add_noise(latents, noise, t).target
    )


def scheduler_changed(folder: Path, **changes: object) -> Path:
    path = folder / "scheduler" / "scheduler_config.json"
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in table.items() if value is not None}))
    return folder


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A folder of SD 1 whose scheduler does not say what the model predicts."""
    folder = tmp_path / "silent"
    tiny.pipeline("sd1").save_pretrained(folder)
    return scheduler_changed(folder, prediction_type=None)


@pytest.mark.slow
def test_the_user_states_what_a_folder_does_not_say(silent: Path) -> None:
    assert load_backbone(silent, device="cpu").objective == "epsilon"
    backbone = load_backbone(silent, device="cpu", prediction_type="v")
    assert backbone.objective == "v_prediction"
    scheduler_changed(silent, prediction_type="epsilon")
    with pytest.raises(BackboneError, match=r"scheduler_config\.json says epsilon"):
        load_backbone(silent, device="cpu", prediction_type="v_prediction")


@pytest.mark.slow
def test_a_stated_prediction_is_drawn_by_as_well(silent: Path) -> None:
    drawn = []
    for backbone in (
        load_backbone(silent, device="cpu", prediction_type="v_prediction"),
        load_backbone(scheduler_changed(silent, prediction_type="v_prediction"), device="cpu"),
    ):
        sentence = backbone.encode("a dog")
        drawn += [
            backbone.sample(
                sentence,
                [sentence],
                backbone.sampling_settings(
                    num_inference_steps=2, guidance_scale=1, scheduler=name, height=32, width=32
                ),
                seeds=[0],
            )
            .images[0]
            .tobytes()
            for name in ("ddim", "euler")
        ]
    assert drawn[:2] == drawn[2:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers and numpy 2
@pytest.mark.parametrize("family", ["sdxl", "pixart"])
def test_a_silent_folder_of_another_family_is_noted(family: str, tmp_path: Path) -> None:
    getattr(tiny_families, family)().save_pretrained(tmp_path)
    scheduler_changed(tmp_path, prediction_type=None)
    with pytest.warns(HiperWarning, match="--prediction"):
        load_backbone(tmp_path, device="cpu")
    stated = load_backbone(tmp_path, device="cpu", prediction_type="v_prediction")
    assert stated.objective == "v_prediction"


@pytest.mark.slow
def test_a_silent_folder_of_sd2_is_refused(tmp_path: Path) -> None:
    words = tiny.tokenizer("!")
    wide = {"text_encoder": tiny.text_encoder(len(words), 1024), "unet": tiny.unet(1024)}
    tiny.pipeline("sd2", **wide).save_pretrained(tmp_path)
    assert load_backbone(tmp_path, device="cpu").family == "sd2"
    scheduler_changed(tmp_path, prediction_type=None)
    with pytest.raises(BackboneError, match="--prediction"):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*diffusers' own are used")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction_type": "sample"}, "'sample'; allowed are epsilon and v_prediction"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "noise alone"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "steps_offset": 1},
            "other sigmas",
        ),
    ],
)
def test_schedules_of_other_objectives_are_refused(
    changes: dict[str, object], words: str, silent: Path
) -> None:
    scheduler_changed(silent, prediction_type="epsilon")
    config = silent / "scheduler" / "scheduler_config.json"
    if "_class_name" in changes:
        config.write_text(json.dumps(changes))
        index = json.loads((silent / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", changes["_class_name"]]
        (silent / "model_index.json").write_text(json.dumps(index))
    else:
        scheduler_changed(silent, **changes)
    with pytest.raises(BackboneError, match=words):
        load_backbone(silent, device="cpu")


def test_a_flow_has_nothing_to_state(tmp_path: Path) -> None:
    tiny_families.flux_dev().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="predicts a flow"):
        load_backbone(tmp_path, device="cpu", prediction_type="epsilon")


def test_a_flow_with_the_scheduler_of_a_diffusion_model_is_refused() -> None:
    pipe = tiny_families.flux_dev()
    pipe.scheduler = tiny.pipeline("sd1").scheduler
    with pytest.raises(BackboneError, match="PNDMScheduler"):
        wrap(pipe)


def test_an_unknown_prediction_is_an_option_error(silent: Path) -> None:
    with pytest.raises(OptionError, match="did you mean v_prediction"):
        load_backbone(silent, device="cpu", prediction_type="v_predicton2")


@pytest.mark.slow
def test_the_artifact_remembers(cli: Cli, silent: Path, dog: Path, tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    how = ("--device", "cpu")
    fitted = cli(
        *("fit", dog, "--caption", "a dog", "--backbone", silent, "--prediction", "v", "--out", out, *how),
        *("-o", "num_train_steps=1"),
    )
    assert fitted.status == 0, fitted.err
    assert Artifact.load(out).prediction_type == "v_prediction"
    drawing = ("edit", out, "a cat", "--num-inference-steps", "1", *how)
    drawn = cli(*drawing, "--out", tmp_path / "own")
    assert drawn.status == 0, drawn.err
    other = cli(*drawing, "--out", tmp_path / "other", "--backbone", silent)
    assert (other.status, "predicts v_prediction" in other.err) == (2, True)
    again = cli("rerun", next((tmp_path / "own").glob("*.png")), "--backbone", silent, "--json", *how)
    assert json.loads(again.out)["identical"]


@pytest.mark.slow
def test_the_same_weights_under_another_prediction_are_refused(silent: Path, dog: Path) -> None:
    subject = hiper.Subject.open(dog, caption="a dog")
    artifact = hiper.fit(load_backbone(silent, device="cpu", prediction_type="v"), subject, num_train_steps=1)
    with pytest.raises(ArtifactError, match="--prediction"):
        hiper.edit(load_backbone(silent, device="cpu"), artifact, "a cat", num_inference_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["the command line", "the job"])
def test_a_batch_is_told(by: str, cli: Cli, silent: Path, dog: Path, tmp_path: Path) -> None:
    job = {"image": str(dog), "caption": "a dog", "sentences": ["a cat"], "edit": {"num_inference_steps": 1}}
    job |= {"backbone": str(silent), "options": {"num_train_steps": 1}}
    option: tuple[str | Path, ...] = ("--backbone", silent, "--prediction", "v_prediction")
    if by == "the job":
        job, option = {**job, "prediction_type": "v"}, ()
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps(job))
    done = cli("batch", jobs, "--out", tmp_path / "out", "--device", "cpu", *option)
    assert done.status == 0, done.err
    [artifact] = (tmp_path / "out" / "jobs").glob("*/artifact.safetensors")
    assert Artifact.load(artifact).prediction_type == "v_prediction"


@pytest.mark.slow
def test_a_benchmark_is_told(silent: Path, tmp_path: Path) -> None:
    scheduler_changed(silent, prediction_type="epsilon")
    with pytest.raises(BackboneError, match="says epsilon"):
        run(
            SuiteSpec(name="critters", split=None, seed=0),
            str(silent),
            ["none"],
            tmp_path / "run",
            prediction_type="v_prediction",
        )


def test_every_command_that_loads_a_model_takes_the_option() -> None:
    commands: dict[str, Any] = {}

    def gather(group: Any) -> None:
        for name, command in group.commands.items():
            gather(command) if hasattr(command, "commands") else commands.update({name: command})

    gather(typer.main.get_command(app))
    taking = {
        name: {option for each in command.params for option in each.opts}
        for name, command in commands.items()
    }
    assert all("--prediction" in names for names in taking.values() if "--dtype" in names)
    assert sum("--prediction" in names for names in taking.values()) > 10
