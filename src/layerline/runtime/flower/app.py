"""The Flower app: what a message says, on both sides. Flower is known here, in `release`, `executor` and `node` only.

    query.hello      server asks which part of the data a SuperNode holds        ─► its number
    query.account    server asks for an account of its own data                  ─► shape, classes, counts
    train.task       an order of the server                                      ─► an answer
    evaluate.judge   the finished blocks                                         ─► how right they are there

An order or an answer is a record of plain numbers and words, with the headers of its parcels; their bodies are an array
record of bytes, by their digest, so that Flower carries equal ones once. Nothing is pickled, and nothing in it can run.

Flower ends a client's process after every message, unless `executor` runs it: then participants stay, and with them
what they would have to compute again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from layerline.data.catalog import dataset_names
from layerline.data.dataset import Dataset
from layerline.data.own import OwnData
from layerline.errors import LayerlineError, UsageError, did_you_mean
from layerline.run import Run
from layerline.runtime.flower.budget import check_budget
from layerline.runtime.flower.federation import Asked, Link, Lost, Refused, Reply
from layerline.runtime.flower.mail import Parcel
from layerline.runtime.flower.own import account_here, data_here, of_text
from layerline.runtime.flower.participant import Answer, Order, Participant
from layerline.runtime.flower.release import release
from layerline.runtime.planning import plan_of, planned
from layerline.schedules.plan import Plan
from layerline.sets import load_set

HOME = Path("~/.layerline/participants")
CONFIGURATION = {"partition-id", "num-partitions", "folder", "data-dir", "data", "max-epsilon", "max-delta"}
"""What a SuperNode's configuration may say; `num-partitions` is of Flower's simulation, and nothing here."""
"""Where participants keep their results, unless their SuperNode's configuration says otherwise."""

client = ClientApp()
_participants: dict[tuple[str, int], Participant] = {}


# The server --------------------------------------------------------------------------------------------------------


def server_app(serve: Callable[[Link, Mapping[str, Any]], None]) -> ServerApp:
    """The app of a server that carries out what its configuration names. `serve`: how."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(GridLink(grid), dict(context.run_config))

    return app


class GridLink(Link):
    """The way to the participants over Flower's grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def members(self) -> set[int]:
        return set(self._grid.get_node_ids())

    def hello(self, member: int) -> str:
        return self._push(Message(RecordDict(), member, "query.hello"))

    def account(self, member: int, run: str) -> str:
        return self._push(account_message(member, run))

    def order(self, member: int, asked: Asked, order: Order) -> str:
        return self._push(order_message(member, asked, order))

    def judge(self, member: int, asked: Asked, gone: Sequence[int], finished: Sequence[Parcel]) -> str:
        return self._push(judge_message(member, asked, gone, finished))

    def pull(self, names: Iterable[str]) -> list[tuple[str, Reply | Lost | Refused]]:
        replies = self._grid.pull_messages(list(names))
        return [(message.metadata.reply_to_message_id, read(message)) for message in replies]

    def _push(self, message: Message) -> str:
        (name,) = self._grid.push_messages([message])
        return name


def account_message(member: int, run: str) -> Message:
    """A question to a member of a run whose nodes have data of their own."""
    return Message(_packed({"run": run}, ()), member, "query.account")


def order_message(member: int, asked: Asked, order: Order) -> Message:
    """An order for a member."""
    said = {"row": order.row, "done": list(order.done), "heard": order.heard, "gone": list(order.gone)}
    return Message(_packed(_about(asked) | said, order.parcels), member, "train.task")


def judge_message(member: int, asked: Asked, gone: Sequence[int], finished: Sequence[Parcel]) -> Message:
    """The finished blocks for a member."""
    return Message(_packed(_about(asked) | {"gone": list(gone)}, finished), member, "evaluate.judge")


def read(message: Message) -> Reply | Lost | Refused:
    """What came back."""
    if message.has_error():
        return Lost(message.error.reason or f"error {message.error.code}")
    try:
        said = said_in(message.content)
        if "error" in said:
            return Refused(str(said["error"]), str(said["hint"]), int(said["status"]))
        return Reply(said, Answer(tuple(json.loads(said.get("facts", "[]"))), parcels_of(message.content)))
    except (KeyError, TypeError, ValueError) as error:
        hint = "is another version of Layerline installed there?"
        return Refused(f"the answer of a participant cannot be read: {error!r}", hint, LayerlineError.exit_status)


def _about(asked: Asked) -> dict[str, Any]:
    about = {"run": asked.run, "name": asked.name, "node": asked.node}
    return about | ({"accounts": asked.accounts} if asked.accounts else {})


# A participant -----------------------------------------------------------------------------------------------------


