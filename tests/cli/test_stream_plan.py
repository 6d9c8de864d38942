"""`layerline plan` for runs that train in a stream."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.command import Layerline

RUN = """
kind = "stream"
dataset = "digits"
nodes = 3
batch_size = 128
[network]
kind = "conv"
widths = [4, 6, 6]
classifier = "linear"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "run.toml"
    path.write_text(RUN, encoding="utf-8")
    return str(path)


def test_a_stream_is_drawn_and_timed(layerline: Layerline, file: str) -> None:
    answer = layerline("plan", file)
    assert (answer.status, answer.err) == (0, "")
    assert "node 1  1F0  1B0   1U  1F0  1B0   1U" in answer.out
    assert "node 2       2F0  2B0   2U  2F0  2B0   2U" in answer.out
    assert "1 → 2" in answer.out
    assert "2 → 1" not in answer.out, "with reach 1 nothing comes back"
    assert "activations" in answer.out


def test_in_numbers(layerline: Layerline, file: str) -> None:
    local, whole = (
        json.loads(layerline("plan", file, "--reach", reach, "--compare", "--format", "json").out)
        for reach in ("1", "all")
    )
    assert local["owned"] == [[1], [2], [3]]
    assert local["steps"] == 120
    assert local["makespan"] < whole["makespan"]
    assert whole["bytes"] == 2 * local["bytes"]
    assert [way["name"] for way in local["compare"]] == ["reach 1", "reach 2", "reach all", "GPipe", "1F1B"]
    gpipe, one = local["compare"][-2:]
    assert gpipe["seconds"] == one["seconds"]
    assert gpipe["memory"] > one["memory"]
    assert [way["note"] for way in whole["compare"]][2] == ""


def test_a_method_is_drawn_and_timed_beside_the_others_and_ours(layerline: Layerline, file: str) -> None:
    words = ("plan", file, "--reach", "all", "--microbatches", "6", "--link", "ideal", "--latency", "0")
    answer = layerline(*words, "--method", "zero-bubble")
    assert (answer.status, answer.err) == (0, "")
    assert "node 3            3F0  3I0" in answer.out
    assert "I: back to its input, W: to its weights" in answer.out
    found = json.loads(layerline(*words, "--method", "zero-bubble", "--format", "json").out)
    assert found["schedule"] == "zero-bubble"
    assert 0 < found["bubble"] < 1
    ways = {way["name"]: way["seconds"] for way in found["compare"]}
    assert list(ways) == ["zero-bubble", "ddp", "gpipe", "1f1b", "stream, reach all"], "too few blocks to interleave"
    assert ways["zero-bubble"] == found["makespan"] < ways["1f1b"]


def test_the_plan_of_data_parallel_training(layerline: Layerline, file: str) -> None:
    answer = layerline("plan", file, "--reach", "all", "--method", "ddp", "--nodes", "4")
    assert (answer.status, answer.err) == (0, "")
    assert "node 4  4F0  4B0  4U" in answer.out


def test_streams_beside_data_parallel_training_have_its_microbatches(layerline: Layerline, file: str) -> None:
    """Two of each of three nodes are six of the minibatch: the stream's six rows are as long as if it were alone."""
    words = ("plan", file, "--reach", "all", "--link", "ideal", "--latency", "0", "--format", "json")
    found = json.loads(layerline(*words, "--method", "ddp", "--microbatches", "2", "--compare").out)
    alone = json.loads(layerline(*words, "--microbatches", "6", "--compare").out)
    ways = {way["name"]: way["seconds"] for way in found["compare"]}
    assert ways["stream, reach all"] == alone["makespan"]
    assert "reach all" not in ways, "it is there already"
    assert ways["reach 1"] == {way["name"]: way["seconds"] for way in alone["compare"]}["reach 1"]


def test_more_copies_than_blocks_have_no_streams_beside_them(layerline: Layerline, file: str) -> None:
    words = ("--reach", "all", "--method", "ddp", "--nodes", "4", "--compare", "--measure", "--format", "json")
    found = json.loads(layerline("plan", file, *words).out)
    assert [way["name"] for way in found["compare"]] == ["ddp"]
    assert found["costs_from"] == "measured here"


def test_streams_in_step_stand_beside_one_that_runs_freely(layerline: Layerline, file: str) -> None:
    words = ("--timing", "async", "--boundary", "int8", "--compare", "--format", "json")
    answer = layerline("plan", file, *words)
    assert answer.status == 0, answer.err
    ways = [way["name"] for way in json.loads(answer.out)["compare"]]
    assert ways == ["reach 1", "reach 2", "reach all", "GPipe", "1F1B"]


