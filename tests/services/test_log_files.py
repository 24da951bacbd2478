"""The log of an Envoy: positions that only grow, whatever is rotated, dropped or cut."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from limen.adapters.log_files import MAX_LINE_BYTES, LogFiles, Retention

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0
SMALL = Retention(keep_s=24 * HOUR, keep_bytes=300)


def append(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as stream:
        stream.write("\n".join(lines) + end)


def texts(log: LogFiles, start: int = 0) -> list[str]:
    return [line.raw.decode() for line in log.lines(start)]


def test_lines_are_read_once_by_position_through_rotations(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    seen: list[str] = []
    position = 0
    for number in range(40):
        append(path, f"line {number:03}")
        log.rotate(SMALL, float(number + 1))
        for line in log.lines(position):
            seen.append(line.raw.decode())
            position = line.end
    assert seen == [f"line {number:03}" for number in range(40)]
    assert position == log.end == 40 * 9
    assert 0 < log.oldest < position  # the first ones are gone, and it is known where
    assert texts(log)[-1] == "line 039"
    again = LogFiles(path)  # another agent, later
    assert (again.log_id, again.end, again.oldest) == (log.log_id, log.end, log.oldest)


def test_a_line_that_a_rotation_cut_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    log.rotate(SMALL, 1.0)
    append(path, "x" * 200, "begin", end="")
    log.rotate(SMALL, 2.0)
    assert texts(log) == ["x" * 200]  # not whole yet
    append(path, "-end", "next")
    assert texts(log) == ["x" * 200, "begin-end", "next"]


def test_lines_are_kept_for_the_stated_time_and_then_dropped(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    now = 1_000_000.0
    for hour in range(60):
        append(path, f"hour {hour:02}")
        log.rotate(Retention(), now + hour * HOUR)
        part = path.with_name("envoy.log.1")
        if part.exists():  # as if it had been written at that time
            for age in (1, 2):
                older = path.with_name(f"envoy.log.{age}")
                if older.exists() and older.stat().st_mtime > now + 100 * HOUR:
                    os.utime(older, (now + hour * HOUR,) * 2)
    kept = [int(t.removeprefix("hour ")) for t in texts(log)]
    assert kept[-1] == 59
    assert 24 <= 59 - kept[0] <= 36


def test_what_a_rotation_will_drop_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    for number in range(30):
        append(path, "y" * 50)
        due = log.due(SMALL, float(number + 1))
        log.rotate(SMALL, float(number + 1))
        assert log.oldest == due


@pytest.mark.parametrize("truncated", [True, False])
def test_a_rotation_that_ended_half_way_loses_and_doubles_nothing(
    tmp_path: Path,
    truncated: bool,  # noqa: FBT001 - a case
) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    append(path, *(f"line {n}" for n in range(10)))
    size = path.stat().st_size
    (tmp_path / "envoy.log.1").write_bytes(path.read_bytes())
    marks = {"id": log.log_id, "base": size, "since_s": 1.0, "rotating_from": 0}
    (tmp_path / "envoy.log.marks").write_text(json.dumps(marks))
    if truncated:
        os.truncate(path, 0)
    found = LogFiles(path)
    found.recover()
    assert texts(found) == [f"line {n}" for n in range(10)]
    assert found.end == size


def test_a_writer_that_holds_the_file_open_goes_on_in_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    log.rotate(SMALL, 1.0)
    with path.open("a") as envoy:
        envoy.write("a" * 200 + "\n")
        envoy.flush()
        log.rotate(SMALL, 2.0)
        envoy.write("after\n")
    assert path.read_text() == "after\n"
    assert path.with_name("envoy.log.1").stat().st_mode & 0o777 == 0o600


def test_an_endless_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    append(path, "z" * (3 * MAX_LINE_BYTES), "next")
    assert texts(log) == ["next"]
    assert [line.end for line in log.lines()] == [log.end]


def test_marks_that_cannot_be_read_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    (tmp_path / "envoy.log.marks").write_text("not json")
    append(path, "line")
    assert texts(LogFiles(path)) == ["line"]
