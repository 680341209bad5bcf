"""Qwen2.5-Omni: sound alone and beside its video, against transformers' own processor, positions and forward."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from longrl.models import families, qwen2_5_omni
from longrl.models.families import StudentError
from longrl.models.shape import PUBLISHED, from_config
from longrl.mrsp import prefix
from longrl.mrsp.cache import EmbeddingCache
from longrl.mrsp.encode import encode_videos
from longrl.video import stories
from longrl.video.audio import RATE
from longrl.video.decode import FrameCache
from longrl.video.sample import FramePlan, plan_frames
from tests.families import build, logprobs_of, noise

WORDS = ["<think>red</think><answer>A</answer>", "the ball moves left and then right", "red"]
SPACING = 1.6  # seconds between temporal patches: below the two of a turn, where transformers is right
VALUES = 2e-5  # float32


def sound(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("omni"), "qwen2_5_omni")


@pytest.fixture(scope="module")
def student(folder):
    return families.load(folder)


@pytest.fixture(scope="module")
def plain(folder):
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()


SHOWN = {  # frames, sounds, and whether the sound is the video's own
    "audio": (0, [sound(5.3)], False),
    "two sounds": (0, [sound(5.3), sound(2.0, 1)], False),
    "video with its sound": (10, [sound(8.0)], True),
    "video that ends before its sound": (6, [sound(9.1)], True),
    "video that goes on after its sound": (14, [sound(3.2)], True),
    "video and another sound": (6, [sound(3.0)], False),
}


def theirs(plain, folder, text, frames, sounds, own):
    """transformers' processor and the thinker's keyword arguments for the same prompt."""
    processor = Qwen2_5OmniProcessor.from_pretrained(folder)
    content = [{"type": "video"}] if frames else []
    content += [] if own else [{"type": "audio"} for _ in sounds]
    words = processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": text}]}], add_generation_prompt=True
    )
    films = [torch.from_numpy(noise(frames).transpose(0, 3, 1, 2))] if frames else None
    inputs = processor(
        text=words, videos=films, audio=sounds, use_audio_in_video=own, fps=2 / SPACING, do_resize=False,
        do_sample_frames=False, seconds_per_chunk=2.0, position_id_per_seconds=plain.config.position_id_per_seconds,
        return_tensors="pt",
    )  # fmt: skip
    extra = {"use_audio_in_video": own}
    if frames:
        extra["video_second_per_grid"] = torch.as_tensor(inputs.pop("video_second_per_grid"))
    return dict(inputs) | extra


def ours(student, text, frames, sounds, own):
    """The same prompt with embeddings, as trainer and engine see it."""
    media, embeds = [], []
    with torch.no_grad():
        if frames:
            pixels, grid = student.patches(noise(frames))
            media, embeds = [student.chat.video(grid, SPACING)], student.encode([pixels], [grid])
        heard = student.hear(sounds)
    media += [student.chat.audio(len(each)) for each in heard]
    return student.chat.prompt(text, [tuple(media)] if own else media), (*embeds, *heard)


@pytest.mark.parametrize("name", SHOWN)
def test_the_forward_is_the_family_s_own_from_pixels_and_samples(student, plain, folder, name):
    prompt, embeds = ours(student, "what beeps", *SHOWN[name])
    inputs = theirs(plain, folder, "what beeps", *SHOWN[name])
    assert inputs["input_ids"][0].tolist() == prompt.expanded
    responses = [student.chat.response(text) for text in WORDS]
    with torch.no_grad():
        scored = prefix.group_logprobs(student, prompt, embeds, responses)
        for response, row in zip(responses, scored, strict=True):
            ids = torch.tensor([[*prompt.expanded, *response]])
            whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            plain.rope_deltas = None
            torch.testing.assert_close(
                row, logprobs_of(plain(**whole).logits[0], prompt, response), atol=VALUES, rtol=0
            )


@pytest.mark.parametrize("name", SHOWN)
def test_positions_are_transformers_own_where_patches_are_less_than_a_turn_apart(student, plain, folder, name):
    prompt, _ = ours(student, "what beeps", *SHOWN[name])
    inputs = theirs(plain, folder, "what beeps", *SHOWN[name])
    lengths = inputs["feature_attention_mask"].sum(-1)
    places, _ = plain.get_rope_index(
        inputs["input_ids"], None, inputs.get("video_grid_thw"), inputs["attention_mask"], inputs["use_audio_in_video"],
        lengths, inputs.get("video_second_per_grid"),
    )  # fmt: skip
    assert torch.equal(student.positions(prompt), places[:, 0])


def test_turns_go_by_time_where_patches_are_far_apart(student):
    """A patch every 7 s, 24 s of sound: each patch stands in the turn it belongs to, and all count from one start."""
    film, heard = student.chat.video((3, 4, 4), 7.0), student.chat.audio(48)
    pace = student.chat.pace
    assert (pace, film.times) == (2, (0.0, 14.0, 28.0))
    prompt = student.chat.prompt("what", [(film, heard)])
    (slot,) = prompt.slots
    video, audio = slot.pads
    inside = list(slot.expanded[1:-2])
    wanted = []
    for turn in range(12):  # of 4 tokens of sound each; the patches are in turns 0, 3 and 7
        wanted += [video] * 4 * (turn in (0, 3, 7)) + [audio] * 4
    assert inside == wanted
    places, start = student.positions(prompt), prompt.starts()[0]
    block = places[:, start : start + len(slot.expanded)] - places[:, start - 1 : start]
    assert block[:, 0].tolist() == [0, 0, 0]  # the second mark stands where the first one does
    assert block[:, -2:].unique().tolist() == [49]  # one after the last token of sound
    assert [int(t) for t in block[0, 1:-2][torch.tensor(inside) == audio]] == list(range(1, 49))
    assert block[0, 1:-2][torch.tensor(inside) == video].unique().tolist() == [1, 15, 29]


def test_a_long_sound_goes_through_the_tower_in_pieces_to_the_same_embeddings(student, monkeypatch):
    sounds = [sound(31.0), sound(7.4, 1), sound(12.0, 2)]
    with torch.no_grad():
        whole = student.hear(sounds)
        monkeypatch.setattr(qwen2_5_omni, "WINDOWS", 3)
        parts = student.hear(sounds)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_saved_student_loads_into_transformers_thinker_and_whole_model(student, folder, tmp_path):
    student.save(tmp_path)
    state = student.model.state_dict()
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    torch.save({}, tmp_path / "spk_dict.pt")  # the talker's voices, which lie in every published folder
    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(tmp_path)
    assert not whole.has_talker
    for loaded in (thinker, whole.thinker.state_dict()):
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A story with sound and a silent one: {name: path}."""
    root = tmp_path_factory.mktemp("films")
    for name, heard in (("heard", True), ("mute", False)):
        stories.write_film(root / f"{name}.mp4", stories.make_story(5, 2, heard))
    return {name: root / f"{name}.mp4" for name in ("heard", "mute")}


