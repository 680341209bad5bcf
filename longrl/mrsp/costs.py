"""What an RL step costs: bytes on each GPU and seconds, part by part, from the model's sizes alone.

    memory    weights, gradients, optimizer by ZeRO stage, reference, rollout engine, its KV cache, embeddings,
              activations (as PyTorch keeps them for Qwen2.5-VL's layers, with and without checkpointing), logits
    seconds   encode, prefill, decode, forward and backward, all-to-all, gradients, weights into the rollout engine

Pure functions of `Shape`, `Work` and `Machine`; torch is loaded only to measure a machine. `make bench NAME=prefix`
holds the memory to what a process really takes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

from longrl.models.shape import Shape

FORWARD_TOKENS = 16_384  # what `training.rl_update` packs into one forward, at least one group
CHUNK = 1024  # rows of logits alive at once in `mrsp.prefix`
BLOCK = 32  # tokens in a block of the rollouts' KV cache; prefixes are shared in whole blocks, and CPUs want 32s
MATRICES, ATTENTION = 0.7, 0.5  # shares of the rate of one large matrix product that layers and attention reach
LATENCY = 5e-5  # seconds of one collective, whatever its size


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind. The rates are of large transfers and of one large matrix product in the training dtype."""

    gpus: int = 1
    gib: float = 80.0
    tflops: float = 250.0
    memory_gbs: float = 1600.0
    link_gbs: float = 200.0
    host_gbs: float = 25.0


