"""ORC tables of every form, read and followed."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_stacks import USER, USER_IP, USER_SP, Rule, Stacks, registers

from vmaforensics.arch.unwinding import Cursor, Found, ModuleCode, Step
from vmaforensics.arch.x86_64.orc import Kind, form_of
from vmaforensics.arch.x86_64.unwinding import X86Unwinding

DX = 12  # word of struct pt_regs


def unwinding(stacks: Stacks) -> X86Unwinding:
    """The unwinder of that machine."""
    return X86Unwinding(stacks.kernel(), ModuleCode.zeros(0))


def cursor(ip: int, sp: int, *, bp: int = 0, precise: bool = False, words: tuple[int, ...] | None = None) -> Cursor:
    """One stack."""
    known = np.array([words or (0,) * 21], np.uint64)
    return Cursor(
        ip=np.array([ip], np.uint64),
        sp=np.array([sp], np.uint64),
        bp=np.array([bp], np.uint64),
        precise=np.array([precise]),
        whole=np.array([words is not None]),
        registers=known,
    )


def caller(step: Step) -> tuple[int, int, int]:
    """ip, sp and bp of the caller of the only row."""
    assert step.found[0] in (Found.CALLER, Found.INTERRUPTED, Found.USER)
    return int(step.cursor.ip[0]), int(step.cursor.sp[0]), int(step.cursor.bp[0])


def filled(stacks: Stacks) -> None:
    """As in a real kernel, nearly all functions are of calls and the stack pointer."""
    for number in range(12):
        stacks.function(f"ordinary{number}", Rule(sp="SP", sp_offset=8))


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_a_caller_lies_where_the_entry_says(form: int) -> None:
    stacks = Stacks(form=form)
    filled(stacks)
    stacks.function("f", Rule(sp="SP", sp_offset=24, bp="PREV_SP", bp_offset=-16))
    stacks.function("with_bp", Rule(sp="BP", sp_offset=16, bp="PREV_SP", bp_offset=-16))
    stack = stacks.stack()
    for place, value in enumerate((7, 8, 0x1111, 9)):
        stacks.machine.word(stack + 8 * place, value)
    orc = unwinding(stacks)
    assert orc.source == f"ORC, form {form}"
    # CFA is sp + 24: the return address below it, the saved frame pointer below that.
    assert caller(orc.step(cursor(stacks.code("f"), stack))) == (0x1111, stack + 24, 8)
    assert caller(orc.step(cursor(stacks.code("with_bp"), 1, bp=stack + 8))) == (0x1111, stack + 24, 8)


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_saved_registers_are_a_frame(form: int) -> None:
    stacks = Stacks(form=form)
    filled(stacks)
    stacks.function("interrupt", Rule(sp="SP", sp_offset=8, kind="regs", signal=True))
    stacks.function("early", Rule(sp="SP", sp_offset=0, kind="part", signal=True))
    stack = stacks.stack()
    for place, value in enumerate(USER):
        stacks.machine.word(stack + 8 + 8 * place, value)
    inner = stacks.code("ordinary1")
    for place, value in enumerate(registers(inner, stack + 1000, cs=0x10, bp=77)):
        stacks.machine.word(stack + 512 + 8 + 8 * place, value)
    orc = unwinding(stacks)
    step = orc.step(cursor(stacks.code("interrupt"), stack))
    assert step.found[0] == Found.USER
    assert caller(step)[:2] == (USER_IP, USER_SP)
    step = orc.step(cursor(stacks.code("interrupt"), stack + 512))
    assert step.found[0] == Found.INTERRUPTED
    assert caller(step) == (inner, stack + 1000, 77)
    assert step.where[0] == stack + 512 + 8
    assert step.cursor.precise[0]  # this address is the instruction, not one behind a call
    assert step.cursor.whole[0]
    # The last five words alone: the others are what they were.
    part = stack + 512 + 8 + 16 * 8
    step = orc.step(cursor(stacks.code("early"), part, bp=5))
    assert caller(step) == (inner, stack + 1000, 5)
    assert not step.cursor.whole[0]


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_a_thread_ends_where_the_table_says_and_not_where_it_says_nothing(form: int) -> None:
    stacks = Stacks(form=form)
    filled(stacks)
    stacks.function("end", Rule(kind="end"))
    stacks.function("nothing", Rule(kind="undefined"))
    orc = unwinding(stacks)
    assert orc.step(cursor(stacks.code("end"), stacks.stack())).found[0] == Found.BOTTOM
    assert orc.step(cursor(stacks.code("nothing"), stacks.stack())).found[0] == Found.NO_DATA


def test_a_return_address_is_looked_up_before_the_call_and_an_instruction_where_it_is() -> None:
    stacks = Stacks()
    filled(stacks)
    stacks.function("calls_and_never_returns", Rule(sp="SP", sp_offset=16))
    stacks.function("the_next_one", Rule(kind="end"))
    stack = stacks.stack()
    stacks.machine.word(stack + 8, 0x2222)
    orc, at = unwinding(stacks), stacks.code("the_next_one", 0)
    assert caller(orc.step(cursor(at, stack)))[0] == 0x2222
    assert orc.step(cursor(at, stack, precise=True)).found[0] == Found.BOTTOM


def test_stacks_are_switched_through_a_word_of_the_old_one() -> None:
    stacks = Stacks()
    filled(stacks)
    stacks.function("by_bp", Rule(sp="[BP]", sp_offset=-8))
    stacks.function("by_sp", Rule(sp="[SP]", sp_offset=16))
    old, new = stacks.stack(), stacks.stack()
    stacks.machine.word(old, new + 64)
    stacks.machine.word(new + 56, 0x3333)
    stacks.machine.word(new + 72, 0x4444)
    orc = unwinding(stacks)
    assert caller(orc.step(cursor(stacks.code("by_bp"), 0, bp=old + 8)))[:2] == (0x3333, new + 64)
    assert caller(orc.step(cursor(stacks.code("by_sp"), old)))[:2] == (0x4444, new + 80)


def test_a_frame_that_hangs_on_another_register_needs_all_registers() -> None:
    stacks = Stacks()
    filled(stacks)
    stacks.function("aligned", Rule(sp="DX", sp_offset=8))
    stack = stacks.stack()
    stacks.machine.word(stack, 0x5555)
    orc = unwinding(stacks)
    words = tuple(stack if place == DX else 0 for place in range(21))
    assert caller(orc.step(cursor(stacks.code("aligned"), 0, words=words)))[0] == 0x5555
    assert orc.step(cursor(stacks.code("aligned"), 0)).found[0] == Found.NO_REGISTER


def test_a_call_through_a_null_pointer_has_its_return_address_on_the_stack() -> None:
    stacks = Stacks()
    filled(stacks)
    stack = stacks.stack()
    stacks.machine.word(stack, 0x6666)
    assert caller(unwinding(stacks).step(cursor(0, stack, precise=True)))[:2] == (0x6666, stack + 8)


def test_code_that_no_table_has_is_taken_to_keep_a_frame_pointer() -> None:
    stacks = Stacks()
    filled(stacks)
    stack = stacks.stack()
    stacks.machine.word(stack, 0x10)
    stacks.machine.word(stack + 8, 0x7777)
    step = unwinding(stacks).step(cursor(stacks.machine.symbols["_etext"] + 0x100, stack, bp=stack))
    assert step.found[0] == Found.ASSUMED
    assert (int(step.cursor.ip[0]), int(step.cursor.bp[0])) == (0x7777, 0x10)


def test_words_that_are_not_in_the_dump_are_not_zeros() -> None:
    stacks = Stacks()
    filled(stacks)
    stacks.function("interrupt", Rule(sp="SP", sp_offset=0, kind="regs", signal=True))
    stack = stacks.stack()
    stacks.machine.drop(stack)
    orc = unwinding(stacks)
    assert orc.step(cursor(stacks.code("ordinary1"), stack)).found[0] == Found.UNREADABLE
    assert orc.step(cursor(stacks.code("interrupt"), stack)).found[0] == Found.UNREADABLE


def test_unwind_data_that_is_not_in_the_dump_is_not_that_of_the_function_before() -> None:
    stacks = Stacks()
    filled(stacks)
    kernel_of = stacks.kernel()
    ips, entries = kernel_of.symbols.get("__start_orc_unwind_ip"), kernel_of.symbols.get("__start_orc_unwind")
    assert ips is not None
    assert entries is not None
    stacks.machine.drop(entries)
    orc = X86Unwinding(stacks.machine.kernel(), ModuleCode.zeros(0))
    assert orc.step(cursor(stacks.code("ordinary1"), stacks.stack())).found[0] == Found.LOST_DATA
    assert orc.source == "ORC, which is not in the image"


def test_a_damaged_table_is_no_reason_to_fail() -> None:
    stacks = Stacks()
    filled(stacks)
    stacks.function("odd", Rule(sp="SP", sp_offset=-32768, bp="BP", bp_offset=32767))
    orc = unwinding(stacks)
    step = orc.step(cursor(stacks.code("odd"), 16, bp=(1 << 64) - 1))
    assert step.found[0] == Found.UNREADABLE


def test_the_form_shows_in_what_most_entries_are() -> None:
    for form in (1, 2, 3, 4):
        rules = [Rule()] * 9 + [Rule(kind="end")]
        words = b"".join(rule.packed(form) for rule in rules)
        assert form_of(np.frombuffer(words, "<u2").reshape(-1, 3)[:, 2].astype(np.uint16)) == form
    assert form_of(np.zeros(0, np.uint16)) == 0


def test_kinds_are_numbered_as_in_tables_since_6_4() -> None:
    assert [kind.value for kind in (Kind.UNDEFINED, Kind.END, Kind.CALL, Kind.REGISTERS, Kind.PART)] == [0, 1, 2, 3, 4]


def test_calls_are_told_by_their_bytes() -> None:
    stacks = Stacks()
    stacks.function("a")
    stacks.function("b")
    back = stacks.call("a", "b")
    indirect = stacks.code("a", 0x80)
    stacks.machine.write(indirect - 2, b"\xff\xd0")  # call *%rax
    orc = unwinding(stacks)
    returns = np.array([back, indirect, stacks.code("a", 0xC0), 0x10], np.uint64)
    assert orc.behind_calls(returns).tolist() == [True, True, False, False]
    assert orc.call_targets(returns).tolist() == [stacks.code("b", 0), 0, 0, 0]
