"""Configuration files on disk: reading them, and refusing those that a stranger could have written."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from echosched.config.values import Problems
from echosched.errors import ConfigError

_LARGEST = 64 * 1024 * 1024
_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


class ConfigFiles:
    """Reads files and remembers which. *uid* 0 makes it careful; *home_mode* leaves ownership to the home's owner."""

    def __init__(
        self,
        main: str,
        problems: Problems,
        *,
        uid: int,
        home_mode: bool,
        draft: tuple[str, str] | None = None,
    ) -> None:
        """Read nothing yet; *draft* is a path and the file that is opened in its place."""
        self.main = main
        self.sources: list[str] = []
        self.owners: dict[str, int] = {}
        self._drafted = None if draft is None else draft[0]
        self._draft = None if draft is None else draft[1]
        self._problems = problems
        self._directory = os.path.dirname(main)
        self._careful = uid == 0
        self._home_mode = home_mode
        self._seen: set[tuple[int, int]] = set()

    def place(self, path: str) -> str:
        """Return how messages call *path*: relative to the main file where it lies beside or below it."""
        directory = os.path.join(self._directory, "")
        return path[len(directory) :] if path.startswith(directory) else path

    def read(self, path: str, *, owner_may_differ: bool = False) -> bytes | None:
        """Return the content of *path*; ``None`` when it was read before, or *problems* got the reason."""
        place = self.place(path)
        try:
            # Not blocking: a named pipe in place of the file must not hang the start.
            opened = self._draft if self._draft is not None and path == self._drafted else path
            descriptor = os.open(opened, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            self._problems.add(place, "", _reason(error))
            return None
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) in self._seen:
                return None
            self._seen.add((found.st_dev, found.st_ino))
            if not stat.S_ISREG(found.st_mode):
                reason = "is a directory" if stat.S_ISDIR(found.st_mode) else "is not a file"
                self._problems.add(place, "", reason)
                return None
            if found.st_size > _LARGEST:
                self._problems.add(place, "", f"is larger than {_LARGEST // 2**20} MiB")
                return None
            if not self._is_trusted(place, found, owner_may_differ=owner_may_differ):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read()
        except OSError as error:
            self._problems.add(place, "", _reason(error))
            return None
        finally:
            os.close(descriptor)
        self.sources.append(path)
        self.owners[path] = found.st_uid
        return data

    def read_toml(self, path: str) -> dict[str, Any] | None:
        """Return the document in *path*; ``None`` when it was read before, or *problems* got the reason."""
        data = self.read(path)
        return None if data is None else self._parse(data, self.place(path))

    def drop_ins(self) -> list[str]:
        """Return the drop-in files beside the main file, in the order of their names."""
        directory = os.path.join(self._directory, "jobs.d")
        names: set[str] = set()
        if self._drafted is not None and os.path.dirname(self._drafted) == directory:
            names.add(os.path.basename(self._drafted))  # it will be there
        try:
            names |= set(os.listdir(directory))
            found: os.stat_result | None = os.stat(directory)
        except FileNotFoundError:
            found = None
        except OSError as error:
            self._problems.add(self.place(directory), "", _reason(error))
            return []
        names = {name for name in names if name.endswith(".toml") and name[0] != "."}
        if names and found is not None and not self._is_trusted(self.place(directory), found):
            return []
        return [os.path.join(directory, name) for name in sorted(names)]

    def missing(self) -> ConfigError | None:
        """Return the error for a main file that is not there, with what to create."""
        if self._drafted == self.main:
            return None
        try:
            os.stat(self.main)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError):
            return None  # it may well be there; reading it tells why nobody can
        else:
            return None
        return ConfigError(
            f'{self.main}: no such file (create it, with a job such as: [job.hello] schedule = "* * * * *" '
            f'command = "date"; or name another one with --config)'
        )

    def _is_trusted(self, place: str, found: os.stat_result, *, owner_may_differ: bool = False) -> bool:
        if not self._careful:
            return True
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            who = "everybody" if found.st_mode & stat.S_IWOTH else "its group"
            self._problems.add(place, "", f"may be written by {who}, and root runs what it says (chmod go-w)")
            return False
        # In a home of its own the daemon belongs to whoever owns the home; /etc belongs to root.
        if found.st_uid != 0 and not self._home_mode and not owner_may_differ:
            self._problems.add(
                place, "", f"belongs to user id {found.st_uid}, and root runs what it says (chown root)"
            )
            return False
        return True

    def _parse(self, data: bytes, place: str) -> dict[str, Any] | None:
        import tomllib

        try:
            return tomllib.loads(data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._problems.add(f"{place}:{line}", "", "is not UTF-8 text")
        except tomllib.TOMLDecodeError as error:
            reason = str(error)
            match = _TOML_PLACE.search(reason)
            if match is None:
                self._problems.add(place, "", reason)
            elif match[1] is None:
                self._problems.add(
                    f"{place}:{_last_line(data)}", "", f"{reason[: match.start()]} (at the end of the file)"
                )
            else:
                self._problems.add(f"{place}:{match[1]}:{match[2]}", "", reason[: match.start()])
        except RecursionError:
            self._problems.add(place, "", "is nested too deeply")
        except (ValueError, OverflowError) as error:
            # Numbers with thousands of digits: the limit is Python's, and so is its message.
            self._problems.add(place, "", f"holds a value that cannot be: {str(error)[:100]}")
        return None


def _last_line(data: bytes) -> int:
    return data.rstrip().count(b"\n") + 1


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    return str(getattr(error, "strerror", None) or error)
