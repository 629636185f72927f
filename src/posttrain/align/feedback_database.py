"""The file of a feedback store: an SQLite database with a mark, a version and a write-ahead log.

A transaction is on disk when it ends, and wholly so or not at all if the process is killed. What SQLite complains of
becomes a sentence for the user. What the tables mean is the business of `posttrain.align.feedback`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.core.errors import BadRequest, Failure

_APPLICATION = 0x70746662  # "ptfb", in the header of every store
_VERSION = 2
_PATIENCE = 30.0  # seconds to wait while another process writes

# By the version that it ends: what later ones added.
_ADDED = {
    1: (
        """CREATE TABLE authors (
            item INTEGER NOT NULL REFERENCES items (id),
            place INTEGER NOT NULL,     -- of the answer in the item
            system TEXT NOT NULL CHECK (system <> ''),
            UNIQUE (item, place, system)
        )""",
        "ALTER TABLE judgements ADD COLUMN shown TEXT",  # JSON: places in the order shown; NULL: unknown, or all orders
        "ALTER TABLE judgements ADD COLUMN record TEXT",  # JSON: what else the annotator left, such as reasons
    ),
}

_SCHEMA = (
    """CREATE TABLE items (
        id INTEGER PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,  -- of prompt and answers
        prompt TEXT NOT NULL,       -- JSON: text or messages
        answers TEXT NOT NULL,      -- JSON: a list of texts or messages, in the order of their hashes
        source TEXT NOT NULL        -- where it came from
    )""",
    """CREATE TABLE judgements (
        id INTEGER PRIMARY KEY,
        item INTEGER NOT NULL REFERENCES items (id),
        annotator TEXT NOT NULL CHECK (annotator <> ''),
        criterion TEXT NOT NULL CHECK (criterion <> ''),
        ranks TEXT NOT NULL,        -- JSON: each answer's rank, 1 the best, equal for a tie
        seconds REAL,               -- how long the annotator took
        time TEXT NOT NULL,         -- ISO 8601, UTC
        UNIQUE (item, annotator, criterion)
    )""",
    *(statement for statements in _ADDED.values() for statement in statements),
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


class Database:
    """A connection to the file, for one thread.

    Args:
        path: The file.
        create: Make it if it isn't there.

    Raises:
        BadRequest: If the file is something else, or a newer version of posttrain made it, or it is missing and isn't
            to be made.
        Failure: If it is damaged or can't be opened.
    """

    def __init__(self, path: Path, create: bool) -> None:
        self.path = path
        if path.is_dir():
            raise BadRequest(f"{path} is a folder, not a feedback store.", "Name a file.")
        if not create and not path.exists():
            raise BadRequest(f"There is no feedback store {path}.", "Check the name, or add pairs to make one.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequest(f"{path} can't be made: {error.strerror}.", "Choose another file.") from error
        with self._sentences():
            self._connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            with self._sentences():
                self._open(create)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, create: bool) -> None:
        self._connection.execute("BEGIN")  # another process may be making the store just now
        application, version = self._pragma("application_id"), self._pragma("user_version")
        empty = not self.rows("SELECT 1 FROM sqlite_master LIMIT 1") and application == version == 0
        self._connection.execute("COMMIT")
        if application != _APPLICATION and not (empty and create):
            raise BadRequest(f"{self.path} is not a feedback store.", "Choose another file.")
        if version > _VERSION and not empty:
            raise BadRequest(
                f"{self.path} has version {version}, and this posttrain knows versions up to {_VERSION}.",
                "Use a newer posttrain.",
            )
        self._pragma("synchronous = FULL")  # a transaction ends when the disk has it
        self._pragma("foreign_keys = ON")
        if empty:
            self._write_ahead()
            with self.transaction():
                if self._pragma("application_id") == 0:  # no other process was faster
                    for statement in _SCHEMA:
                        self.change(statement)
        elif version < _VERSION:
            with self.transaction():
                for older in range(self._pragma("user_version"), _VERSION):  # another process may have been faster
                    for statement in _ADDED[older]:
                        self.change(statement)
                self._pragma(f"user_version = {_VERSION}")

    def _write_ahead(self) -> None:
        """Choose the write-ahead log, for good. Where a file system allows none, the rollback journal is as safe."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._pragma("journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:  # of all statements only this one doesn't wait for others
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def close(self) -> None:
        """Close the file; what was written is there without it."""
        self._connection.close()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._sentences():
            return self._connection.execute(query, values).fetchall()

    def change(self, statement: str, *values: Any) -> int:
        """Carry out a statement, inside a transaction; how many rows it changed."""
        return self._connection.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that the block writes, or nothing."""
        with self._sentences():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _pragma(self, words: str) -> Any:
        row = self._connection.execute(f"PRAGMA {words}").fetchone()
        return row[0] if row else None

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """SQLite's errors as the user's."""
        try:
            yield
        except sqlite3.Error as error:
            code = _code(error)
            if code == sqlite3.SQLITE_NOTADB:
                raise BadRequest(f"{self.path} is not a feedback store.", "Choose another file.") from error
            kept = "What was judged before is kept."
            problem, suggestion = {
                sqlite3.SQLITE_FULL: ("can't be written: the disk is full", f"{kept} Free some space."),
                sqlite3.SQLITE_BUSY: ("is in use by another process", f"{kept} Try again."),
                sqlite3.SQLITE_READONLY: ("may not be written", "Choose another file."),
                sqlite3.SQLITE_CANTOPEN: ("can't be opened", "Check its permissions, or choose another file."),
                sqlite3.SQLITE_CORRUPT: ("is damaged", "Restore it, or choose another file."),
            }.get(code, (f"can't be used: {error}", ""))
            raise Failure(f"The feedback store {self.path} {problem}.", suggestion) from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code, without what extends it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
