"""Any Run there can be is the same after a trip through TOML, and through the words of a command line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from layerline.blocks.network import Own
from layerline.cli.commands import train
from layerline.cli.components import Setting, Table, by_kind, join, members, run_settings
from layerline.cli.flags import flag_names, kebab, settings_of
from layerline.cli.parser import Parser
from layerline.cli.resolve import resolve
from layerline.errors import UsageError
from layerline.run import Run
from layerline.settings import Settings


def _values(setting: Setting) -> st.SearchStrategy[Any]:
    """Values of a plain setting, within its bounds; None stands for: not set."""
    bounds: dict[str, Any] = {}
    for constraint in setting.field.metadata:
        match constraint:
            case Ge(ge=low):
                bounds["min_value"] = low
            case Gt(gt=low):
                bounds |= {"min_value": low, "exclude_min": True}
            case Le(le=high):
                bounds["max_value"] = high
            case Lt(lt=high):
                bounds |= {"max_value": high, "exclude_max": True}
            case MinLen():
                pass
    annotation = str(setting.field.annotation)
    if "Literal" in annotation:
        return st.sampled_from(setting.field.annotation.__args__)  # type: ignore[union-attr]
    if "tuple" in annotation:
        return st.lists(st.integers(1, 3000), min_size=2, max_size=5)
    if "bool" in annotation:
        return st.booleans()
    if "int" in annotation:
        return st.integers(**({"max_value": 1000} | bounds))
    if "float" in annotation:
        return st.floats(**({"allow_nan": False, "allow_infinity": False} | bounds))
    return st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1)


@st.composite
def _tables(draw: st.DrawFn, model: type[Settings] = Run, path: str = "") -> Table:
    """Some of the settings of a model, and of what is in it."""
    table: Table = {}
    for name, field in model.model_fields.items():
        here = join(path, name)
        inner = by_kind(members(field.annotation))
        if name == "kind" or here == "preset" or draw(st.booleans()):
            continue
        if inner:
            kind = draw(st.sampled_from(sorted(inner, key=str)))
            table[name] = draw(_tables(inner[kind], here)) | ({} if kind is None else {"kind": kind})
        else:
            table[name] = draw(_values(run_settings()[here][0]))
    return table


def _run(table: Table) -> Run:
    """The Run of a table; tables that no Run can have are passed over."""
    objective = table.get("objective", {}).get("kind", "forward-forward")
    readout = table.setdefault("readout", {"kind": "softmax"})["kind"]
    unused = objective != "forward-forward"
    assume(not (unused and ("negatives" in table or "labels" in table)))
    assume(not (table.get("negatives", {}).get("kind") == "masked-hybrid" and "labels" in table))
    assume(not (readout != "softmax" and "head_lr" in table.get("optimizer", {})))
    if "chapters" in table:
        table["epochs"] = table["chapters"] * 2
    _make_schedule_possible(table)
    try:
        return Run.from_dict(table)
    except UsageError:
        assume(False)
        raise


def _make_schedule_possible(table: Table) -> None:
    """Few tables drawn at random are about nodes that could work together; change those that are not."""
    schedule, nodes = table.get("schedule", {}), table.get("nodes", 1)
    if schedule.get("kind", "sequential") != "sequential" or nodes > 1:
        table["order"] = "chapters"
    if nodes == 1:
        table.pop("speeds", None)
        table.pop("send_optimizer_state", None)
    elif "speeds" in table:
        table["nodes"] = len(table["speeds"])
    forward_forward = table.get("objective", {}).get("kind", "forward-forward") == "forward-forward"
    if not forward_forward or table.get("negatives", {}).get("kind") not in ("adaptive", "sampled"):
        schedule.pop("ranking", None)
        schedule.pop("delay", None)
    if not schedule.get("average"):
        schedule.pop("mean", None)
    if not table.get("augment", {}).get("shift"):
        table.get("augment", {}).pop("fill", None)


def _words(table: Table, path: str = "") -> list[str]:
    """The command line that says the same as a table, by the long flags."""
    words: list[str] = []
    for name, value in table.items():
        here = path if name == "kind" else join(path, name)
        flag = f"--{kebab(here)}"
        if isinstance(value, dict):
            words += _words(value, here)
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{kebab(here)}")
        else:
            words.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


_PARSER = Parser("train", "", "")
train.add_arguments(_PARSER)
_MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@_MANY
@given(_tables())
def test_run_to_toml_to_run(table: Table) -> None:
    run = _run(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(run.to_toml(), encoding="utf-8")
        assert Run.from_toml(path) == run
        assert resolve(str(path)) == run


@_MANY
@given(_tables(), st.data())
def test_run_to_flags_to_run(table: Table, data: st.DataObject) -> None:
    run = _run(table)
    assume(not isinstance(run.network, Own))  # no flag can hand modules in
    words = data.draw(st.permutations(_words(table)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.toml"
        path.touch()
        arguments = _PARSER.read([str(path), *words])
        assert resolve(arguments.start, flags=settings_of(arguments)) == run


def test_every_setting_has_a_flag_and_every_flag_help() -> None:
    for path, found in run_settings().items():
        assert flag_names(path)[-1] == f"--{kebab(path)}"
        assert all(setting.help for setting in found), path


def test_settings_that_share_a_flag_agree_on_what_it_takes() -> None:
    for path, found in run_settings().items():
        assert len({str(setting.field.annotation) for setting in found}) == 1, path
        assert len({str(setting.field.metadata) for setting in found}) == 1, path


def test_the_defaults_of_the_run_are_those_of_its_components() -> None:
    """Else `[optimizer]` with one setting would mean other values for the rest than no `[optimizer]` at all."""
    run = Run()
    for name, field in Run.model_fields.items():
        if members(field.annotation):
            assert getattr(run, name) == type(getattr(run, name))(), name
