"""RL for image and video generators: Flow-GRPO on diffusers pipelines (docs/generation.md)."""
