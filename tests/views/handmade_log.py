"""Logs made by hand: the ring of 5.10 and later, the records before, the per-CPU buffers beside either."""

from __future__ import annotations

from dataclasses import dataclass, field

from handmade import LINUX, Machine

RING: dict[str, str] = LINUX | {
    "prb_data_blk_lpos": "begin:u64 next:u64",
    "prb_desc": "state_var:atomic64_t text_blk_lpos:prb_data_blk_lpos",
    "prb_data_ring": "size_bits:u32 data:* head_lpos:atomic64_t tail_lpos:atomic64_t",
    "prb_desc_ring": "count_bits:u32 descs:* infos:* head_id:atomic64_t tail_id:atomic64_t",
    "printk_ringbuffer": "desc_ring:prb_desc_ring text_data_ring:prb_data_ring fail:atomic64_t",
    # flags and level share a byte in the kernel; a structure made by hand has no bit fields.
    "printk_info": "seq:u64 ts_nsec:u64 text_len:u16 facility:u8 flags:u8 level:u8 caller_id:u32",
}
CONTEXT: dict[str, str] = RING | {"printk_info": RING["printk_info"] + " caller_id2:u32 comm:u8[16]"}
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED, EMPTY = 1, 3  # FAILED_LPOS, EMPTY_LINE_LPOS
_ID_MASK = (1 << 62) - 1


@dataclass(kw_only=True)
class Ring:
    """A ``printk_ringbuffer`` being filled as the kernel fills it."""

    machine: Machine
    count_bits: int = 3
    size_bits: int = 8
    first_id: int = (1 << 62) - 4  # wraps soon, as that of a kernel does
    first_lpos: int = (1 << 64) - 40
    seq: int = 0
    written: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        machine = self.machine
        self.descs = machine.room(24 << self.count_bits, 4096)
        layout = machine.types.struct("printk_info")
        assert layout is not None
        self.info_size = layout.size
        self.infos = machine.room(self.info_size << self.count_bits, 4096)
        self.data = machine.room(1 << self.size_bits, 4096)
        self.lpos = self.first_lpos
        self.id = self.first_id
        self.ring = machine.put(
            "printk_ringbuffer",
            {
                "desc_ring.count_bits": self.count_bits,
                "desc_ring.descs": self.descs,
                "desc_ring.infos": self.infos,
                "desc_ring.head_id.counter": (self.first_id - 1) & _ID_MASK,
                "desc_ring.tail_id.counter": (self.first_id - 1) & _ID_MASK,
                "text_data_ring.size_bits": self.size_bits,
                "text_data_ring.data": self.data,
            },
        )
        # What the kernel begins with: a descriptor that never was a record (_DEFINE_PRINTKRB).
        bootstrap = (self.first_id - 1) & _ID_MASK
        desc = self.descs + 24 * (bootstrap % (1 << self.count_bits))
        for place, word in enumerate((REUSABLE << 62 | bootstrap, FAILED, FAILED)):
            machine.word(desc + 8 * place, word)
        pointer = machine.room(8)
        machine.word(pointer, self.ring)
        machine.symbols["prb"] = pointer

    def write(
        self,
        text: bytes,
        *,
        state: int = FINALIZED,
        facility: int = 0,
        level: int = 6,
        time: int = 0,
        caller: int = 1,
        said: int | None = None,
        comm: bytes = b"",
    ) -> int:
        """A record; ``said`` is its ``text_len`` if that is not the length of ``text``. Returns its descriptor."""
        size = 1 << self.size_bits
        need = 8 + len(text) + (-len(text) % 8)
        begin, after = self.lpos, (self.lpos + need) % (1 << 64)
        at = begin % size
        if begin // size != ((after - 1) % (1 << 64)) // size:  # get_next_lpos: does not fit, so it lies at the start
            after = (((after - 1) % (1 << 64)) // size * size + need) % (1 << 64)
            at = 0
        self.lpos = after
        self.machine.word(self.data + at, self.id)
        self.machine.write(self.data + at + 8, text)
        self.written.append(at)
        fields = {"text_len": len(text) if said is None else said, "facility": facility, "level": level}
        fields |= {"seq": self.seq, "ts_nsec": time, "caller_id": caller}
        return self._describe(begin, after, state, fields, comm)

    def write_without_text(self, lpos: int, *, said: int = 0) -> int:
        """A record whose block position says that it has none."""
        return self._describe(lpos, lpos, FINALIZED, {"seq": self.seq, "text_len": said}, b"")

    def _describe(self, begin: int, after: int, state: int, fields: dict[str, int], comm: bytes) -> int:
        index = self.id % (1 << self.count_bits)
        desc, info = self.descs + 24 * index, self.infos + self.info_size * index
        self.machine.word(desc, state << 62 | self.id)
        self.machine.word(desc + 8, begin)
        self.machine.word(desc + 16, after)
        for name, value in fields.items():
            self.machine.set("printk_info", info, name, value)
        if comm:
            self.machine.set("printk_info", info, "comm", comm)
        self.set("desc_ring.head_id.counter", self.id)
        self.id = (self.id + 1) & _ID_MASK
        self.seq += 1
        used = self.seq - (1 << self.count_bits)
        if used >= 0:
            self.set("desc_ring.tail_id.counter", (self.first_id + used) & _ID_MASK)
        return desc

    def set(self, path: str, value: int) -> None:
        """Write a member of the ring itself."""
        self.machine.set("printk_ringbuffer", self.ring, path, value)


def ring(structs: dict[str, str] = RING, *, pages: int = 64, count_bits: int = 3, size_bits: int = 8) -> Ring:
    """An empty ring in a machine of its own."""
    return Ring(machine=Machine(structs, pages=pages), count_bits=count_bits, size_bits=size_bits)
