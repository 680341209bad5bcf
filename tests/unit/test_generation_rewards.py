"""Rewards of pictures and clips: rules on pixels with known answers, scorers on a tiny CLIP, and bad ones."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from longrl.config import GenerateRlSettings, TeacherServer
from longrl.diffusion import world
from longrl.diffusion.rewards import RewardError, Rewards, code, rules, told
from longrl.diffusion.rewards.quality import QualityError
from longrl.diffusion.rewards.scorers import ScorerError
from tests.stages.misbehaving_server import MisbehavingServer

PROMPT = ["a red ball"]


def plain(red, green, blue, frames=1):
    """One sample of a single colour."""
    return np.broadcast_to(np.array([red, green, blue], np.float32), (1, frames, 8, 8, 3)).copy()


def rewards(weights, **changes):
    return Rewards(GenerateRlSettings(rewards=weights, **changes))


@pytest.mark.parametrize(
    ("name", "pixels", "value"),
    [
        ("brightness", plain(1, 1, 1), 1.0),
        ("brightness", plain(0, 1, 0), 0.587),
        ("saturation", plain(1, 0.25, 0.5), 0.75),
        ("contrast", plain(0.3, 0.3, 0.3), 0.0),
        ("colour", plain(0.9, 0.1, 0.1), 1.0),
        ("colour", plain(0.1, 0.1, 0.9), 0.0),
        ("colour", plain(0.5, 0.5, 0.5), 0.0),
        ("symmetry", plain(1, 0, 0), 1.0),
        ("sharpness", plain(1, 0, 0), 0.0),
        ("motion", plain(1, 0, 0, frames=4), 0.0),
        ("consistency", plain(1, 0, 0), 1.0),
        ("smoothness", plain(1, 0, 0, frames=4), 1.0),
    ],
)
def test_rules_of_plain_pictures(name, pixels, value):
    assert rules.BUILT_IN[name](pixels, PROMPT)[0] == pytest.approx(value, abs=1e-3)


def test_half_a_picture_counts_half():
    pixels = plain(0, 0, 0)
    pixels[:, :, :, :4] = (1, 0, 0)
    assert rules.colour(pixels, PROMPT)[0] == pytest.approx(0.5)
    assert rules.symmetry(pixels, PROMPT)[0] == pytest.approx(1 - 1 / 3)
    assert rules.colour(pixels, ["a ball"])[0] == 0.0


def test_flicker_is_less_smooth_and_less_consistent_than_motion():
    ramp = np.linspace(0, 1, 8, dtype=np.float32)
    still = np.tile(ramp[None, None, None, :, None], (1, 6, 8, 1, 3))
    moving = np.stack([np.roll(still[:, 0], step, axis=2) for step in range(6)], 1)
    flicker = still * np.array([1, 0.2] * 3, np.float32)[None, :, None, None, None]
    assert rules.smoothness(still, PROMPT)[0] == pytest.approx(1.0)
    assert rules.smoothness(flicker, PROMPT)[0] < rules.smoothness(np.clip(still + 0, 0, 1), PROMPT)[0]
    fading = still * np.linspace(1, 0.5, 6, dtype=np.float32)[None, :, None, None, None]
    assert rules.smoothness(flicker, PROMPT)[0] < rules.smoothness(fading, PROMPT)[0]
    assert rules.consistency(moving, PROMPT)[0] < rules.consistency(still, PROMPT)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("frames", [1, 5])
def test_likeness_knows_a_rendering_from_an_empty_ground_a_flood_and_another_scene(frames):
    draw, scenes = np.random.default_rng(0), world.scenes(moving=frames > 1)[::5]
    prompts = [scene.prompt for scene in scenes]
    own = np.stack([world.render(scene, frames, 32, 32, draw) for scene in scenes])
    empty = np.stack([np.full_like(own[0], world.GROUNDS[scene.ground]) for scene in scenes])
    flood = np.stack([np.broadcast_to(np.float32(world.COLOURS[scene.colour]), own[0].shape) for scene in scenes])
    assert rules.BUILT_IN["scene"](own, prompts).mean() > 0.7
    assert rules.BUILT_IN["scene"](empty, prompts) == pytest.approx(0, abs=1e-6)
    assert rules.BUILT_IN["scene"](flood, prompts) == pytest.approx(-1)
    assert rules.BUILT_IN["scene"](own, prompts[1:] + prompts[:1]).mean() < -0.5
    assert rules.BUILT_IN["scene"](own[:1], ["a dog"]) == 0


def test_likeness_is_the_distance_from_the_nearest_rendering():
    scene = world.Scene("small", "red", "square", "grey")
    mask = world.covered("square", 0.5 + 3 / 32, 0.5 - 5 / 32, world.SIZES["small"], 32, 32)[None, :, :, None]
    shade = np.array(world.COLOURS["red"]) - 0.5
    ideal = 0.5 + mask * shade
    noisy = ideal + 0.05 * np.random.default_rng(0).standard_normal(ideal.shape)
    distance = ((noisy - ideal) ** 2).sum() / ((mask * shade) ** 2).sum()
    assert world.likeness(np.stack([ideal, noisy]), [scene.prompt] * 2) == pytest.approx([1, 1 - distance])


def test_weights_add_up_and_may_be_negative():
    scores = rewards({"brightness": 2.0, "saturation": -1.0})(plain(1, 0, 0), PROMPT)
    assert scores.total[0] == pytest.approx(2 * 0.299 - 1.0, abs=1e-5)
    assert told({"brightness": 2.0, "saturation": -1.0}) == "2 brightness - 1 saturation"


def own(tmp_path, body):
    (tmp_path / "mine.py").write_text(f"import numpy as np\ndef mine(pixels, prompts):\n    return {body}\n")
    return f"{tmp_path}/mine.py:mine"


def test_a_function_of_one_s_own_is_called_and_its_code_is_part_of_the_key(tmp_path):
    name = own(tmp_path, "pixels[..., 0].mean((1, 2, 3))")
    assert rewards({name: 1.0})(plain(0.25, 0, 0), PROMPT).total[0] == pytest.approx(0.25)
    before = code(GenerateRlSettings(rewards={name: 1.0}))
    own(tmp_path, "[0.0]")
    assert code(GenerateRlSettings(rewards={name: 1.0})) != before


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[1.0, 2.0]", r"one number for each of the 1 samples, not an array of shape \(2,\)"),
        ("1.0", r"one number for each of the 1 samples, not an array of shape \(\)"),
        ("['good']", "must return 1 numbers, not list"),
        ("pixels[7]", "failed on 1 samples, the first of 'a red ball': IndexError"),
    ],
)
def test_a_reward_that_does_not_return_a_number_a_sample_is_named(tmp_path, body, words):
    with pytest.raises(RewardError, match=rf"reward \S+mine.py:mine .*{words}"):
        rewards({own(tmp_path, body): 1.0})(plain(1, 0, 0), PROMPT)


def test_a_nan_is_told_with_its_reward_and_has_no_total(tmp_path):
    name = own(tmp_path, "[float('nan'), 1.0]")
    scores = rewards({name: 1.0, "brightness": 1.0})(np.concatenate([plain(1, 0, 0)] * 2), PROMPT * 2)
    assert scores.culprits == (name,)
    assert np.isnan(scores.total).tolist() == [True, False]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "at least one reward"),
        ({"beauty": 1.0}, "unknown reward 'beauty'"),
        ({"clip": 1.0}, "needs its model's folder: clip:/path"),
    ],
)
def test_settings_of_rewards_that_make_no_sense_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        GenerateRlSettings(rewards=weights)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A random CLIP with a tokenizer and an image processor, as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", "<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": 1}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


PICTURES = np.random.default_rng(0).random((3, 1, 16, 16, 3), np.float32)
WORDS = ["a red ball", "a dog " * 30, "x"]


def test_a_clip_score_is_the_cosine_that_transformers_computes(clip):
    from transformers import CLIPModel, CLIPProcessor

    found = rewards({f"clip:{clip}": 1.0})(PICTURES, WORDS).total
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    frames = list((PICTURES[:, 0] * 255).round().astype(np.uint8))
    inputs = processor(text=WORDS, images=frames, return_tensors="pt", padding=True, truncation=True, max_length=20)
    with torch.no_grad():
        scale = model.logit_scale.exp()
        expected = (model(**inputs).logits_per_image / scale).diag()
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert rewards({f"pickscore:{clip}": 1.0})(PICTURES, WORDS).total == pytest.approx(found * scale.item() / 100)


def test_a_clip_s_frames_are_averaged(clip):
    film = PICTURES.transpose(1, 0, 2, 3, 4)
    one = rewards({f"hps:{clip}": 1.0})
    assert one(film, ["a"]).total[0] == pytest.approx(one(PICTURES, ["a"] * 3).total.mean(), abs=1e-6)


def test_an_aesthetic_predictor_takes_the_clip_s_embedding(clip, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = tmp_path / "aesthetic"
    shutil.copytree(clip, folder)
    with pytest.raises(ScorerError, match=r"neither predictor\.safetensors nor predictor\.pth"):
        rewards({f"aesthetic:{folder}": 1.0})
    weights = {"layers.0.weight": torch.randn(5, 12), "layers.0.bias": torch.randn(5),
               "layers.10.weight": torch.randn(1, 5), "layers.10.bias": torch.randn(1)}  # fmt: skip
    save_file(weights, folder / "predictor.safetensors")
    scorer = rewards({f"aesthetic:{folder}": 1.0})
    (function,) = scorer.functions.values()
    with torch.no_grad():
        embeds = function.pictures((PICTURES[:, 0] * 255).round().astype(np.uint8))
        hidden = embeds @ weights["layers.0.weight"].T + weights["layers.0.bias"]
        expected = (hidden @ weights["layers.10.weight"].T + weights["layers.10.bias"])[:, 0] / 10
    assert scorer(PICTURES, WORDS).total == pytest.approx(expected.numpy(), abs=1e-5)
    save_file(
        {"layers.0.weight": torch.randn(1, 768), "layers.0.bias": torch.randn(1)}, folder / "predictor.safetensors"
    )
    with pytest.raises(ScorerError, match="takes embeddings of 768 numbers, this CLIP gives 12"):
        rewards({f"aesthetic:{folder}": 1.0})


def test_a_scorer_s_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ScorerError, match=rf"reward clip:{tmp_path}: there is no config\.json"):
        rewards({f"clip:{tmp_path}": 1.0})


def test_brisque_likes_a_picture_better_than_its_noisy_copy_or_says_what_to_install():
    if importlib.util.find_spec("brisque") is None:
        with pytest.raises(QualityError, match="pip install brisque"):
            rewards({"brisque": 1.0})
        return
    scorer = rewards({"brisque": 1.0})
    draws, f = np.random.default_rng(0), np.fft.fftfreq(128)
    radius = np.hypot(*np.meshgrid(f, f))
    radius[0, 0] = 1 / 128
    texture = np.fft.ifft2(np.fft.fft2(draws.normal(size=(128, 128))) / radius**1.3).real  # a spectrum as photos have
    natural = np.stack([(texture - texture.min()) / np.ptp(texture)] * 3, -1).astype(np.float32)
    noisy = np.clip(natural + draws.normal(0, 0.2, natural.shape), 0, 1).astype(np.float32)
    blocky = natural.reshape(16, 8, 16, 8, 3).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    marks = scorer(np.stack([natural, noisy, blocky])[:, None], ["a", "b", "c"]).total
    assert marks[0] > marks[1:].max() + 0.1


def test_a_judge_marks_pictures_and_what_it_does_not_say_is_nan():
    def judge(handler):
        parts = handler.body["messages"][0]["content"]
        assert parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
        good = "red" in parts[-1]["text"]
        content = json.dumps({"reason": "", "score": 8}) if good else "I will not say."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        handler.send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    with MisbehavingServer(judge) as server:
        scorer = rewards({"judge": 1.0}, server=TeacherServer(base_url=server.url, retries=0))
        scores = scorer(PICTURES[:2], ["a red ball", "a dog"])
    assert scores.total[0] == pytest.approx(0.8)
    assert np.isnan(scores.total[1])
    assert scores.culprits == ("judge",)
