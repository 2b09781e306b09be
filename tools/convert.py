#!/usr/bin/env python3
"""Turns a diffusion checkpoint into diffinv's weight file (UNW1). Python >= 3.8, nothing else.

    tools/convert.py IN -o OUT.unw (--preset NAME | --config FILE) [--entry KEY]
                     [--dtype f32|f16|bf16]
    tools/convert.py IN --list [--entry KEY]
    tools/convert.py --random -o OUT.unw (--preset NAME | --config FILE) [--seed N]
                     [--dtype f32|f16|bf16]

IN is a PyTorch checkpoint (zip, or the older stream) or a .safetensors file, of a network in
the layout of guided-diffusion, of diffusers (UNet2DModel) or of EDM (SongUNet, DhariwalUNet),
or the network that blurs of blur-kernel-space-exploring (KernelWizard, format.kind=bkse).
--list checks IN and prints a line a tensor: name, dtype, shape, CRC-32 of the values as
float32; it takes any network.
--entry names the dictionary to take; by default the top level, else `ema`, `state_dict`, ...
--dtype sets how the weights are stored; by default as IN has them (float64 becomes float32).
--config is a file of key=value lines, # starts a comment line. The keys are those of the weight
file's metadata, and qkv.order=legacy|new|edm. Keys left out take the values in COMMON below;
net.stem, net.emb, pred.channels and data.channels follow from the others. What shapes can tell
is checked against IN. A UNet2DModel's config.json does as well; it says nothing of the
schedule, which is taken to be 1000 linear steps of predicted noise.
--random needs no IN: the network has its full size and random weights, every layer of about
unit gain, the same for the same --seed (0). For benchmarks and tests.

Nothing in IN is executed: its pickles go through the interpreter in chapter 3, which knows a
few inert objects. Memory stays small whatever the size of IN. A refusal is one line on stderr.
Exit status: 1 usage, 2 input file, 3 memory, 5 interrupted, 6 output.

Chapters: 1 refusals and limits, 2 the input file, 3 pickles, 4 containers, 5 values, 6 which
dictionary, 7 the configuration, 8 presets, 9 a diffusers config.json, 10 the network, 11 what
checkpoints call its tensors, 12 the weight file, 13 random weights, 14 the command.
"""
import argparse
import array
import collections
import decimal
import difflib
import functools
import hashlib
import itertools
import json
import math
import os
import random
import re
import signal
import stat
import struct
import sys
import zlib

CONVERTER = "diffinv convert.py 1"

# ---- 1. Refusals and limits ------------------------------------------------------------------

CHUNK = 1 << 18             # bytes handled at a time; a multiple of 8
BLOCK = 1 << 25             # bytes of a strided tensor held at once
MAX_PICKLE = 64 << 20       # bytes
MAX_OPCODES = 8 << 20
MAX_STACK = 1 << 20         # also the memo's limit
MAX_MARKS = 1000
MAX_STRING = 1 << 20
MAX_TENSORS = 65536
MAX_NAME = 255
MAX_RANK = 8
MAX_ELEMENTS = 1 << 31
MAX_EXPANDED = 1 << 24      # elements of a tensor that is larger than its storage
MAX_JSON = 100 * 1000 * 1000
MAX_DIRECTORY = 64 << 20    # a zip's central directory
MAX_LENGTH = 1 << 62        # any length in a file: far beyond files, far below surprises
MAX_SHOWN = 8               # offenders listed in one message


class Refusal(Exception):
    """The one line to print (what, where, what to do) and the exit status."""

    def __init__(self, text, code=2):
        super().__init__(text)
        self.code = code


def show(thing):
    """Text out of a file, made safe to print: printable ASCII, at most 80 characters."""
    text = ascii(thing) if isinstance(thing, str) else repr(thing)
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(text):
    return "".join(c if c.isprintable() else "?" for c in text)


def shape_text(shape):
    return "x".join(map(str, shape)) if shape else "scalar"


def shorten(items):
    more = len(items) - MAX_SHOWN
    return ", ".join(items[:MAX_SHOWN]) + (" and %d more" % more if more > 0 else "")


def whole(value, limit=MAX_LENGTH):
    """True for a plain integer (not a bool) in 0..limit."""
    return type(value) is int and 0 <= value <= limit


# ---- 2. The input file -----------------------------------------------------------------------

# dtype -> bytes an element, struct code (bf16 has none)
DTYPES = {"f32": (4, "f"), "f16": (2, "e"), "bf16": (2, None), "f64": (8, "d"), "i64": (8, "q"),
          "i32": (4, "i"), "i16": (2, "h"), "i8": (1, "b"), "u8": (1, "B"), "bool": (1, "?")}
FLOATS = ("f32", "f16", "bf16", "f64")


class Storage:
    """A run of values in the file, from byte `start`; dtype None: each tensor has its own."""

    def __init__(self, key, dtype, count, start=None, crc=None, packed=False):
        self.key, self.dtype, self.count, self.start = key, dtype, count, start
        self.crc, self.packed = crc, packed
        self.nbytes = count * (DTYPES[dtype][0] if dtype else 1)


class Tensor:
    """A view of a storage; offset and strides count elements."""

    def __init__(self, storage, dtype, offset, size, stride):
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.size, self.stride = size, stride
        self.count = math.prod(size)


class Source:
    """The input file: exact reads at given places."""

    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise Refusal("%s: not a regular file; give a checkpoint" % show(path))
            self.file = open(path, "rb")
            self.size = os.fstat(self.file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise Refusal("%s: cannot open: %s" % (show(path), reason(error)))

    def fail(self, text):
        raise Refusal("%s: %s" % (show(self.name), text))

    def read(self, start, count):
        try:
            self.file.seek(start)
            data = self.file.read(count)
        except OSError as error:
            self.fail("cannot read: %s" % reason(error))
        if len(data) != count:
            self.fail("ends within %d bytes at %d; the file is truncated" % (count, start))
        return data

    def chunks(self, start, count):
        for at in range(start, start + count, CHUNK):
            yield self.read(at, min(CHUNK, start + count - at))

    def verify(self, storage):
        """Compares a storage with the checksum its container keeps, if any, once."""
        if storage.crc is not None and self.crc(storage.start, storage.nbytes) != storage.crc:
            self.fail("record data/%s does not match its checksum; the file is damaged (or was "
                      "saved without checksums: save it again)" % storage.key)
        storage.crc = None

    def crc(self, start, count):
        crc = 0
        for data in self.chunks(start, count):
            crc = zlib.crc32(data, crc)
        return crc

    def sha256(self):
        digest = hashlib.sha256()
        for data in self.chunks(0, self.size):
            digest.update(data)
        return digest.hexdigest()


def reason(error):
    return getattr(error, "strerror", None) or str(error)


# ---- 3. Pickles ------------------------------------------------------------------------------

class Ordered(dict):
    """Stands for collections.OrderedDict."""


class Global:
    """Stands for an allowed global; never called, only compared."""

    def __init__(self, module, name):
        self.module, self.name = module, name


STORAGES = {"FloatStorage": "f32", "HalfStorage": "f16", "BFloat16Storage": "bf16",
            "DoubleStorage": "f64", "LongStorage": "i64", "IntStorage": "i32",
            "ShortStorage": "i16", "CharStorage": "i8", "ByteStorage": "u8",
            "BoolStorage": "bool"}
TORCH_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64",
                "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
                "bool": "bool"}
ALLOWED = ({("collections", "OrderedDict"), ("torch.storage", "UntypedStorage")}
           | {("torch._utils", "_rebuild_" + what)
              for what in ("tensor_v2", "tensor_v3", "parameter")}
           | {("torch", name) for name in itertools.chain(STORAGES, TORCH_DTYPES)})


