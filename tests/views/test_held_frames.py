"""Frames that pipes, io_uring and AF_XDP hold, made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE, LINUX, Machine

from vmaforensics.views.descriptors.descriptors import Descriptors
from vmaforensics.views.descriptors.held_frames import read_held_frames
from vmaforensics.views.descriptors.holders import Holder
from vmaforensics.views.descriptors.keepers import KeptFiles
from vmaforensics.views.problems import Problem, ProblemLog

if TYPE_CHECKING:
    from vmaforensics.views.descriptors.holders import HeldFrames

PIPE_OPS, ANON_PIPE_OPS, RING_OPS, SOCKET_OPS, MAP_OPS = (
    0xFFFF_FFFF_8200_0000 + 0x1000 * number for number in range(5)
)
WRITTEN, VMSPLICED, SPLICED = (0xFFFF_FFFF_8210_0000 + 0x1000 * number for number in range(3))
OLD = LINUX | {
    "page": "flags:u64 compound_head:* mapping:* index:u64 private:u64 rest:u64 page_type:u32 last@56:u64",
    "file": "f_op:* private_data:*",
    "pipe_buffer": "page:* offset:u32 len:u32 ops:* flags:u32 private:u64",
    "pipe_inode_info": "head:u32 tail:u32 max_usage:u32 ring_size:u32 tmp_page:*[2] bufs:*",
    "bio_vec": "bv_page:* bv_len:u32 bv_offset:u32",
    "io_mapped_ubuf": "ubuf:u64 ubuf_end:u64 nr_bvecs:u32 acct_pages:u64 bvec:bio_vec[0]",
    "io_ring_ctx": "nr_user_bufs:u32 user_bufs:*",
    "socket": "state:u32 sk:*",
    "sock_common": "skc_family:u16",
    "sock": "__sk_common:sock_common sk_receive_queue:sk_buff_head sk_write_queue:sk_buff_head "
    "sk_error_queue:sk_buff_head",
    "xdp_sock": "sk:sock umem:*",
    "sk_buff_head": "next:* prev:* qlen:u32",
    "packet_ring_buffer": "pg_vec:* head:u32 pg_vec_order:u32 pg_vec_pages:u32 pg_vec_len:u32",
    "packet_sock": "sk:sock rx_ring:packet_ring_buffer tx_ring:packet_ring_buffer",
    "unix_sock": "sk:sock peer:*",
    "sk_buff": "next:* prev:* end:u32 head:*",
    "skb_shared_info": "flags:u8 meta_len:u8 nr_frags:u8 frag_list:* frags:bio_vec[17]",
    "bpf_map": "ops:* map_type:u32",
    "bpf_htab": "map:bpf_map buckets:* elems:*",
    "bpf_arena": "map:bpf_map kern_vm:*",
    "vm_struct": "next:* addr:* size:u64 caller:*",
    "rb_node": "__rb_parent_color:u64 rb_right:* rb_left:*",
    "vmap_area": "va_start:u64 va_end:u64 rb_node:rb_node vm:*",
    "xarray": "xa_lock:u64 xa_head:*",
    "xa_node": "shift:u8 slots@8:*[64]",
    "idr": "idr_rt:xarray idr_base:u32",
    "xdp_umem": "addrs:* size:u64 npgs:u32 pgs:*",
}
NEW = OLD | {
    "anon_pipe_prealloc": "pages:*[2] count:u32",
    "pipe_inode_info": "head:u16 tail:u16 max_usage:u32 ring_size:u32 prealloc:anon_pipe_prealloc bufs:*",
    "io_rsrc_data": "nr:u32 nodes:*",
    "io_rsrc_node": "type:u8 refs:u32 buf:*",
    "io_ring_ctx": "buf_table:io_rsrc_data",
    "skb_frag": "netmem:u64 len:u32 offset:u32",
    "skb_shared_info": "flags:u8 meta_len:u8 nr_frags:u8 frag_list:* frags:skb_frag[17]",
}


class Held:
    """A machine with struct pages of its 64 frames, and what is read of the files given."""

    def __init__(self, structs: dict[str, str], **constants: int) -> None:
        self.machine = Machine(structs, constants)
        self.vmemmap = self.machine.room(64 * 64, 4096)
        pointer = self.machine.room(8)
        self.machine.word(pointer, self.vmemmap)
        self.machine.symbols |= {
            "vmemmap_base": pointer,
            "pipefifo_fops": PIPE_OPS,
            "pipeanon_fops": ANON_PIPE_OPS,
            "io_uring_fops": RING_OPS,
            "socket_file_ops": SOCKET_OPS,
            "bpf_map_fops": MAP_OPS,
            "anon_pipe_buf_ops": WRITTEN,
            "user_page_pipe_buf_ops": VMSPLICED,
        }
        self.files: list[int] = []
        self.log = ProblemLog()

    def page(self, pfn: int) -> int:
        """Address of a frame's struct page."""
        return self.vmemmap + 64 * pfn

    def file(self, operations: int, private: int) -> None:
        """One more open file: descriptors are 3, 4, … of process 10."""
        self.files.append(self.machine.put("file", {"f_op": operations, "private_data": private}))

    def words(self, *values: int) -> int:
        """An array of words."""
        at = self.machine.room(8 * max(len(values), 1))
        for place, value in enumerate(values):
            self.machine.word(at + 8 * place, value)
        return at

    def read(self) -> tuple[HeldFrames, bool]:
        """What they hold."""
        fds = range(3, 3 + len(self.files))
        rows = Descriptors.of(file=self.files, fd=fds, pid=[10] * len(self.files))
        return read_held_frames(self.machine.kernel(), rows, KeptFiles.zeros(0), self.log)

    def pipe(self, pages: list[tuple[int, int]], *, head: int, tail: int, **spare: list[int]) -> int:
        """A pipe whose buffers are (page, operations)."""
        size = self.machine.types.struct("pipe_buffer")
        assert size is not None
        buffers = self.machine.room(size.size * len(pages))
        for place, (page, operations) in enumerate(pages):
            at = buffers + size.size * place
            self.machine.set("pipe_buffer", at, "page", page)
            self.machine.set("pipe_buffer", at, "ops", operations)
        known = {"head": head, "tail": tail, "ring_size": len(pages), "bufs": buffers}
        return self.machine.put("pipe_inode_info", known | {name.replace("__", "."): at for name, at in spare.items()})


