"""Adapters: zero at the start, merged for export, mixed batches, the frozen trunk."""

import copy

import pytest
import torch
from torch import nn

from polytask import MLP, Batch, MultiTaskModel, Task, UserError, train_step
from polytask.balance import Equal
from polytask.testing import TRUNK_CHECKS, check_trunk
from polytask.trunks import Adapters, Bottleneck, LoRA, MixedTasks, Parallel, Prefix, Prompt, TaskNorm, mixed_batch

TASKS = ("a", "b", "c")
ZERO_AT_THE_START = {
    "lora": LoRA(2),
    "bottleneck": Bottleneck(3),
    "parallel": Parallel(3),
    "norm": TaskNorm(),
}
TOKENS = {"prefix": Prefix(2), "prompt": Prompt(2)}
ELSEWHERE = dict.fromkeys(["compiles", "exports"], "seen where all adapters are together")
SEVERAL = [LoRA(2, targets=["in_proj"]), Bottleneck(2, targets=["linear2"]), TaskNorm(), Prefix(2), Parallel(2)]


def transformer(norm_first=False):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def shaken(trunk):
    """Every adapter off its start."""
    with torch.no_grad():
        for p in trunk.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return trunk


@pytest.mark.parametrize("adapter", ZERO_AT_THE_START.values(), ids=ZERO_AT_THE_START)
@pytest.mark.parametrize("training", [True, False])
def test_adapters_that_start_at_zero_are_the_frozen_trunk_bit_for_bit(adapter, training):
    plain, x = transformer().train(training), torch.randn(5, 4, 8)
    trunk = Adapters(copy.deepcopy(plain), TASKS, adapter).train(training)
    with torch.set_grad_enabled(training):
        expected = plain(x) if training else _without_fast_path(plain, x)
        for features in trunk(x, TASKS).values():
            assert torch.equal(features, expected)


