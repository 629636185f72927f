"""The file of a feedback store: whole transactions or none, other files left alone, complaints in sentences."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_database import Database
from posttrain.core.errors import BadRequest, Failure

INSERT = "INSERT INTO items (hash, prompt, answers, source) VALUES (?, '\"p\"', '[\"x\", \"y\"]', '')"


def count(database):
    return database.rows("SELECT count(*) FROM items")[0][0]


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "store.db", create=True)
    yield opened
    opened.close()


def test_how_it_is_kept(database):
    settings = ("journal_mode", "synchronous", "foreign_keys", "user_version")
    assert [database.rows(f"PRAGMA {name}")[0][0] for name in settings] == ["wal", 2, 1, 2]  # 2 is FULL
    again = Database(database.path, create=False)
    assert [again.rows(f"PRAGMA {name}")[0][0] for name in settings] == ["wal", 2, 1, 2]
    again.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_a_transaction_leaves_no_half(database, error):
    with pytest.raises(error):
        with database.transaction():
            assert database.change(INSERT, "one") == 1
            raise error
    assert count(database) == 0
    with database.transaction():
        database.change(INSERT, "two")
    assert count(database) == 1


def test_a_process_killed_in_a_transaction_leaves_no_half(tmp_path):
    """One item is committed, the second is written when the process dies."""
    program = f"""
import os, signal, sys
from pathlib import Path
from posttrain.align.feedback_database import Database

database = Database(Path(sys.argv[1]), create=True)
with database.transaction():
    database.change({INSERT!r}, "committed")
with database.transaction():
    database.change({INSERT!r}, "not committed")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "store.db"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = Database(path, create=False)
    assert found.rows("SELECT hash FROM items") == [("committed",)]
    assert found.rows("PRAGMA integrity_check") == [("ok",)]
    found.close()


def test_a_judgement_needs_its_item(database):
    judge = "INSERT INTO judgements (item, annotator, criterion, ranks, time) VALUES (?, 'anna', 'overall', '[]', '')"
    with pytest.raises(Failure, match="FOREIGN KEY"):
        with database.transaction():
            database.change(judge, 7)
    assert database.rows("SELECT * FROM judgements") == []


def query(path, statement):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def newer_store(path):
    Database(path, create=True).close()
    query(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_text("anna,good\n" * 300), "is not a feedback store"),
        (lambda path: path.write_text("short"), "is not a feedback store"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: query(path, "CREATE TABLE items (id INTEGER)"), "is not a feedback store"),
        (lambda path: query(path, "PRAGMA user_version = 3"), "is not a feedback store"),
        (newer_store, "has version 99"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path, make, sentence):
    path = tmp_path / "store.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadRequest, match=sentence):
        Database(path, create=True)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [p.name for p in tmp_path.iterdir()] == ["store.db"]


def test_a_missing_file_is_made_only_when_wanted(tmp_path):
    with pytest.raises(BadRequest, match="There is no feedback store"):
        Database(tmp_path / "no" / "store.db", create=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(BadRequest, match="is not a feedback store"):
        Database(tmp_path / "empty.db", create=False)
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="can't be made"):
        Database(tmp_path / "file" / "store.db", create=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.db", "file"]


def test_a_damaged_file(database):
    with database.transaction():
        for number in range(500):
            database.change(INSERT, f"{number:064d}")
    database.close()
    content = database.path.read_bytes()
    database.path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    damaged = Database(database.path, create=False)
    with pytest.raises(Failure, match="is damaged"):
        damaged.rows("SELECT * FROM items")
    damaged.close()


def test_a_file_that_another_process_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("posttrain.align.feedback_database._PATIENCE", 0.05)
    database = Database(tmp_path / "store.db", create=True)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Failure, match="in use by another process"):
        with database.transaction():
            database.change(INSERT, "one")
    assert count(database) == 0  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    with database.transaction():
        database.change(INSERT, "one")
    assert count(database) == 1
    database.close()


def test_a_full_disk(database):
    """SQLite's own limit of pages stands for the disk's."""
    pages = database.rows("PRAGMA page_count")[0][0]
    database.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Failure, match="the disk is full"):
        with database.transaction():
            for number in range(500):
                database.change(INSERT, f"{number:064d}")
    assert count(database) == 0


def test_the_store_uses_it(tmp_path):
    FeedbackStore(tmp_path / "store.db").close()
    Database(tmp_path / "store.db", create=False).close()
