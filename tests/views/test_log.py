"""The kernel's log: every state of a record, rings that went round, and what has been damaged.

Expected values come from kernel/printk/printk_ringbuffer.c and printk.c.
"""

from __future__ import annotations

import re
import struct
import time

import numpy as np
import pytest
from handmade import LINUX, Machine
from support import CRASHED, SAMPLES, WHOLE, Sample

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.proc.log import log_lines
from vmaforensics.proc.log_document import log_record
from vmaforensics.views.log.log import read_log
from vmaforensics.views.log.records import NO_CALLER, ON_CPU, Log, RecordState

from .handmade_log import COMMITTED, CONTEXT, EMPTY, FAILED, RESERVED, REUSABLE, RING, Ring, ring


def _log(made: Ring) -> Log:
    found = read_log(made.machine.kernel())
    assert found is not None
    return found


def _texts(log: Log) -> list[bytes]:
    return [log.text(row) for row in range(len(log.records))]


def test_a_ring_without_records_has_none() -> None:
    log = _log(ring())
    assert (_texts(log), log.problems) == ([], ())


def test_records_come_in_the_order_they_were_written_though_identifiers_wrap() -> None:
    made = ring()
    for number in range(6):
        made.write(b"line %d" % number, time=number * 10**9, level=number, caller=number)
    log = _log(made)
    assert _texts(log) == [b"line %d" % number for number in range(6)]
    assert log.records.seq.tolist() == log.records.level.tolist() == log.records.caller.tolist() == [*range(6)]
    assert log.records.time.tolist() == [number * 10**9 for number in range(6)]
    assert (log.overwritten, log.problems) == (0, ())


def test_of_a_ring_that_went_round_the_last_records_are_left() -> None:
    made = ring()
    for number in range(20):
        made.write(b"line %d" % number)
    log = _log(made)
    assert _texts(log) == [b"line %d" % number for number in range(12, 20)]
    assert log.overwritten == 12


def test_a_block_that_would_run_over_the_end_lies_at_the_start() -> None:
    made = ring()
    made.write(b"a" * 20)  # from 40 bytes before the end
    made.write(b"b" * 20)
    assert made.written == [216, 0]
    assert _texts(_log(made)) == [b"a" * 20, b"b" * 20]


def test_a_block_that_ends_with_the_ring_is_not_wrapped() -> None:
    made = ring()
    made.write(b"a" * 32)
    assert (made.written, made.lpos) == ([216], 0)
    assert _texts(_log(made)) == [b"a" * 32]


def test_text_is_no_longer_than_its_block() -> None:
    made = ring()
    made.write(b"short   ", said=500)
    assert _texts(_log(made)) == [b"short   "]


def test_reusable_descriptors_and_those_of_another_record_are_none() -> None:
    made = ring()
    made.write(b"gone", state=REUSABLE)
    made.write(b"kept")
    desc = made.write(b"taken for another record")
    made.machine.word(desc, 2 << 62 | 77)
    assert _texts(_log(made)) == [b"kept"]


def test_a_committed_record_is_open_and_a_reserved_one_unfinished() -> None:
    made = ring()
    made.write(b"whole")
    made.write(b"more to c", state=COMMITTED)
    made.write(b"half of a wo\0\0\0\0\0\0\0\0\0", state=RESERVED, said=0)
    log = _log(made)
    assert _texts(log) == [b"whole", b"more to c", b"half of a wo"]
    assert log.records.state.tolist() == [RecordState.WHOLE, RecordState.OPEN, RecordState.UNFINISHED]
    assert log_lines(log_record(log, 2)) == "[    0.000000] (unfinished) half of a wo\n"
    assert log_lines(log_record(log, 1)) == "[    0.000000] more to c\n"


def test_an_empty_line_is_one_and_a_text_without_room_is_lost() -> None:
    made = ring()
    made.write_without_text(EMPTY)
    made.write_without_text(FAILED, said=30)
    log = _log(made)
    assert log.records.lost.tolist() == [False, True]
    assert log_lines(log_record(log, 0)) == "[    0.000000] \n"
    assert log_lines(log_record(log, 1)) == "[    0.000000] (text lost) \n"
    assert len(log.problems) == 1


def test_a_text_that_another_was_written_over_is_lost() -> None:
    made = ring()
    made.write(b"mine")
    made.machine.word(made.data + made.written[0], 99)
    log = _log(made)
    assert (log.records.lost.tolist(), _texts(log)) == ([True], [b""])


@pytest.mark.parametrize("bounds", [(0, 1 << 63), (8, 8), (4, 40), (16, 8), (2, 2)])
def test_bounds_that_no_writer_leaves_lead_nowhere(bounds: tuple[int, int]) -> None:
    made = ring()
    desc = made.write(b"mine")
    made.machine.word(desc + 8, bounds[0])
    made.machine.word(desc + 16, bounds[1])
    assert _log(made).records.lost.all()


