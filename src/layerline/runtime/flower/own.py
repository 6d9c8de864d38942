"""Data that participants have to themselves: accounts go to the server once, and come back with everything it asks.

    server        which of your own data?   ─►   participant: reads its file, gives an `Account`
    server        all accounts: the plan; then with every order   ─►   participant: the same agreement, its own examples

The server reads nothing and says no path: where a participant's data lies is in its SuperNode's configuration. An
account is all that is told before training; what is in it is said in `data.own`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerline.data.catalog import load_part
from layerline.data.dataset import Dataset
from layerline.data.own import Account, OwnData
from layerline.errors import DataError, LayerlineError, UsageError
from layerline.run import Run
from layerline.runtime.flower.federation import FAILURES, Link, Lost, Refused, Reply, nobody_came, useless
from layerline.runtime.threads import compute_threads

_SECONDS_BETWEEN = 0.2
_LOOK_SECONDS = 2.0

# A participant -----------------------------------------------------------------------------------------------------


def account_here(run: Run, path: str | None) -> Account:
    """What a participant tells of the data that lies at `path`."""
    with compute_threads(run):  # sums over many numbers depend on how many threads take part
        return Account.of(_read(run, path), run.standardise)


def data_here(run: Run, node: int, path: str | None, accounts: Sequence[Account]) -> OwnData:
    """The data of a participant, and what all agreed on. DataError where it is not what it gave the account of."""
    with compute_threads(run):
        part = _read(run, path)
        if node >= len(accounts) or Account.of(part, run.standardise) != accounts[node]:
            raise DataError(
                "the data here is not the data that the run was begun with",
                hint="give all SuperNodes of one partition-id the same data, or start a new run",
            )
        return OwnData.of(run.dataset, run.standardise, {node: part}, accounts)


def _read(run: Run, path: str | None) -> Dataset:
    if path is None:
        raise UsageError(
            "the run asks for data of its own, and this SuperNode does not say where that lies",
            hint="start it with --node-config '… data=\"/path/to/data.npz\"'",
        )
    part = replace(load_part(path), name=path)
    return part.hold_out() if run.validation else part


# The server --------------------------------------------------------------------------------------------------------


def ask_accounts(link: Link, run: Run, seconds: float) -> list[Account]:
    """Those of all nodes, in order. `seconds`: for everybody to come. LayerlineError as participants refuse."""
    found: dict[int, Account] = {}
    asked: dict[str, int] = {}
    greeted, failed = set[int](), Counter[int]()
    until, looked = time.monotonic() + seconds, 0.0
    while missing := [node for node in range(run.nodes) if node not in found]:
        now = time.monotonic()
        if now > until:
            raise nobody_came(missing, seconds)
        if now - looked > _LOOK_SECONDS:
            looked = now
            for member in link.members() - greeted:
                asked[link.account(member, run.to_toml())] = member
                greeted.add(member)
        for name, reply in link.pull(list(asked)) if asked else ():
            member = asked.pop(name)
            match reply:
                case Refused(what, hint, status):
                    error = LayerlineError(what, hint=hint or None)
                    error.exit_status = status
                    raise error
                case Lost(why):
                    greeted.discard(member)
                    failed[member] += 1
                    if failed[member] > FAILURES and member in link.members():
                        raise useless(why)
                case Reply(said, _):
                    part = int(said.get("part", -1))
                    if part in missing:
                        found.setdefault(part, Account.read(_plain(said), part))
        time.sleep(_SECONDS_BETWEEN)
    return [found[node] for node in range(run.nodes)]


def _plain(said: Mapping[str, Any]) -> object:
    try:
        return json.loads(str(said.get("account")))
    except ValueError:
        return None


def nobodys(run: Run, accounts: Sequence[Account]) -> OwnData:
    """What the server knows of everybody's data. DataError naming a node whose data does not fit the others'."""
    return OwnData.of(run.dataset, run.standardise, {}, accounts)


def to_text(accounts: Sequence[Account]) -> str:
    """Accounts as they are kept and sent: JSON."""
    return json.dumps([account.model_dump(mode="json") for account in accounts])


def of_text(text: str) -> list[Account]:
    """Back again. LayerlineError for what cannot be read."""
    try:
        return [Account.read(each, node) for node, each in enumerate(json.loads(text))]
    except (ValueError, TypeError):
        raise LayerlineError("the accounts of the nodes' data cannot be read", hint="start a new run") from None


def kept_accounts(folder: Path) -> list[Account] | None:
    """Those in the run's `flower/`, once the server has them."""
    path = folder / "accounts.json"
    return of_text(path.read_text(encoding="utf-8")) if path.exists() else None
