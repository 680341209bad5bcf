"""Autoencoders of the tiny generators: real ones by their architecture, whose weights are set instead of learned.

They average 2 x 2 pixels into one latent of three numbers, and draw each latent as 2 x 2 pixels again: a picture of
flat shapes loses no more than its finest edges, and no minute of a laptop is spent on learning that.

All residual branches are zero, so that what counts are the convolutions between them, each of which passes its
channels on. Only the last norm and activation stand in the way: a constant channel of size `LOUD` beside the pixels
makes the norm's divisor a constant, and an offset of `HIGH` keeps SiLU where it is a line.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from torch import nn

LOUD = 300.0
HIGH = 12.0
COLOURS = 3  # channels of pixels and of latents
GROUPS = 4  # of the picture autoencoder's norms, one a colour and one to spare


def picture_autoencoder() -> AutoencoderKL:
    """Halves a picture's sides; in each group of channels stand x, -x, LOUD and -LOUD, whose mean is 0."""
    model: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        latent_channels=COLOURS,
        norm_num_groups=GROUPS,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    silence(model)
    encoder, decoder = model.encoder, model.decoder
    for half, width in ((encoder, 16), (decoder, 32)):
        for colour in range(COLOURS):
            slot = colour * width // GROUPS
            tap(half.conv_in, slot, colour, 1.0)
            tap(half.conv_in, slot + 1, colour, -1.0)
            half.conv_in.bias.data[slot + 2] = LOUD
            half.conv_in.bias.data[slot + 3] = -LOUD
    for channel in range(16):
        tap(encoder.down_blocks[0].downsamplers[0].conv, channel, channel, 1.0, average=True)
    for channel in range(32):
        tap(decoder.up_blocks[0].upsamplers[0].conv, channel, channel, 1.0)
    for group in range(GROUPS):
        for slot in range(4):
            tap(encoder.down_blocks[1].resnets[0].conv_shortcut, 8 * group + slot, 4 * group + slot, 1.0)
            tap(decoder.up_blocks[1].resnets[0].conv_shortcut, 4 * group + slot, 8 * group + slot, 1.0)
    for half, width in ((encoder, 32), (decoder, 16)):
        deviation = LOUD * (2 * GROUPS / width) ** 0.5  # of a group of width / GROUPS channels
        half.conv_norm_out.weight.data.fill_(deviation)
        half.conv_norm_out.bias.data.fill_(HIGH)
        for colour in range(COLOURS):
            tap(half.conv_out, colour, colour * width // GROUPS, 1.0)
            half.conv_out.bias.data[colour] = -HIGH
    return model


def clip_autoencoder() -> AutoencoderKLWan:
    """Halves the sides of every frame; pixels are shifted by HIGH from the start, for Wan's norms have no offset."""
    model: Any = AutoencoderKLWan(
        base_dim=8,
        z_dim=COLOURS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * COLOURS,
        latents_std=[1.0] * COLOURS,
        scale_factor_temporal=1,
        scale_factor_spatial=2,
    )
    silence(model)
    encoder, decoder = model.encoder, model.decoder
    loud = LOUD * HIGH  # the pixels' own share of the norm is (HIGH / loud)²
    for half in (encoder, decoder):
        for colour in range(COLOURS):
            tap(half.conv_in, colour, colour, 1.0)
            half.conv_in.bias.data[colour] = HIGH
        half.conv_in.bias.data[COLOURS] = loud
    for channel in range(COLOURS + 1):
        tap(encoder.down_blocks[1].resample[1], channel, channel, 1.0, average=True)
        tap(encoder.down_blocks[2].conv_shortcut, channel, channel, 1.0)
        tap(decoder.up_blocks[0].upsamplers[0].resample[1], channel, channel, 1.0)
    for colour in range(COLOURS):
        tap(model.quant_conv, colour, colour, 1.0)
        tap(model.post_quant_conv, colour, colour, 1.0)
    for half, width in ((encoder, 16), (decoder, 8)):
        half.norm_out.gamma.data.fill_(loud / width**0.5)
        for colour in range(COLOURS):
            tap(half.conv_out, colour, colour, 1.0)
            half.conv_out.bias.data[colour] = -HIGH
    return model


def silence(model: nn.Module) -> None:
    """Set all weights and biases of all convolutions to zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            module.weight.data.zero_()
            if module.bias is not None:
                module.bias.data.zero_()


def tap(conv: nn.Module, out: int, into: int, value: float, average: bool = False) -> None:
    """Let output channel `out` take `value` times channel `into` of the same pixel, or of the mean of 2 x 2 pixels."""
    kernel: torch.Tensor = conv.weight.data[out, into]  # type: ignore[union-attr, index, assignment]
    if average:
        kernel[..., :2, :2] = value / 4
    elif kernel.ndim == 3:
        kernel[-1, kernel.shape[1] // 2, kernel.shape[2] // 2] = value  # causal: the last frame is this one
    else:
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = value