def test_a_page_that_is_not_in_the_dump_costs_its_records_alone() -> None:
    made = ring(count_bits=8, size_bits=13)
    for number in range(200):
        made.write(b"line %3d" % number)
    made.machine.drop(made.data)
    log = _log(made)
    lost = log.records.lost
    assert (len(log.records), int(lost.sum())) == (200, 198)  # the first two lie before the end of the ring
    assert all(log.text(row) == b"line %3d" % row for row in np.flatnonzero(~lost).tolist())
    assert log.problems


def test_descriptors_that_are_not_in_the_dump_are_told() -> None:
    made = ring(count_bits=8, size_bits=13)
    for number in range(200):
        made.write(b"line %3d" % number)
    made.machine.drop(made.descs)
    log = _log(made)
    assert 0 < len(log.records) < 200
    assert any("not in the dump" in problem for problem in log.problems)


def test_a_first_and_a_last_record_too_far_apart_are_told_and_bounded() -> None:
    made = ring()
    for number in range(3):
        made.write(b"line %d" % number)
    made.set("desc_ring.tail_id.counter", 123456)
    log = _log(made)
    assert _texts(log) == [b"line 0", b"line 1", b"line 2"]
    assert any("further apart" in problem for problem in log.problems)


@pytest.mark.parametrize(
    ("path", "value"),
    [("desc_ring.count_bits", 0), ("desc_ring.count_bits", 63), ("text_data_ring.size_bits", 60)],
)
def test_impossible_sizes_are_no_log(path: str, value: int) -> None:
    made = ring()
    made.write(b"line")
    made.set(path, value)
    assert read_log(made.machine.kernel()) is None


@pytest.mark.parametrize("path", ["desc_ring.descs", "desc_ring.infos", "text_data_ring.data"])
def test_wild_pointers_give_no_text_and_no_error(path: str) -> None:
    made = ring()
    made.write(b"line")
    made.set(path, 0xFFFF_FFFF_FFFF_FF00)
    log = _log(made)
    assert not any(_texts(log))
    assert log.problems


def test_a_ring_that_says_it_is_the_largest_is_read_within_bounds() -> None:
    made = ring()
    made.write(b"line")
    made.set("desc_ring.count_bits", 26)
    made.set("desc_ring.tail_id.counter", made.first_id - (1 << 25))
    before = time.monotonic()
    log = _log(made)
    assert time.monotonic() - before < 20
    assert any("only the last 4,194,304 records" in problem for problem in log.problems)


def test_a_million_records_are_read_at_once() -> None:
    made = ring(pages=36000, count_bits=20, size_bits=16)
    data = made.machine._data
    base = 0xFFFF_8880_0000_0000
    count = 1 << 20
    descs = np.zeros((count, 3), np.uint64)
    descs[:, 0] = np.arange(count, dtype=np.uint64) | np.uint64(2 << 62)
    descs[:, 1:] = EMPTY
    data[made.descs - base : made.descs - base + descs.nbytes] = descs.tobytes()
    made.set("desc_ring.tail_id.counter", 0)
    made.set("desc_ring.head_id.counter", count - 1)
    kernel = made.machine.kernel()
    before = time.monotonic()
    log = read_log(kernel)
    assert log is not None and len(log.records) == count
    assert time.monotonic() - before < 10


def test_facilities_of_programs_are_marked_whatever_the_text_says() -> None:
    made = ring()
    made.write(b"BUG: Bad page map in process fake", facility=1, level=2)
    made.write(b"BUG: Bad page map in process true")
    log = _log(made)
    assert log_lines(log_record(log, 0)) == "[    0.000000] (/dev/kmsg user) BUG: Bad page map in process fake\n"
    assert log_lines(log_record(log, 1)) == "[    0.000000] BUG: Bad page map in process true\n"


def test_further_lines_are_indented_and_nothing_in_them_acts_on_a_terminal() -> None:
    made = ring()
    made.write(b"a\x1b[2J\r\nb\xff\tc\xe2\x80\xae", time=8691508123)
    assert log_lines(log_record(_log(made), 0)) == "[    8.691508] a\\x1b[2J\\x0d\n               b\\xff\tc\\u202e\n"


def test_the_thread_that_printed_a_record_is_named_where_the_kernel_keeps_it() -> None:
    made = ring(CONTEXT)
    made.write(b"line", caller=ON_CPU | 1, comm=b"kworker/0:1")
    log = _log(made)
    assert (log.records.caller.tolist(), log.records.comm.tolist()) == ([ON_CPU | 1], [b"kworker/0:1"])


def test_there_is_no_log_without_its_variable() -> None:
    assert read_log(Machine(RING).kernel()) is None


# Records of 3.5 to 5.9 ------------------------------------------------------------------------------


_OLD = "ts_nsec:u64 len:u16 text_len:u16 dict_len:u16 facility:u8 flags:u8 level:u8"