class Pickle:
    """Interprets the opcodes that weight files use, over bytes start..end of a source.

    `storages` maps keys to Storage and is shared by the pickles of one checkpoint; `members` is
    the length of a persistent id (5 in a zip, 6 in a stream)."""

    def __init__(self, source, start, end, storages, members):
        self.source, self.at, self.end = source, start, min(end, start + MAX_PICKLE)
        self.capped = end > self.end
        self.storages, self.members = storages, members
        self.stack, self.marks, self.memo = [], [], {}
        self.tensors = 0

    def run(self):
        """The pickled object; self.at is then the first byte after it."""
        if self.take(1) != b"\x80" or not 2 <= self.take(1)[0] <= 5:
            self.fail("no pickle of protocol 2 to 5")
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                if self.marks or len(self.stack) != 1:
                    self.fail("does not end with one object")
                return self.stack[0]
            action = ACTIONS.get(opcode)
            if action is None:
                self.fail("opcode 0x%02x, which weight files do not use; refused" % opcode[0])
            action(self)
        self.fail("more than %d opcodes" % MAX_OPCODES)

    def fail(self, text):
        self.source.fail("pickle, byte %d: %s" % (self.at, text))

    def take(self, count):
        if count > self.end - self.at:
            self.fail("longer than %d bytes; refused" % MAX_PICKLE if self.capped else
                      "ends in the middle of an opcode; the file is truncated or damaged")
        self.at += count
        return self.source.read(self.at - count, count)

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    # the stack

    def push(self, value):
        if len(self.stack) >= MAX_STACK:
            self.fail("stack deeper than %d" % MAX_STACK)
        self.stack.append(value)

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("stack underflow; the file is damaged")
        return self.stack.pop()

    def top(self):
        value = self.pop()
        self.stack.append(value)
        return value

    def mark(self):
        if len(self.marks) >= MAX_MARKS:
            self.fail("nested deeper than %d" % MAX_MARKS)
        self.marks.append(len(self.stack))

    def pop_mark(self):
        if not self.marks:
            self.fail("no mark on the stack; the file is damaged")
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def put(self, index):
        if len(self.memo) >= MAX_STACK:
            self.fail("memo larger than %d" % MAX_STACK)
        self.memo[index] = self.top()

    def get(self, index):
        if index not in self.memo:
            self.fail("memo %d is not set; the file is damaged" % index)
        self.push(self.memo[index])

    # values

    def integer(self):
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def string(self, form):
        length = self.number(form)
        if length > MAX_STRING:
            self.fail("string of %d bytes; refused" % length)
        try:
            self.push(self.take(length).decode("utf-8"))
        except UnicodeDecodeError:
            self.fail("string that is not UTF-8; the file is damaged")

    def tuple(self, count):
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items):
        target = self.top()
        if type(target) is not list:
            self.fail("append to what is no list")
        target.extend(items)

    def set_items(self, items):
        target = self.top()
        if type(target) not in (dict, Ordered) or len(items) % 2:
            self.fail("items set on what is no dictionary")
        self.fill(target, zip(items[0::2], items[1::2]))

    def fill(self, target, pairs):
        for key, value in pairs:
            if type(key) not in (str, int, float, bool, type(None)):
                self.fail("dictionary key that is neither text nor number; refused")
            if key in target:
                self.fail("duplicate key %s; refused" % show(key))
            target[key] = value

    # objects

    def global_lines(self):
        self.find_global(self.line(), self.line())

    def line(self):
        text = b""
        while len(text) <= MAX_NAME:
            byte = self.take(1)
            if byte == b"\n":
                return text.decode("utf-8", "replace")
            text += byte
        self.fail("name of a global longer than %d" % MAX_NAME)

    def global_stack(self):
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            self.fail("name of a global that is no text; refused")
        self.find_global(module, name)

    def find_global(self, module, name):
        if module.split(".")[0] in ("torch_utils", "dnnlib"):
            self.fail("pickled program source (an EDM or StyleGAN .pkl), which cannot be read "
                      "safely; refused: save the network's state dict with torch.save instead")
        if (module, name) not in ALLOWED:
            self.fail("names %s, which weights do not need; refused: save the state dict alone "
                      "with torch.save and convert that" % show(module + "." + name))
        self.push(Global(module, name))

    def build(self):
        self.pop()
        if type(self.top()) is not Ordered:
            self.fail("sets attributes of an object; refused")

    def reduce(self):
        args, function = self.pop(), self.pop()
        if type(args) is not tuple or type(function) is not Global:
            self.fail("calls what is no function; refused")
        if function.name == "OrderedDict":
            self.push(self.ordered(args))
        elif function.name == "_rebuild_tensor_v2" and 6 <= len(args) <= 7:
            self.push(self.tensor(args, None, args[6:]))
        elif function.name == "_rebuild_tensor_v3" and 7 <= len(args) <= 8:
            self.push(self.tensor(args, args[6], args[7:]))
        elif function.name == "_rebuild_parameter" and len(args) == 3 \
                and type(args[0]) is Tensor:
            self.push(args[0])
        else:
            self.fail("calls %s with unknown arguments; refused" % function.name)

    def ordered(self, args):
        result = Ordered()
        if args:                            # Python 2 passed the items as one list of pairs
            pairs = args[0] if len(args) == 1 else None
            if type(pairs) is not list or not all(type(p) in (list, tuple) and len(p) == 2
                                                  for p in pairs):
                self.fail("OrderedDict of unknown arguments; refused")
            self.fill(result, pairs)
        return result

    def storage(self):
        """A persistent id -> Storage."""
        pid = self.pop()
        if type(pid) is not tuple or len(pid) != self.members or pid[0] != "storage" \
                or type(pid[0]) is not str:
            self.fail("persistent id of unknown form; refused")
        kind, key, location, count = pid[1:5]
        if type(kind) is not Global or kind.name not in {"UntypedStorage", *STORAGES}:
            self.fail("storage of unknown type; refused")
        if type(key) is not str or not re.fullmatch("[0-9A-Za-z_]{1,64}", key):
            self.fail("storage key that is not 1 to 64 letters and digits; refused")
        if type(location) is not str or not whole(count) or pid[5:] not in ((), (None,)):
            self.fail("storage %s has an unknown location, size or view; refused" % key)
        dtype = STORAGES.get(kind.name)
        known = self.storages.get(key)
        if known is None:
            if len(self.storages) >= MAX_TENSORS:
                self.fail("more than %d storages" % MAX_TENSORS)
            known = self.storages[key] = Storage(key, dtype, count)
        elif (known.dtype, known.count) != (dtype, count):
            self.fail("storage %s is described twice, differently; refused" % key)
        self.push(known)

    def tensor(self, args, kind, metadata):
        storage, offset, size, stride = args[:4]
        if type(storage) is not Storage:
            self.fail("tensor without a storage; refused")
        dtype = storage.dtype
        if kind is not None:
            dtype = TORCH_DTYPES.get(kind.name) if type(kind) is Global else None
        if dtype is None or (kind is None) != (storage.dtype is not None):
            self.fail("tensor of unknown dtype; refused")
        extra = metadata[0] if metadata else None
        if extra is not None and (type(extra) is not dict or extra):
            self.fail("tensor with extra attributes (conjugate or negative view); refused")
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            self.fail("more than %d tensors" % MAX_TENSORS)
        fault = view_fault(offset, size, stride, storage.nbytes // DTYPES[dtype][0])
        if fault:
            self.fail("tensor in storage %s: %s; refused" % (storage.key, fault))
        return Tensor(storage, dtype, offset, size, stride)


def view_fault(offset, size, stride, count):
    """What is wrong with a view of a storage of `count` elements, or None."""
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
        return "size and stride disagree"
    if len(size) > MAX_RANK:
        return "rank %d" % len(size)
    if not all(map(whole, (offset,) + size + stride)):
        return "negative or unknown size, stride or offset"
    elements = math.prod(size)
    if elements > MAX_ELEMENTS or elements > max(count, MAX_EXPANDED):
        return "%s elements are too many" % shape_text(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if elements and last >= count:
        return "reaches element %d of %d" % (last, count)
    return None


def pusher(make):
    return lambda p: p.push(make(p))


ACTIONS = {
    b"\x95": lambda p: p.number("<Q"),                  # FRAME: only a hint
    b"(": Pickle.mark,
    b"N": pusher(lambda p: None),
    b"\x88": pusher(lambda p: True),
    b"\x89": pusher(lambda p: False),
    b"}": pusher(lambda p: {}),
    b"]": pusher(lambda p: []),
    b")": pusher(lambda p: ()),
    b"J": pusher(lambda p: p.number("<i")),             # BININT
    b"K": pusher(lambda p: p.number("<B")),             # BININT1
    b"M": pusher(lambda p: p.number("<H")),             # BININT2
    b"G": pusher(lambda p: p.number(">d")),             # BINFLOAT
    b"\x8a": Pickle.integer,                            # LONG1
    b"X": lambda p: p.string("<I"),                     # BINUNICODE
    b"\x8c": lambda p: p.string("<B"),                  # SHORT_BINUNICODE
    b"q": lambda p: p.put(p.number("<B")),              # BINPUT
    b"r": lambda p: p.put(p.number("<I")),              # LONG_BINPUT
    b"\x94": lambda p: p.put(len(p.memo)),              # MEMOIZE
    b"h": lambda p: p.get(p.number("<B")),              # BINGET
    b"j": lambda p: p.get(p.number("<I")),              # LONG_BINGET
    b"t": lambda p: p.push(tuple(p.pop_mark())),        # TUPLE
    b"\x85": lambda p: p.tuple(1),
    b"\x86": lambda p: p.tuple(2),
    b"\x87": lambda p: p.tuple(3),
    b"a": lambda p: p.append([p.pop()]),                # APPEND
    b"e": lambda p: p.append(p.pop_mark()),             # APPENDS
    b"s": lambda p: p.set_items([p.pop(), p.pop()][::-1]),
    b"u": lambda p: p.set_items(p.pop_mark()),          # SETITEMS
    b"c": Pickle.global_lines,                          # GLOBAL
    b"\x93": Pickle.global_stack,                       # STACK_GLOBAL
    b"R": Pickle.reduce,
    b"b": Pickle.build,
    b"Q": Pickle.storage,                               # BINPERSID
}


# ---- 4. Containers: zip, stream, safetensors -------------------------------------------------

FOREIGN = [                     # offset (from the end when negative), bytes, what it is
    (0, b"\x89UNW\r\n\x1a\n", "already a diffinv weight file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras); make a PyTorch state dict of it first"),
    (-8, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
     "a TensorFlow checkpoint; make a PyTorch state dict of it first"),
    (0, b"\x93NUMPY", "a NumPy array, not a checkpoint"),
    (0, b"GGUF", "a GGUF file; convert the original checkpoint instead"),
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull"),
    (0, b"<", "a web page, not a checkpoint; download the file again"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (257, b"ustar", "a tar archive (a PyTorch checkpoint of 2017, or a packed one); unpack it, "
                    "or load it with PyTorch and save its state dict again"),
]


def load(source):
    """The checkpoint as Python objects, with Tensor where the values are."""
    head = source.read(0, min(source.size, 512))
    tail = source.read(max(0, source.size - 8), min(source.size, 8))
    if not head:
        source.fail("the file is empty")
    if head[8:9] == b"{":
        return load_safetensors(source)
    if head[:4] == b"PK\x03\x04":
        return load_zip(source)
    for at, magic, text in FOREIGN:
        if (tail if at < 0 else head[at:at + len(magic)]) == magic:
            source.fail(text)
    if head[:1] == b"\x80":
        return load_stream(source)
    source.fail("no known checkpoint format; give a PyTorch file or .safetensors")


def load_zip(source):
    records, root = zip_records(source)
    if any(name.startswith((root + "/constants.pkl", root + "/code/")) for name in records):
        source.fail("a TorchScript archive; save the network's state_dict() with torch.save")
    packed = [name for name, record in records.items() if record.packed]
    if packed:
        source.fail("zip: entry %s is compressed; unpack the file and pack it again with zip -0"
                    % show(packed[0]))
    order = records.get(root + "/byteorder")
    if order and source.read(order.start, min(order.nbytes, 16)).strip() != b"little":
        source.fail("saved on a big-endian machine; save it again on a little-endian one")
    main = records[root + "/data.pkl"]
    if main.nbytes > MAX_PICKLE:
        source.fail("data.pkl of %d bytes; the limit is %d" % (main.nbytes, MAX_PICKLE))
    source.verify(main)
    storages = {}
    pickle = Pickle(source, main.start, main.start + main.nbytes, storages, 5)
    result = pickle.run()
    if pickle.at != main.start + main.nbytes:
        source.fail("data.pkl goes on after its object; refused")
    for key, storage in storages.items():
        record = records.get("%s/data/%s" % (root, key))
        if record is None or record.nbytes != storage.nbytes:
            source.fail("record data/%s has %s bytes, the pickle says %d; the file is damaged"
                        % (key, "no" if record is None else record.nbytes, storage.nbytes))
        storage.start, storage.crc = record.start, record.crc
    return result


def zip_records(source):
    """Every file of the archive as a Storage of bytes, by name; and the one root folder."""
    count, at, end = zip_directory(source)
    records, spans, limit = {}, [], at
    for _ in range(count):
        if end - at < 46:
            source.fail("zip: directory ends early; the file is damaged")
        entry = struct.unpack("<4s6H3I5H2I", source.read(at, 46))
        magic, flags, method = entry[0], entry[3], entry[4]
        name_len, extra_len, comment_len, disk = entry[10:14]
        at += 46
        if magic != b"PK\x01\x02" or name_len + extra_len + comment_len > end - at:
            source.fail("zip: directory entry at %d is damaged" % (at - 46))
        raw = source.read(at, name_len)
        name = zip_name(source, raw)
        extra = source.read(at + name_len, extra_len)
        at += name_len + extra_len + comment_len
        if name in records:
            source.fail("zip: duplicate entry %s; refused" % show(name))
        if flags & 0x2041:
            source.fail("zip: entry %s is encrypted; refused" % show(name))
        packed, size, start = zip_extra(source, name, [entry[8], entry[9], entry[16]], extra)
        if disk or not method and packed != size:
            source.fail("zip: entry %s has two sizes or lies elsewhere; refused" % show(name))
        data = zip_local(source, name, raw, (flags, method, entry[7], packed, size), start)
        if data + packed > limit:
            source.fail("zip: entry %s reaches beyond the data; refused" % show(name))
        spans.append((start, data + packed))
        records[name] = Storage(name.split("/")[-1], "u8", size, data, entry[7], method != 0)
    if at != end:
        source.fail("zip: directory and its size disagree; refused")
    return records, zip_root(source, records, spans)


def zip_directory(source):
    """Number of entries, start and end of the central directory; no comment, no gaps."""
    if source.size < 22:
        source.fail("zip: the file is truncated")
    end = source.size - 22
    magic, disk, disk2, here, count, size, start, comment = struct.unpack("<4s4H2IH",
                                                                          source.read(end, 22))
    if magic != b"PK\x05\x06" or comment:
        source.fail("zip: no directory at the end; the file is truncated, or bytes were added")
    short = (here, count, size, start)
    locator = source.read(end - 20, 20) if end >= 20 else b""
    if locator[:4] == b"PK\x06\x07":
        _, disk_a, at, disks = struct.unpack("<4sIQI", locator)
        end -= 76
        if at != end or disk_a or disks > 1 or end < 0:
            source.fail("zip: the large-file directory is not where it should be; refused")
        magic, size_of, _, _, disk, disk2, here, count, size, start = struct.unpack(
            "<4sQ2H2I4Q", source.read(end, 56))
        full = (here, count, size, start)
        most = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        if magic != b"PK\x06\x06" or size_of != 44 \
                or any(a not in (b, m) for a, b, m in zip(short, full, most)):
            source.fail("zip: its two directories disagree; refused")
    if disk or disk2 or here != count or start > end or size != end - start:
        source.fail("zip: the directory is damaged, or the file is truncated")
    if count > 2 * MAX_TENSORS or size > MAX_DIRECTORY:
        source.fail("zip: %d entries are too many" % count)
    return count, start, end


def zip_name(source, raw):
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not 1 <= len(name) <= 2 * MAX_NAME:
        source.fail("zip: entry name %s; refused" % show(raw))
    return name


def zip_extra(source, name, fields, extra):
    """`fields` (packed size, size, offset), the large ones taken from the zip64 extra."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            wide = extra[4:4 + length]
        extra = extra[4 + length:]
    for i in (1, 0, 2):
        if fields[i] == 0xFFFFFFFF:
            if len(wide) < 8:
                source.fail("zip: entry %s lacks its large sizes; refused" % show(name))
            fields[i], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    return fields


def zip_local(source, name, raw, listed, start):
    """Where the entry's data start. The local header must say what the directory has listed:
    flags, method, checksum, packed size, size."""
    if start > source.size - 30:
        source.fail("zip: entry %s lies beyond the file; the file is damaged" % show(name))
    local = struct.unpack("<4s5H3I2H", source.read(start, 30))
    name_len, extra_len = local[9:11]
    if start + 30 + name_len + extra_len > source.size:
        source.fail("zip: entry %s lies beyond the file; the file is damaged" % show(name))
    extra = source.read(start + 30 + name_len, extra_len)
    packed, size, _ = zip_extra(source, name, [local[7], local[8], 0], extra)
    found = (local[2], local[3], local[6], packed, size)
    if listed[0] & 8 and found[2:] == (0, 0, 0):        # these follow the data
        found = found[:2] + listed[2:]
    if local[0] != b"PK\x03\x04" or found != listed or source.read(start + 30, name_len) != raw:
        source.fail("zip: entry %s disagrees with the directory; refused" % show(name))
    return start + 30 + name_len + extra_len


def zip_root(source, records, spans):
    spans.sort()
    for (_, end), (start, _) in zip(spans, spans[1:]):
        if start < end:
            source.fail("zip: entries overlap; refused")
    roots = {name.split("/")[0] for name in records}
    root = roots.pop() if len(roots) == 1 else ""
    if root and root + "/data.pkl" in records:
        return root
    source.fail("zip: not one folder with data.pkl in it; not a PyTorch checkpoint")


MAGIC = 0x1950a86a20f9469cfc6c


def load_stream(source):
    """The format of PyTorch up to 1.5: five pickles, then the storages."""
    storages, at = {}, 0
    objects = []
    for step in range(5):
        pickle = Pickle(source, at, source.size, storages, 6)
        objects.append(pickle.run())
        at = pickle.at
        if step == 0 and (type(objects[0]) is not int or objects[0] != MAGIC):
            source.fail("a pickle, but no PyTorch checkpoint; save one with torch.save")
        if step == 1 and (type(objects[1]) is not int or objects[1] != 1001):
            source.fail("stream: unknown version; save it again with a newer PyTorch")
        if step == 2 and (type(objects[2]) is not dict
                          or objects[2].get("little_endian") is not True):
            source.fail("stream: not saved on a little-endian machine; save it again on one")
    keys = objects[4]
    if type(keys) is not list or not all(type(key) is str for key in keys) \
            or len(set(keys)) != len(keys) or set(keys) != set(storages):
        source.fail("stream: its storages are not those of the tensors; the file is damaged")
    for key in keys:
        storage = storages[key]
        if source.size - at < 8 or storage.nbytes > source.size - at - 8:
            source.fail("stream: ends within storage %s; the file is truncated" % key)
        count = struct.unpack("<q", source.read(at, 8))[0]
        if count != storage.count:
            source.fail("stream: storage %s has %d elements, the pickle says %d; the file is "
                        "damaged" % (key, count, storage.count))
        storage.start = at + 8
        at += 8 + storage.nbytes
    if at != source.size:
        source.fail("stream: %d bytes after the last storage; refused" % (source.size - at))
    return objects[3]


SAFE_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F64": "f64", "I64": "i64",
               "I32": "i32", "I16": "i16", "I8": "i8", "U8": "u8", "BOOL": "bool"}


def load_safetensors(source):
    def fail(text):
        source.fail("safetensors: " + text)

    def pairs(items):
        result = {}
        for key, value in items:
            if key in result:
                fail("duplicate key %s; refused" % show(key))
            result[key] = value
        return result

    def integer(text):
        return int(text) if len(text) <= 19 else fail("number out of range; refused")

    def other(text):
        fail("number %s where an integer belongs; refused" % show(text))

    length = struct.unpack("<Q", source.read(0, 8))[0]
    if length > source.size - 8 or length > MAX_JSON:
        fail("header of %d bytes; not a safetensors file, or truncated" % length)
    text = source.read(8, length)
    if text.count(b"[") + text.count(b"{") > 8 * MAX_TENSORS:
        fail("header of too many parts; refused")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer,
                            parse_float=other, parse_constant=other)
    except RecursionError:
        fail("header nested too deeply; refused")
    except ValueError:
        fail("header is not JSON; the file is damaged")
    notes = header.pop("__metadata__", {})
    if type(notes) is not dict or not all(type(value) is str for value in notes.values()):
        fail("__metadata__ is not text; refused")
    if len(header) > MAX_TENSORS:
        fail("more than %d tensors" % MAX_TENSORS)
    result, spans, start = {}, [], 8 + length
    for name, entry in header.items():
        if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
            fail("entry %s is not dtype, shape and data_offsets; refused" % show(name))
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        dtype = SAFE_DTYPES.get(dtype) if type(dtype) is str else None
        if dtype is None:
            fail("tensor %s has the unknown dtype %s" % (show(name), show(entry["dtype"])))
        if type(shape) is not list or type(span) is not list or len(span) != 2 \
                or len(shape) > MAX_RANK or not all(map(whole, shape + span)):
            fail("tensor %s has a damaged shape or place; refused" % show(name))
        count = math.prod(shape)
        if count > MAX_ELEMENTS or span[1] - span[0] != count * DTYPES[dtype][0]:
            fail("tensor %s: shape %s does not fill its %d bytes; refused"
                 % (show(name), shape_text(shape), span[1] - span[0]))
        spans.append(tuple(span))
        storage = Storage(name, dtype, count, start + span[0])
        result[name] = Tensor(storage, dtype, 0, tuple(shape), row_major(shape))
    end = 0
    for first, last in sorted(spans):
        if first != end:
            fail("data has a hole or an overlap at %d; refused" % min(first, end))
        end = last
    if end != source.size - start:
        fail("%d bytes of data, %d described; the file is truncated or damaged"
             % (source.size - start, end))
    return result


# ---- 5. Values -------------------------------------------------------------------------------

ITEMS = {1: "B", 2: "H", 4: "I", 8: "Q"}        # codes to move elements unread


def row_major(size):
    stride = [1] * len(size)
    for i in range(len(size) - 2, -1, -1):
        stride[i] = stride[i + 1] * max(size[i + 1], 1)
    return tuple(stride)


def values(source, tensor):
    """The tensor's elements in row-major order, undecoded, at most CHUNK bytes a time."""
    if not tensor.count:
        return
    source.verify(tensor.storage)
    dims = []                                   # (size, stride), neighbours merged if possible
    for n, s in zip(tensor.size, tensor.stride):
        if n == 1:
            continue
        if dims and dims[-1][1] == n * s:
            dims[-1] = (dims[-1][0] * n, s)
        else:
            dims.append((n, s))
    yield from walk(source, tensor, tensor.offset, dims)


def walk(source, tensor, offset, dims):
    item = DTYPES[tensor.dtype][0]
    count = math.prod(n for n, _ in dims)
    if not dims or dims == [(count, 1)]:
        yield from source.chunks(tensor.storage.start + offset * item, count * item)
    elif count * item <= BLOCK:
        block = bytearray(count * item)
        sides = [(n, s, t) for (n, s), t in zip(dims, row_major([n for n, _ in dims]))]
        gather(source, tensor, offset, memoryview(block).cast(ITEMS[item]), 0, sides)
        for at in range(0, len(block), CHUNK):
            yield bytes(block[at:at + CHUNK])
    else:
        (n, s), rest = dims[0], dims[1:]
        step = max(1, BLOCK // (count // n * item))
        for i in range(0, n, step):
            part = min(step, n - i)
            yield from walk(source, tensor, offset + i * s, [(part, s)] * (part > 1) + rest)


def gather(source, tensor, offset, block, place, sides):
    """Copies a strided part of the tensor from `offset` on to `place` on in the block.
    A side is its length, its stride in the file and its stride in the block."""
    item = DTYPES[tensor.dtype][0]
    span = 1 + sum((n - 1) * s for n, s, _ in sides)
    if span * item > BLOCK:                     # too far apart to hold at once: halve a side
        i = max(range(len(sides)), key=lambda i: (sides[i][0] - 1) * sides[i][1])
        n, s, t = sides[i]
        low, high = [(n // 2, s, t)], [(n - n // 2, s, t)]
        gather(source, tensor, offset, block, place, sides[:i] + low + sides[i + 1:])
        gather(source, tensor, offset + n // 2 * s, block, place + n // 2 * t,
               sides[:i] + high + sides[i + 1:])
        return
    data = source.read(tensor.storage.start + offset * item, span * item)
    data = memoryview(data).cast(ITEMS[item])
    sides = sorted(sides)
    n, s, t = sides.pop()                       # the longest side is copied by slices
    for index in itertools.product(*(range(side[0]) for side in sides)):
        a = sum(i * side[1] for i, side in zip(index, sides))
        b = place + sum(i * side[2] for i, side in zip(index, sides))
        line = data[a:a + (n - 1) * s + 1:s] if s else \
            memoryview(array.array(ITEMS[item], data[a:a + 1].tobytes()) * n)
        block[b:b + (n - 1) * t + 1:t] = line


def to_f32(data, dtype):
    """Little-endian values of any dtype as float32; beyond its range infinite."""
    if dtype == "f32":
        return data
    if dtype == "bf16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return bytes(wide)
    item, code = DTYPES[dtype]
    count = len(data) // item
    numbers = struct.unpack("<%d%s" % (count, code), data)
    try:
        return struct.pack("<%df" % count, *numbers)
    except OverflowError:
        top = 2.0 ** 128 - 2.0 ** 103           # half a step above the largest float32
        return struct.pack("<%df" % count, *(math.copysign(math.inf, v) if abs(v) >= top else v
                                             for v in numbers))


def f32_to_f16(data):
    """Rounded to nearest, ties to even; OverflowError where a finite value overflows."""
    count = len(data) // 4
    return struct.pack("<%de" % count, *struct.unpack("<%df" % count, data))


@functools.lru_cache(maxsize=4)
def lanes(count):
    """For `count` 32-bit lanes: 1, the exponent's mask, its lowest bit, the top bit, 0x7fff."""
    ones = int.from_bytes(b"\1\0\0\0" * count, "little")
    return ones, ones * 0x7F800000, ones * 0x00800000, ones * 0x80000000, ones * 0x7FFF


def f32_to_bf16(data):
    """As f32_to_f16, but all elements at once, each a 32-bit lane of one big integer."""
    count = len(data) // 4
    ones, exponent, step, top, half = lanes(count)
    x = int.from_bytes(data, "little")
    if ((x & exponent) + step) & top:                       # an infinity or NaN among them
        return b"".join(bf16_item(word) for word in struct.unpack("<%dI" % count, data))
    x += half + ((x >> 16) & ones)
    if ((x & exponent) + step) & top:
        raise OverflowError
    wide = x.to_bytes(len(data), "little")
    result = bytearray(2 * count)
    result[0::2], result[1::2] = wide[2::4], wide[3::4]
    return bytes(result)


def bf16_item(word):
    if word & 0x7F800000 == 0x7F800000:
        quiet = 0x40 if word & 0x7FFFFF else 0
        return struct.pack("<H", word >> 16 | quiet)
    word = (word + 0x7FFF + (word >> 16 & 1)) >> 16
    if word & 0x7F80 == 0x7F80:
        raise OverflowError
    return struct.pack("<H", word)


def recode(data, old, new):
    """Values of dtype `old` as f32, f16 or bf16, or OverflowError; float64 rounds twice."""
    if old == new:
        return data
    wide = to_f32(data, old)
    if old == "f64":                            # out of float32's range already?
        struct.pack("<%df" % (len(data) // 8), *struct.unpack("<%dd" % (len(data) // 8), data))
    return {"f32": bytes, "f16": f32_to_f16, "bf16": f32_to_bf16}[new](wide)


# ---- 6. Which dictionary, which names --------------------------------------------------------

ENTRIES = ("ema", "ema_state_dict", "model_ema", "params_ema", "state_dict", "model_state_dict",
           "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "ema_model.", "diffusion_model.")
BUFFERS = ("u", "sqrt_alphas_cumprod", "sqrt_1m_alphas_cumprod")


def is_weights(thing):
    return type(thing) in (dict, Ordered) and bool(thing) \
        and all(type(name) is str and type(value) is Tensor for name, value in thing.items())


def choose(source, root, key):
    """The dictionary of tensors to take, and the entry's name for the record."""
    table = root if type(root) in (dict, Ordered) else {}
    if key is not None and not is_weights(table.get(key)):
        source.fail("no dictionary of tensors under %s (there are: %s)"
                    % (show(key), candidates(table)))
    if key is None and not is_weights(table):
        key = next((k for k in ENTRIES if is_weights(table.get(k))), None)
        if key is None:
            source.fail("no dictionary of tensors at the top or under a usual name; name one "
                        "with --entry (there are: %s)" % candidates(table))
    chosen = table if key is None else table[key]
    total = 0
    for name, tensor in chosen.items():
        if not name.isprintable() or not 1 <= len(name.encode("utf-8")) <= MAX_NAME:
            source.fail("tensor name %s; refused" % show(name))
        total += tensor.count * DTYPES[tensor.dtype][0]
    if total > 4 * source.size + (1 << 28):
        source.fail("tensors of %d bytes out of a file of %d; refused" % (total, source.size))
    return chosen, key


def candidates(table):
    found = [show(key) for key in table if type(key) is str and is_weights(table[key])]
    return shorten(found) if found else "none"


def plain_names(source, tensors):
    """Without known buffers, and without the prefixes that every name has."""
    tensors = dict(tensors)
    while True:
        for name in [name for name in tensors if name in BUFFERS]:
            if len(tensors[name].size) != 1 or tensors[name].dtype not in FLOATS:
                source.fail("buffer %s is not a list of floats; refused" % name)
            del tensors[name]
        prefix = [p for p in PREFIXES if tensors and all(n.startswith(p) for n in tensors)]
        if not prefix:
            return tensors
        tensors = {name[len(prefix[0]):]: tensor for name, tensor in tensors.items()}


# ---- 7. The configuration --------------------------------------------------------------------

def integer(low, high):
    def parse(text):
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError("an integer from %d to %d" % (low, high))
        return int(text)
    return parse


def number(low=-1e14, high=1e14):
    """A decimal of at most 15 digits and 22 decimals: C reads it with one exact division."""
    def parse(text):
        if not re.fullmatch(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?", text, re.ASCII):
            raise ValueError("a decimal number")
        value = decimal.Context(prec=15).create_decimal(text).normalize()
        if not low <= value <= high or value.as_tuple().exponent < -22:
            raise ValueError("a number from %g to %g, not too close to 0" % (low, high))
        return value
    return parse


def one_of(*words):
    def parse(text):
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return text
    return parse


def list_of(parse):
    def parse_list(text):
        items = [parse(item.strip()) for item in text.split(",")]
        if len(items) > 16:
            raise ValueError("at most 16 values")
        return items
    return parse_list


def free_text(text):
    if not text or not text.isprintable() or len(text) > 1000:
        raise ValueError("a line of text")
    return text


FLAG, COVERAGE = integer(0, 1), list_of(one_of("all", "last", "none"))
KEYS = {
    "format.kind": one_of("unet2d"),
    "net.in": integer(1, 65536), "net.out": integer(1, 65536), "net.base": integer(2, 65536),
    "net.stem": integer(1, 65536), "net.mult": list_of(number(1e-3, 65536)),
    "net.blocks": integer(1, 16), "net.emb": integer(1, 1 << 20),
    "net.classes": integer(0, 1 << 20),
    "net.attn.enc": COVERAGE, "net.attn.dec": COVERAGE, "net.attn.mid": FLAG,
    "net.attn.mid_norm": FLAG, "net.attn.heads": integer(1, 65536),
    "net.attn.heads_dec": integer(1, 65536), "net.attn.head_channels": integer(1, 65536),
    "net.norm.groups": integer(1, 65536), "net.norm.min_channels": integer(1, 65536),
    "net.norm.eps": number(0, 1), "net.cond": one_of("scale_shift", "add"),
    "net.resample": list_of(one_of("res", "conv", "pool", "none")),
    "net.down_pad": one_of("sym", "end"), "net.resample_skip_conv": FLAG,
    "net.residual_scale": number(1e-6, 1e6), "net.mid_scale": number(1e-6, 1e6),
    "net.temb.freq_shift": FLAG,
    "net.temb.order": one_of("cos_sin", "sin_cos"), "net.temb.max_period": number(1, 1e12),
    "net.image_size": integer(1, 65536), "net.label": one_of("time"), "net.center": FLAG,
    "pred.kind": one_of("eps", "x0", "v", "edm_F"),
    "pred.var": one_of("none", "learned_range", "fixed_small", "fixed_large"),
    "pred.channels": integer(1, 65536),
    "sched.kind": one_of("linear", "cosine", "vp", "ve", "edm", "iddpm"),
    "sched.steps": integer(1, 1000000), "sched.beta_start": number(0, 1),
    "sched.beta_end": number(0, 1), "sched.beta_d": number(0, 1e6),
    "sched.beta_min": number(0, 1e6),
    "sched.sigma_data": number(0, 1e6), "t.scale": number(1e-6, 1e6),
    "data.min": number(), "data.max": number(), "data.shift": number(), "data.scale": number(),
    "data.channels": one_of("rgb", "gray", "complex"), "info.license": free_text,
    "qkv.order": one_of("legacy", "new", "edm"),        # told to the converter only
}
SCHEDULES = {"linear": {"sched.steps", "sched.beta_start", "sched.beta_end"},
             "cosine": {"sched.steps"}, "vp": {"sched.beta_d", "sched.beta_min", "sched.steps"},
             "ve": set(), "edm": {"sched.sigma_data"}, "iddpm": {"sched.steps"}}
PREDICTED = {"vp": ("eps",), "ve": ("edm_F",), "edm": ("edm_F",), "iddpm": ("eps",)}
CHOICES = {"net.attn.heads", "net.attn.heads_dec", "net.attn.head_channels", "qkv.order",
           "net.label", "net.center", "net.mid_scale"} \
    | set().union(*SCHEDULES.values())                  # keys that may be absent
UNSAID = {"net.center": 0, "net.mid_scale": 1}          # left out of the metadata

# Keys that are left out: what most guided-diffusion networks share.
COMMON = """
    format.kind=unet2d        net.in=3                net.classes=0
    net.attn.mid=1            net.attn.mid_norm=1     net.norm.groups=32
    net.norm.min_channels=1   net.norm.eps=0.00001    net.down_pad=sym
    net.resample_skip_conv=0  net.residual_scale=1    net.temb.freq_shift=0
    net.temb.order=cos_sin    net.temb.max_period=10000
    pred.kind=eps             t.scale=1
    data.min=-1               data.max=1              data.shift=0              data.scale=1
"""
UNSTATED = "see the publisher of the checkpoint"


def pairs_of(text):
    return dict(word.split("=", 1) for word in text.split())


class Config:
    """The metadata: `values` parsed and checked, key by key and together."""

    def __init__(self, pairs, where):
        self.where = where
        merged = dict(pairs_of(COMMON), **{"info.license": UNSTATED})
        merged.update(pairs)
        self.values = {}
        for key, text in merged.items():
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                self.fail("unknown key " + show(key) + ("; %s?" % near[0] if near else ""))
            try:
                self.values[key] = KEYS[key](text)
            except ValueError as error:
                self.fail("%s=%s: expected %s" % (key, show(text)[1:-1], error))
        self.derive()
        self.check()

    def fail(self, text):
        raise Refusal("%s: %s" % (self.where, text))

    def __getitem__(self, key):
        return self.values[key]

    def get(self, key):
        return self.values.get(key)

    def derive(self):
        """Fills in what follows from other keys, then insists on all."""
        have = self.values
        if "net.base" in have and "net.mult" in have:
            have.setdefault("net.stem", self.width(0))
            have.setdefault("net.emb", 4 * have["net.base"])
        have.setdefault("pred.channels", have["net.in"])
        if have["net.in"] in (1, 3):
            have.setdefault("data.channels", "rgb" if have["net.in"] == 3 else "gray")
        needed = set(KEYS) - CHOICES | SCHEDULES.get(have.get("sched.kind"), set())
        missing = sorted(needed - set(have))
        if missing:
            self.fail("missing " + ", ".join(missing))
        if ("net.attn.heads" in have) == ("net.attn.head_channels" in have):
            self.fail("give one of net.attn.heads and net.attn.head_channels")
        if "net.attn.heads_dec" in have and "net.attn.heads" not in have:
            self.fail("net.attn.heads_dec goes with net.attn.heads")
        unused = {k for k in have if k.startswith("sched.")} - {"sched.kind"} \
            - SCHEDULES[have["sched.kind"]]
        if unused:
            self.fail("%s does not go with sched.kind=%s" % (min(unused), have["sched.kind"]))

    def check(self):
        levels = len(self["net.mult"])
        for key in ("net.attn.enc", "net.attn.dec"):
            if len(self[key]) != levels:
                self.fail("%s must have %d values, one a level" % (key, levels))
        resample = self["net.resample"]
        if levels == 1:
            if resample != ["none"]:
                self.fail("net.resample must be none: there is one level")
        elif len(resample) != levels - 1 or "none" in resample:
            self.fail("net.resample must have %d values of res, conv, pool" % (levels - 1))
        if self["net.image_size"] % (1 << (levels - 1)):
            self.fail("net.image_size must be a multiple of %d" % (1 << (levels - 1)))
        if any(not 1 <= self.width(level) <= 65536 for level in range(levels)):
            self.fail("net.mult times net.base must be 1 to 65536")
        channels = self["pred.channels"]
        if self["net.out"] != (2 if self["pred.var"] == "learned_range" else 1) * channels:
            self.fail("net.out=%d does not fit pred.channels=%d and pred.var=%s"
                      % (self["net.out"], channels, self["pred.var"]))
        if channels != self["net.in"]:
            self.fail("pred.channels must equal net.in")
        if self["pred.kind"] not in PREDICTED.get(self["sched.kind"], ("eps", "x0", "v")):
            self.fail("pred.kind=%s does not go with sched.kind=%s"
                      % (self["pred.kind"], self["sched.kind"]))
        if self.get("net.label") and not self["net.classes"]:
            self.fail("net.label goes with net.classes")
        if self["data.min"] >= self["data.max"]:
            self.fail("data.min must be below data.max")

    def width(self, level):
        return int(float(self["net.mult"][level]) * self["net.base"])

    def heads(self, name, channels):
        """Heads of the attention block `name`."""
        if "net.attn.head_channels" in self.values:
            size = self["net.attn.head_channels"]
            if channels % size:
                self.fail("%s: net.attn.head_channels=%d does not divide %d channels"
                          % (name, size, channels))
            return channels // size
        heads = self["net.attn.heads"]
        if name.startswith("dec."):
            heads = self.values.get("net.attn.heads_dec", heads)
        if channels % heads:
            self.fail("%s: %d heads do not divide %d channels" % (name, heads, channels))
        return heads

    def groups_fit(self, name, channels):
        groups = min(self["net.norm.groups"], channels // self["net.norm.min_channels"])
        if groups < 1 or channels % groups:
            self.fail("%s: %d channels do not divide into %d groups" % (name, channels, groups))

    def lines(self):
        return {key: value_text(value) for key, value in self.values.items()
                if key != "qkv.order" and value != UNSAID.get(key)}


def value_text(value):
    if isinstance(value, list):
        return ",".join(map(value_text, value))
    if isinstance(value, decimal.Decimal):
        return format(value + 0, "f")                   # + 0 turns -0 into 0
    return str(value)


class BlurConfig:
    """The metadata of a network that blurs (KernelWizard of blur-kernel-space-exploring)."""
    KEYS = {"format.kind": one_of("bkse"), "net.in": integer(3, 3),
            "net.base": integer(16, 4096), "net.front": integer(0, 64),
            "net.back": integer(0, 64), "info.license": free_text}

    def __init__(self, pairs, where):
        self.where = where
        pairs = dict({"net.in": "3", "info.license": UNSTATED}, **pairs)
        for key in sorted(set(pairs) ^ set(self.KEYS)):
            self.fail(("missing " if key in self.KEYS else "unknown key ") + show(key))
        self.values = {}
        for key, text in pairs.items():
            try:
                self.values[key] = self.KEYS[key](text)
            except ValueError as error:
                self.fail("%s=%s: expected %s" % (key, show(text)[1:-1], error))
        if self["net.base"] % 16:
            self.fail("net.base must be a multiple of 16")

    fail, __getitem__, get, lines = Config.fail, Config.__getitem__, Config.get, Config.lines


def config_of(pairs, where):
    return (BlurConfig if pairs.get("format.kind") == "bkse" else Config)(pairs, where)


# ---- 8. Presets ------------------------------------------------------------------------------

LINEAR = """
    sched.kind=linear         sched.steps=1000        sched.beta_start=0.0001
    sched.beta_end=0.02
"""
ADM_256 = LINEAR + """
    net.image_size=256        net.out=6               net.mult=1,1,2,2,4,4
    net.cond=scale_shift      net.resample=res,res,res,res,res
    net.attn.head_channels=64 qkv.order=legacy        pred.var=learned_range
"""
FFHQ = ADM_256 + """
    net.base=128              net.blocks=1
    net.attn.enc=none,none,none,none,all,none         net.attn.dec=none,none,none,none,all,none
"""
IMAGENET = ADM_256 + """
    net.base=256              net.blocks=2
    net.attn.enc=none,none,none,all,all,all           net.attn.dec=none,none,none,all,all,all
"""
PORTRAITS = LINEAR + """
    net.image_size=64         net.out=3               net.mult=1,1,2,2
    net.cond=scale_shift      net.resample=res,res,res
    net.base=64               net.blocks=1
    net.attn.enc=none,none,all,all                    net.attn.dec=none,none,all,all
    net.attn.head_channels=32 qkv.order=legacy        pred.var=fixed_large
"""
DDPM = LINEAR + """
    net.out=3                 net.base=128            net.blocks=2
    net.cond=add              net.norm.eps=0.000001   net.down_pad=end
    net.temb.freq_shift=1     net.temb.order=sin_cos
    net.attn.heads=1          qkv.order=new           pred.var=fixed_small
"""
DDPM_32 = DDPM + """
    net.image_size=32         net.mult=1,2,2,2        net.resample=conv,conv,conv
    net.attn.enc=none,all,none,none                   net.attn.dec=none,all,none,none
    pred.var=fixed_large
"""
DDPM_256 = DDPM + """
    net.image_size=256        net.mult=1,1,2,2,4,4    net.resample=conv,conv,conv,conv,conv
    net.attn.enc=none,none,none,none,all,none         net.attn.dec=none,none,none,none,all,none
"""
EDM = """
    net.in=1                  net.out=1               net.base=128
    net.blocks=1              net.norm.min_channels=4 qkv.order=edm             pred.var=none
"""
BLACK_HOLE = EDM + """
    net.image_size=64         net.mult=1,2,2          net.resample=res,res
    net.attn.enc=none,none,all                        net.attn.dec=none,none,last
    net.cond=add              net.norm.eps=0.000001   net.attn.heads=1
    net.temb.freq_shift=1     net.temb.order=sin_cos
    net.resample_skip_conv=1  net.residual_scale=0.707106781186548
    sched.kind=vp             sched.beta_d=19.9       sched.beta_min=0.1        sched.steps=1000
    data.shift=1              data.scale=0.5
"""
DHARIWAL = EDM + """
    net.image_size=128        net.mult=1,1,1,2,2      net.resample=res,res,res,res
    net.attn.enc=none,none,none,all,none              net.attn.dec=none,none,none,all,none
    net.cond=scale_shift      net.attn.head_channels=64
    sched.kind=edm            sched.sigma_data=0.5    pred.kind=edm_F
"""
NAVIER_STOKES = DHARIWAL + "data.scale=10"
WAVEFORM = DHARIWAL + "data.shift=3 data.min=-1.5 data.max=1.5"
SCATTER = DHARIWAL + "data.shift=1 data.scale=0.5"
MRI = DHARIWAL + """
    net.in=2                  net.out=2               net.image_size=320
    net.attn.enc=none,none,none,none,none             net.attn.dec=none,none,none,none,none
    data.channels=complex
"""
PRESETS = {"ffhq_10m": FFHQ, "celebahq_p2": FFHQ, "imagenet256": IMAGENET,
           "lsun_bedroom": IMAGENET, "portraits64": PORTRAITS, "ddpm-cifar10-32": DDPM_32,
           "ddpm-celebahq-256": DDPM_256, "ddpm-church-256": DDPM_256,
           "blackhole-50k": BLACK_HOLE, "ns-5m": NAVIER_STOKES, "fwi-5m": WAVEFORM,
           "inv-scatter-5m": SCATTER, "mri-knee": MRI, "mri-brain": MRI,
           "GOPRO_wVAE": "format.kind=bkse net.base=64 net.front=10 net.back=20"}
LICENSES = {
    "portraits64": "trained on photographs by Chris McAndrew / UK Parliament, CC BY 3.0 "
    "(https://creativecommons.org/licenses/by/3.0/), cropped and resized; on headshots of the "
    "Civil Services project, (c) 2017, MIT licence; and on official portraits of members of "
    "the United States Congress, works of the United States government",
}


def preset(name):
    pairs = dict(pairs_of(PRESETS[name]), **{"info.license": LICENSES.get(name, UNSTATED)})
    return config_of(pairs, "preset " + name)


def config_file(path):
    where = "config " + show(os.path.basename(path))
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_STRING + 1).decode("utf-8")
    except (OSError, ValueError) as error:
        raise Refusal("%s: cannot read: %s" % (where, reason(error)))
    if len(text) > MAX_STRING:
        raise Refusal("%s: too long" % where)
    if text.lstrip().startswith("{"):
        return Config(DiffusersConfig(text, where).pairs(), where)
    pairs = {}
    for line_number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or key in pairs:
            raise Refusal("%s, line %d: %s" % (where, line_number, "duplicate key " + show(key)
                                               if equals else "not key=value"))
        pairs[key] = value
    return config_of(pairs, where)


# ---- 9. A diffusers config.json --------------------------------------------------------------

# The fields of UNet2DModel, and what a field that is left out means.
UNET2D = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
                         "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2,
    "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv",
    "upsample_type": "conv", "dropout": 0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None,
    "num_class_embeds": None, "num_train_timesteps": None,
}
UNREAD = ("_diffusers_version", "_name_or_path", "_use_default_values")


class DiffusersConfig:
    """Translates config.json into our keys; refuses, by its name, what they cannot say."""

    def __init__(self, text, where):
        self.where = where
        try:
            fields = json.loads(text, object_pairs_hook=self.unique)
        except ValueError as error:
            raise Refusal("%s: not JSON: %s" % (where, show(str(error))))
        if fields.pop("_class_name", None) != "UNet2DModel":
            self.fail("_class_name is not UNet2DModel")
        for name in UNREAD:
            fields.pop(name, None)
        for name in fields:
            if name not in UNET2D:
                self.fail("unknown field " + show(name))
        self.fields = dict(UNET2D, **fields)

    def fail(self, text):
        raise Refusal("%s: %s" % (self.where, text))

    def unique(self, pairs):
        for name, count in collections.Counter(name for name, _ in pairs).items():
            if count > 1:
                self.fail("duplicate field " + show(name))
        return dict(pairs)

    def refuse(self, name, wanted):
        self.fail("%s=%s: expected %s" % (name, show(self.fields[name]), wanted))

    def choice(self, name, table):
        """What `table` says for the field's value, or a refusal."""
        value = self.fields[name]
        for known, meaning in table.items():
            if type(value) is type(known) and value == known:
                return meaning
        self.refuse(name, " or ".join(map(show, table)))

    def count(self, name, absent=None):
        """A positive integer; `absent` stands for null."""
        value = self.fields[name]
        if value is None and absent is not None:
            return absent
        if not whole(value, 1 << 20) or value == 0:
            self.refuse(name, "a positive integer")
        return value

    def real(self, name):
        value = self.fields[name]
        if type(value) not in (int, float) or not 0 < value < 1e6:
            self.refuse(name, "a positive number")
        return value

    def listing(self, name, fits, wanted):
        value = self.fields[name]
        if type(value) is not list or not 1 <= len(value) <= 16 or not all(map(fits, value)):
            self.refuse(name, "a list of " + wanted)
        return value

    def pairs(self):
        for name, only in (("time_embedding_type", "positional"), ("class_embed_type", None),
                           ("mid_block_type", "UNetMidBlock2D")):
            self.choice(name, {only: only})
        self.choice("act_fn", {"silu": 1, "swish": 1})
        inputs, outputs = self.count("in_channels"), self.count("out_channels")
        shifted = self.choice("resnet_time_scale_shift",
                              {"default": False, "scale_shift": True})
        groups = self.count("norm_num_groups")
        if self.count("attn_norm_num_groups", groups) != groups:
            self.refuse("attn_norm_num_groups", "null or norm_num_groups")
        normed = not shifted or self.fields["attn_norm_num_groups"] is not None
        flag = {False: "0", True: "1"}
        head = self.count("attention_head_dim", 0)
        result = pairs_of(LINEAR)
        result.update(self.levels())
        result.update({
            "net.image_size": str(self.image_size()), "net.in": str(inputs),
            "net.out": str(outputs), "net.blocks": str(self.count("layers_per_block")),
            "net.center": self.choice("center_input_sample", flag),
            "net.temb.freq_shift": self.choice("freq_shift", {0: "0", 1: "1"}),
            "net.temb.order": self.choice("flip_sin_to_cos", {False: "sin_cos",
                                                              True: "cos_sin"}),
            "net.down_pad": self.choice("downsample_padding", {0: "end", 1: "sym"}),
            "net.norm.groups": str(groups), "net.norm.eps": repr(self.real("norm_eps")),
            "net.cond": "scale_shift" if shifted else "add",
            "net.attn.mid": self.choice("add_attention", flag),
            "net.attn.mid_norm": flag[normed],
            "net.mid_scale": repr(1 / self.real("mid_block_scale_factor")),
            "net.classes": str(self.count("num_class_embeds", 0)),
            "net.attn.head_channels" if head else "net.attn.heads": str(head or 1),
            "qkv.order": "new",
            "pred.var": "learned_range" if outputs == 2 * inputs else "fixed_small",
        })
        return result

    def image_size(self):
        size = self.fields["sample_size"]
        if type(size) is list and len(size) == 2 and size[0] == size[1]:
            self.fields["sample_size"] = size[0]
        return self.count("sample_size")

    def levels(self):
        """What is said level by level. Only blocks that attend may resample by a residual
        block; halving belongs to the finer level, doubling to the coarser one."""
        widths = self.listing("block_out_channels", lambda n: whole(n, 65536) and n > 0,
                              "widths")
        down = self.listing("down_block_types", ("DownBlock2D", "AttnDownBlock2D").__contains__,
                            "DownBlock2D, AttnDownBlock2D")
        up = self.listing("up_block_types", ("UpBlock2D", "AttnUpBlock2D").__contains__,
                          "UpBlock2D, AttnUpBlock2D")
        up = up[::-1]                           # full size first
        if not len(widths) == len(down) == len(up):
            self.fail("block_out_channels, down_block_types and up_block_types: not of one "
                      "length")
        kinds = {"conv": "conv", "resnet": "res"}
        halve, double = (self.choice(name, kinds) for name in ("downsample_type",
                                                               "upsample_type"))
        ways = [(halve if a.startswith("Attn") else "conv",
                 double if b.startswith("Attn") else "conv") for a, b in zip(down, up[1:])]
        if any(a != b for a, b in ways):
            self.fail("downsample_type, upsample_type: halving and doubling between two levels "
                      "differ in kind, which is not supported")
        base = widths[0]
        emb = self.count("time_embedding_dim", 4 * base)
        return {
            "net.base": str(base), "net.emb": str(emb),
            "net.mult": ",".join(ratio(width, base) for width in widths),
            "net.attn.enc": ",".join("all" if "Attn" in a else "none" for a in down),
            "net.attn.dec": ",".join("all" if "Attn" in b else "none" for b in up),
            "net.resample": ",".join(a for a, _ in ways) or "none",
        }


def ratio(width, base):
    """width / base as text, rounded up: who multiplies it by base rounds down."""
    digits = decimal.Context(prec=15, rounding=decimal.ROUND_CEILING)
    value = digits.divide(decimal.Decimal(width), decimal.Decimal(base))
    if int(float(value) * base) < width:
        value = digits.next_plus(value)
    return str(value)


# ---- 10. The network -------------------------------------------------------------------------

def conv(name, i, o, k=3):
    return [(name + ".w", (o, i, k, k)), (name + ".b", (o,))]


def linear(name, i, o):
    return [(name + ".w", (o, i)), (name + ".b", (o,))]


def blur_graph(config):
    """The same of a network that blurs; the sides of up.* are in, out."""
    base, wide = config["net.base"], 64             # wide: at full size, whatever the base
    width = [base, base, 2 * base, 4 * base, 8 * base, 8 * base]

    def blocks(side):
        return sum((conv("%s.res.%d.c%d" % (side, i, k), base, base)
                    for i in range(config["net." + side]) for k in (1, 2)), [])

    parts = conv("front.0", 3, base) + conv("front.1", base, base) + conv("front.2", base, base)
    parts += blocks("front")
    parts += [("down.%d.w" % i, (width[i + 1], width[i], 4, 4)) for i in range(5)]
    parts += [("up.%d.w" % i, (2 * width[i + 1], width[i], 4, 4)) for i in reversed(range(5))]
    parts += [("up.0.b", (base,))] + blocks("back")
    return (parts + conv("back.up.0", base, 4 * base) + conv("back.up.1", base, 4 * wide)
            + conv("back.mid", wide, wide) + conv("back.out", wide, 3))


def graph(config):
    """(name, shape) of every tensor of the network, in the order of execution."""
    if config["format.kind"] == "bkse":
        return blur_graph(config)
    emb, cond = config["net.emb"], 2 if config["net.cond"] == "scale_shift" else 1

    def norm(name, n):
        config.groups_fit(name, n)
        return [(name + ".g", (n,)), (name + ".b", (n,))]

    def res(name, i, o, resampled=False):
        name += ".res"
        skip = i != o or resampled and config["net.resample_skip_conv"]
        return (norm(name + ".n1", i) + conv(name + ".c1", i, o)
                + linear(name + ".emb", emb, cond * o)
                + norm(name + ".n2", o) + conv(name + ".c2", o, o)
                + (conv(name + ".skip", i, o, 1) if skip else []))

    def att(name, n, normed=True):
        name += ".att"
        config.heads(name, n)
        return ((norm(name + ".n", n) if normed else []) + linear(name + ".qkv", n, 3 * n)
                + linear(name + ".proj", n, n))

    def resample(name, n, kind):
        if kind == "res":
            return res(name, n, n, True)
        return conv(name, n, n) if kind == "conv" else []

    def attends(side, level, block, last):
        where = config["net.attn." + side][level]
        return where == "all" or where == "last" and block == last

    levels, blocks = len(config["net.mult"]), config["net.blocks"]
    base, classes = config["net.base"], config["net.classes"]
    parts = linear("temb.0", base, emb) + linear("temb.1", emb, emb)
    if classes and config.get("net.label") == "time":
        parts = [("label.w", (classes, base)), ("label.b", (base,))] + parts
    elif classes:
        parts.append(("label.w", (classes, emb)))
    width = config["net.stem"]
    parts += conv("stem", config["net.in"], width)
    skips, k = [width], 0
    for level in range(levels):
        for block in range(blocks):
            parts += res("enc.%d" % k, width, config.width(level))
            width = config.width(level)
            if attends("enc", level, block, blocks - 1):
                parts += att("enc.%d" % k, width)
            skips.append(width)
            k += 1
        if level < levels - 1:
            parts += resample("enc.%d.down" % k, width, config["net.resample"][level])
            skips.append(width)
            k += 1
    parts += res("mid.0", width, width)
    if config["net.attn.mid"]:
        parts += att("mid.1", width, config["net.attn.mid_norm"])
    parts += res("mid.2", width, width)
    k = 0
    for level in reversed(range(levels)):
        for block in range(blocks + 1):
            parts += res("dec.%d" % k, width + skips.pop(), config.width(level))
            width = config.width(level)
            if attends("dec", level, block, blocks):
                parts += att("dec.%d" % k, width)
            if level and block == blocks:
                parts += resample("dec.%d.up" % k, width, config["net.resample"][level - 1])
            k += 1
    return parts + norm("out.n", width) + conv("out.c", width, config["net.out"])


# ---- 11. What checkpoints call its tensors ---------------------------------------------------

class Family:
    """How a project's networks name their tensors. A subclass has the tables `heads` and `parts`
    from our names to theirs (several tensors may make one of ours, row below row), `bare` for
    convolutions that resample, and block(side, k, step): where a block's parts are."""
    order = None                # of the rows of qkv, if all its networks have the same
    label_columns = False       # a column a class

    def __init__(self, config, names, tensors):
        self.config, self.tensors = config, tensors
        self.attended = {name.split(".att.")[0] for name in names if ".att." in name}
        self.levels, self.size = len(config["net.mult"]), config["net.image_size"]

    def place(self, side, k):
        """Level of block k of a side, and its number there."""
        level, i = divmod(k, self.config["net.blocks"] + 1)
        return (level if side == "enc" else self.levels - 1 - level), i

    def origins(self, name):
        """The checkpoint's names of our tensor `name`, or of its parts from the top."""
        path, leaf = name.rsplit(".", 1)
        if path in self.heads:
            theirs = [self.heads[path]]
        else:
            side, k, step, *rest = path.split(".")
            block = self.block(side, int(k), step)
            parts = self.parts[rest[-1]] if rest else self.bare[side]
            theirs = [block + "." + part for part in parts.split()]
        return [part + (".bias" if leaf == "b" else ".weight") for part in theirs]

    def needed(self, source):
        """The checkpoint's tensors without constants that were checked."""
        return self.tensors


class GuidedDiffusion(Family):
    heads = {"temb.0": "time_embed.0", "temb.1": "time_embed.2", "label": "label_emb",
             "stem": "input_blocks.0.0", "out.n": "out.0", "out.c": "out.2"}
    parts = {"n1": "in_layers.0", "c1": "in_layers.2", "emb": "emb_layers.1",
             "n2": "out_layers.0", "c2": "out_layers.3", "skip": "skip_connection",
             "n": "norm", "qkv": "qkv", "proj": "proj_out"}
    bare = {"enc": "op", "dec": "conv"}

    def block(self, side, k, step):
        if side == "mid":
            return "middle_block.%d" % k
        if side == "enc":                       # the stem is number 0
            return "input_blocks.%d.%d" % (k + 1, step == "att")
        last = 2 if "dec.%d" % k in self.attended else 1
        return "output_blocks.%d.%d" % (k, {"res": 0, "att": 1, "up": last}[step])


class Diffusers(Family):
    project, order = "diffusers", "new"
    heads = {"temb.0": "time_embedding.linear_1", "temb.1": "time_embedding.linear_2",
             "label": "class_embedding", "stem": "conv_in", "out.n": "conv_norm_out",
             "out.c": "conv_out"}
    parts = {"n1": "norm1", "c1": "conv1", "emb": "time_emb_proj", "n2": "norm2", "c2": "conv2",
             "skip": "conv_shortcut", "n": "group_norm", "qkv": "to_q to_k to_v",
             "proj": "to_out.0"}
    older = {"qkv": "query key value", "proj": "proj_attn"}
    bare = {"enc": "conv", "dec": "conv"}

    def __init__(self, config, names, tensors):
        super().__init__(config, names, tensors)
        if any(name.endswith(".proj_attn.weight") for name in tensors):
            self.parts = dict(self.parts, **self.older)

    def block(self, side, k, step):
        if side == "mid":
            return "mid_block." + ("attentions.0" if step == "att" else "resnets.%d" % (k // 2))
        level, i = self.place(side, k)
        group = level if side == "enc" else self.levels - 1 - level
        inner = {"res": "resnets.%d" % i, "att": "attentions.%d" % i,
                 "down": "downsamplers.0", "up": "upsamplers.0"}[step]
        return "%s_blocks.%d.%s" % ("down" if side == "enc" else "up", group, inner)

    def needed(self, source):
        if "time_proj.weight" in self.tensors:
            source.fail("time_proj.weight: a fourier or learned time embedding, which is not "
                        "supported")
        return self.tensors


class Edm(Family):
    project, order = "EDM", "edm"
    label_columns = True
    parts = {"n1": "norm0", "c1": "conv0", "emb": "affine", "n2": "norm1", "c2": "conv1",
             "skip": "skip", "n": "norm2", "qkv": "qkv", "proj": "proj"}
    bare = {"enc": "conv", "dec": "conv"}

    def __init__(self, config, names, tensors):
        super().__init__(config, names, tensors)
        out = "out_" if "out_conv.weight" in tensors else self.at("dec", 0) + "aux_"
        self.heads = {"temb.0": "map_layer0", "temb.1": "map_layer1", "label": "map_label",
                      "stem": self.at("enc", 0) + "conv", "out.n": out + "norm",
                      "out.c": out + "conv"}

    def at(self, side, level):
        return "%s.%dx%d_" % (side, self.size >> level, self.size >> level)

    def block(self, side, k, step):
        """Attention lies within its block; halving and doubling begin a level."""
        if side == "mid":
            return self.at("dec", self.levels - 1) + "in%d" % (k // 2)
        level, i = self.place(side, k)
        if step in ("down", "up"):
            return self.at(side, level + (1 if step == "down" else -1)) + step
        return self.at(side, level) + "block%d" % i

    def needed(self, source):
        kept = {}
        for name, tensor in self.tensors.items():
            if name == "map_noise.freqs":
                source.fail("map_noise.freqs: a fourier time embedding, which is not supported")
            if re.search("_aux_(down|skip|residual|up)[.]", name):
                source.fail("%s: a skip or residual encoder or decoder (NCSN++), which is not "
                            "supported" % show(name)[1:-1])
            if name.endswith(".resample_filter"):
                check_filter(source, name, tensor)
            elif name != "map_augment.weight":  # multiplies labels that are 0 at inference
                kept[name] = tensor
        return kept


class KernelWizard:
    """The network that blurs; its kernel_extractor, which finds latents, is not needed."""
    order, label_columns = None, False

    def __init__(self, config, names, tensors):
        self.config, self.tensors = config, tensors

    def origins(self, name):
        path, leaf = name.rsplit(".", 1)
        side, *rest = path.split(".")
        back = self.config["net.back"]
        trunk = "feature_extractor" if side == "front" else "recon_trunk"
        if side in ("down", "up"):
            level = int(rest[0])
            theirs = "adapter.model." + level * "submodule." + (
                "up.1" if side == "up" else "down.1" if level else "down.0")
        elif rest[0] == "res":
            first = 6 if side == "front" else 0
            theirs = "%s.%d.conv%s" % (trunk, first + int(rest[1]), rest[2][1])
        elif side == "front":
            theirs = "%s.%d" % (trunk, 2 * int(rest[0]))
        else:
            theirs = "%s.%d" % (trunk, back + {"up.0": 0, "up.1": 3, "mid": 6,
                                               "out": 8}[".".join(rest)])
        return [theirs + (".bias" if leaf == "b" else ".weight")]

    def needed(self, source):
        return {name: tensor for name, tensor in self.tensors.items()
                if not name.startswith("kernel_extractor.")}


def check_filter(source, name, tensor):
    """The mean of 2x2 pixels is the only filter that the reader knows."""
    data = b"".join(values(source, tensor)) if tensor.size == (1, 1, 2, 2) \
        and tensor.dtype in FLOATS else b""
    if to_f32(data, tensor.dtype) != struct.pack("<4f", *[0.25] * 4):
        source.fail("%s (%s): not the filter [1,1], and no other is supported"
                    % (show(name)[1:-1], shape_text(tensor.size)))


# A name that only this family has.
FAMILIES = [("input_blocks.0.0.weight", GuidedDiffusion), ("conv_in.weight", Diffusers),
            ("map_layer0.weight", Edm)]

# Canonical name, names in the checkpoint, canonical shape, dtype, and the Tensors whose values,
# one after another, fill it.
Weight = collections.namedtuple("Weight", "name origins shape dtype tensors")


def bind(source, tensors, config):
    """A Weight for every tensor of the network, or a refusal that lists all offenders."""
    kind = next((kind for telltale, kind in FAMILIES if telltale in tensors), GuidedDiffusion)
    if config["format.kind"] == "bkse":
        kind = KernelWizard
    parts = graph(config)
    family = kind(config, [name for name, _ in parts], tensors)
    order = config.get("qkv.order") or family.order
    if family.order not in (None, order):
        config.fail("qkv.order=%s: the checkpoint is a network of %s, whose order is %s"
                    % (order, family.project, family.order))
    tensors = family.needed(source)
    bound, missing, wrong, expected = [], [], [], set()
    for name, shape in parts:
        origins = family.origins(name)
        expected.update(origins)
        absent = [origin for origin in origins if origin not in tensors]
        if absent:
            missing += absent
            continue
        part = (shape[0] // len(origins),) + shape[1:]
        turned = name == "label.w" and family.label_columns
        faults, views = [], [canonical(tensors[origin], name, turned) for origin in origins]
        for origin, view in zip(origins, views):
            if view.size != part:
                faults.append("%s (%s, not %s)" % (
                    origin, shape_text(tensors[origin].size),
                    shape_text(part[::-1] if turned else part)))
            elif view.dtype not in FLOATS or view.dtype != views[0].dtype:
                faults.append("%s (of dtype %s)" % (origin, view.dtype))
        wrong += faults
        if ".att.qkv." in name and len(views) == 1 and not faults:
            views = [new_order(views[0], *head_order(config, name, shape, order))]
        bound.append(Weight(name, origins, shape, views[0].dtype, views))
    surplus = [show(name)[1:-1] for name in tensors if name not in expected]
    faults = ["%d %s: %s" % (len(items), kind, shorten(items)) for kind, items in
              (("missing", missing), ("surplus", surplus), ("of wrong shape", wrong)) if items]
    if faults:
        source.fail("does not fit %s: %s" % (config.where, "; ".join(faults)))
    return bound


def canonical(tensor, name, turned):
    """The tensor without the last sizes of 1 that a matrix may have, or with sides turned."""
    size, stride = tensor.size, tensor.stride
    while name.endswith((".qkv.w", ".proj.w")) and len(size) > 2 and size[-1] == 1:
        size, stride = size[:-1], stride[:-1]
    if turned:
        size, stride = size[::-1], stride[::-1]
    return Tensor(tensor.storage, tensor.dtype, tensor.offset, size, stride)


def head_order(config, name, shape, order):
    """Heads of the attention block and the order of its rows."""
    heads = config.heads(name.split(".qkv.")[0], shape[0] // 3)
    if order is None and heads > 1:
        config.fail("missing qkv.order=legacy|new|edm: %s has %d heads, and shapes cannot tell"
                    % (name, heads))
    return heads, order or "new"


def new_order(view, heads, order):
    """Rows in the order j*C + h*d + c: the same storage, seen as (j, h, c, columns)."""
    channels = view.size[0] // 3
    d, row = channels // heads, view.stride[0]
    j, h, c = {"legacy": (d, 3 * d, 1), "new": (channels, d, 1), "edm": (1, 3 * d, 3)}[order]
    return Tensor(view.storage, view.dtype, view.offset, (3, heads, d) + view.size[1:],
                  (j * row, h * row, c * row) + view.stride[1:])


# ---- 12. The weight file ---------------------------------------------------------------------

ALIGN = 64
CODES = {"f32": 1, "f16": 2, "bf16": 3}
WIDER = {"f32": "", "f16": "; use --dtype bf16 or f32", "bf16": "; use --dtype f32"}
HEADER = "<8sII9Q4I24x"
ENTRY = "<QQIHBB4QII"


def padded(size, align=ALIGN):
    return -(-size // align) * align


class Output:
    """A file written beside its final name, renamed when complete, removed on any failure."""

    def __init__(self, path):
        self.path = os.path.realpath(path)
        self.part = "%s.part-%d" % (self.path, os.getpid())
        self.file = None

    def __enter__(self):
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise Refusal("%s: not a regular file; give another name" % show(self.path), 6)
        self.try_to(self.open)
        return self

    def open(self):
        self.file = open(self.part, "xb")

    def try_to(self, action):
        try:
            action()
        except (OSError, ValueError) as error:
            raise Refusal("%s: cannot write: %s" % (show(self.path), reason(error)), 6)

    def write(self, data):
        self.try_to(lambda: self.file.write(data))

    def finish(self, head):
        def action():
            self.file.seek(0)
            self.file.write(head)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.part, self.path)
        self.try_to(action)

    def __exit__(self, kind, error, trace):
        if kind is not None and self.file is not None:
            try:
                self.file.close()
            except OSError:
                pass
            try:
                os.unlink(self.part)
            except OSError:
                pass


def meta_block(lines):
    return "".join("%s=%s\n" % item for item in sorted(lines.items())).encode("utf-8")


def stored(source):
    """For write_unw: the values of a tensor in the input file."""
    def data(weight, kind):
        for origin, tensor in zip(weight.origins, weight.tensors):
            try:
                for part in values(source, tensor):
                    yield recode(part, tensor.dtype, kind)
            except OverflowError:
                source.fail("%s (%s) holds a value beyond the range of %s%s"
                            % (show(origin)[1:-1], weight.name, kind, WIDER[kind]))
    return data


def write_unw(path, data, bound, meta, dtype):
    """Writes the file and returns its size. `data(weight, kind)` yields a tensor's values as
    bytes; `dtype` None keeps that of each tensor."""
    by_name = sorted(weight.name for weight in bound)
    names = "".join(by_name).encode("ascii")
    index_off = padded(128 + len(meta))
    names_off = index_off + 64 * len(bound)
    data_off = padded(names_off + len(names))
    place, at = {}, data_off
    for weight in bound:
        kind = dtype or ("f32" if weight.dtype == "f64" else weight.dtype)
        nbytes = math.prod(weight.shape) * DTYPES[kind][0]
        place[weight.name] = [at, nbytes, kind, weight.shape, 0]
        at += padded(nbytes)
    with Output(path) as out:
        out.write(bytes(data_off))
        for weight in bound:
            entry = place[weight.name]
            crc = 0
            for part in data(weight, entry[2]):
                crc = zlib.crc32(part, crc)
                out.write(part)
            entry[4] = crc
            out.write(bytes(padded(entry[1]) - entry[1]))
        index, name_off = [], 0
        for name in by_name:
            off, nbytes, kind, shape, crc = place[name]
            dims = shape + (1,) * (4 - len(shape))
            index.append(struct.pack(ENTRY, off, nbytes, name_off, len(name), CODES[kind],
                                     len(shape), *dims, crc, 0))
            name_off += len(name)

        def head(crc):
            header = struct.pack(HEADER, b"\x89UNW\r\n\x1a\n", 1, 128, at, 128, len(meta),
                                 index_off, 64 * len(bound), names_off, len(names),
                                 data_off, at - data_off, len(bound), ALIGN, crc, 0)
            start = (header + meta).ljust(index_off, b"\0") + b"".join(index) + names
            return start.ljust(data_off, b"\0")
        out.finish(head(zlib.crc32(head(0))))
    return at


# ---- 13. Random weights ----------------------------------------------------------------------

POOL = 8191     # values a tensor; a prime, so that no two rows of a matrix are the same


def random_weight(seed):
    """For write_unw: values that keep a signal's size, and no layer that starts at zero."""
    def data(weight, kind):
        leaf, count = weight.name[-1], math.prod(weight.shape)
        left = count * DTYPES[kind][0]
        std = 1 / math.sqrt(math.prod(weight.shape[1:])) if leaf == "w" else 0.1
        dice = random.Random("%d %s" % (seed, weight.name))
        side = math.sqrt(12) * std              # of a uniform variable with that deviation
        pool = [(leaf == "g") + side * (dice.random() - 0.5) for _ in range(min(count, POOL))]
        pool = recode(struct.pack("<%df" % len(pool), *pool), "f32", kind)
        tile = pool * (CHUNK // len(pool) + 1)
        for _ in range(left // len(tile)):
            yield tile
        yield tile[:left % len(tile)]
    return data


def make_random(config, args):
    bound = [Weight(name, [], shape, "f32", []) for name, shape in graph(config)]
    lines = config.lines()
    lines.update({"info.source": "random weights, seed %d" % args.seed,
                  "info.license": "none: random numbers"})
    finish(args, random_weight(args.seed), bound, lines)


# ---- 14. The command -------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Refusal("%s (see --help)" % message, 1)


def arguments(argv):
    about = __doc__.split("\n\n")
    parser = Parser(prog="convert.py", usage="\n" + about[1], allow_abbrev=False,
                    description="\n\n".join([about[0]] + about[2:4]),
                    epilog="presets: " + ", ".join(PRESETS),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", nargs="?")
    parser.add_argument("-o", dest="output", metavar="OUT.unw")
    parser.add_argument("--preset")
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--entry", metavar="KEY")
    parser.add_argument("--dtype", choices=sorted(CODES))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--seed", metavar="N")
    args = parser.parse_args(argv)
    if args.random:
        if args.input or args.entry or args.list:
            parser.error("--random goes without IN, --entry and --list")
        try:
            args.seed = integer(0, 999999999)(args.seed or "0")
        except ValueError as error:
            parser.error("--seed %s: expected %s" % (show(args.seed)[1:-1], error))
    elif args.seed is not None:
        parser.error("--seed goes with --random")
    elif args.input is None:
        parser.error("give IN, or --random")
    if args.list:
        if args.output or args.preset or args.config or args.dtype:
            parser.error("--list goes with IN and --entry only")
    elif not args.output:
        parser.error("give -o OUT.unw, or --list")
    elif (args.preset is None) == (args.config is None):
        parser.error("give one of --preset and --config")
    elif args.preset is not None and args.preset not in PRESETS:
        parser.error("no preset %s; there are %s" % (show(args.preset), ", ".join(PRESETS)))
    elif args.input and os.path.exists(args.output) and os.path.exists(args.input) \
            and os.path.samefile(args.input, args.output):
        parser.error("IN and OUT are the same file")
    return args


def list_tensors(source, tensors):
    for name, tensor in tensors.items():
        crc = 0
        for data in values(source, tensor):
            crc = zlib.crc32(to_f32(data, tensor.dtype), crc)
        print("%s\t%s\t%s\t%08x" % (name, tensor.dtype, shape_text(tensor.size), crc))
    sys.stdout.flush()


def convert(source, tensors, entry, config, args):
    bound = bind(source, plain_names(source, tensors), config)
    lines = config.lines()
    lines.update({"info.source": one_line(source.name), "info.source_sha256": source.sha256(),
                  "info.entry": one_line(entry or "top level")})
    finish(args, stored(source), bound, lines)


def finish(args, data, bound, lines):
    weights = sum(math.prod(weight.shape) for weight in bound)
    lines.update({"info.converter": CONVERTER, "info.params": str(weights)})
    size = write_unw(args.output, data, bound, meta_block(lines), args.dtype)
    print("convert.py: %s: %d tensors, %d weights, %.1f MB" % (
        show(args.output)[1:-1], len(bound), weights, size / 1e6), file=sys.stderr)


def run(argv):
    args = arguments(argv)
    if args.list and sys.stdout is None:
        raise Refusal("standard output is closed", 6)
    if not args.list:
        config = preset(args.preset) if args.preset else config_file(args.config)
    if args.random:
        make_random(config, args)
        return
    source = Source(args.input)
    tensors, entry = choose(source, load(source), args.entry)
    if args.list:
        list_tensors(source, tensors)
    else:
        convert(source, tensors, entry, config, args)
    if entry is not None and args.entry is None:
        print("convert.py: took the entry %s" % show(entry), file=sys.stderr)


def interrupted(*_):
    raise KeyboardInterrupt


def main(argv):
    signal.signal(signal.SIGTERM, interrupted)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")
    try:
        run(argv)
        return 0
    except Refusal as refusal:
        text, code = str(refusal), refusal.code
    except KeyboardInterrupt:
        text, code = "interrupted; nothing was written", 5
    except MemoryError:
        text, code = "not enough memory", 3
    except RecursionError:
        text, code = "the input is nested too deeply; refused", 2
    except OSError as error:                    # standard output
        text, code = "cannot write the list: %s" % reason(error), 6
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception as error:                  # a fault of this program; no traceback either
        text, code = "internal fault: %s: %s" % (type(error).__name__, show(str(error))), 2
    print("convert.py: " + one_line(text), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
