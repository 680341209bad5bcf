"""Each family against diffusers' own pipeline: the same prompt and noise give the same picture, to rounding."""

import json
from functools import cached_property

import pytest
import torch
from diffusers import DiffusionPipeline

from longrl.config import GenerateRlSettings, SamplingSettings
from longrl.diffusion.families import FAMILIES, GeneratorError, family_of
from longrl.diffusion.policy import Policy, save_adapter, trained
from longrl.diffusion.sampler import Velocity, draw, seeded
from longrl.diffusion.schedule import levels
from longrl.diffusion.sde import logprob, transition
from tests.tiny_generator import SIZES, build, prompts

STEPS = 4


class Loaded:
    """A tiny generator with two prompts and the negative one encoded."""

    def __init__(self, name, folder):
        self.folder = build(name, folder)
        self.settings, self.family = SIZES[name], family_of(self.folder)
        self.transformer = self.family.transformer(self.folder, torch.float32, "cpu").eval()
        self.autoencoder = self.family.autoencoder(self.folder, "cpu")
        self.prompts = prompts(name)[:2]
        text = self.family.load_text(self.folder, "cpu")
        with torch.no_grad():
            self.words = self.family.encode(text, self.prompts, self.settings)
            self.negative = self.family.encode(text, [""], self.settings)
        self.shape = self.family.latent_shape(self.folder, self.settings)
        self.levels = levels(self.family, self.folder, STEPS, self.family.tokens(self.folder, self.shape))
        self.noise = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(0))

    @cached_property
    def pipeline(self):
        """Diffusers' own."""
        pipeline = DiffusionPipeline.from_pretrained(self.folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def velocity(self, guidance):
        return Velocity(self.family, self.transformer, self.negative, guidance)


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request, tmp_path_factory):
    return Loaded(request.param, tmp_path_factory.mktemp(request.param))


def by_diffusers(one, guidance):
    pipeline = one.pipeline
    common = {"prompt": one.prompts, "num_inference_steps": STEPS, "height": 16, "width": 16, "output_type": "pt"}
    common["max_sequence_length"] = one.settings.prompt_tokens
    if one.family.name == "flux":
        packed = pipeline._pack_latents(one.noise, 2, *one.shape)
        return pipeline(**common, true_cfg_scale=guidance, negative_prompt=[""] * 2, latents=packed).images[:, None]
    if one.family.name == "wan":
        return pipeline(**common, num_frames=5, guidance_scale=guidance, latents=one.noise).frames
    return pipeline(**common, guidance_scale=guidance, latents=one.noise).images[:, None]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_ode_draws_what_diffusers_draws(loaded, guidance):
    drawn = draw(loaded.velocity(guidance), loaded.noise, loaded.words, loaded.levels)
    with torch.no_grad():
        pixels = loaded.family.decode(loaded.autoencoder, drawn.final)
    theirs = by_diffusers(loaded, guidance)
    assert pixels.shape == theirs.shape
    torch.testing.assert_close(pixels, theirs, atol=2e-5, rtol=0)


def test_rollouts_can_be_scored_again_and_do_not_depend_on_their_batch(loaded):
    sampling, steps = SamplingSettings(steps=STEPS, window=2, guidance=2.0), range(1, 3)
    velocity = loaded.velocity(2.0)
    both = draw(velocity, loaded.noise, loaded.words, loaded.levels, sampling, steps, [seeded(1), seeded(2)])
    assert both.states.shape == (2, 3, *loaded.shape)
    for place, step in enumerate(steps):
        chance = transition(loaded.levels[step], loaded.levels[step + 1], sampling.noise, sampling.noise_level)
        t = torch.full((2,), loaded.levels[step])
        with torch.no_grad():
            found = velocity(both.states[:, place], t, loaded.words)
        again = logprob(both.states[:, place + 1], chance.mean(both.states[:, place], found), chance.std)
        torch.testing.assert_close(again, both.logprobs[:, place], atol=1e-5, rtol=0)
    second = {name: rows[1:] for name, rows in loaded.words.items()}
    alone = draw(velocity, loaded.noise[1:], second, loaded.levels, sampling, steps, [seeded(2)])
    torch.testing.assert_close(alone.final[0], both.final[1], atol=1e-4, rtol=0)


