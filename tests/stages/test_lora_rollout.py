"""Trainers with an adapter and the engines that roll out for them: merged weights, adapters, whole stages."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from longrl.config import FrameSettings, LoraSettings, Mixture, Phase, RlSettings, SftSettings
from longrl.models import families
from longrl.models.adapter import model_folder
from longrl.models.lora import merged, save_adapter
from longrl.training.checkpoint import write_model
from tests.adapters import with_adapter
from tests.rollouts import agreement, mixed
from tests.story_corpus import make_corpus

LORA = LoraSettings(rank=4, alpha=8)


def test_merged_weights_pushed_into_the_engine_agree_with_the_trainer(engine, student_folder, loaded_student):
    trained, requests = with_adapter(families.load(student_folder)), mixed(loaded_student)
    before = engine.generate(requests)
    try:
        engine.update_weights(merged(trained.model))
        rollouts = engine.generate(requests)
    finally:
        engine.update_weights(loaded_student.model.state_dict())
    gap = agreement(trained, requests, rollouts)
    assert (gap.largest < 1e-3, gap.mean < 1e-5) == (True, True)
    assert agreement(loaded_student, requests, rollouts).largest > 0.1
    assert engine.generate(requests) == before  # and none of it stays behind


ENGINE = """
import json, os, sys
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
import torch
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from longrl.rollout.vllm import model_options
from longrl.models.families import family_class
folder, adapter, prompt = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = model_options(512, family_class(folder)) | ({"enable_lora": True, "max_lora_rank": 8} if adapter else {})
llm = LLM(folder, dtype="float32", kv_cache_memory_bytes=2**28, disable_log_stats=True, **options)
chosen = SamplingParams(temperature=0, max_tokens=16, logprobs=0, detokenize=False)
lora = LoRARequest("trained", 1, adapter) if adapter else None
(answer,) = llm.generate([{"prompt_token_ids": prompt}], chosen, lora_request=lora, use_tqdm=False)
said = answer.outputs[0]
logprobs = [entry[token].logprob for entry, token in zip(said.logprobs, said.token_ids)]
print(json.dumps([list(said.token_ids), logprobs]), flush=True)
os._exit(0)
"""


def answered(folder, prompt, adapter=""):
    """What vLLM says greedily, with its logprobs; in a process of its own, as an engine takes one for itself."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(folder), str(adapter), json.dumps(prompt)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_vllm_loads_the_adapter_and_says_what_the_merged_folder_says(student_folder, tmp_path):
    trained = with_adapter(families.load(student_folder))
    write_model(trained, student_folder, tmp_path / "hf")
    save_adapter(trained.model, student_folder, tmp_path / "adapter")
    prompt = trained.chat.prompt("what moves").expanded
    with_request, from_merged = (
        answered(student_folder, prompt, tmp_path / "adapter"),
        answered(tmp_path / "hf", prompt),
    )
    assert with_request[0] == from_merged[0]
    assert with_request[1] == pytest.approx(from_merged[1], abs=1e-4)
    assert answered(student_folder, prompt)[0] != from_merged[0]


@pytest.mark.slow
def test_sft_and_rl_train_adapters_from_stage_to_stage(tmp_path):
    """SFT leaves an adapter alone, RL goes on from the two merged, with a KL to that, and leaves both."""
    from longrl.training.rl import rl
    from longrl.training.sft import sft

    corpus = make_corpus(tmp_path, 8, brief=True, heads=2)
    frames = FrameSettings(budget=8, budgets=(4, 8))
    phases = (Phase(name="q", steps=30, learning_rate=1e-2, warmup=3, mixture=Mixture(questions=4, reading=3)),)
    alone = LORA.model_copy(update={"checkpoint": "adapter"})
    settings = SftSettings(phases=phases, questions_per_video=4, freeze_vision=True, lora=alone, ranks=1)
    inputs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    tuned = sft(settings, frames, *inputs, corpus.warehouse, 0)
    assert not (tuned.file("adapter").parent / "hf").exists()
    rows = steps(tuned)
    assert rows[-1]["losses"]["questions"] < 0.7 * rows[0]["losses"]["questions"]

    chosen = RlSettings(
        steps=2, prompts_per_step=6, group_size=8, temperature=1.2, refills=2, max_tokens=24, learning_rate=1e-2,
        warmup=0, kl=0.01, lora=LORA, ranks=2,
    )  # fmt: skip
    reinforced = rl(chosen, frames, tuned, corpus.dataset, corpus.videos, corpus.warehouse, 0)
    rows = steps(reinforced)
    for row in rows:
        assert row["parity_gap"] < 1e-3  # at step 2 this says that merged weights reached the engine
        assert row["gradient_norm"] > 0
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[1]["kl"] > 0
    base, ours = (
        families.load(folder).model.state_dict()
        for folder in (model_folder(tuned, corpus.warehouse), reinforced.file("hf"))
    )
    changed = {name for name in base if not base[name].equal(ours[name])}
    assert changed == {name for name in base if any(f"{part}.weight" in name for part in LORA.target_modules)} - {
        name for name in base if ".visual." in name
    }
    told = json.loads(reinforced.file("adapter/adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(model_folder(tuned, corpus.warehouse))
    assert told["r"] == 4
    assert asdict(reinforced)["rows"] == 2


def steps(ref):
    return [json.loads(line) for line in ref.file("metrics.jsonl").read_text().splitlines()]
