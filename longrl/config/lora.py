"""Settings of LoRA, shared by SFT and RL."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from longrl.config.base import Settings


class LoraSettings(Settings):
    """Small trained updates of the language model's layers in place of its own weights (longrl/models/lora.py)."""

    rank: int = Field(0, ge=0, description="Rank of the updates; 0 trains all weights.")
    alpha: int = Field(32, ge=1, description="An update weighs alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of an update's inputs that is dropped; 0 in RL.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Linear layers of the language model that get one, by the last part of their names.",
    )
    checkpoint: Literal["both", "merged", "adapter"] = Field(
        "both", description="What a stage leaves: the whole model, updates merged; the updates alone; or both."
    )

    def identity(self) -> dict[str, Any]:
        """Without LoRA nothing of this decides anything."""
        return super().identity() if self.rank else {}
