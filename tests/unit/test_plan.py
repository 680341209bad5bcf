"""The plan: sizes and arithmetic against published numbers and hand calculation; the degree; the command."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from longrl.cli import main
from longrl.config import ModelSettings, load_config, recipes
from longrl.models.published import PUBLISHED
from longrl.models.shape import Shape, ShapeError, from_config, shape_of
from longrl.models.towers import qwen2_5_vl
from longrl.mrsp.costs import Machine, Work, activation_bytes, all_to_all, host_bytes, layer_bytes, memory, seconds
from longrl.mrsp.degree import DegreeError, check_degree, legal_degrees
from longrl.mrsp.plan import LIGHTER, USABLE, PlanError, choose, describe, laid_out, work_of

SMALL = Shape(
    layers=2,
    hidden=8,
    heads=2,
    key_heads=1,
    feed_forward=16,
    vocabulary=10,
    tied=True,
    tower=qwen2_5_vl(
        {
            "depth": 2,
            "hidden_size": 4,
            "intermediate_size": 6,
            "out_hidden_size": 8,
            "fullatt_block_indexes": [1],
            "window_size": 112,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
    ),
)
THREE, SEVEN = (from_config(PUBLISHED[f"Qwen2.5-VL-{size}-Instruct"]) for size in ("3B", "7B"))


def test_parameters_are_the_published_ones():
    assert (THREE.parameters, SEVEN.parameters) == (3_754_622_976, 8_292_166_656)
    assert (THREE.text_parameters, SEVEN.text_parameters) == (3_085_938_688, 7_615_616_512)  # Qwen2.5's own


def test_so_are_those_of_qwen3():
    """What transformers builds from these configurations, counted parameter by parameter."""
    four, eight = (from_config(PUBLISHED[f"Qwen3-VL-{size}-Instruct"]) for size in ("4B", "8B"))
    assert (four.tower_parameters, four.parameters) == (415_347_712, 4_437_815_808)
    assert (eight.tower_parameters, eight.parameters) == (576_388_336, 8_767_123_696)
    text = from_config(PUBLISHED["Qwen3-4B"])
    assert (text.parameters, text.tower_parameters, text.video_tokens(64, 224, 448)) == (four.text_parameters, 0, 0)


def test_deepstack_is_cached_and_times_are_text():
    eight = from_config(PUBLISHED["Qwen3-VL-8B-Instruct"])
    assert eight.embedding_width == 4 * 4096
    assert eight.video_tokens(64, 224, 448) == 32 * 7 * 14
    assert (eight.stamps(64), SEVEN.stamps(64)) == (320, 0)


def test_an_unknown_family_is_named():
    with pytest.raises(ShapeError, match=r"sizes of a 'other' model are not known to the plan \(known: qwen2_vl, "):
        from_config(PUBLISHED["Qwen2.5-VL-3B-Instruct"] | {"model_type": "other"})


def test_a_published_name_needs_no_folder_and_another_one_does():
    assert shape_of(ModelSettings(path="models/Qwen2.5-VL-7B-Instruct")) == SEVEN
    with pytest.raises(ShapeError, match=r"models/Other has no config\.json.*Qwen2\.5-VL-3B-Instruct"):
        shape_of(ModelSettings(path="models/Other"))


def test_arithmetic_of_a_group_by_hand():
    # A layer's matrices: 8 x (8 + 8 query and output, 4 + 4 key and value, 3 x 16 feed-forward) = 576 weights.
    # 2 x 3 tokens see 2 x (3 x 4 + 3 x 3 / 2) pairs in each layer: 33. In all but the last the prompt's see 4 x 4 / 2.
    # The last layer has no feed-forward part for the prompt's 4 tokens.
    flops = SMALL.group(prompt=4, responses=2, response=3)
    assert flops.matrices == 2 * (10 * 2 * 576 - 4 * 3 * 16 * 8) + 2 * 6 * 10 * 8 == 20_928
    assert flops.attention == 4 * (33 * 2 + 8) * 8 == 2_368
    assert flops.training() == 3 * 20_928 + 3.5 * 2_368
    assert flops.training(recompute=True) == 4 * 20_928 + 4.5 * 2_368
    whole = SMALL.row(prompt=4, response=0)  # as an engine computes it: all of each layer
    assert (whole.matrices, whole.attention) == (2 * 4 * 2 * 576, 4 * 8 * 8 * 2)


def test_arithmetic_of_the_tower_by_hand():
    # 4 frames of 28 x 28: 2 temporal patches of 4, a window holds them all. A block has 4 x 4 x 4 + 3 x 4 x 6 weights.
    flops = SMALL.encode(frames=4, height=28, width=28)
    assert flops.matrices == 2 * 8 * (2 * 136 + 1176 * 4) + 2 * 2 * (16 * 16 + 16 * 8)
    assert flops.attention == 4 * 8 * (4 + 4) * 4
    assert SMALL.video_tokens(4, 28, 28) == 2


def test_activations_by_hand():
    # norms 2 x (8 + 1), attention 2 x 8 + 2 x 4, feed-forward 2 x 16: 74 numbers, and 2 log-sum-exps.
    assert layer_bytes(SMALL, 4) == 74 * 4 + 8 == 304
    rest = (2 * 8 + 1) * 4  # the final norm
    hidden, within = 2 * 8 * 4, 3 * 16 * 4  # gradients around a layer and in its feed-forward part
    few = Work(prompt=4, video=2, response=3, group=2, prompts=1, number_bytes=4)
    kept = 11 * 2 * 304 - 3 * (2 * 16 + 8 + 1) * 4  # without the last feed-forward of the 3 tokens before the last
    assert activation_bytes(SMALL, 11, few) == kept + 11 * hidden + 8 * within  # in the last layer
    assert activation_bytes(SMALL, 11, few, logits=9999) == kept + 11 * rest  # beside the logits
    many, wide = replace(few, prompt=31), replace(SMALL, feed_forward=100)
    layer, within = 304 + 2 * 84 * 4, 3 * 100 * 4
    assert activation_bytes(wide, 38, many) == 38 * (layer + hidden + within)  # in the layer before the last
    again = replace(many, checkpointing="recompute")
    assert activation_bytes(wide, 38, again) == 38 * (8 * 4 + layer + hidden + within)
    tiled = replace(many, checkpointing="offload", tiles=7)
    assert activation_bytes(wide, 38, tiled) == 38 * (layer - 2 * 100 * 4 + hidden + 100 * 4)


def step(**changes) -> Work:
    return replace(Work(prompt=50_000, video=49_800, response=1024, group=8, prompts=16), **changes)


def test_zero_shards_what_its_stage_says():
    trained = SEVEN.text_parameters
    parts = [memory(SEVEN, step(zero_stage=stage), gpus=8) for stage in range(4)]
    assert [part["optimizer"] for part in parts] == [trained * 12, *[trained * 12 // 8] * 3]
    assert [part["gradients"] for part in parts] == [trained * 2, trained * 2, *[trained * 2 // 8] * 2]
    assert [part["weights"] for part in parts[:3]] == [SEVEN.parameters * 2] * 3
    assert parts[3]["weights"] < SEVEN.parameters
    assert memory(SEVEN, step(offload="optimizer"))["optimizer"] == 0
    gathered = SEVEN.vocabulary * SEVEN.hidden * 2  # larger than two layers
    assert memory(SEVEN, step(zero_stage=3, offload="all"), gpus=8)["weights"] == gathered


def test_rollouts_keep_the_whole_blocks_of_a_prompt_once_for_its_group():
    block = 32 * 2 * 512 * 28 * 2  # bytes; 50,000 tokens are 1562 blocks and 16 tokens
    assert memory(SEVEN, step(), gpus=8)["rollout KV cache"] == (1562 + 8 * 33 + 1) * block
    whole = memory(SEVEN, step(prompt=32 * 100, response=32), gpus=8)  # the block of the last token is computed anew
    assert whole["rollout KV cache"] == (99 + 8 * 2 + 1) * block


def test_a_sleeping_engine_and_the_update_do_not_meet():
    awake, asleep = memory(SEVEN, step()), memory(SEVEN, step(sleep=True))
    rollout, update = ({name for name in awake if name.startswith("rollout")}, {"gradients", "activations", "logits"})
    assert set(awake) - set(asleep) == rollout  # at this length the update is the fuller moment
    assert set(awake) - set(memory(SEVEN, step(sleep=True, prompt=100, response=10, zero_stage=2), 8)) == update


def test_what_is_offloaded_is_on_the_host():
    work = step(offload="optimizer", checkpointing="offload", degree=2)
    inputs = 8 * (work.tokens // 2) * 28 * 3584 * 2
    assert host_bytes(SEVEN, work, gpus=8) == SEVEN.text_parameters * 12 + inputs
    assert host_bytes(SEVEN, step(checkpointing="recompute"), gpus=8) == 0


def test_seconds_by_hand():
    machine = Machine(gpus=1, tflops=1e-6, memory_gbs=1e-6, link_gbs=1)  # 1 MFLOP/s, 1 kB/s
    work = Work(prompt=4, video=2, response=3, group=2, prompts=1, frames=(2, 28, 28), number_bytes=4)
    taken = seconds(SMALL, work, machine)
    assert taken["forward and backward"] == pytest.approx((3 * 20_928 / 0.7 + 3.5 * 2_368 / 0.5) / 1e6)
    assert taken["rollout prefill"] == pytest.approx((2 * 4 * 2 * 576 / 0.7 + 4 * 8 * 8 * 2 / 0.5) / 1e6)
    cache = 2 * 4 * 2 * 4  # bytes of a token's keys and values
    read = SMALL.text_parameters * 4 + 2 * 5.5 * cache
    assert taken["rollout decode"] == pytest.approx(3 * read / 1e3)
    assert (taken["all-to-all"], taken["gradients"], taken["inputs to the host"]) == (0, 0, 0)
    tiled = seconds(SMALL, replace(work, tiles=4, checkpointing="recompute"), machine)
    feed_forward = 2 * (3 + 2 * 4) * 2 * 3 * 8 * 16  # of the packed row: 3 tokens, and 4 for each response
    assert tiled["forward and backward"] == pytest.approx(((4 * 20_928 + feed_forward) / 0.7 + 4.5 * 2_368 / 0.5) / 1e6)


def test_exchanges_by_hand():
    # Half of a group's tokens, 2 x 3584 + 2 x 512 numbers of 2 bytes each, half of which leave the rank.
    work = step(degree=2)
    sent = (49_999 + 8 * 1025) / 2 * (2 * 3584 + 2 * 512) * 2 / 2
    assert all_to_all(SEVEN, work, Machine(link_gbs=100)) == pytest.approx(2 * 28 * (sent / 1e11 + 2 * 5e-5))


@pytest.mark.parametrize(
    ("ranks", "heads", "legal"), [(8, 28, [1, 2, 4]), (8, 16, [1, 2, 4, 8]), (7, 28, [1, 7]), (6, 16, [1, 2])]
)
def test_legal_degrees_divide_ranks_and_heads(ranks, heads, legal):
    assert legal_degrees(ranks, heads) == legal


@pytest.mark.parametrize(
    ("degree", "ranks", "heads", "message"),
    [
        (3, 4, 12, "3 does not divide the 4 ranks; legal: 1, 2, 4"),
        (8, 8, 28, "8 does not divide the 28 query heads; legal: 1, 2, 4"),
        (3, 8, 28, "3 does not divide the 8 ranks and the 28 query heads; legal: 1, 2, 4"),
        (2, 2, 7, "2 does not divide the 7 query heads; legal: 1"),
    ],
)
def test_illegal_degrees_are_refused_with_the_legal_ones(degree, ranks, heads, message):
    with pytest.raises(DegreeError, match=f"degree {message}$"):
        check_degree(degree, ranks, heads)


def test_four_hours_are_shared_where_they_do_not_fit_alone():
    config = load_config("qwen2.5-vl-7b", {"rl.prompts_per_step": 8})
    shape = shape_of(config.model)
    work = work_of(config, shape, frames=14_400)
    roomy = choose(shape, work, Machine(gpus=8, gib=1e5))
    assert roomy.work.degree == 1
    alone = [
        laid_out(shape, replace(work, checkpointing=kept, tiles=tiles), roomy.machine).gib for kept, tiles in LIGHTER
    ]
    tight = Machine(gpus=8, gib=min(alone) / USABLE - 0.01)
    shared = choose(shape, work, tight)
    assert shared.work.degree > 1
    assert "alone on its GPU would need" in shared.reason


def test_few_prompts_share_the_gpus_only_where_that_saves_time():
    slow = Machine(gpus=8, gib=1000, link_gbs=100)
    assert choose(THREE, step(prompts=1), slow).work.degree == 8
    assert choose(SMALL, step(prompt=100, response=10, prompts=1), slow).work.degree == 1


def test_lora_has_few_gradients_and_no_reference():
    # Each layer: query and output (8 + 8), key and value (8 + 4), gate, up, down (8 + 16): 128 x rank 3.
    names = tuple(SMALL.linear_layers)
    assert SMALL.lora_parameters(3, names) == 2 * 3 * 128
    assert SMALL.lora_parameters(3, ("q_proj",)) == 2 * 3 * 16
    lora = step(lora_rank=16, lora_targets=names, reference=True)
    whole, small = memory(SEVEN, step(reference=True)), memory(SEVEN, lora)
    adapters = SEVEN.lora_parameters(16, names)
    assert (small["gradients"], small["optimizer"], small["reference"]) == (2 * adapters, 12 * adapters, 0)
    assert small["weights"] == whole["weights"] + 2 * adapters
    assert whole["reference"] == SEVEN.parameters * 2
    assert small["rollout weights"] == whole["rollout weights"]
    assert host_bytes(SEVEN, replace(lora, offload="optimizer"), gpus=1) == 12 * adapters


def test_frozen_matrices_take_two_passes_instead_of_three():
    machine = Machine(gpus=1, tflops=1e-6)
    work = Work(prompt=4, video=2, response=3, group=2, prompts=1, lora_rank=3, lora_targets=("q_proj",))
    adapters = 2 * (3 + 2 * 4) * 2 * 3 * 16
    taken = seconds(SMALL, work, machine)["forward and backward"]
    assert taken == pytest.approx(((2 * 20_928 + 3 * adapters) / 0.7 + 3.5 * 2_368 / 0.5) / 1e6)


def test_what_does_not_fit_says_what_would():
    with pytest.raises(PlanError, match=r"nothing fits 1 x 80 GiB.*optimizer \d.*What fits: .*rl.offload=optimizer "):
        choose(SEVEN, step(), Machine(gpus=1))
    with pytest.raises(PlanError, match=r"Take more GPUs or fewer frames$"):
        choose(SEVEN, step(prompt=10_000_000), Machine(gpus=1))


MACHINES = [Machine(gpus=gpus, gib=gib) for gpus in (1, 8) for gib in (80, 141)]


@pytest.mark.parametrize("name", [name for name in recipes() if name != "tiny"])
def test_every_recipe_plans_with_its_legal_degrees_or_says_what_fits(name):
    config = load_config(name)
    shape = shape_of(config.model)
    work = work_of(config, shape)
    for machine in MACHINES:
        try:
            made = choose(shape, work, machine)
        except PlanError as error:
            made = proposed(config, machine, str(error))
        assert made.fits()
        assert made.work.degree in legal_degrees(machine.gpus, shape.heads)
        legal = re.search(r"legal with (\d+) query heads on \d GPUs?: ([\d, ]+)\n", describe(shape, made))
        assert legal is not None
        assert int(legal[1]) == shape.heads
        assert {int(degree) for degree in legal[2].split(",")} == {
            degree for degree in (1, 2, 4, 8) if machine.gpus % degree == 0 and shape.heads % degree == 0
        }
    for machine in MACHINES[2:]:
        assert choose(shape, work, machine).fits()  # eight GPUs need no remedy


def proposed(config, machine, message):
    """The plan with the first and the last settings that the message proposes, both of which must fit."""
    plans = []
    for words in message.split("What fits: ")[1].split("; or "):
        settings = dict(word.split("=") for word in words.split(" (")[0].split())
        changed = load_config(config.recipe, settings)
        shape = shape_of(changed.model)
        plans.append(choose(shape, work_of(changed, shape), machine))
    assert [made.work.lora_rank for made in plans] == [0, 32]
    return plans[-1]


def test_the_7b_recipe_on_eight_gpus_leaves_out_8():
    shape = shape_of(load_config("qwen2.5-vl-7b").model)
    assert legal_degrees(8, shape.heads) == [1, 2, 4]


def test_the_command_prints_the_parts_without_loading_torch():
    code = "import sys; from longrl.cli import main; status = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    arguments = ["plan", "--recipe", "qwen2.5-vl-7b", "--gpus", "8", "--frames", "512"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "512 frames of 252x448: 36,864 video tokens" in done.stdout
    for part in ("optimizer", "activations", "what fits", "forward and backward", "legal with 28 query heads"):
        assert part in done.stdout


def test_the_command_refuses_in_one_line(capsys):
    assert main(["plan", "--recipe", "qwen2.5-vl-7b", "--gpus", "8", "--degree", "8"]) == 1
    assert capsys.readouterr().err.startswith("error: sequence-parallel degree 8 does not divide the 28 query heads")
