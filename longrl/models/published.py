"""Published configurations by the folder's name: what of their config.json decides sizes.

From the Hugging Face repositories of these names. They stand in for a folder that isn't there yet, so that
`longrl plan` can reckon before anything is downloaded. Loads no torch.
"""

from __future__ import annotations

from typing import Any

# Qwen2.5-VL's tower and what its language models share.
_QWEN2_5_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_QWEN2_5_TEXT = {
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}

# The size of language model of a 3B and a 7B Qwen2.5.
_QWEN2_5_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
}
_QWEN2_5_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
_EARS = {"d_model": 1280, "encoder_layers": 32, "encoder_ffn_dim": 5120, "num_mel_bins": 128}  # Whisper large v3's


def _omni(text: dict[str, Any]) -> dict[str, Any]:
    """A Qwen2.5-Omni with this language model; its towers are the same in all sizes, its head is its own."""
    hidden = text["hidden_size"]
    thinker = {
        "model_type": "qwen2_5_omni_thinker",
        "text_config": _QWEN2_5_TEXT | text | {"max_position_embeddings": 32_768},
        "vision_config": _QWEN2_5_TOWER | {"out_hidden_size": hidden},
        "audio_config": _EARS | {"output_dim": hidden},
        "position_id_per_seconds": 25,
        "tie_word_embeddings": False,
    }
    return {"model_type": "qwen2_5_omni", "thinker_config": thinker}


# Qwen3's two sizes of language model; Qwen3-VL builds on the same.
_QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_QWEN3_8B = _QWEN3_4B | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
_QWEN3_TOWER = {
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}

# The VILA series: one SigLIP tower at 448 x 448 pixels, projectors of 2 x 2 and 3 x 3 patches.
_VILA_TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "vision_use_head": False,
}
_QWEN2_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 151_648,
    "tie_word_embeddings": False,
}
_QWEN2_1B5 = _QWEN2_7B | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
_VILA = {
    "model_type": "llava_llama",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "cls_patch",
    "vision_tower_cfg": _VILA_TOWER,
}


def _vila(text: dict[str, Any], projector: str, **config: Any) -> dict[str, Any]:
    return _VILA | {"llm_cfg": text, "mm_projector_cfg": {"mm_projector_type": projector}} | config


PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": _QWEN2_5_TEXT | _QWEN2_5_3B | {"tie_word_embeddings": True},
        "vision_config": _QWEN2_5_TOWER | {"out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": _QWEN2_5_TEXT | _QWEN2_5_7B | {"tie_word_embeddings": False},
        "vision_config": _QWEN2_5_TOWER | {"out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
    "Qwen2.5-Omni-3B": _omni(_QWEN2_5_3B),
    "Qwen2.5-Omni-7B": _omni(_QWEN2_5_7B),
    "Qwen3-VL-4B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": _QWEN3_4B,
        "vision_config": _QWEN3_TOWER
        | {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "deepstack_visual_indexes": [5, 11, 17],
            "out_hidden_size": 2560,
        },
        "tie_word_embeddings": True,
    },
    "Qwen3-VL-8B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": _QWEN3_8B,
        "vision_config": _QWEN3_TOWER
        | {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "deepstack_visual_indexes": [8, 16, 24],
            "out_hidden_size": 4096,
        },
        "tie_word_embeddings": False,
    },
    "Qwen3-4B": {"model_type": "qwen3", **_QWEN3_4B},
    "NVILA-8B": _vila(_QWEN2_7B, "mlp_downsample", dynamic_s2=True, s2_scales="448,896,1344"),
    "NVILA-8B-Video": _vila(  # stage 4 of NVlabs/VILA scripts/NVILA
        _QWEN2_7B,
        "mlp_downsample_2x2_fix",
        video_encoder='{"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[8, 1, 1]]}',
    ),
    "NVILA-Lite-2B": _vila(_QWEN2_1B5, "mlp_downsample_3x3_fix"),
    "LongVILA-R1-7B": _vila(_QWEN2_7B, "mlp_downsample_2x2_fix"),
}
