"""Words become objects in one place."""

import pytest
import torch

from polytask import (
    MGDA,
    GradDrop,
    Manual,
    PCGrad,
    TensorSource,
    UncertaintyWeighting,
    UserError,
    balance,
    sampling,
    trunks,
)
from polytask.names import (
    canonical,
    describe,
    find_method,
    make_balancer,
    make_sampler,
    ready_balancers,
    registered,
)


@pytest.mark.parametrize("word", ["pcgrad", "PCGrad", "pc-grad", "PC_GRAD"])
def test_spellings(word):
    assert isinstance(make_balancer(word, ["a"]), PCGrad)


def test_short_names():
    assert canonical("HardSharing") == "hard"
    assert find_method("hard", trunks.METHODS, "trunk") is trunks.HardSharing
    assert find_method("MMoE", trunks.METHODS, "trunk") is trunks.MMoE
    assert isinstance(make_balancer("uncertainty_weighting", ["a"]), UncertaintyWeighting)


@pytest.mark.parametrize("room", [balance, trunks, sampling])
def test_every_method_is_found_by_its_name_and_exported(room):
    known = registered(room.METHODS)
    assert len(known) == len(room.METHODS)
    for name, method in known.items():
        assert find_method(name, room.METHODS, "method") is method
        assert getattr(room, method.__name__) is method
        assert method.__name__ in room.__all__


def test_tasks_and_options_arrive():
    assert make_balancer("uncertainty", ["x", "y"], {"form": "full"}).form == "full"
    assert make_balancer("uncertainty", ["x", "y"]).tasks == ("x", "y")
    assert isinstance(make_balancer("mgda", ["x"]), MGDA)
    drop = make_balancer("graddrop", ["x"], {"leak": 0.25})
    assert isinstance(drop, GradDrop)
    assert drop.leak == 0.25
    manual = make_balancer("manual", ["x", "y"], {"weights": {"x": 1.0, "y": 2.0}})
    assert isinstance(manual, Manual)
    assert manual.weights.tolist() == [1.0, 2.0]


def test_sizes_arrive_where_they_are_wanted():
    sizes = {"x": 30, "y": 10}
    assert make_balancer("inverse-size", ["x", "y"], sizes=sizes).weights.tolist() == [0.5, 1.5]
    given = {"sizes": {"x": 1, "y": 1}}
    assert make_balancer("inverse-size", ["x", "y"], given, sizes=sizes).weights.tolist() == [1.0, 1.0]
    assert isinstance(make_balancer("pcgrad", ["x", "y"], sizes=sizes), PCGrad)
    with pytest.raises(UserError, match="balancer 'inverse-size' needs sizes="):
        make_balancer("inverse-size", ["x", "y"])


def test_what_a_study_can_be_asked_for():
    ready = ready_balancers()
    assert {"famo", "dtp", "inversevalidation", "inversesize", "sizeweights", "gradnorm", "imtl"} <= set(ready)
    assert "manual" not in ready


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("pcgrat", {}, "unknown balancer 'pcgrat'; did you mean 'pcgrad'"),
        ("zzz", {}, "unknown balancer 'zzz'; known: '"),
        ("graddrop", {"leek": 0.1}, "no option 'leek'; did you mean 'leak'"),
        ("manual", {}, "balancer 'manual' needs weights="),
    ],
)
def test_mistakes_get_a_hint(word, options, message):
    with pytest.raises(UserError, match=message):
        make_balancer(word, ["a"], options)


def test_every_method_says_what_it_is():
    rows = describe()
    assert {(row["kind"], row["class"]) for row in rows} == {
        (kind, method.__name__)
        for kind, methods in (
            ("balancer", balance.METHODS),
            ("trunk", trunks.METHODS),
            ("sampler", sampling.METHODS),
            ("schedule", sampling.SCHEDULES),
        )
        for method in methods
    }
    for row in rows:
        assert row["what"].endswith((".", ")")), row
        assert "\n" not in row["what"]
        assert row["name"] == canonical(row["class"])


def source(rows=12):
    return TensorSource(torch.zeros(rows, 2), {"a": torch.zeros(rows), "b": torch.zeros(rows)})


@pytest.mark.parametrize(
    ("word", "form", "schedule"),
    [
        ("all", "AllTasks", None),
        ("each", "EachTask", None),
        ("one", "OneTask", "Proportional"),
        ("temperature:5", "OneTask", "Temperature"),
        ("one:uniform", "OneTask", "Uniform"),
        ("mixed", "MixedTasks", "Proportional"),
        ("mixed:ratios:a=3,b=1", "MixedTasks", "Ratios"),
        ("round-robin", "OneTask", "RoundRobin"),
    ],
)
def test_samplers_by_name(word, form, schedule):
    sampler = make_sampler(word, ["a", "b"], source(), batch_size=4)
    assert type(sampler).__name__ == form
    assert type(getattr(sampler, "schedule", None)).__name__ == (schedule or "NoneType")
    assert {name for _ in range(4) for batch in sampler.draw() for name in batch.targets} <= {"a", "b"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("temprature:5", "unknown sampler 'temprature:5'; did you mean 'temperature'"),
        ("all:5", "the sampler 'all' takes nothing behind a colon"),
        ("mixed:unifrom", "unknown schedule 'unifrom'; did you mean 'uniform'"),
        ("temperature:hot", "temperature"),
        ("ratios:a=3,c=1", "c"),
    ],
)
def test_mistakes_in_samplers_get_a_hint(word, message):
    with pytest.raises(UserError, match=message):
        make_sampler(word, ["a", "b"], source(), batch_size=4)