def _without_fast_path(encoder, x):
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return encoder(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.mark.parametrize("adapter", [*ZERO_AT_THE_START.values(), *TOKENS.values(), SEVERAL], ids=str)
class TestOnATransformer:
    def test_promises(self, adapter):
        check_trunk(lambda: Adapters(transformer(), TASKS, adapter), torch.randn(8, 4, 8), TASKS, exceptions=ELSEWHERE)

    @pytest.mark.parametrize("norm_first", [False, True])
    def test_evaluation_is_training_without_dropout(self, adapter, norm_first):
        """PyTorch's fast path reads weights past what replaces their layers; it must not be taken."""
        trunk, x = shaken(Adapters(transformer(norm_first), TASKS, adapter)), torch.randn(5, 4, 8)
        padding = torch.zeros(5, 4, dtype=torch.bool)
        padding[:, 3] = True
        in_training = trunk.train()(x, TASKS)
        trunk._tell(["b"])
        masked = trunk.encoder(x, src_key_padding_mask=padding)
        with torch.no_grad():
            torch.testing.assert_close(trunk.eval()(x, TASKS), in_training)
            trunk._tell(["b"])
            torch.testing.assert_close(trunk.encoder(x, src_key_padding_mask=padding), masked)
        assert not torch.allclose(masked, in_training["b"])

    def test_every_task_has_its_own(self, adapter):
        trunk = shaken(Adapters(transformer(), TASKS, adapter))
        features = trunk(torch.randn(5, 4, 8), TASKS)
        assert not torch.allclose(features["a"], features["b"])

    def test_rows_of_different_tasks_in_one_batch(self, adapter):
        trunk, x = shaken(Adapters(transformer(), TASKS, adapter)), torch.randn(6, 4, 8)
        task = torch.tensor([2, 0, 0, 1, 2, 1])
        mixed, alone = trunk(MixedTasks(x, task), TASKS), trunk(x, TASKS)
        for row, place in enumerate(task.tolist()):
            torch.testing.assert_close(mixed["a"][row], alone[TASKS[place]][row])

    def test_the_trunk_gets_no_gradient(self, adapter):
        trunk = Adapters(transformer(), TASKS, adapter)
        trunk(torch.randn(5, 4, 8), TASKS)["b"].sum().backward()
        own = trunk.serves(TASKS)
        for name, p in trunk.named_parameters():
            assert p.requires_grad == (own[name] != TASKS), name
            assert (p.grad is None) == (own[name] == TASKS), name

    def test_merged_is_the_trunk_on_one_task(self, adapter):
        trunk = shaken(Adapters(transformer(), TASKS, adapter)).double()
        x = torch.randn(5, 4, 8, dtype=torch.float64)
        before = trunk(x, TASKS)
        for name in TASKS:
            torch.testing.assert_close(trunk.merged(name)(x), before[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(trunk(x, TASKS), before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["compiles", "exports"])
def test_all_adapters_together_in_one_graph(check):
    TRUNK_CHECKS[check](lambda: Adapters(transformer(), TASKS, SEVERAL), torch.randn(8, 4, 8), TASKS)


@pytest.mark.parametrize("adapter", [LoRA(2), Bottleneck(3), Parallel(3)], ids=str)
@pytest.mark.parametrize("frozen", [True, False])
def test_promises_on_an_mlp(adapter, frozen):
    make = lambda: Adapters(MLP(3, [8, 6]), TASKS, adapter, frozen=frozen)  # noqa: E731
    check_trunk(make, torch.randn(8, 3), TASKS, exceptions=ELSEWHERE)


def test_lora_is_a_product_of_low_rank():
    trunk = shaken(Adapters(nn.Sequential(nn.Linear(5, 7)), TASKS, LoRA(2, alpha=6.0))).double()
    layer, x = trunk.encoder[0], torch.randn(4, 5, dtype=torch.float64)
    for place, name in enumerate(TASKS):
        weight = layer.layer.weight + 3.0 * layer.up[place] @ layer.down[place]
        torch.testing.assert_close(trunk(x, TASKS)[name], x @ weight.T + layer.layer.bias)
        merged = trunk.merged(name)[0]
        assert type(merged) is nn.Linear
        torch.testing.assert_close(merged.weight, weight)


def test_merged_lora_in_single_precision():
    trunk = shaken(Adapters(MLP(5, [7, 6]), TASKS, LoRA(2)))
    x = torch.randn(4, 5)
    for name in TASKS:
        torch.testing.assert_close(trunk.merged(name)(x), trunk(x, TASKS)[name], rtol=1e-6, atol=1e-6)


def test_bottleneck_is_a_residual_through_the_middle():
    trunk = shaken(Adapters(nn.Sequential(nn.Linear(5, 7)), TASKS, Bottleneck(3))).double()
    layer, x = trunk.encoder[0], torch.randn(4, 5, dtype=torch.float64)
    y, r = layer.layer(x), layer.residual
    middle = torch.relu(y @ r.down[1].T + r.down_bias[1])
    torch.testing.assert_close(trunk(x, TASKS)["b"], y + middle @ r.up[1].T + r.up_bias[1])


def test_parallel_reads_the_input_of_its_layer():
    trunk = shaken(Adapters(nn.Sequential(nn.Linear(5, 7)), TASKS, Parallel(3))).double()
    layer, x = trunk.encoder[0], torch.randn(4, 5, dtype=torch.float64)
    r = layer.residual
    middle = torch.relu(x @ r.down[1].T + r.down_bias[1])
    torch.testing.assert_close(trunk(x, TASKS)["b"], layer.layer(x) + middle @ r.up[1].T + r.up_bias[1])


def test_parameter_counts():
    def own(encoder, adapter):
        trunk = Adapters(encoder, TASKS, adapter)
        return sum(p.numel() for p in trunk.parameters() if p.requires_grad) / len(TASKS)

    d, m = 8, 3
    assert own(transformer(), Bottleneck(m)) == 2 * 2 * (2 * d * m + m + d)  # two layers, two places each
    assert own(transformer(), Parallel(m)) == 2 * (2 * d * m + m + d)
    assert own(transformer(), LoRA(2)) == 2 * 2 * (d + 3 * d + d + d + d + 2 * d + 2 * d + d)
    assert own(transformer(), TaskNorm()) == 2 * 2 * 2 * d
    assert own(transformer(), Prefix(4)) == 2 * 2 * 4 * d
    assert own(transformer(), Prompt(4)) == 4 * d


def test_prefixes_are_more_keys_and_values():
    """Attention over [prefix; sequence], computed by hand for one head."""
    trunk = shaken(Adapters(nn.Sequential(_SelfAttention()), TASKS, Prefix(2), out_features=4)).double()
    x, opened = torch.randn(3, 5, 4, dtype=torch.float64), trunk.encoder[0].attention
    q, k, v = opened.in_proj(x).chunk(3, -1)
    k = torch.cat([opened.prefix.keys[1].expand(3, -1, -1), k], 1)
    v = torch.cat([opened.prefix.values[1].expand(3, -1, -1), v], 1)
    expected = opened.out_proj(torch.softmax(q @ k.transpose(1, 2) / 2.0, -1) @ v)
    torch.testing.assert_close(trunk(x, ["b"])["b"], expected)


class _SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_prompts_are_tokens_before_the_sequence():
    trunk = shaken(Adapters(transformer(), TASKS, Prompt(2)))
    x = torch.randn(5, 4, 8)
    tokens = trunk.encoder.layers[0].entering.tokens[1].expand(5, -1, -1)
    hidden = torch.cat([tokens, x], 1)
    for layer in trunk.encoder.layers:
        hidden = layer.layer(hidden)
    torch.testing.assert_close(trunk(x, ["b"])["b"], hidden[:, 2:])


@pytest.mark.parametrize("mask", ["padding", "causal", "both"])
@pytest.mark.parametrize("adapter", [LoRA(2), Prefix(2), Prompt(2)], ids=str)
def test_what_is_masked_is_not_seen(adapter, mask):
    trunk, x = shaken(Adapters(transformer(), TASKS, adapter)), torch.randn(5, 4, 8)
    trunk._tell(["b"])
    options = {}
    if mask in ("padding", "both"):
        options["src_key_padding_mask"] = torch.tensor([[0.0, 0.0, 0.0, float("-inf")]]).expand(5, -1)
    if mask in ("causal", "both"):
        options["mask"] = nn.Transformer.generate_square_subsequent_mask(4)
    other = x.clone()
    other[:, 3] = torch.randn(5, 8)
    first, second = trunk.encoder(x, **options), trunk.encoder(other, **options)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(trunk.encoder(x)[:, :3], trunk.encoder(other)[:, :3])


@pytest.mark.parametrize("options", [
    {},
    {"src_key_padding_mask": torch.tensor([[False, False, True]] * 2)},
    {"mask": nn.Transformer.generate_square_subsequent_mask(3), "is_causal": True},
])  # fmt: skip
def test_opened_attention_is_attention(options):
    plain = transformer()
    opened = Adapters(copy.deepcopy(plain), TASKS, TaskNorm()).encoder
    x = torch.randn(2, 3, 8)
    trunk_free = copy.deepcopy(opened)
    for module in trunk_free.modules():
        if hasattr(module, "route"):
            module.route.asked = (0,)
    torch.testing.assert_close(trunk_free(x, **options), plain(x, **options))


def test_a_mixed_batch_moves_and_keeps_its_form():
    parts = [Batch({"x": torch.randn(n, 3)}, {name: torch.ones(n)}) for n, name in ((2, "c"), (3, "a"), (1, "c"))]
    batch = mixed_batch(parts, TASKS).to("cpu")
    assert isinstance(batch.inputs, MixedTasks)
    assert batch.inputs.task.tolist() == [2, 2, 0, 0, 0, 2]
    torch.testing.assert_close(batch.inputs.inputs["x"], torch.cat([part.inputs["x"] for part in parts]))
    labelled = {name: target.isnan().logical_not().tolist() for name, target in batch.targets.items()}
    assert labelled == {"c": [True, True, False, False, False, True], "a": [False, False, True, True, True, False]}
    tokens = [Batch(torch.zeros(2, 5), {"a": torch.ones(2, 5)}), Batch(torch.zeros(1, 5), {"b": torch.ones(1)})]
    assert {name: target.shape for name, target in mixed_batch(tokens, TASKS).targets.items()} == {
        "a": (3, 5),
        "b": (3,),
    }


def test_a_mixed_batch_in_one_compiled_graph():
    trunk = shaken(Adapters(MLP(3, [6]), TASKS, LoRA(2)))
    inputs = MixedTasks(torch.randn(6, 3), torch.tensor([2, 0, 0, 1, 2, 1]))
    torch.compiler.reset()
    compiled = torch.compile(trunk, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs, TASKS), trunk(inputs, TASKS))


def test_a_step_on_a_mixed_batch_is_the_steps_on_its_parts():
    """Losses of rows of two tasks together are the losses of each task's rows alone."""
    kinds = {name: Task.regression(name) for name in TASKS}
    parts = [Batch(torch.randn(n, 3), {name: torch.randn(n)}) for n, name in ((4, "a"), (3, "c"))]
    torch.manual_seed(0)
    first = MultiTaskModel(shaken(Adapters(MLP(3, [6]), TASKS, LoRA(2))), {name: nn.Linear(6, 1) for name in TASKS})
    second = copy.deepcopy(first)
    steps = [
        train_step(model, kinds, batches, Equal(), torch.optim.SGD(model.parameters(), lr=0.1))
        for model, batches in ((first, [mixed_batch(parts, TASKS)]), (second, parts))
    ]
    torch.testing.assert_close(steps[0].losses, steps[1].losses)
    torch.testing.assert_close(list(first.parameters()), list(second.parameters()))


def test_a_frozen_trunk_stands_still_under_weight_decay():
    encoder = nn.Sequential(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(12, 6))
    trunk = Adapters(encoder, TASKS, Bottleneck(2), out_features=6)
    model = MultiTaskModel(trunk, {name: nn.Linear(6, 1) for name in TASKS}).train()
    frozen = {n: v.clone() for n, v in model.state_dict().items() if "residual" not in n and "heads" not in n}
    assert "trunk.encoder.1.running_mean" in frozen
    batch = Batch(torch.randn(8, 2, 3), {name: torch.randn(8) for name in TASKS})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        train_step(model, {name: Task.regression(name) for name in TASKS}, [batch], Equal(), optimizer)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


def test_below_the_first_adapter_the_encoder_runs_once():
    rows = []

    class Counted(nn.Linear):
        def forward(self, input):
            rows.append(len(input))
            return super().forward(input)

    trunk = Adapters(nn.Sequential(Counted(3, 8), nn.Linear(8, 6)), TASKS, LoRA(2, targets=["1"]))
    trunk(torch.randn(5, 3), TASKS)
    assert rows == [5]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="two adapters"):
        Adapters(MLP(3, [8]), TASKS, [LoRA(2), Bottleneck(2)])
    with pytest.raises(UserError, match="no fitting layer 'attention'"):
        Adapters(MLP(3, [8]), TASKS, LoRA(2, targets=["attention"]))
    with pytest.raises(UserError, match="no layer for TaskNorm"):
        Adapters(MLP(3, [8]), TASKS, TaskNorm())
    for adapter in (Prefix(), Prompt()):
        with pytest.raises(UserError, match="TransformerEncoderLayer"):
            Adapters(MLP(3, [8]), TASKS, adapter)
    with pytest.raises(UserError, match="different names"):
        Adapters(MLP(3, [8]), ["a", "a"], LoRA(2))
    with pytest.raises(UserError, match="batch_first=True"):
        Adapters(nn.TransformerEncoderLayer(8, 2, 16), TASKS, LoRA(2))
    with pytest.raises(UserError, match="no task 'd'"):
        Adapters(MLP(3, [8]), TASKS, LoRA(2))(torch.zeros(2, 3), ["d"])
    with pytest.raises(UserError, match="one task each"):
        mixed_batch([Batch(torch.zeros(1, 3), {"a": torch.zeros(1), "b": torch.zeros(1)})], TASKS)
    with pytest.raises(UserError, match="'a' must be floating point"):
        mixed_batch([Batch(torch.zeros(1, 3), {"a": torch.zeros(1, dtype=torch.long)})], TASKS)