@dataclass(frozen=True)
class Work:
    """One RL step, and how it is laid out over the GPUs."""

    prompt: int  # tokens, the video's among them
    video: int  # tokens
    response: int  # tokens, at most
    group: int  # responses of a prompt
    prompts: int  # groups in a step, over all GPUs
    frames: tuple[int, int, int] = (2, 28, 28)  # number, height, width
    number_bytes: int = 2  # 2: bfloat16 with float32 master weights; 4: float32
    zero_stage: int = 0
    reference: bool = False  # a frozen copy, for the KL; with LoRA it is the model without its adapters
    offload: Literal["none", "optimizer", "all"] = "none"  # what is on the host; "all": the weights too, at ZeRO-3
    sleep: bool = False  # the rollout engine's memory is free during the update
    checkpointing: Literal["none", "recompute", "offload"] = "none"  # layers run again; "offload": inputs on the host
    tiles: int = 1  # parts that feed-forward layers work on one by one; above 1 they run again
    degree: int = 1
    lora_rank: int = 0  # 0: all of the language model is trained
    lora_targets: tuple[str, ...] = ()

    def adapters(self, shape: Shape) -> int:
        """Parameters of the adapters."""
        return shape.lora_parameters(self.lora_rank, self.lora_targets)

    def trained(self, shape: Shape) -> int:
        """Parameters that have a gradient and a state of the optimizer."""
        return self.adapters(shape) if self.lora_rank else shape.text_parameters

    @property
    def tokens(self) -> int:
        """Tokens of one packed group: the last prompt token opens every response."""
        return self.prompt - 1 + self.group * (self.response + 1)

    def groups(self, gpus: int) -> int:
        """Groups that one replica works through in a step."""
        return -(-self.prompts // (gpus // self.degree))

    def together(self, gpus: int) -> int:
        """Groups in one forward."""
        return max(1, min(FORWARD_TOKENS // self.tokens, self.groups(gpus)))


def layer_bytes(shape: Shape, number_bytes: int, tiles: int = 1) -> int:
    """What one layer of a Qwen language model keeps for its backward, for each token.

    What `mrsp.lean` leaves of it: twice a norm's input and a number; the rotated query, key, value and the attention's
    output; what norms of queries and keys take in, and a number a head; and two widths of the feed-forward (gate, up),
    unless these are tiled.
    """
    norms = 2 * (shape.hidden * number_bytes + 4)
    attention = number_bytes * (2 * shape.query_width + 2 * shape.key_width) + 4 * shape.heads
    if shape.head_norms:
        attention += number_bytes * (shape.query_width + shape.key_width) + 4 * (shape.heads + shape.key_heads)
    return norms + attention + (2 * shape.feed_forward * number_bytes if tiles == 1 else 0)


def kept_by_part(shape: Shape, tokens: int, work: Work) -> tuple[int, int, int]:
    """What a forward over so many tokens keeps of each layer but the last, of the last, and of the final norm.

    With checkpointing a layer keeps its input alone, on the GPU or on the host.
    """
    s, H = work.number_bytes, shape.hidden
    final_norm = tokens * (2 * H * s + 4)
    if work.checkpointing != "none":
        each = tokens * H * s if work.checkpointing == "recompute" else 0
        return each, each, final_norm
    return *in_full(shape, tokens, work), final_norm


def in_full(shape: Shape, tokens: int, work: Work) -> tuple[int, int]:
    """What a layer needs for its way back, and what the last needs, which has no feed-forward part for prompts."""
    s = work.number_bytes
    each = tokens * (layer_bytes(shape, s, work.tiles) + work.lora_rank * len(work.lora_targets) * s)
    feed_forward = (2 * shape.feed_forward if work.tiles == 1 else 0) + shape.hidden
    return each, each - int(unread(tokens, work) * (feed_forward * s + 4))


def unread(tokens: int, work: Work) -> float:
    """Tokens of prompts; with sequence parallelism a rank may have none."""
    return tokens * (work.prompt - 1) / work.tokens if work.degree == 1 else 0


def kept_activations(shape: Shape, tokens: int, work: Work) -> int:
    """What a forward over so many tokens keeps for the way back."""
    each, last, final_norm = kept_by_part(shape, tokens, work)
    return (shape.layers - 1) * each + last + final_norm


def activation_bytes(shape: Shape, tokens: int, work: Work, logits: int = 0) -> int:
    """What a forward over so many tokens keeps, and the way back needs, at the fullest moment, less the `logits`.

    That moment is before the way back, beside the logits; or in the last layer, or in the one before, which works on
    prompts too while what the last kept is free. A layer on its way back has its gradients, what it makes again, and
    with checkpointing all that it needs.
    """
    each, last, final_norm = kept_by_part(shape, tokens, work)
    again, last_again = (0, 0) if work.checkpointing == "none" else in_full(shape, tokens, work)
    widths = (3 if work.tiles == 1 else 7 / work.tiles) * shape.feed_forward * work.number_bytes
    hidden = 2 * shape.hidden * work.number_bytes
    before = (shape.layers - 1) * each
    moments = (
        before + last + final_norm + logits,
        before + last + last_again + int(tokens * hidden + (tokens - unread(tokens, work)) * widths),
        before + again + int(tokens * (hidden + widths)) if shape.layers > 1 else 0,
    )
    return max(moments) - logits


def logits_bytes(shape: Shape, rows: int) -> int:
    """One chunk of logits with its softmax and their product, in float32."""
    return 3 * 4 * min(rows, CHUNK) * shape.vocabulary


def kv_cache_bytes(shape: Shape, work: Work) -> int:
    """What vLLM needs to sample one group at once: with less, some of its responses wait for others to end.

    The prompt's whole blocks once, but for the one that holds its last token; the rest for every response; vLLM's own.
    """
    shared = (work.prompt - 1) // BLOCK
    each = -(-(work.prompt + work.response) // BLOCK) - shared
    return (shared + work.group * each + 1) * BLOCK * 2 * shape.key_width * shape.layers * work.number_bytes


def memory(shape: Shape, work: Work, gpus: int = 1) -> dict[str, int]:
    """Bytes on each GPU at the fullest moment of a step, by part. The KV cache is what one group needs at least."""
    s, trained, adapters = work.number_bytes, work.trained(shape), work.adapters(shape)
    together = work.together(gpus)
    weights = (shape.parameters + adapters) * s
    if work.zero_stage == 3:
        gathered = max(2 * shape.layer_matrices, shape.vocabulary * shape.hidden)
        weights = (0 if work.offload == "all" else weights // gpus) + gathered * s
    optimizer = trained * (8 if s == 4 else 12)
    sharded = {stage: gpus if work.zero_stage >= stage else 1 for stage in (1, 2)}
    own = -(-work.groups(gpus) // work.degree)  # groups that this GPU rolled out; the one in work may be another's
    always = {
        "weights": weights,
        "optimizer": optimizer // sharded[1] if work.offload == "none" else 0,
        "reference": shape.parameters * s if work.reference and not work.lora_rank else 0,
        "embeddings": (own + (work.degree > 1)) * work.video * shape.embedding_width * s,
    }
    rollout = {
        "rollout weights": shape.text_parameters * s,
        "rollout KV cache": kv_cache_bytes(shape, work),
    }
    logits = logits_bytes(shape, together * work.group * work.response // work.degree)
    update = {
        "gradients": trained * s // sharded[2],
        "activations": activation_bytes(shape, together * work.tokens // work.degree, work, logits),
        "logits": logits,
    }
    if not work.sleep:
        return always | rollout | update
    return always | max(rollout, update, key=lambda parts: sum(parts.values()))


def host_bytes(shape: Shape, work: Work, gpus: int) -> int:
    """What offloading puts into the memory of the host of all these GPUs."""
    moments = work.trained(shape) * (8 if work.number_bytes == 4 else 12) if work.offload != "none" else 0
    weights = shape.parameters * work.number_bytes if work.offload == "all" else 0
    tokens = work.together(gpus) * work.tokens // work.degree if work.checkpointing == "offload" else 0
    return moments + weights + gpus * tokens * shape.layers * shape.hidden * work.number_bytes


def seconds(shape: Shape, work: Work, machine: Machine) -> dict[str, float]:
    """Seconds of a step, by part; encoding is paid when a video is first seen, and is spread over all GPUs."""
    rate = machine.tflops * 1e12
    s, groups, gpus = work.number_bytes, work.groups(machine.gpus), machine.gpus

    def compute(matrices: float, attention: float) -> float:
        return (matrices / MATRICES + attention / ATTENTION) / rate

    encoded = shape.encode(*work.frames)
    prompts = max(work.prompts / gpus, 1)  # rollouts are shared out over all GPUs, whatever the degree
    prefill = shape.prefill(work.prompt)
    kv = 2 * shape.key_width * shape.layers * s
    read = shape.text_parameters * s + prompts * work.group * (work.prompt + work.response / 2) * kv
    once = shape.group(work.prompt, work.group, work.response)
    again = int(work.checkpointing != "none")
    feed_forward = 2 * work.tokens * shape.layers * 3 * shape.hidden * shape.feed_forward if work.tiles > 1 else 0
    adapters = 2 * work.tokens * work.adapters(shape)
    passes = (2 if work.lora_rank else 3) + again  # a frozen matrix has no gradient of its own
    matrices = once.matrices * passes + adapters * (3 + again) + feed_forward
    update = compute(matrices, once.attention * (3.5 + again))
    inputs = work.tokens * shape.layers * shape.hidden * s if work.checkpointing == "offload" else 0
    trained, text = work.trained(shape) * s, shape.text_parameters * s
    # All-gathers of the weights and one reduction, or an all-reduce.
    exchanged = 2 * text + trained if work.zero_stage == 3 else 2 * trained
    return {
        "encode (first time)": work.prompts * compute(encoded.matrices, encoded.attention) / gpus,
        "rollout prefill": prompts * compute(prefill.matrices, prefill.attention),
        "rollout decode": work.response * read / (machine.memory_gbs * 1e9),
        "forward and backward": groups * update / work.degree,
        "inputs to the host": groups * 2 * inputs / work.degree / (machine.host_gbs * 1e9),
        "all-to-all": groups * all_to_all(shape, work, machine),
        "gradients": exchanged * (gpus - 1) / gpus / (machine.link_gbs * 1e9),
        "weights to rollouts": 2 * text / (machine.memory_gbs * 1e9),
    }


def all_to_all(shape: Shape, work: Work, machine: Machine) -> float:
    """Seconds of a group's exchanges, in the forward, its repetition and the backward.

    Two a layer: query, key and value before attention, its output after it.
    """
    if work.degree == 1:
        return 0.0
    key_heads = math.lcm(shape.key_heads, work.degree)  # repeated where the ranks don't divide them
    width = 2 * shape.query_width + 2 * key_heads * shape.head
    sent = work.tokens / work.degree * width * work.number_bytes * (work.degree - 1) / work.degree
    passes = 2 + (work.checkpointing != "none")
    return passes * shape.layers * (sent / (machine.link_gbs * 1e9) + 2 * LATENCY)


def measured_tflops(side: int | None = None) -> float:
    """TFLOP/s of one large matrix product on this machine: bfloat16 on a GPU, float32 on the CPU. Loads torch."""
    import torch

    gpu = torch.cuda.is_available()
    side = side or (8192 if gpu else 1024)
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 4 * 2 * side**3 / best / 1e12
