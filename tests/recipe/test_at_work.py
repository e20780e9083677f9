"""Which findings about a machine at work are false, and which edits were found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from at_work import held, judge, method, page

from vmaforensics.image.open import open_image

if TYPE_CHECKING:
    from pathlib import Path

EDIT = {
    "edit": "area_hidden",
    "pid": 40,
    "comm": "awk-quiet-0",
    "resting": True,
    "start": "0x7f0000000000",
    "end": "0x7f0000007000",
    "decoys": ["0x7f0000000000", "0x7f0000060000"],
    "words": [{"what": "PTE", "before": "0x8000000012345067", "after": "0x12345067"}],
}


def finding(**changes: object) -> dict[str, Any]:
    """A finding about the edited range of the edited process, but for some changes."""
    whole = {"rule": "VMA-MISSING", "severity": "high", "pid": 40, "title": "t", "evidence": []}
    return {**whole, "start": EDIT["start"], "end": EDIT["end"], **changes}


def false(*findings: dict[str, Any], edit: dict[str, Any] = EDIT) -> list[str]:
    """Rules of those that are false."""
    found, _ = judge({"edits": [edit]}, {"findings": list(findings)})
    return [row[1] for row in found]


def rules(*findings: dict[str, Any], edit: dict[str, Any] = EDIT) -> list[str]:
    """Rules that found the edit."""
    _, ((row,)) = judge({"edits": [edit]}, {"findings": list(findings)})
    return list(row["rules"])


def test_a_finding_of_the_edited_range_finds_the_edit_and_is_not_false() -> None:
    assert rules(finding()) == ["VMA-MISSING"]
    assert false(finding()) == []


def test_a_finding_without_a_range_is_about_the_process() -> None:
    assert rules(finding(start=None, end=None)) == ["VMA-MISSING"]


def test_low_ranks_do_not_count() -> None:
    assert rules(finding(severity="low")) == []
    assert false(finding(severity="low", pid=41)) == []


def test_another_process_or_another_range_is_false() -> None:
    assert false(finding(pid=41)) == ["VMA-MISSING"]
    assert false(finding(start="0x1000", end="0x2000")) == ["VMA-MISSING"]


def test_what_follows_from_the_edit_is_neither_false_nor_finds_it() -> None:
    beside = finding(start="0x7f0000010000", end="0x7f0000011000")
    assert false(beside) == []
    assert rules(beside) == []
    child = finding(pid=99)
    assert false(child, edit=EDIT | {"resting": False}) == []
    assert rules(child, edit=EDIT | {"resting": False}) == []


def test_a_page_that_the_edit_used_may_be_named_without_a_process() -> None:
    evidence = [{"what": "page frame 0x12345 counts 2 mappings"}]
    of_page = {"rule": "PTE-ERASED", "pid": 0, "start": None, "end": None}
    assert false(finding(**of_page, evidence=evidence)) == []
    assert false(finding(**of_page, evidence=[{"what": "page frame 0x777 counts 2"}])) == ["PTE-ERASED"]
    assert false(finding(**of_page, evidence=evidence * 9)) == ["PTE-ERASED"]


def test_a_task_that_was_edited_has_no_range() -> None:
    edit = EDIT | {"edit": "task_unlisted", "start": "0x0", "end": "0x0"}
    assert rules(finding(rule="TASK-HIDDEN", start=None, end=None), edit=edit) == ["TASK-HIDDEN"]
    assert rules(finding(rule="TASK-HIDDEN", start=None, end=None, pid=41), edit=edit) == []


def test_an_edit_that_the_kernel_has_undone_does_not_count(tmp_path: Path) -> None:
    word = {"what": "PTE", "physical": "0x1008", "before": "0x8000000012345025", "after": "0x12345025", "size": 8}
    edit = {"words": [word, {"what": "slot of a maple_node", "physical": "0x0", "before": "0x1", "after": "0x0"}]}

    def still(entry: int) -> bool:
        (tmp_path / "image").write_bytes(bytes(0x1008) + entry.to_bytes(8, "little") + bytes(1 << 20))
        return held(edit, open_image(tmp_path / "image").memory)

    assert still(0x12345025)
    assert still(0x12345067)  # accessed and dirty since
    assert not still(0x8000000012345025)  # as it was
    assert not still(0x7FFFFFFEDCBA0000)  # in swap


def test_a_node_that_hangs_in_its_tree_again_does_not_count_as_cut_out(tmp_path: Path) -> None:
    """Three nodes as rb_link_node and rb_insert_color leave them: colour in bit 0 of the parent, right, left."""
    direct_map, root, copy, node = 0xFFFF_8880_0000_0000, 0x1000, 0x1040, 0x1080
    edit = {
        "words": [
            {
                "what": "rb pointer of an i_mmap",
                "address": hex(direct_map + root + 8),
                "physical": hex(root + 8),
                "before": hex(direct_map + node),
                "after": "0x0",
                "size": 8,
            }
        ]
    }

    def still(**places: int) -> bool:
        right_of_root, left_of_copy = (places[name] and places[name] + direct_map for name in ("root", "copy"))
        memory = bytearray(1 << 20)
        for at, words in (
            (root, (1, right_of_root, 0)),
            (copy, (direct_map + root | 1, 0, left_of_copy)),
            (node, (direct_map + (copy if left_of_copy else root), 0, 0)),
        ):
            memory[at : at + 24] = b"".join(word.to_bytes(8, "little") for word in words)
        (tmp_path / "image").write_bytes(memory)
        return held(edit, open_image(tmp_path / "image").memory)

    assert still(root=0, copy=0)  # as it was cut out
    assert still(root=0, copy=node)  # under a copy that hangs nowhere itself
    assert not still(root=copy, copy=node)
    assert not still(root=node, copy=0)


def test_the_tables_say_what_was_missed_and_what_failed() -> None:
    seen = {
        "image": "debian-6.1-work1-busy-0",
        "kernel": "6.1",
        "load": "all",
        "method": method({"method": "slices", "live": {"seconds": 20.04}}),
        "seconds": 3.0,
        "error": "not finished in 600 s",
        "false": [["high", "VMA-LINK", "pid 0: t"]],
        "edits": [{"edit": "area_hidden", "resting": False, "comm": "forks", "rules": []}],
    }
    text = page([seen])
    assert "| 6.1 | live 20 s | 1 | 1 | 1 | 0 | 3.0 | 3.0 |" in text
    assert "| VMA-LINK | 1+0 in 1 |" in text
    assert "| area_hidden | running | 0/1 |" in text
    assert "missed 1 times: area_hidden in forks, 6.1 live 20 s" in text
    assert "debian-6.1-work1-busy-0: not finished in 600 s" in text