def test_the_cache_holds_video_and_sound_of_a_plan_together(student, films, tmp_path):
    cache, frames = EmbeddingCache(tmp_path / "embeddings"), FrameCache(tmp_path / "frames")
    beside, alone, seen = (plan_frames(20.0, 4, 56, 56, audio=how) for how in ("beside", "alone", "none"))
    wanted = [("f" * 64, films["heard"], plan) for plan in (beside, alone, seen)]
    found = encode_videos(student, cache, frames, wanted)
    film, heard = student.split("video", beside, found["f" * 64, beside.digest].embeds)
    assert [medium.kind for medium in student.media("video", beside)] == ["video", "audio"]
    torch.testing.assert_close(film, found["f" * 64, seen.digest].embeds)
    torch.testing.assert_close(heard, found["f" * 64, alone.digest].embeds, atol=1e-5, rtol=0)
    assert len(heard) == 40  # two a second
    assert cache.encodes == 3
    again = encode_videos(student, EmbeddingCache(tmp_path / "embeddings"), frames, wanted)
    assert torch.equal(again["f" * 64, beside.digest].embeds, found["f" * 64, beside.digest].embeds)


def test_a_silent_video_is_left_out_with_the_reason_and_the_others_go_on(student, films, tmp_path):
    cache, frames = EmbeddingCache(tmp_path / "embeddings"), FrameCache(tmp_path / "frames")
    plan, failures = plan_frames(20.0, 4, 56, 56, audio="beside"), {}
    wanted = [(name[0] * 64, path, plan) for name, path in films.items()]
    found = encode_videos(student, cache, frames, wanted, failures)
    assert list(found) == [("h" * 64, plan.digest)]
    assert list(failures) == ["m" * 64]
    assert "mute.mp4 has no sound track" in failures["m" * 64]


def test_a_family_without_ears_says_so(loaded_student):
    with pytest.raises(StudentError, match=r"Qwen2_5_VL does not hear; set frames\.audio=none"):
        loaded_student.media("video", FramePlan((0.0, 1.0), 56, 56, (0.0, 2.0)))


def test_a_sound_of_no_token_is_refused(student):
    with pytest.raises(StudentError, match=r"0-0\.2 s is too short a sound"):
        student.media("video", FramePlan((), 0, 0, (0.0, 0.2)))


def test_the_plan_counts_both_towers(student, folder):
    shape = from_config(json.loads((folder / "config.json").read_text()))
    assert shape.parameters == sum(p.numel() for p in student.model.parameters())
    assert shape.ears == sum(p.numel() for p in student.ears.parameters())
    assert shape.sound_rate == student.chat.pace
    billions = {name: round(from_config(PUBLISHED[name]).parameters / 1e9, 2) for name in PUBLISHED if "Omni" in name}
    assert billions == {"Qwen2.5-Omni-3B": 4.7, "Qwen2.5-Omni-7B": 8.93}  # thinkers
