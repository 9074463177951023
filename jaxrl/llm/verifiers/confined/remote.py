"""The completion as the tests see it: everything in it is in another process."""

from __future__ import annotations

import builtins
from typing import Any

from .subject import Subject
from .wire import decode, encode, receive, send


class Died(BaseException):
    """The subject has gone, or says what nobody asked for."""


class Unsuitable(BaseException):
    """The tests cannot be used with a completion in another process."""


class Remote:
    """Something of the completion that is no plain data. It can be called, and asked for
    attributes, items, its length, its text and what it iterates over. Whether it is true or equal
    to something cannot be asked: no test passes because of what it pretends to be."""

    __slots__ = ("_talk", "_number")
    __hash__ = None  # pyright: ignore

    def __init__(self, talk: Talk, number: int) -> None:
        self._talk, self._number = talk, number

    def __call__(self, *given: Any, **names: Any) -> Any:
        return self._talk.call(self._number, given, names)

    def __getattr__(self, name: str) -> Any:
        return self._talk.ask("get", self._number, name)

    def __getitem__(self, key: Any) -> Any:
        return self._talk.ask("item", self._number, self._talk.encode(key))

    def __len__(self) -> int:
        return self._plain("len", int)

    def __str__(self) -> str:
        return self._plain("str", str)

    def __iter__(self) -> Any:
        found = self._talk.ask("ask", self._number, "iter")
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self) -> Any:
        return self._talk.ask("ask", self._number, "next")

    def __bool__(self) -> bool:
        raise TypeError("only plain data is true or false")

    def __eq__(self, other: object) -> bool:
        raise TypeError("only plain data can be compared")

    def _plain(self, what: str, kind: type) -> Any:
        found = self._talk.ask("ask", self._number, what)
        if type(found) is not kind:
            raise TypeError(f"{what} is no {kind.__name__}")
        return found


class Talk:
    """Questions to a subject."""

    def __init__(self, subject: Subject, most: int) -> None:
        self.subject, self.most = subject, most
        self.dead = False
        self.note: str | None = None

    def encode(self, x: Any) -> Any:
        def number(x: Any) -> int:
            if isinstance(x, Remote):
                return x._number  # pyright: ignore
            raise Unsuitable(f"a {type(x).__name__} cannot be given to the completion")

        return encode(x, number)

    def decode(self, x: Any) -> Any:
        return decode(x, lambda number: Remote(self, number))

    def ask(self, *question: Any) -> Any:
        return self._exchange(list(question))[0]

    def call(self, number: int, given: tuple[Any, ...], names: dict[str, Any]) -> Any:
        coded = [self.encode(x) for x in given], {k: self.encode(v) for k, v in names.items()}
        result, changed = self._exchange(["call", number, *coded])
        for mine, theirs in zip(given, changed or [], strict=False):
            if type(mine) is type(theirs):  # a list sorted in place is sorted here, too
                if isinstance(mine, list):
                    mine[:] = theirs
                elif isinstance(mine, dict | set):
                    mine.clear()
                    mine.update(theirs)
        return result

    def _exchange(self, question: list[Any]) -> tuple[Any, Any]:
        try:
            send(self.subject.asking, question)
            what, value, changed = receive(self.subject.answers, self.most)
            if what == "value":
                return self.decode(value), self.decode(changed)
            kind = getattr(builtins, value)
        except (Exception, RecursionError) as error:
            self.dead = True
            raise Died from error
        if value == "MemoryError":
            self.note = "memory"
        # It may raise what a program may expect, not what would end the examiner.
        raise (kind if issubclass(kind, Exception) else RuntimeError)("raised by the completion")
