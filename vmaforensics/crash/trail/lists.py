"""Linked lists that do not hold together: lib/list_debug.c names the entry, its neighbour, and what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.crash.trail.counters import torn_down_in_use
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail, flipped

if TYPE_CHECKING:
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records


def follow_list(records: Records, complaint: Complaint) -> Trail:
    """The word of the neighbour that does not lead back, and that of the neighbour on the other side if it does not."""
    named, title = complaint.named, complaint.title
    trail = Trail()
    to_next, to_prev = _links(records)
    entry, was = named.get("entry"), named.get("was")
    adding = title.startswith("list_add")
    side, other = (to_next, to_prev) if "prev->next" in title else (to_prev, to_next)
    if was is None:
        return trail if entry is None else _poisoned(records, complaint, entry)
    if adding:
        # The word of prev must lead to next, that of next to prev: the entry is not in the list yet.
        neighbour, should = (
            (named.get("prev"), named.get("next")) if side == to_next else (named.get("next"), named.get("prev"))
        )
    else:
        neighbour, should = named.get("prev" if side == to_next else "next"), entry
        if neighbour is None and entry is not None:  # 5.10 does not print it
            neighbour = records.word(entry + other)
    if neighbour is None or should is None:
        return trail
    trail.words.append(_word(records, neighbour, side, was, should))
    if not adding and entry is not None:
        behind = records.word(entry + side)
        back = None if behind is None else records.word(behind + other)
        if behind is not None and back is not None and back != entry:
            trail.words.append(_word(records, behind, other, back, entry))
            trail.notes.append(
                f"both neighbours lead past {records.word_name(entry)}, which still leads to them: it was unlinked by "
                "writes that left its own words alone"
                if back == neighbour and was == behind
                else "the neighbour on the other side does not lead back either"
            )
    return trail


def _links(records: Records) -> tuple[int, int]:
    """Where the two words of a list_head lie in it."""
    return records.kernel.offset("list_head", "next"), records.kernel.offset("list_head", "prev")


def _word(records: Records, head: int, side: int, was: int, should: int) -> BrokenWord:
    """A word of a list_head that should lead to another."""
    address = head + side
    held = records.word(address)
    why = [f"it leads to {records.word_name(was) if records.objects.at(was) is not None else records.leads_to(was)}"]
    why.append(f"should lead to {records.word_name(should)}, which leads here")
    if how := flipped(was, should):
        why.append(how)
    if held is not None and held != was:
        why.append(f"{held:#x} stands there in the image: it was written again since")
    return BrokenWord(
        what=records.word_name(address),
        address=address,
        physical=records.physical(address),
        found=hex(was),
        expected=hex(should),
        sure=Sure.CERTAIN,
        why=tuple(why),
    )


def _poisoned(records: Records, complaint: Complaint, entry: int) -> Trail:
    """An entry that was taken off its list before, or never put on one: list_del leaves poison in its words.

    The words are what is broken only if the entry is still on its list; else what used it a second time is.
    """
    member, poison = complaint.named.texts.get("member"), complaint.named.texts.get("poison")
    if member is None or poison is None:
        return Trail()
    to_next, to_prev = _links(records)
    side, other = (to_next, to_prev) if member == "next" else (to_prev, to_next)
    address, neighbour = entry + side, records.word(entry + other)
    held = records.word(address)
    linked = neighbour is not None and records.word(neighbour + side) == entry
    if linked:
        why = f"the entry is on its list: {records.word_name((neighbour or 0) + side)} leads to it"
    elif poison == "NULL":
        why = "the entry was never put on a list, or its object was cleared"
    else:
        why = (
            "the entry has been taken off its list already, which leaves this word as it is (list_del): what took it "
            "off first, or used it afterwards, is what went wrong"
        )
    word = BrokenWord(
        what=records.word_name(address),
        address=address,
        physical=records.physical(address),
        found=poison if held is None else f"{poison} ({held:#x})",
        expected="the next entry of its list" if member == "next" else "the entry before it",
        sure=Sure.CERTAIN if linked else Sure.POSSIBLE,
        why=(why,),
    )
    torn = [] if linked else torn_down_in_use(records, complaint.said.registers.values())
    return (
        Trail(words=torn, notes=[f"{word.what} at {address:#x} holds {word.found}: {why}"])
        if torn
        else Trail(words=[word])
    )
