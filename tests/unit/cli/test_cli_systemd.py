"""Whose the daemon is: where systemd has the unit, verbs of the system's instance go to systemctl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from echosched.cli import lifecycle, service
from echosched.cli.dispatch import parse
from echosched.config.paths import resolve_paths
from echosched.config.settings import WebConfig
from echosched.web.lifecycle import Lifecycle
from echosched.web.settings import WebSettings

Handed = Callable[[list[str]], bool]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    """Tell whether systemd would be given a command line, on a host where it has the unit."""
    given: list[tuple[str, str]] = []
    monkeypatch.setattr("echosched.daemon.host.systemd_unit", lambda unit: unit)
    monkeypatch.setattr(
        "echosched.daemon.host.hand_to_systemd", lambda verb, unit: given.append((verb, unit)) or 0
    )
    for name in ("HOME", "CONFIG", "PIDFILE", "SOCKET", "DB", "LOG"):
        monkeypatch.delenv(f"ECHOSCHED_{name}", raising=False)

    def ask(words: list[str]) -> bool:
        verb, *rest = words
        given.clear()
        answer = lifecycle.handed_to_systemd(verb, parse(verb, rest))
        assert given == ([(verb, "echosched.service")] if answer else [])
        return answer

    return ask


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_the_dashboards_buttons_of_the_system_instance_go_to_systemd(
    verb: str, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOSCHED_SYSTEM", "1")  # as its unit has it
    settings = WebSettings.of(resolve_paths(), WebConfig())
    words = Lifecycle(settings, status=None)._command(verb)  # type: ignore[arg-type]
    assert handed(words[words.index(verb) :])


def test_an_instance_elsewhere_is_never_systemds(
    tmp_path: Path, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOSCHED_SYSTEM", "1")
    settings = WebSettings.of(resolve_paths(home=str(tmp_path)), WebConfig())
    words = Lifecycle(settings, status=None)._command("start")  # type: ignore[arg-type]
    assert not handed(words[words.index("start") :])
    assert not handed(["start", "--db", str(tmp_path / "other.db")])
    assert handed(["start"])


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_service_hands_each_part_to_the_unit_that_it_has(
    verb: str, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str]] = []
    monkeypatch.setenv("ECHOSCHED_SYSTEM", "1")
    monkeypatch.setattr(
        "echosched.daemon.host.hand_to_systemd", lambda verb, unit: given.append((verb, unit)) or 0
    )
    arguments = parse("service", [verb])
    assert all(service._is_systemds(verb, part, arguments) for part in ("scheduler", "web"))
    assert given == [(verb, "echosched.service"), (verb, "echosched-web.service")]
    # An address of one's own is not the unit's.
    assert not service._is_systemds(verb, "web", parse("service", [verb, "web", "--port", "0"]))
