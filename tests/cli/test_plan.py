"""`layerline plan`: what it prints, what it warns of, and every way to ask for something impossible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command import Layerline

_WRONG = [
    ("plan", "plan what?\n  name a preset"),
    ("plan pff-mnst", "there is no preset 'pff-mnst'; did you mean 'pff-mnist'?"),
    ("plan ff-mnist", "ff-mnist trains all blocks on every minibatch, so there are no chapters to plan"),
    ("plan ff-mnist --nodes 2", "2 nodes cannot share simultaneous training, which has no chapters to hand out"),
    ("plan pff-mnist --blocks 4", "--blocks plans a network in numbers, not pff-mnist"),
    ("plan pff-mnist --nodes 0", "--nodes should be greater than or equal to 1, got 0"),
    ("plan dgl-cifar10 --reach x", "--reach should be a valid integer or 'all', got x"),
    ("plan pff-mnist --nodes 2 --speeds 1,x", "--speeds should be a valid number, got x in 1,x"),
    ("plan pff-mnist --schedule all-layer", "--schedule: there is no 'all-layer'; did you mean 'all-layers'?"),
    ("plan pff-mnist --nodes 3 --speeds 1,2", "2 speeds for 3 nodes\n  give one for every node, like --speeds 1,1,1"),
    ("plan pff-mnist --hand-over activations", "--hand-over belongs to the single-layer schedule, but the schedule is"),
    ("plan pff-mnist --schedule single-layer --nodes 2 --ranking shared", "--ranking would change nothing: random neg"),
    ("plan federated-digits --mean equal", "--mean would change nothing: nothing is averaged"),
    ("plan pff-mnist --speeds 2", "--speeds would change nothing: there is one node"),
    ("plan --blocks 0", "--blocks should be greater than or equal to 1, got 0"),
    ("plan --blocks 4 --nodes 0", "--nodes should be greater than or equal to 1, got 0"),
    ("plan --blocks 4 --schedule gpipe", "--schedule: there is no 'gpipe'; there is:"),
    ("plan --blocks 4 --nodes 2 --speeds 1,0", "speeds are numbers above 0, got 1, 0"),
    ("plan --blocks 4 --nodes 2 --speeds 1", "1 speeds for 2 nodes"),
    ("plan --blocks 4 --ranking shared", "--ranking belongs to the single-layer schedule, but the schedule is all-lay"),
    ("plan --blocks 4 --epochs 7 --chapters 2", "2 chapters do not divide 7 epochs"),
    ("plan --blocks 4 --link nonsense", "--link: 'nonsense' is no speed of a link\n  write it like 1gbit"),
    ("plan --blocks 4 --link 0gbit", "--link: '0gbit' is no speed of a link"),
    ("plan --blocks 4 --link -1gbit", "--link: expected one argument"),
    ("plan --blocks 4 --latency 3", "--latency: '3' is no time\n  write it like 2ms"),
    ("plan --blocks 4 --arithmetic 0", "--arithmetic should be greater than 0, got 0"),
    ("plan --blocks 4 --memory nan", "--memory should be greater than 0, got nan"),
    ("plan --blocks 4 --measure", "only a preset or run.toml can be measured"),
    ("plan --blocks 4 --costs none.json", "cannot read none.json: No such file"),
    ("plan pff-mnist --costs none.json --measure", "slot costs are measured or read from a file"),
    ("plan --blocks 4 --gantt plan.pdf", "--gantt draws .svg and .png, not plan.pdf"),
    ("plan --blocks 4 --gantt nowhere/plan.svg", "--gantt: there is no folder nowhere"),
    ("plan --blocks 4 --lr 3", "unknown flag --lr"),
    ("plan --blocks 4 --negatives adaptive --schedule single-layer --nodes 2 --delay 1", "1 delays for 2 nodes"),
    ("plan --blocks 4 --schedule single-layer --nodes 2 --owns 2,3", "--owns 2,3 does not deal 4 stages to 2 nodes"),
    (
        "plan --blocks 4 --owns 4",
        "--owns belongs to the single-layer and dff schedules, but the schedule is all-layers",
    ),
]


@pytest.mark.parametrize(("words", "message"), _WRONG)
def test_a_wrong_request_ends_with_2_and_says_why(layerline: Layerline, words: str, message: str) -> None:
    answer = layerline(*words.split())
    assert (answer.status, answer.out) == (2, "")
    assert f"error: {message}" in answer.err
    assert list(Path().glob("*.svg")) == []


def test_a_preset_is_planned_without_its_data(layerline: Layerline) -> None:
    answer = layerline("plan", "pff-mnist", "--schedule", "all-layers", "--nodes", 4)
    assert (answer.status, answer.err) == (0, "")
    assert "node 2       1.2  2.2  3.2  4.2  1.6" in answer.out
    assert "1 → 2" in answer.out
    assert "utilisation" in answer.out


def test_the_legend_names_a_block_that_there_is(layerline: Layerline) -> None:
    assert "2.1: block 2 for chapter 1" in layerline("plan", "digits", "--order", "chapters").out
    assert "1.1: block 1 for chapter 1" in layerline("plan", "fedavg-digits").out


def test_json_has_the_numbers(layerline: Layerline) -> None:
    answer = layerline(
        "plan", "pff-mnist", "--schedule", "all-layers", "--nodes", 4, "--link", "ideal", "--format", "json"
    )
    values = json.loads(answer.out)
    assert values["slots"] == 400
    assert len(values["utilisation"]) == len(values["peak_memory"]) == values["nodes"] == 4
    assert values["links"][0] == {"from": 1, "to": 2, "bytes": 25 * 3 * 4 * (784 * 2000 + 3 * 2000**2 + 4 * 2000)}
    assert 3.7 < values["speedup"] < 4
    assert values["schedule"] == {"kind": "all-layers"}


def test_nodes_without_work_are_warned_of(layerline: Layerline) -> None:
    answer = layerline("plan", "--blocks", 4, "--schedule", "single-layer", "--nodes", 7)
    assert answer.status == 0
    assert answer.err.startswith("warning: nodes 5 to 7 would have nothing to do: Single-Layer uses one node for every")


def test_slow_links_and_slow_nodes_change_the_plan(layerline: Layerline) -> None:
    common = ("plan", "--blocks", 4, "--nodes", 3, "--chapters", 30, "--format", "json")
    fast = json.loads(layerline(*common).out)
    slow = json.loads(layerline(*common, "--link", "100mbit", "--latency", "2ms", "--codec", "int8").out)
    uneven = json.loads(layerline(*common, "--speeds", "1,1,0.5").out)
    assert slow["makespan"] > fast["makespan"]
    assert slow["bytes"] < fast["bytes"]
    assert uneven["makespan"] > fast["makespan"]


def test_everything_is_compared(layerline: Layerline) -> None:
    words = "plan pff-mnist --schedule all-layers --nodes 4 --negatives adaptive --compare --format json"
    values = json.loads(layerline(*words.split()).out)
    names = [way["name"] for way in values["compare"]]
    assert names[:2] == ["sequential", "single-layer"]
    assert {"all-layers", "federated --average", "dff", "GPipe backprop", "1F1B backprop"} <= set(names)
    assert values["choice"].startswith("Choose --schedule all-layers: ")


def test_a_gantt_chart_is_drawn(layerline: Layerline) -> None:
    pytest.importorskip("matplotlib")
    for name in ("plan.svg", "plan.png"):
        answer = layerline("plan", "--blocks", 3, "--nodes", 3, "--chapters", 4, "--gantt", name)
        assert answer.status == 0
        assert f"Drawn: {name}" in answer.out
        assert Path(name).stat().st_size > 5000


def test_a_gantt_chart_that_cannot_be_written_is_one_sentence(layerline: Layerline) -> None:
    pytest.importorskip("matplotlib")
    Path("plan.svg").mkdir()
    answer = layerline("plan", "--blocks", 3, "--gantt", "plan.svg")
    assert answer.status == 1
    assert answer.err == "error: cannot write plan.svg: Is a directory\n"


def test_slot_costs_are_measured(layerline: Layerline) -> None:
    words = "plan digits --order chapters --schedule single-layer --nodes 4 --widths 16,16,16 --readout softmax"
    answer = layerline(*words.split(), "--negatives", "adaptive", "--measure", "--format", "json")
    values = json.loads(answer.out)
    assert values["costs_from"] == "measured here"
    Path("costs.json").write_text(answer.out)
    again = json.loads(
        layerline(*words.split(), "--negatives", "adaptive", "--costs", "costs.json", "--format", "json").out
    )
    assert again["costs"] == values["costs"]
    assert again["makespan"] == pytest.approx(values["makespan"])
    assert len(values["costs"]["train"]) == 4
    assert min(values["costs"]["train"]) > 0
    assert min(values["costs"]["forward"]) > 0
    assert values["costs"]["ranking"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "costs.json is not JSON"),
        ("[]", "costs.json holds no table of costs"),
        ('{"trian": [1]}', "costs.json: there is no cost 'trian'; did you mean 'train'?"),
        (
            '{"train": [1, 2]}',
            "costs.json: train should be a list of 4 numbers, one for every stage or block, got [1, 2]",
        ),
        ('{"train": [1, 2, 3, -4]}', "costs.json: train should be 0 or more, got -4"),
        ('{"ranking": "long"}', "costs.json: ranking should be 0 or more, got 'long'"),
        ('{"ranking": [3]}', "costs.json: ranking should be one number, got [3]"),
    ],
)
def test_costs_that_are_none(layerline: Layerline, text: str, message: str) -> None:
    Path("costs.json").write_text(text)
    answer = layerline("plan", "--blocks", 4, "--costs", "costs.json")
    assert answer.status == 2
    assert f"error: {message}" in answer.err


def test_costs_of_a_file_are_planned_with(layerline: Layerline) -> None:
    """Single-Layer at slot costs measured once: what limits it, and that its remedies reach 3.5 of 4."""
    costs = {"train": [2.1, 5.25, 5.25, 5.25], "forward": [0.7, 1.8, 1.8, 1.8], "ranking": 27.7}
    Path("costs.json").write_text(json.dumps(costs))
    words = "plan pff-mnist --negatives adaptive --schedule single-layer --nodes 4 --costs costs.json --format json"
    plain = json.loads(layerline(*words.split()).out)
    helped = json.loads(layerline(*words.split(), "--hand-over", "activations", "--ranking", "shared").out)
    assert plain["speedup"] < 1.5
    assert helped["speedup"] >= 3.5


def test_a_deal_that_a_run_would_not_make_is_said_and_how_to_have_it(layerline: Layerline) -> None:
    """Balanced by costs of a file; a run goes by the formula, unless it is told."""
    Path("costs.json").write_text(json.dumps({"train": [10, 1, 1], "forward": [0.1, 0.1, 0.1]}))
    asked = "plan digits --order chapters --schedule single-layer --nodes 2 --link ideal --format json"
    words = asked.split()
    dealt = layerline(*words, "--costs", "costs.json")
    assert "note: this is dealt out by these costs, " in dealt.err
    assert "(to train this one: --owns 1,2)" in dealt.err
    assert "note:" not in layerline(*words).err
    told = layerline(*words, "--costs", "costs.json", "--owns", "1,2")
    assert told.err == ""
    assert json.loads(told.out)["makespan"] == json.loads(dealt.out)["makespan"]
    other = json.loads(layerline(*words, "--costs", "costs.json", "--owns", "2,1").out)
    assert f"a run is by the formula, {other['speedup']:.2f}×" in dealt.err
