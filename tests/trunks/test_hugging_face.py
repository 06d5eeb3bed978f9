"""Adapters and conditioning on encoders of transformers, with random weights."""

import copy

import pytest
import torch

from polytask import UserError
from polytask.hugging_face import HuggingFaceEncoder
from polytask.testing import TRUNK_CHECKS, check_trunk
from polytask.trunks import Adapters, Bottleneck, Conditioned, LoRA, MixedTasks, Parallel, TaskNorm

transformers = pytest.importorskip("transformers", reason="needs transformers: the extra [text]")
TASKS = ("a", "b")
ADAPTERS = [
    LoRA(2, targets=["query", "value"]),
    Bottleneck(3, targets=["output.dense"]),
    Parallel(3, targets=["intermediate.dense"]),
    TaskNorm(),
]


def encoder(pool="mean"):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=16,
    )  # fmt: skip
    return HuggingFaceEncoder(transformers.BertModel(config, add_pooling_layer=False), pool)


def text(rows=6):
    return {
        "input_ids": torch.randint(30, (rows, 5)),
        "attention_mask": (torch.arange(5) < torch.randint(2, 6, (rows, 1))).long(),
    }


def shaken(trunk):
    with torch.no_grad():
        for p in trunk.parameters():
            p.add_(0.3 * torch.randn_like(p) * p.requires_grad)
    return trunk


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
class TestAdapters:
    def test_promises(self, adapter):
        elsewhere = dict.fromkeys(["compiles", "exports"], "a slow test of their own")
        check_trunk(lambda: Adapters(encoder(), TASKS, adapter), text(), TASKS, exceptions=elsewhere)

    @pytest.mark.slow
    @pytest.mark.parametrize("check", ["compiles", "exports"])
    def test_in_one_graph(self, adapter, check):
        TRUNK_CHECKS[check](lambda: Adapters(encoder(), TASKS, adapter), text(), TASKS)

    def test_starts_as_the_encoder_bit_for_bit(self, adapter):
        plain, x = encoder().eval(), text()
        trunk = Adapters(copy.deepcopy(plain), TASKS, adapter).eval()
        assert torch.equal(trunk(x, TASKS)["b"], plain(x))

    def test_merged_and_mixed(self, adapter):
        trunk, x = shaken(Adapters(encoder(), TASKS, adapter)).double(), text()
        features = trunk(x, TASKS)
        assert not torch.allclose(features["a"], features["b"])
        task = torch.tensor([0, 1, 1, 0, 1, 0])
        mixed = trunk(MixedTasks(x, task), TASKS)["a"]
        for place, name in enumerate(TASKS):
            torch.testing.assert_close(trunk.merged(name)(x), features[name])
            torch.testing.assert_close(mixed[task == place], features[name][task == place])


def test_conditioning():
    trunk = shaken(Conditioned(encoder(), TASKS, "film", at=["output.dense"]))
    features = trunk(text(), TASKS)
    assert features["a"].shape == (6, 8)
    assert not torch.allclose(features["a"], features["b"])


def test_pools():
    x, tokens = text(), encoder("tokens").eval()
    states = tokens(x)
    assert states.shape == (6, 5, 8)
    for pool in ("mean", "first"):
        pooled = HuggingFaceEncoder(tokens.model, pool)(x)
        lengths = x["attention_mask"].sum(1)
        for row in range(6):
            expected = states[row, : lengths[row]].mean(0) if pool == "mean" else states[row, 0]
            torch.testing.assert_close(pooled[row], expected)
    ids = {"input_ids": x["input_ids"]}
    torch.testing.assert_close(HuggingFaceEncoder(tokens.model)(ids), tokens(ids).mean(1))
    with pytest.raises(UserError, match="unknown pool 'max'"):
        HuggingFaceEncoder(tokens.model, "max")