def told(rows: HeldFrames) -> list[tuple[int, Holder]]:
    return [(pfn, Holder(holder)) for pfn, holder in zip(rows.pfn.tolist(), rows.holder.tolist(), strict=True)]


def test_a_pipe_holds_what_lies_between_tail_and_head_and_its_spare_pages() -> None:
    held = Held(OLD)
    stale = held.page(40)
    buffers = [(held.page(11), SPLICED), (stale, WRITTEN), (held.page(9), WRITTEN), (held.page(10), VMSPLICED)]
    pipe = held.pipe(buffers, head=1, tail=(1 << 32) - 2, tmp_page=[held.page(7), 0])
    held.file(PIPE_OPS, pipe)
    held.file(PIPE_OPS, pipe)  # the other end
    rows, whole = held.read()
    assert told(rows) == [(7, Holder.SPARE), (9, Holder.PIPE), (10, Holder.VMSPLICED), (11, Holder.SPLICED)]
    assert whole
    assert set(rows.by.tolist()) == {pipe}
    assert set(zip(rows.pid.tolist(), rows.fd.tolist(), strict=True)) == {(10, 3)}


def test_newer_pipes_have_shorter_indices_and_an_array_of_spare_pages() -> None:
    held = Held(NEW)
    pipe = held.pipe(
        [(held.page(5), WRITTEN), (held.page(6), VMSPLICED)], head=1, tail=0xFFFF, prealloc__pages=[held.page(8), 0]
    )
    held.file(ANON_PIPE_OPS, pipe)
    rows, whole = held.read()
    assert told(rows) == [(5, Holder.PIPE), (6, Holder.VMSPLICED), (8, Holder.SPARE)]
    assert whole


def test_an_empty_pipe_holds_nothing() -> None:
    held = Held(OLD)
    held.file(PIPE_OPS, held.pipe([(held.page(5), WRITTEN)] * 4, head=7, tail=7))
    assert told(held.read()[0]) == []


def test_a_pipe_that_states_more_than_its_ring_holds_is_read_once_around() -> None:
    held = Held(OLD)
    held.file(PIPE_OPS, held.pipe([(held.page(5), WRITTEN), (held.page(6), WRITTEN)], head=0x80000000, tail=1))
    assert told(held.read()[0]) == [(5, Holder.PIPE), (6, Holder.PIPE)]


def test_a_page_that_is_no_struct_page_is_a_problem() -> None:
    held = Held(OLD)
    held.file(PIPE_OPS, held.pipe([(held.page(5) + 8, WRITTEN), (0x41414141, WRITTEN)], head=2, tail=0))
    rows, whole = held.read()
    assert (told(rows), whole) == ([], False)
    assert set(held.log.table().problem.tolist()) == {Problem.NON_CANONICAL}


