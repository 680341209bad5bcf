"""The report of a generator's run, from artifacts with known figures."""

import json
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from longrl.config import load_generation
from longrl.diffusion.report import report
from longrl.diffusion.summary import before_after, headline, lines
from longrl.teachers.pictures import mp4
from longrl.warehouse.artifacts import Warehouse

PROMPTS = {"0" * 16: "a red ball", "1" * 16: "a <b>dog</b>"}


def drawn(gain: float, missing: bool = False) -> pl.DataFrame:
    """Two prompts, three samples each; after RL every sample earns `gain` more."""
    rows = [
        {
            "model": model,
            "prompt_id": prompt_id,
            "prompt": text,
            "sample": sample,
            "file": f"drawn/{model}/{prompt_id}-{sample}.{'png' if prompt_id[0] == '0' else 'mp4'}",
            "reward": None if missing and sample == 0 and model == "rl" else 0.1 * sample + gain * (model == "rl"),
            "rewards": json.dumps({"colour": 0.1 * sample + gain * (model == "rl")}),
            "diversity": 0.25,
        }
        for model in ("base", "rl")
        for prompt_id, text in PROMPTS.items()
        for sample in range(3)
    ]
    return pl.DataFrame(rows)


def refs(warehouse, gain):
    def compared(draft):
        table = drawn(gain)
        picture = np.zeros((16, 16, 3), np.uint8)
        for name in table["file"]:
            path = draft.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("png"):
                Image.fromarray(picture).save(path)
            else:
                path.write_bytes(mp4(np.stack([picture] * 3), 0.5))
        draft.write(table)

    def trained(draft):
        steps = [{"step": step, "reward": 0.1 * step, "diversity": 0.3, "kl": None} for step in (1, 2, 3)]
        (draft.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))

    def asked(draft):
        draft.write(pl.DataFrame({"prompt_id": list(PROMPTS), "prompt": list(PROMPTS.values()), "split": ["eval"] * 2}))
        draft.reject("prompts.txt:3", "empty", "there is no prompt")

    def built(draft):
        draft.facts["family"] = "sd3"

    makers = {"prompts": asked, "generator": built, "flowgrpo": trained, "compare": compared}
    return {stage: warehouse.produce(stage, 1, {}, {}, build) for stage, build in makers.items()}


def test_the_page_holds_every_picture_and_clip_and_nothing_from_elsewhere(tmp_path):
    warehouse = Warehouse(tmp_path)
    path = report(load_generation(), refs(warehouse, 0.2), warehouse, "run-1", minutes=1.5)
    page = path.read_text()
    assert page.count("data:image/png;base64,") == page.count("data:video/mp4;base64,") == 6
    assert not re.search(r'(?:src|href)="(?!data:|#|summary\.json)', page)
    assert "a &lt;b&gt;dog&lt;/b&gt;" in page
    assert "<b>dog" not in page
    assert page.count("<svg") == 2  # reward and diversity; there was no KL
    summary = json.loads(path.with_name("summary.json").read_text())
    assert summary["figures"]["reward"]["gain"] == pytest.approx(0.2)
    assert summary["figures"]["diversity"] == {
        "base": 0.25,
        "rl": 0.25,
        "gain": 0.0,
        "se": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    assert summary["prompts"] == {"train": 0, "held_out": 2, "rejected": 1}
    assert (tmp_path / "reports" / "latest-generation" / "index.html").exists()
    assert (
        headline(summary)
        == "On 2 held-out prompts the reward is 0.100 before and 0.300 after RL: RL raised it by 0.200."
    )
    assert any(line.startswith("colour") and "+0.2000" in line for line in lines(summary))


def test_samples_without_a_reward_are_left_out_in_pairs():
    table = drawn(0.5, missing=True)
    found = before_after(table, table["reward"])
    assert found["base"] == pytest.approx(0.15)  # samples 1 and 2 of both prompts
    assert found["gain"] == pytest.approx(0.5)


def test_a_change_within_its_error_is_not_claimed():
    figures = {"base": 0.1, "rl": 0.12, "gain": 0.02, "se": 0.02, "low": -0.02, "high": 0.06}
    summary = {"figures": {"reward": figures}, "prompts": {"held_out": 4}}
    assert headline(summary).endswith("0.120 after RL: within its error.")
    nothing = dict.fromkeys(figures)
    assert "nothing to compare" in headline(summary | {"figures": {"reward": nothing}})