@pytest.mark.parametrize("timing", ["sync", "async"])
def test_coded_outputs_are_counted_as_they_travel(layerline: Layerline, file: str, timing: str) -> None:
    """bf16-mixed: outputs have 16 bits a number; codes of two channels out of 16 have 4, which are 2 a number."""
    words = ("plan", file, "--timing", timing, "--format", "json")
    plain, coarse, coded = (
        json.loads(layerline(*words, *more).out)["bytes"]
        for more in ((), ("--boundary", "int8"), ("--boundary", "vq", "--dims", "2", "--codes", "16"))
    )
    assert plain == 2 * coarse == 8 * coded


def test_int8_is_for_outputs_and_gradients_travel_in_bfloat16(layerline: Layerline, file: str) -> None:
    """They were counted as int8, and slow links looked twice as fast on the way back."""
    words = ("plan", file, "--reach", "2", "--precision", "32-true", "--format", "json")
    plain, half, coarse = (
        json.loads(layerline(*words, *more).out)["bytes"] for more in ((), ("--codec", "bf16"), ("--codec", "int8"))
    )
    assert (half / plain, coarse / plain) == (0.5, 0.375)
    sent = [
        {way["name"]: way["bytes"] for way in json.loads(layerline(*words, "--compare", *more).out)["compare"]}
        for more in ((), ("--codec", "int8"))
    ]
    assert sent[0]["GPipe"] == sent[1]["GPipe"], "PyTorch sends its tensors as they are"
    assert sent[0]["reach all"] > sent[1]["reach all"]


def test_coding_is_measured_and_other_reaches_cannot_code(layerline: Layerline, file: str) -> None:
    words = ("plan", file, "--compare", "--measure", "--format", "json")
    plain, coded = (json.loads(layerline(*words, *more).out) for more in ((), ("--boundary", "int8")))
    bytes_of = [{way["name"]: way["bytes"] for way in found["compare"]} for found in (plain, coded)]
    assert coded["costs_from"] == "measured here"
    assert bytes_of[0].pop("reach 1") == 2 * bytes_of[1].pop("reach 1") == 2 * coded["bytes"]
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize("nodes", ["1", "3"])
def test_codes_are_measured(layerline: Layerline, file: str, nodes: str) -> None:
    """Each block takes what the one before it left, and the codes to read it with, which were sent once."""
    codes = ("--boundary", "vq", "--dims", "2", "--codes", "16")
    answer = layerline("plan", file, "--nodes", nodes, *codes, "--measure", "--format", "json")
    assert answer.status == 0, answer.err
    assert all(each > 0 for each in json.loads(answer.out)["costs"]["forward"])


def test_blocks_of_equal_time_are_planned_and_named(layerline: Layerline, file: str) -> None:
    by_time = ("--cut", "count", "--blocks", 2, "--balance", "time")
    answer = layerline("plan", file, "--nodes", 2, *by_time, "--format", "json")
    assert answer.status == 0, answer.err
    found = re.search(r"note: blocks of equal time, measured here: (--cut at --positions \d)\n", answer.err)
    assert found
    again = layerline("plan", file, "--nodes", 2, *found[1].split(), "--format", "json")
    assert json.loads(again.out)["costs"] == json.loads(answer.out)["costs"]


def test_one_node_is_never_idle(layerline: Layerline, file: str) -> None:
    """What rounding leaves is no time: it was 3.41e-13 s once."""
    answer = layerline("plan", file, "--nodes", "1", "--epochs", "50")
    (line,) = [line for line in answer.out.splitlines() if line.startswith(" node 1 ")]
    assert " 0 s " in line


def test_memory_does_not_grow_with_microbatches(layerline: Layerline, file: str) -> None:
    """Per example: more microbatches are smaller ones, and one at a time is kept."""
    words = ("plan", file, "--link", "ideal", "--latency", "0", "--format", "json")
    few, many = (json.loads(layerline(*words, "--microbatches", m).out)["peak_activations"] for m in ("2", "16"))
    assert all(m <= f for f, m in zip(few, many, strict=True))