def buffer(held: Held, *pieces: tuple[int, int, int]) -> int:
    """An io_mapped_ubuf of (page, length, offset)."""
    address = held.machine.room(256)
    held.machine.set("io_mapped_ubuf", address, "nr_bvecs", len(pieces))
    at = held.machine.at("io_mapped_ubuf", address, "bvec")
    for page, length, offset in pieces:
        held.machine.set("bio_vec", at, "bv_page", page)
        held.machine.set("bio_vec", at, "bv_len", length)
        held.machine.set("bio_vec", at, "bv_offset", offset)
        at += 16
    return address


def test_registered_buffers_hold_all_frames_of_their_pieces() -> None:
    held = Held(OLD)
    first = buffer(held, (held.page(20), 4096, 0), (held.page(30), 2 * 4096, 100))
    ring = held.machine.put("io_ring_ctx", {"nr_user_bufs": 3, "user_bufs": held.words(first, 0, 0)})
    held.file(RING_OPS, ring)
    rows, whole = held.read()
    assert told(rows) == [(pfn, Holder.IO_URING) for pfn in (20, 30, 31, 32)]
    assert whole
    assert set(rows.by.tolist()) == {ring}


def test_newer_kernels_have_a_node_for_each_buffer() -> None:
    held = Held(NEW)
    node = held.machine.put("io_rsrc_node", {"buf": buffer(held, (held.page(20), 100, 4000))})
    held.file(RING_OPS, held.machine.put("io_ring_ctx", {"buf_table.nr": 2, "buf_table.nodes": held.words(0, node)}))
    assert told(held.read()[0]) == [(20, Holder.IO_URING), (21, Holder.IO_URING)]


def test_counts_beyond_reason_are_cut_short() -> None:
    held = Held(OLD)
    wide = buffer(held, (held.page(20), 4096, 0))
    held.machine.set("io_mapped_ubuf", wide, "nr_bvecs", 0xFFFFFFFF)
    held.file(RING_OPS, held.machine.put("io_ring_ctx", {"nr_user_bufs": 1, "user_bufs": held.words(wide)}))
    held.file(RING_OPS, held.machine.put("io_ring_ctx", {"nr_user_bufs": 0xFFFFFFFF, "user_bufs": held.words(wide)}))
    rows, whole = held.read()
    assert (told(rows), whole) == ([], False)
    assert Problem.CUT_SHORT in held.log.table().problem


def test_a_umem_that_sockets_share_is_read_once_and_other_sockets_hold_nothing() -> None:
    held = Held(OLD)
    umem = held.machine.put("xdp_umem", {"npgs": 2, "pgs": held.words(held.page(50), held.page(51))})
    for family, memory in ((44, umem), (44, umem), (2, 0x4141414141414141)):
        sock = held.machine.put("xdp_sock", {"sk.__sk_common.skc_family": family, "umem": memory})
        held.file(SOCKET_OPS, held.machine.put("socket", {"sk": sock}))
    rows, whole = held.read()
    assert told(rows) == [(50, Holder.AF_XDP), (51, Holder.AF_XDP)]
    assert whole
    assert set(rows.fd.tolist()) == {3}


def sock(held: Held, struct: str, family: int, queued: tuple[str, int] | None = None, **members: int) -> int:
    """An open socket; ``queued`` is the queue that a buffer waits in, and the buffer."""
    at = held.machine.put(struct, {"sk.__sk_common.skc_family": family} | members)
    for name in ("sk_receive_queue", "sk_write_queue", "sk_error_queue"):
        head = held.machine.at(struct, at, f"sk.{name}")
        first = queued[1] if queued is not None and queued[0] == name else head
        held.machine.set(struct, at, f"sk.{name}.next", first)
        if first != head:
            held.machine.set("sk_buff", first, "next", head)
    held.file(SOCKET_OPS, held.machine.put("socket", {"sk": at}))
    return at


def message(held: Held, *fragments: tuple[int, int, int], further: int = 0) -> int:
    """A socket buffer with fragments (page, length, offset)."""
    data = held.machine.room(1024)
    shared = data + 512
    held.machine.set("skb_shared_info", shared, "nr_frags", len(fragments))
    held.machine.set("skb_shared_info", shared, "frag_list", further)
    at = held.machine.at("skb_shared_info", shared, "frags")
    for place, (page, length, offset) in enumerate(fragments):
        held.machine.word(at + 16 * place, page)
        held.machine.word(at + 16 * place + 8, offset << 32 | length)
    return held.machine.put("sk_buff", {"head": data, "end": 512})


