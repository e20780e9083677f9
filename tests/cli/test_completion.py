"""The completion scripts: valid for their shells, and complete what there is."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vmaforensics.checks.registry import all_rules
from vmaforensics.cli.completion import script
from vmaforensics.cli.main import VERBS, main

CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", CHECKS)
def test_the_shell_takes_the_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(CHECKS[shell], input=script(shell).encode(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", CHECKS)
def test_the_command_prints_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == script(shell)
    for verb in VERBS:
        assert verb in printed


def completed(*words: str) -> set[str]:
    """What bash offers for the last of ``words``."""
    line = " ".join(f"'{word}'" for word in words)
    asked = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{' '.join(words)}'; "
        "COMP_POINT=${#COMP_LINE}; complete -p vmaforensics >/dev/null || exit 9; "
        f'_shtab_vmaforensics vmaforensics "{words[-1]}" "{words[-2]}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f'eval "$SCRIPT"; {asked}'],
        env={"PATH": "/usr/bin:/bin", "SCRIPT": script("bash")},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return {word.strip() for word in done.stdout.decode().split()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
class TestBash:
    def test_verbs(self) -> None:
        assert completed("vmaforensics", "") >= set(VERBS)
        assert completed("vmaforensics", "ex") == {"extract", "excerpt", "explain"}

    def test_options_of_the_verb_and_of_all(self) -> None:
        offered = completed("vmaforensics", "report", "-")
        assert {"--format", "--fail-on", "--strict", "--color", "--verbose"} <= offered
        assert "--keep" not in offered

    def test_values_of_an_option(self) -> None:
        assert completed("vmaforensics", "report", "--color", "") == {"auto", "always", "never"}
        assert {"html", "json", "stix"} <= completed("vmaforensics", "report", "--format", "")

    def test_rules(self) -> None:
        assert completed("vmaforensics", "explain", "VMA-") == {
            rule.id for rule in all_rules() if rule.id.startswith("VMA-")
        }


def test_the_script_does_not_change_what_explain_takes() -> None:
    script("bash")
    assert main(["explain", "vma-missing"]) == 0  # in small letters, which no list of rules has


def test_a_shell_that_is_not_known_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2
    assert "zsh" in capsys.readouterr().err