@client.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Which part of the data this SuperNode holds."""
    try:
        return Message(_packed({"part": _part(context)}, ()), reply_to=message)
    except LayerlineError as error:
        return _refusal(message, error)


@client.query("account")
def account(message: Message, context: Context) -> Message:
    """What the data here is like, for a run whose nodes have data of their own."""
    try:
        part, run = _part(context), _run(said_in(message.content))
        if part not in range(run.nodes):
            return Message(_packed({"part": part}, ()), reply_to=message)  # nobody needs it
        try:
            _insist(run, planned(run, run.block_count, examples=run.nodes * run.batch_size), part, context)
            told = account_here(run, _word(context, "data"))
        except LayerlineError as error:
            raise type(error)(f"node {part + 1}: {error.what}", hint=error.hint) from None
    except LayerlineError as error:
        return _refusal(message, error)
    return Message(_packed({"part": part, "account": told.model_dump_json()}, ()), reply_to=message)


@client.train("task")
def task(message: Message, context: Context) -> Message:
    """Carry out rows."""
    try:
        said = said_in(message.content)
        done, gone = tuple(said["done"]), tuple(said.get("gone", ()))
        order = Order(int(said["row"]), done, int(said["heard"]), gone, parcels_of(message.content))
        answer = _participant(said, context).carry_out(order)
    except LayerlineError as error:
        return _refusal(message, error)
    return Message(_packed({"facts": json.dumps(answer.facts)}, answer.parcels), reply_to=message)


@client.evaluate("judge")
def judge(message: Message, context: Context) -> Message:
    """Judge the finished blocks on the examples here."""
    try:
        said = said_in(message.content)
        judged = _participant(said, context).judge(said.get("gone", []), parcels_of(message.content))
    except LayerlineError as error:
        return _refusal(message, error)
    (examples, readouts), *_ = judged.values()
    return Message(_packed({"examples": examples, "readouts": json.dumps(readouts)}, ()), reply_to=message)


def _participant(said: dict[str, Any], context: Context) -> Participant:
    """The participant of a run, from this process or from its folder."""
    name, node = str(said["name"]), int(said["node"])
    if node != _part(context):  # as others, it could be asked for more than it says of itself
        raise UsageError(f"node {node + 1} is asked for where partition-id={_part(context)} is")
    if (name, node) not in _participants:
        run = _run(said)
        data = _data(run, node, said, context)
        folder = Path(_word(context, "folder") or HOME).expanduser() / Path(name).name.lstrip(".") / f"node-{node + 1}"
        plan = plan_of(run, data)
        _insist(run, plan, node, context)
        _participants[name, node] = Participant(run, plan, data, node, folder, release(run.privacy))
    return _participants[name, node]


def _insist(run: Run, plan: Plan, node: int, context: Context) -> None:
    """UsageError where a run would say more of the data here than this SuperNode's configuration lets it."""
    check_budget(run, plan, node, _configured(context, "max-epsilon"), _configured(context, "max-delta"))


def _run(said: dict[str, Any]) -> Run:
    return Run.from_dict(tomllib.loads(str(said["run"])), "what the server says of the run")


def _data(run: Run, node: int, said: dict[str, Any], context: Context) -> Dataset | OwnData:
    if run.has_own_data:
        return data_here(run, node, _word(context, "data"), of_text(str(said.get("accounts", "[]"))))
    name: str | None = run.dataset
    if name not in dataset_names():  # a path of the server's choice would open any file here
        name = _word(context, "data")
        if name is None:
            raise UsageError(
                f"the run learns from {run.dataset}, and this SuperNode does not say where it has that",
                hint="start it with --node-config '… data=\"/path/to/data.npz\"'",
            )
    data = load_set(run, name, data_dir=_word(context, "data-dir"))
    assert isinstance(data, Dataset)
    return data.hold_out() if run.validation else data


def _part(context: Context) -> int:
    """Which part of the data is held here."""
    part = _configured(context, "partition-id")
    if not isinstance(part, int):
        raise UsageError("a SuperNode has no number", hint="start it with partition-id=0, 1, …")
    return part


def _word(context: Context, name: str) -> str | None:
    word = _configured(context, name)
    return str(word) if word else None


def _configured(context: Context, name: str) -> object:
    """What this SuperNode's configuration says, if anything. UsageError for a word in it that means nothing: a limit
    that is misspelt would limit nothing."""
    for word in context.node_config:
        if word not in CONFIGURATION:
            near = did_you_mean(word, CONFIGURATION)
            who = f"the SuperNode with partition-id={context.node_config.get('partition-id')}"
            raise UsageError(f"{who} is configured with {word}, which means nothing{near}", hint="start it anew")
    return context.node_config.get(name)


def _refusal(message: Message, error: LayerlineError) -> Message:
    said = {"error": error.what, "hint": error.hint or "", "status": error.exit_status}
    return Message(_packed(said, ()), reply_to=message)


# Records -----------------------------------------------------------------------------------------------------------


def _packed(said: dict[str, Any], parcels: Iterable[Parcel]) -> RecordDict:
    bodies = {parcel.name: parcel.body for parcel in parcels}
    said = said | {"headers": [parcel.header for parcel in parcels], "bodies": [parcel.name for parcel in parcels]}
    record = RecordDict({"said": ConfigRecord({name: value for name, value in said.items() if value != []})})
    if bodies:
        arrays = {name: Array("uint8", (len(body),), "layerline", body) for name, body in bodies.items()}
        record["bodies"] = ArrayRecord(arrays)
    return record


def said_in(content: RecordDict) -> dict[str, Any]:
    """The plain part of a message."""
    return dict(content.config_records.get("said", ConfigRecord()))


def parcels_of(content: RecordDict) -> tuple[Parcel, ...]:
    """The parcels in a message."""
    said = said_in(content)
    bodies = content.array_records.get("bodies", ArrayRecord())
    pairs = zip(said.get("headers", []), said.get("bodies", []), strict=True)
    return tuple(Parcel(header, bodies[name].data) for header, name in pairs)
