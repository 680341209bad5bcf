"""Lean layers, norms and products against transformers' own modules and numerical gradients."""

import copy
import weakref

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm, Qwen2MLP

from longrl.mrsp.attention import Layout
from longrl.mrsp.lean import GatedProduct, RMSNorm, make_lean, remade


class Layers(torch.nn.Module):
    """A language model of one layer's norms and feed-forward part, called one after another."""

    def __init__(self, config):
        super().__init__()
        layer = torch.nn.Module()
        layer.input_layernorm = Qwen2_5_VLRMSNorm(config.hidden_size)
        layer.post_attention_layernorm = Qwen2_5_VLRMSNorm(config.hidden_size)
        layer.mlp = Qwen2MLP(config)
        self.layers, self.norm = torch.nn.ModuleList([layer]), Qwen2_5_VLRMSNorm(config.hidden_size)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, 0.5, 0.5)

    def forward(self, x):
        layer = self.layers[0]
        x = x + layer.mlp(layer.input_layernorm(x))
        return self.norm(x + layer.post_attention_layernorm(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_transformers(loaded_student, dtype, tolerance):
    torch.manual_seed(0)
    plain = Layers(loaded_student.model.config.text_config).to(dtype)
    lean = copy.deepcopy(plain)
    make_lean(lean)
    x = torch.randn(2, 5, loaded_student.hidden_size, dtype=dtype)
    weight = torch.randn(x.shape, dtype=dtype)
    results = []
    for model in (plain, lean):
        own = x.clone().requires_grad_()
        out = model(own)
        (out * weight).sum().backward()
        results.append([out, own.grad, *(parameter.grad for parameter in model.parameters())])
    for theirs, ours in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_gradients_are_the_numerical_ones():
    torch.manual_seed(0)
    x, up = (torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(RMSNorm.apply, (x, weight, 1e-6))
    assert gradcheck(GatedProduct.apply, (x, up))


def test_the_layers_of_a_language_model_compute_what_transformers_layers_do(loaded_student):
    lean = loaded_student.model.model.language_model
    plain = copy.deepcopy(lean)
    for module in plain.modules():
        module.__dict__.pop("forward", None)
    x = torch.randn(2, 9, loaded_student.hidden_size)
    weight = torch.randn_like(x)
    masks, results = {"full_attention": None, "sliding_attention": None}, []
    for model in (plain, lean):
        model.zero_grad()
        own = x.clone().requires_grad_()
        out = model(inputs_embeds=own, attention_mask=masks, use_cache=False).last_hidden_state
        (out * weight).sum().backward()
        results.append([out, own.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    lean.zero_grad()
    assert len(results[0]) == len(results[1]) > 10
    for theirs, ours in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_the_last_layer_spends_no_feed_forward_on_prompts(loaded_student):
    model = loaded_student.model.model.language_model
    seen = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1])) for layer in model.layers
    ]
    model(
        inputs_embeds=torch.randn(1, 5 + 2 * 3, loaded_student.hidden_size),
        attention_mask={"full_attention": None, "sliding_attention": None},
        use_cache=False,
        layout=Layout(prompt=5, responses=2, response=3),
    )
    for hook in hooks:
        hook.remove()
    assert seen == [11] * (len(model.layers) - 1) + [6]


def test_what_is_remade_is_freed_and_made_once_for_all_that_need_it():
    torch.manual_seed(0)
    x = torch.randn(4, 6, requires_grad=True)
    weights = [torch.randn(6, 6, requires_grad=True) for _ in range(3)]
    made = []

    def square(y):
        made.append(len(y))
        return y * y

    for round_ in range(2):
        value = square(x)
        gone = weakref.ref(value)
        with remade(value, square, x):
            out = sum((value @ weight).sum() for weight in weights)
        del value
        assert gone() is None
        out.backward()
        assert len(made) == 2 * (round_ + 1)
    for weight in weights:
        assert torch.allclose(weight.grad, 2 * (x.detach() ** 2).sum(0)[:, None].expand(6, 6))