@pytest.mark.parametrize("newer", [False, True])
def test_a_message_holds_its_fragments_and_those_of_its_list(newer: bool) -> None:
    held = Held(NEW if newer else OLD)
    if newer:  # the fragment is a word that is no pointer: length, then offset
        last = message(held, (held.page(42), 100, 0), (0x4141_4141_4141_4141, 100, 0))  # not a page, but a device's
    else:
        last = message(held, (held.page(42), 100, 0))
    first = message(held, (held.page(40), 8192, 4000), (held.page(44), 4096, 0), further=last)
    mine = sock(held, "unix_sock", 1, ("sk_receive_queue", first))
    rows, whole = held.read()
    frames = [pfn for pfn in rows.pfn.tolist() if pfn >= 32]
    assert frames == [40, 41, 42, 42, 44]  # 8192 bytes from byte 4000 on reach into a third page
    assert set(rows.holder.tolist()) == {Holder.SOCKET}
    assert set(rows.by.tolist()) == {mine}
    assert whole


def test_the_peer_of_a_unix_socket_is_looked_at_too() -> None:
    held = Held(OLD)
    peer = sock(held, "unix_sock", 1, ("sk_receive_queue", message(held, (held.page(40), 4096, 0))))
    del held.files[:]
    sock(held, "unix_sock", 1, peer=peer)
    rows, _ = held.read()
    assert 40 in rows.pfn.tolist()
    assert set(rows.by.tolist()) == {peer}


def test_a_queue_that_goes_round_is_read_once() -> None:
    held = Held(OLD)
    first = message(held, (held.page(40), 4096, 0))
    sock(held, "unix_sock", 2, ("sk_write_queue", first))
    held.machine.set("sk_buff", first, "next", first)
    rows, whole = held.read()
    assert rows.pfn.tolist().count(40) == 1
    assert not whole


def test_a_packet_socket_holds_the_blocks_of_its_rings() -> None:
    held = Held(OLD)
    block = held.machine.room(2 * 4096, 4096)
    ring = {"tx_ring.pg_vec": held.words(block), "tx_ring.pg_vec_len": 1, "tx_ring.pg_vec_pages": 2}
    mine = sock(held, "packet_sock", 17, None, **ring)
    rows, whole = held.read()
    first = (block - BASE) // 4096
    assert told(rows) == [(first, Holder.AF_PACKET), (first + 1, Holder.AF_PACKET)]
    assert set(rows.by.tolist()) == {mine}
    assert whole


def test_bpf_maps_hold_their_areas_those_without_a_descriptor_too() -> None:
    """An array that is an area itself, and a hash that has one; areas of the direct map stand for those of vmalloc."""
    held = Held(OLD, BPF_MAP_TYPE_HASH=1)
    array, elements = held.machine.room(2 * 4096, 4096), held.machine.room(4096, 4096)
    held.machine.set("bpf_map", array, "map_type", 2)
    table = held.machine.put("bpf_htab", {"map.map_type": 1, "elems": elements})
    node = held.machine.at("vmap_area", 0, "rb_node")
    right = held.machine.put("vmap_area", {"va_start": elements, "va_end": elements + 4096})
    root = held.machine.put(
        "vmap_area", {"va_start": array, "va_end": array + 2 * 4096, "rb_node.rb_right": right + node}
    )
    held.machine.symbols["vmap_area_root"] = held.words(root + node)
    maps = held.machine.put("idr", {"idr_rt.xa_head": table})
    held.machine.symbols["map_idr"] = maps
    held.file(MAP_OPS, array)
    rows, whole = held.read()
    first, last = (array - BASE) // 4096, (elements - BASE) // 4096
    assert told(rows) == [(pfn, Holder.BPF_MAP) for pfn in (first, first + 1, last)]
    assert rows.fd.tolist() == [3, 3, -1]
    assert rows.pid.tolist() == [10, 10, 0]
    assert whole


def test_a_kernel_without_the_symbols_says_what_was_not_looked_at() -> None:
    held = Held(OLD)
    held.machine.symbols.clear()
    held.machine.symbols["vmemmap_base"] = held.words(held.vmemmap)
    kernel = held.machine.kernel()
    rows, _ = read_held_frames(kernel, Descriptors.zeros(0), KeptFiles.zeros(0), ProblemLog())
    assert len(rows) == 0
    assert sum("not looked at" in line for line in kernel.identity.problems) == 4
    assert np.all(rows.pfn == 0)