def _old_record(text: bytes, *, facility: int = 0, dictionary: bytes = b"") -> bytes:
    long = 24 + len(text) + len(dictionary)
    long += -long % 8
    head = struct.pack("<QHHHBBB", 5 * 10**9, long, len(text), len(dictionary), facility, 2, 6)
    return (head.ljust(24, b"\0") + text + dictionary).ljust(long, b"\0")


def _old_log(buffer: bytes, *, first: int, after: int, size: int, name: str = "printk_log") -> Machine:
    machine = Machine(LINUX | {name: _OLD})
    at = machine.room(size)
    machine.write(at, buffer)
    for symbol, value in (("log_buf", at), ("log_buf_len", size), ("log_first_idx", first), ("log_next_idx", after)):
        machine.symbols[symbol] = machine.room(8)
        machine.word(machine.symbols[symbol], value)
    machine.symbols["log_first_seq"] = machine.room(8)
    machine.word(machine.symbols["log_first_seq"], 40)
    return machine


@pytest.mark.parametrize("name", ["printk_log", "log"])
def test_old_records_are_followed_by_their_length(name: str) -> None:
    buffer = _old_record(b"one", dictionary=b"SUBSYSTEM=pci") + _old_record(b"two", facility=3)
    log = read_log(_old_log(buffer, first=0, after=len(buffer), size=512, name=name).kernel())
    assert log is not None
    assert _texts(log) == [b"one", b"two"]
    assert (log.records.seq.tolist(), log.records.facility.tolist()) == ([40, 41], [0, 3])
    assert (log.records.time.tolist(), log.records.caller.tolist()) == ([5 * 10**9] * 2, [NO_CALLER] * 2)
    assert (log.overwritten, log.problems) == (40, ())


def test_a_record_of_no_length_leads_to_the_start() -> None:
    last, first = _old_record(b"last"), _old_record(b"first")
    buffer = last.ljust(200, b"\0") + first
    log = read_log(_old_log(buffer, first=200, after=len(last), size=512).kernel())
    assert log is not None
    assert (_texts(log), log.problems) == ([b"first", b"last"], ())


def test_an_old_record_with_an_impossible_length_ends_the_log() -> None:
    good = _old_record(b"good")
    bad = bytearray(_old_record(b"bad"))
    bad[8:10] = (3).to_bytes(2, "little")
    log = read_log(_old_log(good + bytes(bad), first=0, after=400, size=512).kernel())
    assert log is not None
    assert _texts(log) == [b"good"]
    assert len(log.problems) == 1


# Buffers of each CPU, up to 5.14 --------------------------------------------------------------------


def test_what_was_printed_in_an_nmi_and_never_got_into_the_ring_is_at_the_end() -> None:
    structs = RING | {"printk_safe_seq_buf": "len:atomic_t message_lost:atomic_t buffer:u8[200]"}
    made = ring(structs)
    made.write(b"line")
    text = b"\x010NMI watchdog\n\x01cand more\n"
    at = made.machine.put("printk_safe_seq_buf", {"len.counter": len(text), "message_lost.counter": 2, "buffer": text})
    made.machine.symbols["nmi_print_seq"] = at
    log = _log(made)
    assert _texts(log) == [b"line", b"NMI watchdog", b"and more"]
    assert log.records.state.tolist() == [RecordState.WHOLE, RecordState.BUFFERED, RecordState.BUFFERED]
    assert log_lines(log_record(log, 1)) == "[           ?] (not in the log yet) NMI watchdog\n"
    assert log.problems == ("nmi_print_seq: 2 messages did not fit into the buffer of their CPU",)


# Real kernels ---------------------------------------------------------------------------------------

# A record as /dev/kmsg gives it (Documentation/ABI/testing/dev-kmsg): priority, number, microseconds, flags; text.
_KMSG = re.compile(rb"^(\d+),(\d+),(\d+),[^;]*;(.*)$", re.MULTILINE)


@pytest.mark.image
@pytest.mark.parametrize("sample", [*(WHOLE or SAMPLES), *CRASHED], ids=lambda sample: sample.name)
def test_every_record_is_what_the_guest_read_from_dev_kmsg(sample: Sample) -> None:
    if "kmsg" not in sample.truth:
        pytest.skip("the guest's record of this image has no kmsg")
    log = read_log(find_kernel(open_image(sample.image_path)))
    assert log is not None
    records = log.records
    ours = {
        int(records.seq[row]): (
            int(records.facility[row]) << 3 | int(records.level[row]),
            int(records.time[row]) // 1000,
            log.text(row),
        )
        for row in range(len(records))
    }
    said = _KMSG.findall(sample.truth["kmsg"])
    assert len(said) > 100
    for priority, number, time_, text in said:
        plain = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text)
        assert ours[int(number)] == (int(priority), int(time_), plain)