def test_latents_come_back_in_their_shape(loaded):
    frames = loaded.settings.frames
    pixels = torch.rand(1, frames, 3, 16, 16)
    latents = loaded.family.compress(loaded.autoencoder, pixels)
    assert latents.shape[1:] == loaded.shape
    loaded.family.rescale(loaded.autoencoder, latents)
    again = loaded.family.compress(loaded.autoencoder, pixels)
    assert again.mean().abs() < 1e-3
    assert again.std() == pytest.approx(1.0, abs=0.05)


def test_a_size_that_the_pipeline_can_not_draw_is_refused(loaded):
    with pytest.raises(GeneratorError, match=r"height and width are 18 and 16; .* draws multiples of"):
        loaded.family.latent_shape(loaded.folder, loaded.settings.model_copy(update={"height": 18}))


def test_a_picture_has_one_frame(loaded):
    if not loaded.family.video:
        with pytest.raises(GeneratorError, match=r"frames is 4, but a .* pipeline draws pictures"):
            loaded.family.latent_shape(loaded.folder, loaded.settings.model_copy(update={"frames": 4}))


def test_a_wan_as_published_shrinks_time_by_four(tmp_path):
    for part, config in (
        ("vae", {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}),
        ("transformer", {"patch_size": [1, 2, 2]}),
    ):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    wan, sizes = FAMILIES["wan"], SIZES["wan"].model_copy(update={"height": 480, "width": 832, "frames": 81})
    assert wan.latent_shape(tmp_path, sizes) == (16, 21, 60, 104)
    assert wan.tokens(tmp_path, (16, 21, 60, 104)) == 32_760  # as Wan's own code counts them
    with pytest.raises(GeneratorError, match=r"frames is 80; this wan pipeline draws 4 k \+ 1 frames, such as 77"):
        wan.latent_shape(tmp_path, sizes.model_copy(update={"frames": 80}))


def test_the_tiny_autoencoders_average_pixels_and_repeat_them(loaded):
    frames = loaded.settings.frames
    pixels = torch.rand(2, frames, 3, 16, 16)
    with torch.no_grad():
        back = loaded.family.decode(loaded.autoencoder, loaded.family.compress(loaded.autoencoder, pixels))
    halves = torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), 2)
    expected = halves.repeat_interleave(2, 2).repeat_interleave(2, 3).view_as(pixels)
    torch.testing.assert_close(back, expected, atol=2e-3, rtol=0)


def test_an_adapter_is_loaded_with_the_strength_it_was_trained_with(loaded, tmp_path):
    settings = GenerateRlSettings(lora_rank=4, lora_alpha=12)
    policy = Policy(loaded.family, loaded.family.transformer(loaded.folder, torch.float32, "cpu").eval(), settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.transformer.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    save_adapter(policy, tmp_path / "lora")
    again = trained(loaded.family, loaded.folder, tmp_path, torch.float32, "cpu")
    t = torch.tensor([0.5, 0.9])
    with torch.no_grad():
        ours, theirs, before = (
            loaded.family.velocity(one, loaded.noise, t, loaded.words)
            for one in (policy.transformer, again, loaded.transformer)
        )
        with policy.reference() as reference:
            back = loaded.family.velocity(reference, loaded.noise, t, loaded.words)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    torch.testing.assert_close(back, before, atol=1e-6, rtol=0)
    assert (ours - before).abs().max() > 1e-2


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match=r"generator\.path=.* no folder of a diffusers pipeline.*model_index"):
        family_of(tmp_path)


def test_a_pipeline_of_another_class_is_refused_by_name(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(GeneratorError, match=r"is a StableDiffusionXLPipeline; longrl trains StableDiffusion3Pipeline"):
        family_of(tmp_path)


def test_half_a_download_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    (tmp_path / "vae").mkdir()
    with pytest.raises(GeneratorError, match="lacks transformer, scheduler; download the whole pipeline"):
        family_of(tmp_path)
