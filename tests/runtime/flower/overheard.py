"""The way to participants that are called in this process, and listened to. Needs flwr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from layerline.runtime.flower import app
from layerline.runtime.flower.federation import Asked, Link, Lost, Refused, Reply
from layerline.runtime.flower.mail import Parcel
from layerline.runtime.flower.participant import Order

Configuration = dict[str, bool | float | int | str]


class Overheard(Link):
    """The app's own client, called in this process; all that it is sent and answers is kept. `configurations`: of
    each SuperNode, besides its number and folder."""

    def __init__(self, folder: Path, *configurations: Configuration) -> None:
        self.folder, self.said = folder, list[Message]()
        self.replies: dict[str, Message] = {}
        self.configurations = configurations or ({}, {})

    def members(self) -> set[int]:
        return set(range(len(self.configurations)))

    def hello(self, member: int) -> str:
        return self._push(member, Message(RecordDict(), member, "query.hello"))

    def account(self, member: int, run: str) -> str:
        return self._push(member, app.account_message(member, run))

    def order(self, member: int, asked: Asked, order: Order) -> str:
        return self._push(member, app.order_message(member, asked, order))

    def judge(self, member: int, asked: Asked, gone: Sequence[int], finished: Sequence[Parcel]) -> str:
        return self._push(member, app.judge_message(member, asked, gone, finished))

    def pull(self, names: Iterable[str]) -> list[tuple[str, Reply | Lost | Refused]]:
        return [(name, app.read(self.replies.pop(name))) for name in list(names) if name in self.replies]

    def _push(self, member: int, message: Message) -> str:
        configuration: Configuration = {"partition-id": member, "folder": str(self.folder)}
        context = Context(1, member, configuration | self.configurations[member], RecordDict(), {})
        name = f"message {len(self.said)}"
        message.metadata.__dict__["_message_id"] = name
        self.replies[name] = app.client(message, context)
        self.said += [message, self.replies[name]]
        return name


def bytes_of(content: RecordDict) -> Iterator[bytes]:
    """Everything in a message."""
    for record in content.array_records.values():
        for array in record.values():
            yield array.data
    for config in content.config_records.values():
        for value in config.values():
            for each in value if isinstance(value, list) else [value]:
                yield each if isinstance(each, bytes) else str(each).encode()