def test_rows_and_a_link_are_measured(layerline: Layerline, file: str) -> None:
    words = ("plan", file, "--reach", "2", "--microbatches", "2", "--measure", "--format", "json")
    found = json.loads(layerline(*words).out)
    assert found["costs_from"] == "measured here"
    costs = found["costs"]
    assert all(min(costs[name]) > 0 for name in ("forward", "to_weights", "update"))
    assert costs["to_input"][1] > 0, "the second block passes the third one's gradient on"
    assert costs["to_input"][0] == 0, "and nobody asks for that of the images"
    assert [seconds > 0 for seconds in costs["own_loss"]] == [False, True, True]
    assert 1e6 < found["bandwidth"] < 1e12
    assert 0 < found["latency"] < 1
    assert found["step_seconds"] >= max(found["utilisation"]) * found["makespan"] / found["steps"] * 0.99
    given = json.loads(layerline(*words, "--link", "1gbit", "--latency", "2ms").out)
    assert (given["bandwidth"], given["latency"]) == (125e6, 2e-3)


def test_what_goes_on_to_the_input_is_measured_by_itself(layerline: Layerline, file: str) -> None:
    """Zero bubbles live on it: were it free, the stage below would have its gradient at once."""
    words = ("--reach", "all", "--method", "zero-bubble", "--microbatches", "3", "--measure", "--format", "json")
    costs = json.loads(layerline("plan", file, *words).out)["costs"]
    assert [seconds > 0 for seconds in costs["to_input"]] == [False, True, True]


def test_a_text_is_measured_on_made_up_tokens(layerline: Layerline, tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("all the world's a stage " * 40, encoding="utf-8")
    words = ("--dataset", text, "--width", "16", "--attention-heads", "2", "--context", "8", "--batch-size", "4")
    answer = layerline("plan", "interlocking-shakespeare", *words, "--nodes", "1", "--measure", "--compare")
    assert answer.status == 0, answer.err
    assert "rows        measured here" in answer.out
    assert "1F1B" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nodes 4", "4 nodes for a stream through 3 blocks: each needs one at least\n  choose --nodes 3"),
        ("--costs some.json", "--costs is about the slots of chapters; a stream has none"),
        ("--reach 4", "a gradient cannot reach over 4 of 3 block"),
        ("--speeds 1,2", "2 speeds for 3 nodes"),
        ("--reach all --method 1f1b", "1F1B keeps every node busy with a microbatch: 1 do not do for 3 nodes"),
        ("--method gpipe", "--method gpipe is backprop, whose gradient reaches all blocks, and this run has --reach 1"),
        ("--chapters 3", "--chapters is for runs that train in chapters or side by side, such as digits"),
        ("--arithmetic 0", "--arithmetic should be greater than 0, got 0"),
        ("--boundary vq --dims 2 --codec int8", "--codec int8 would round what --boundary vq has coded\n  leave out"),
        ("--nodes 1 --boundary vq --dims 3", "4 channels are no groups of 3\n  choose --dims to divide 4, such as 2"),
        (
            "--owns 1,1",
            "--owns 1,1 does not deal 3 blocks to 3 nodes\n  say how many each owns, 1 at least, like --owns 1,1,1",
        ),
        ("--owns 3 --nodes 1", "--owns deals blocks out to several nodes, and this run has one\n  choose --nodes 2"),
        (
            "--reach all --method ddp --owns 1,1,1",
            "--owns deals blocks out in a row, and --method ddp gives all blocks to",
        ),
        ("--timing async --codec int8", "--codec int8 is for nodes that wait for each other"),
    ],
)
def test_a_wrong_request_ends_with_2_and_says_why(layerline: Layerline, file: str, words: str, message: str) -> None:
    answer = layerline("plan", file, *words.split())
    assert (answer.status, answer.out) == (2, "")
    assert f"error: {message}" in answer.err


@pytest.mark.parametrize("more", ["", "--reach all --method gpipe --microbatches 2"])
def test_blocks_are_dealt_out_as_somebody_wants(layerline: Layerline, file: str, more: str) -> None:
    words = ("plan", file, "--nodes", "2", *more.split(), "--format", "json")
    other = {"1,2": "2,1", "2,1": "1,2"}
    formula = ",".join(str(len(blocks)) for blocks in json.loads(layerline(*words).out)["owned"])
    found = json.loads(layerline(*words, "--owns", other[formula]).out)
    assert [len(blocks) for blocks in found["owned"]] == [int(count) for count in other[formula].split(",")]
    assert [block for blocks in found["owned"] for block in blocks] == [1, 2, 3]


def test_its_own_flag_for_the_number_of_blocks(layerline: Layerline, file: str) -> None:
    answer = layerline("plan", file, "--cut", "count", "--blocks", "2", "--nodes", "2", "--format", "json")
    assert json.loads(answer.out)["blocks"] == 2
