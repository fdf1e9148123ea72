"""Captions by networks built and taught on the spot, and by the world's reader against the true ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import (
    AutoProcessor,
    BartTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)

from hiper.artifacts import Artifact
from hiper.critters import bare_caption, describe, draw_scene, render
from hiper.errors import BackboneError, CaptionError
from hiper.images import png_bytes
from hiper.metrics import Captioner
from tests import local_hub, tiny
from tests.conftest import Cli

SIDE = 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "blue", "dog", "cat"]
SAYINGS = {"red": "a red dog", "blue": "a blue cat"}


def blip_model(**text: int) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": 5, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3, **text}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BlipConfig(
        text_config={"vocab_size": len(WORDS), "encoder_hidden_size": 32, **sizes, **marks, **plain},
        vision_config={"image_size": SIDE, "patch_size": 16, **sizes},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BlipForConditionalGeneration(config)


def saved_blip(folder: Path, model: Any) -> Path:
    words = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, additional_special_tokens=["[DEC]", "[ENC]"]
    )
    model.eval().save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP that was taught to call red pictures a red dog and blue ones a blue cat."""
    folder = saved_blip(tmp_path_factory.mktemp("captioners") / "blip", blip_model())
    model = BlipForConditionalGeneration.from_pretrained(folder)
    pixels, ids = [], []
    processor = AutoProcessor.from_pretrained(folder)
    for colour, saying in SAYINGS.items():
        pixels.append(processor(images=Image.new("RGB", (64, 64), colour), return_tensors="pt").pixel_values)
        ids.append([5, *(WORDS.index(word) for word in saying.split()), 3])
    labels = torch.tensor(ids)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model(pixel_values=torch.cat(pixels), input_ids=labels, labels=labels).loss.backward()
        optimiser.step()
    return saved_blip(folder, model)


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = [*map(chr, range(33, 127)), "Ġ"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>", "<image>"]
    words = BartTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    wide = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128}
    marks = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = Florence2Config(
        text_config={
            "vocab_size": len(words),
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
            **sizes,
            **heads,
            **wide,
            **marks,
        },
        vision_config={
            "embed_dim": (8, 16, 16, 32),
            "num_heads": (1, 2, 2, 2),
            "num_groups": (1, 2, 2, 2),
            "depths": (1, 1, 1, 1),
            "projection_dim": 32,
            "window_size": 4,
            "max_position_embeddings": 10,
        },
        image_token_id=words.image_token_id,
        **marks,
    )
    folder = tmp_path_factory.mktemp("captioners") / "florence"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Florence2ForConditionalGeneration(config).eval().save_pretrained(folder)
    size = {"height": 64, "width": 64}
    looks = CLIPImageProcessorPil(size=size, do_center_crop=False, image_seq_length=5)
    Florence2Processor(looks, words).save_pretrained(folder)
    return folder


def refused(place: Path | str) -> str:
    with pytest.raises(BackboneError) as caught:
        Captioner.load(place, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("colour", SAYINGS)
def test_a_picture_is_called_what_the_network_was_taught(blip: Path, colour: str) -> None:
    captioner = Captioner.load(blip, device="cpu")
    picture = Image.new("RGB", (100, 70), colour)
    said = captioner.caption(picture)
    assert said == SAYINGS[colour]
    assert captioner.caption(picture) == said


@pytest.mark.slow
def test_florence_is_asked_for_a_caption(florence: Path) -> None:
    """As transformers itself does it, question and all."""
    picture = tiny.picture()
    processor = AutoProcessor.from_pretrained(florence)
    model = Florence2ForConditionalGeneration.from_pretrained(florence)
    inputs = processor(images=picture, text="<CAPTION>", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=60, num_beams=3, do_sample=False)
    expected = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert expected
    assert Captioner.load(florence, device="cpu").caption(picture) == expected


def test_a_network_without_words_is_told(tmp_path: Path) -> None:
    mute = blip_model()
    with torch.no_grad():
        mute.text_decoder.cls.predictions.bias.fill_(-100)[3] = 100  # the end mark, always
    captioner = Captioner.load(saved_blip(tmp_path, mute), device="cpu")
    with pytest.raises(CaptionError, match="finds no words"):
        captioner.caption(tiny.picture())


def test_what_is_no_captioner_is_refused(tmp_path: Path, model_folder: Path, blip: Path) -> None:
    assert "BlipForConditionalGeneration or Florence2ForConditionalGeneration" in refused(model_folder)
    assert "no such folder" in refused(tmp_path / "none")
    assert "hf download" in refused("owner/captioner")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "allowed is blip and florence2" in refused(tmp_path)
    for file in blip.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "may run code" in refused(tmp_path)


@pytest.mark.slow
def test_the_world_is_described_by_its_own_reader() -> None:
    scenes = [draw_scene(10**9 + i) for i in range(30)]
    right = sum(describe(render(scene, 64)) == bare_caption(scene) for scene in scenes)
    assert right >= 27


# on the command line


def fit(cli: Cli, out: Path, *more: str | Path) -> Any:
    return cli("fit", *more, "--caption", "auto", "--out", out, "-o", "num_train_steps=1", "--device", "cpu")


@pytest.mark.slow
def test_the_caption_is_told_and_kept(cli: Cli, tmp_path: Path, blip: Path, model_folder: Path) -> None:
    Image.new("RGB", (80, 80), "red").save(tmp_path / "dog.png")
    out = tmp_path / "dog.safetensors"
    done = fit(cli, out, tmp_path / "dog.png", "--captioner", blip, "--backbone", model_folder)
    caption = Artifact.load(out).caption
    assert done.status == 0
    assert caption == "a red dog"
    assert f"hiper: note: the caption is {caption!r}" in done.err


@pytest.mark.slow
def test_on_critters_no_captioner_is_needed(cli: Cli, tmp_path: Path) -> None:
    scene = draw_scene(10**9)
    (tmp_path / "it.png").write_bytes(png_bytes(render(scene, 64)))
    out = tmp_path / "it.safetensors"
    assert fit(cli, out, tmp_path / "it.png").status == 0
    assert Artifact.load(out).caption == bare_caption(scene)


def test_a_captioner_is_never_chosen_for_the_user(
    cli: Cli, tmp_path: Path, dog: Path, blip: Path, model_folder: Path
) -> None:
    """The guard in conftest fails on any connection."""
    out = tmp_path / "dog.safetensors"
    fit(cli, out, dog, "--backbone", model_folder, "--quiet").refusal("--captioner", "BLIP")
    words = ("--caption", "a dog", "--captioner", blip, "--out", out)
    cli("fit", dog, *words, "--quiet").refusal("--captioner is for --caption auto")
    assert not out.exists()


def test_a_captioner_of_the_hub_is_fetched_when_named(
    cli: Cli, tmp_path: Path, dog: Path, blip: Path, model_folder: Path, at_hub: Callable[[str], None]
) -> None:
    out = tmp_path / "dog.safetensors"
    with local_hub.serve(blip, "owner/captioner") as address:
        at_hub(address)
        done = fit(cli, out, dog, "--captioner", "owner/captioner", "--backbone", model_folder)
    assert done.status == 0, done
    assert Artifact.load(out).caption
    assert list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
