"""Tests of tools/convert.py, with the standard library alone: python3 tests/test_convert.py

The checkpoints are made here, byte by byte, by writers that share nothing with the converter;
the values that must come out are worked out from plain lists of numbers, or written down.
"""
import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.path.join(ROOT, "tools", "convert.py")
spec = importlib.util.spec_from_file_location("convert", TOOL)
sys.dont_write_bytecode = True
convert = importlib.util.module_from_spec(spec)
spec.loader.exec_module(convert)

# ---- Pickles ---------------------------------------------------------------------------------


class Asm:
    """Writes the opcodes that torch.save writes, of protocol 2, 4 or 5."""

    def __init__(self, protocol=2, stream=False):
        self.protocol, self.stream = protocol, stream

    def text(self, s):
        raw = s.encode("utf-8", "surrogatepass")
        if self.protocol >= 4 and len(raw) < 256:
            return b"\x8c" + bytes([len(raw)]) + raw + b"\x94"
        return b"X" + struct.pack("<I", len(raw)) + raw

    def number(self, n):
        if isinstance(n, bool):
            return b"\x88" if n else b"\x89"
        if 0 <= n < 256:
            return b"K" + bytes([n])
        if 0 <= n < 65536:
            return b"M" + struct.pack("<H", n)
        if -2**31 <= n < 2**31:
            return b"J" + struct.pack("<i", n)
        raw = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def name(self, module, name):
        if self.protocol >= 4:
            return self.text(module) + self.text(name) + b"\x93"
        return b"c%s\n%s\n" % (module.encode(), name.encode())

    def tuple(self, *items):
        small = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(items))
        return b"".join(items) + small if small else b"(" + b"".join(items) + b"t"

    def dict(self, pairs, start=b"}"):
        return start + b"(" + b"".join(self.text(k) + v for k, v in pairs) + b"u"

    def ordered(self):
        return self.name("collections", "OrderedDict") + b")R"

    def storage(self, kind, key, count, module="torch"):
        view = (b"N",) if self.stream else ()
        return self.tuple(self.text("storage"), self.name(module, kind), self.text(key),
                          self.text("cpu"), self.number(count), *view) + b"Q"

    def numbers(self, values):
        return self.tuple(*map(self.number, values))

    def tensor(self, storage, size, stride=None, offset=0, tail=b""):
        stride = rows(size) if stride is None else stride
        return self.name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage \
            + self.number(offset) + self.numbers(size) + self.numbers(stride) + b"\x89" \
            + self.ordered() + tail + b"tR"

    def whole(self, body):
        if self.protocol >= 4:
            body = b"\x95" + struct.pack("<Q", len(body) + 1) + body
        return b"\x80" + bytes([self.protocol]) + body + b"."


def rows(size):
    stride, step = [], 1
    for n in reversed(size):
        stride.insert(0, step)
        step *= n
    return tuple(stride)


# ---- Containers ------------------------------------------------------------------------------

KINDS = {"f32": ("FloatStorage", "F32", "f"), "f16": ("HalfStorage", "F16", "e"),
         "bf16": ("BFloat16Storage", "BF16", "H"), "f64": ("DoubleStorage", "F64", "d"),
         "i64": ("LongStorage", "I64", "q"), "i32": ("IntStorage", "I32", "i"),
         "i16": ("ShortStorage", "I16", "h"), "i8": ("CharStorage", "I8", "b"),
         "u8": ("ByteStorage", "U8", "B"), "bool": ("BoolStorage", "BOOL", "?")}


def packed(dtype, values):
    """Values of a storage as bytes; bf16 is given as numbers that it holds exactly."""
    if dtype == "bf16":
        return b"".join(struct.pack("<f", v)[2:] for v in values)
    return struct.pack("<%d%s" % (len(values), KINDS[dtype][2]), *values)


class Entry:
    """A file in a zip, with all that can be wrong about it."""

    def __init__(self, name, data, **odd):
        self.name = name if isinstance(name, bytes) else name.encode()
        self.data, self.flags, self.method, self.disk = data, 0x0808, 0, 0
        self.crc, self.size, self.packed = zlib.crc32(data), len(data), len(data)
        self.offset = None                  # in the directory, when not the true one
        self.local = {}                     # what the local header says instead
        self.large = False                  # sizes and offset in a zip64 extra
        self.__dict__.update(odd)


def zip_bytes(entries, large=True, tail=b"", **end):
    """A zip as PyTorch writes it: data aligned to 64, sizes after the data, zip64 directory."""
    out, listing = b"", b""
    for e in entries:
        at = len(out)
        pad = b"FB" + struct.pack("<H", -(at + 34 + len(e.name)) % 64)
        pad += b"Z" * (-(at + 34 + len(e.name)) % 64)
        deferred = e.flags & 8
        here = dict(name=e.name, flags=e.flags, method=e.method,
                    crc=0 if deferred else e.crc, size=0 if deferred else e.size,
                    packed=0 if deferred else e.packed, magic=b"PK\x03\x04")
        here.update(e.local)
        out += struct.pack("<4s5H3I2H", here["magic"], 0, here["flags"], here["method"], 0, 0,
                           here["crc"], here["packed"], here["size"], len(here["name"]),
                           len(pad))
        out += here["name"] + pad + e.data
        if deferred:
            out += struct.pack("<4s3Q", b"PK\x07\x08", e.crc, e.packed, e.size)
        at = at if e.offset is None else e.offset
        extra = struct.pack("<2H3Q", 1, 24, e.size, e.packed, at) if e.large is True else b""
        sizes = (0xFFFFFFFF,) * 3 if e.large else (e.packed, e.size, at)
        listing += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, 0, e.flags, e.method, 0, 0,
                               e.crc, sizes[0], sizes[1], len(e.name), len(extra), 0, e.disk,
                               0, 0, sizes[2]) + e.name + extra
    n, size, at = end.get("count", len(entries)), len(listing), len(out)
    out += listing
    here = len(out)
    if large:
        out += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 30, 45, 0, 0, n, n, size,
                           end.get("at", at))
        out += struct.pack("<4sIQI", b"PK\x06\x07", 0, end.get("here", here), 1)
    short = min(n, 65535)
    return out + struct.pack("<4s4H2IH", b"PK\x05\x06", end.get("disk", 0), 0, short,
                             end.get("short", short), size, end.get("at", at), len(tail)) + tail


def zip_entries(body, storages, protocol=2, root="archive"):
    pickle = Asm(protocol).whole(body) if protocol else body
    return [Entry(root + "/data.pkl", pickle)] + [
        Entry("%s/data/%s" % (root, key), data) for key, data in storages
    ] + [Entry(root + "/version", b"3\n")]


def zip_file(body, storages, protocol=2):
    return zip_bytes(zip_entries(body, storages, protocol))


def stream_file(body, storages, **odd):
    """`storages` as (key, count, bytes)."""
    asm = Asm(stream=True)
    little = asm.dict([("protocol_version", asm.number(1001)),
                       ("little_endian", asm.number(odd.get("little", True)))])
    keys = odd.get("keys", [key for key, _, _ in storages])
    keys = b"](" + b"".join(map(asm.text, keys)) + b"e"
    parts = [asm.number(odd.get("magic", 0x1950a86a20f9469cfc6c)),
             asm.number(odd.get("version", 1001)), little, body, keys]
    return b"".join(map(asm.whole, parts)) + b"".join(
        struct.pack("<q", odd.get("count", count)) + data for _, count, data in storages) \
        + odd.get("tail", b"")


def safe_file(header, data, length=None):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


# ---- A checkpoint as lists of numbers --------------------------------------------------------


class Model:
    """Tensors over shared storages: `add` one and its numbers are known in row-major order."""

    def __init__(self):
        self.storages, self.tensors = {}, {}

    def store(self, key, dtype, values):
        self.storages[key] = (dtype, values)

    def add(self, name, key, size, stride=None, offset=0):
        stride = rows(size) if stride is None else stride
        self.tensors[name] = (key, tuple(size), stride, offset)

    def simple(self, name, dtype, size, values):
        self.store("s%d" % len(self.storages), dtype, values)
        self.add(name, "s%d" % (len(self.storages) - 1), size)

    def values(self, name):
        key, size, stride, offset = self.tensors[name]
        stored = self.storages[key][1]
        return [stored[offset + sum(i * s for i, s in zip(index, stride))]
                for index in itertools.product(*map(range, size))]

    def dtype(self, name):
        return self.storages[self.tensors[name][0]][0]

    def body(self, asm, names=None):
        pairs = []
        for name in names or self.tensors:
            key, size, stride, offset = self.tensors[name]
            dtype, stored = self.storages[key]
            storage = asm.storage(KINDS[dtype][0], key, len(stored))
            pairs.append((name, asm.tensor(storage, size, stride, offset)))
        return asm.dict(pairs)

    def zip(self, protocol=2, wrap=None):
        asm = Asm(protocol)
        body = wrap(asm, self) if wrap else self.body(asm)
        return zip_file(body, [(k, packed(*s)) for k, s in self.storages.items()], protocol)

    def stream(self):
        return stream_file(self.body(Asm(stream=True)), [
            (k, len(s[1]), packed(*s)) for k, s in self.storages.items()])

    def safe(self):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for name, (_, size, _, _) in self.tensors.items():
            raw = packed(self.dtype(name), self.values(name))
            header[name] = {"dtype": KINDS[self.dtype(name)][1], "shape": list(size),
                            "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        return safe_file(header, data)

    def listing(self):
        return "".join("%s\t%s\t%s\t%08x\n" % (
            name, self.dtype(name), "x".join(map(str, size)) or "scalar",
            zlib.crc32(packed("f32", self.values(name))))
            for name, (_, size, _, _) in self.tensors.items())


# ---- A small network, written out ------------------------------------------------------------

CONFIG = """# two levels, attention with two heads at the lower one

net.image_size=8
net.in=3
net.out = 6
net.base=8
net.mult=1,2
net.blocks=1
net.attn.enc=none,all
net.attn.dec=none,all
net.attn.heads=2
net.norm.groups=4
net.cond=scale_shift
net.resample=res
pred.kind=eps
pred.var=learned_range
sched.kind=linear
sched.steps=1000
sched.beta_start=1e-4
sched.beta_end=2e-2
qkv.order=legacy
"""


def res(ours, theirs, i, o, double=2):
    yield from both(ours + ".n1", theirs + ".in_layers.0", (i,))
    yield from both(ours + ".c1", theirs + ".in_layers.2", (o, i, 3, 3))
    yield from both(ours + ".emb", theirs + ".emb_layers.1", (double * o, 32))
    yield from both(ours + ".n2", theirs + ".out_layers.0", (o,))
    yield from both(ours + ".c2", theirs + ".out_layers.3", (o, o, 3, 3))
    if i != o:
        yield from both(ours + ".skip", theirs + ".skip_connection", (o, i, 1, 1))


def att(ours, theirs, n):
    yield from both(ours + ".n", theirs + ".norm", (n,))
    yield from both(ours + ".qkv", theirs + ".qkv", (3 * n, n, 1))
    yield from both(ours + ".proj", theirs + ".proj_out", (n, n, 1))


def both(ours, theirs, shape):
    """Weight and bias; a rank of 1 is a norm, a trailing rank of 1 is stored without."""
    kept = shape[:2] if len(shape) == 3 else shape
    yield ours + (".g" if len(shape) == 1 else ".w"), theirs + ".weight", shape, kept
    yield ours + ".b", theirs + ".bias", shape[:1], shape[:1]


def network(kind="res", double=2, classes=0):
    """(canonical name, name in the checkpoint, shape there, shape here), in execution order."""
    yield from both("temb.0", "time_embed.0", (32, 8))
    yield from both("temb.1", "time_embed.2", (32, 32))
    if classes:
        yield "label.w", "label_emb.weight", (classes, 32), (classes, 32)
    yield from both("stem", "input_blocks.0.0", (8, 3, 3, 3))
    yield from res("enc.0.res", "input_blocks.1.0", 8, 8, double)
    if kind == "res":
        yield from res("enc.1.down.res", "input_blocks.2.0", 8, 8, double)
    if kind == "conv":
        yield from both("enc.1.down", "input_blocks.2.0.op", (8, 8, 3, 3))
    yield from res("enc.2.res", "input_blocks.3.0", 8, 16, double)
    yield from att("enc.2.att", "input_blocks.3.1", 16)
    yield from res("mid.0.res", "middle_block.0", 16, 16, double)
    yield from att("mid.1.att", "middle_block.1", 16)
    yield from res("mid.2.res", "middle_block.2", 16, 16, double)
    yield from res("dec.0.res", "output_blocks.0.0", 32, 16, double)
    yield from att("dec.0.att", "output_blocks.0.1", 16)
    yield from res("dec.1.res", "output_blocks.1.0", 24, 16, double)
    yield from att("dec.1.att", "output_blocks.1.1", 16)
    if kind == "res":
        yield from res("dec.1.up.res", "output_blocks.1.2", 16, 16, double)
    if kind == "conv":
        yield from both("dec.1.up", "output_blocks.1.2.conv", (16, 16, 3, 3))
    yield from res("dec.2.res", "output_blocks.2.0", 24, 8, double)
    yield from res("dec.3.res", "output_blocks.3.0", 16, 8, double)
    yield from both("out.n", "out.0", (8,))
    yield from both("out.c", "out.2", (6, 8, 3, 3))


def fill(parts, dtype="f32", prefix=""):
    """A Model of the network: numbers n/256 with |n| < 256, which every dtype holds."""
    model, dice = Model(), random.Random(1)
    flat = [(name, shape) for _, theirs, shape, _ in parts for name in theirs.split()]
    for i, (name, shape) in enumerate(flat):
        values = [dice.randrange(-255, 256) / 256 for _ in range(math.prod(shape))]
        model.store(str(i), dtype, values)
        model.add(prefix + name, str(i), shape)
    return model


def new_order(values, columns):
    """Rows of q, k, v by hand: 16 channels, 2 heads of 8; legacy goes head by head."""
    legacy = [values[i * columns:(i + 1) * columns] for i in range(48)]
    order = [*range(0, 8), *range(24, 32),          # q of head 0, q of head 1
             *range(8, 16), *range(32, 40),         # k
             *range(16, 24), *range(40, 48)]        # v
    return sum((legacy[i] for i in order), [])


# ---- The same network of diffusers and of EDM ------------------------------------------------

# Additive conditioning, one head, resampling by convolution.
DIFFUSERS = {"_class_name": "UNet2DModel", "_diffusers_version": "0.1.1", "sample_size": 8,
             "block_out_channels": [8, 16], "layers_per_block": 1, "out_channels": 3,
             "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
             "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": None,
             "norm_num_groups": 4, "norm_eps": 1e-6, "freq_shift": 1, "flip_sin_to_cos": False,
             "downsample_padding": 0, "dropout": 0.1, "act_fn": "silu"}
QKV, PROJ = ("to_q", "to_k", "to_v"), "to_out.0"
OLD_QKV, OLD_PROJ = ("query", "key", "value"), "proj_attn"


def diffusers_res(ours, theirs, i, o):
    yield from both(ours + ".n1", theirs + ".norm1", (i,))
    yield from both(ours + ".c1", theirs + ".conv1", (o, i, 3, 3))
    yield from both(ours + ".emb", theirs + ".time_emb_proj", (o, 32))
    yield from both(ours + ".n2", theirs + ".norm2", (o,))
    yield from both(ours + ".c2", theirs + ".conv2", (o, o, 3, 3))
    if i != o:
        yield from both(ours + ".skip", theirs + ".conv_shortcut", (o, i, 1, 1))


def diffusers_att(ours, theirs, qkv, proj, tail):
    """`tail`: sizes of 1 at the end of a matrix."""
    yield from both(ours + ".n", theirs + ".group_norm", (16,))
    for leaf, kind, shape, kept in ((".w", "weight", (16, 16) + tail, (48, 16)),
                                    (".b", "bias", (16,), (48,))):
        names = " ".join("%s.%s.%s" % (theirs, part, kind) for part in qkv)
        yield ours + ".qkv" + leaf, names, shape, kept
    yield ours + ".proj.w", "%s.%s.weight" % (theirs, proj), (16, 16) + tail, (16, 16)
    yield ours + ".proj.b", "%s.%s.bias" % (theirs, proj), (16,), (16,)


def diffusers_network(*how):
    yield from both("temb.0", "time_embedding.linear_1", (32, 8))
    yield from both("temb.1", "time_embedding.linear_2", (32, 32))
    yield from both("stem", "conv_in", (8, 3, 3, 3))
    yield from diffusers_res("enc.0.res", "down_blocks.0.resnets.0", 8, 8)
    yield from both("enc.1.down", "down_blocks.0.downsamplers.0.conv", (8, 8, 3, 3))
    yield from diffusers_res("enc.2.res", "down_blocks.1.resnets.0", 8, 16)
    yield from diffusers_att("enc.2.att", "down_blocks.1.attentions.0", *how)
    yield from diffusers_res("mid.0.res", "mid_block.resnets.0", 16, 16)
    yield from diffusers_att("mid.1.att", "mid_block.attentions.0", *how)
    yield from diffusers_res("mid.2.res", "mid_block.resnets.1", 16, 16)
    yield from diffusers_res("dec.0.res", "up_blocks.0.resnets.0", 32, 16)
    yield from diffusers_att("dec.0.att", "up_blocks.0.attentions.0", *how)
    yield from diffusers_res("dec.1.res", "up_blocks.0.resnets.1", 24, 16)
    yield from diffusers_att("dec.1.att", "up_blocks.0.attentions.1", *how)
    yield from both("dec.1.up", "up_blocks.0.upsamplers.0.conv", (16, 16, 3, 3))
    yield from diffusers_res("dec.2.res", "up_blocks.1.resnets.0", 24, 8)
    yield from diffusers_res("dec.3.res", "up_blocks.1.resnets.1", 16, 8)
    yield from both("out.n", "conv_norm_out", (8,))
    yield from both("out.c", "conv_out", (3, 8, 3, 3))


def edm_block(ours, theirs, i, o, song, att=None, resampled=False):
    yield from both(ours + ".res.n1", theirs + ".norm0", (i,))
    yield from both(ours + ".res.c1", theirs + ".conv0", (o, i, 3, 3))
    yield from both(ours + ".res.emb", theirs + ".affine", (o if song else 2 * o, 32))
    yield from both(ours + ".res.n2", theirs + ".norm1", (o,))
    yield from both(ours + ".res.c2", theirs + ".conv1", (o, o, 3, 3))
    if i != o or song and resampled:
        yield from both(ours + ".res.skip", theirs + ".skip", (o, i, 1, 1))
    if att:
        yield from both(att + ".n", theirs + ".norm2", (o,))
        for part in "qkv", "proj":
            rows = 3 * o if part == "qkv" else o
            yield "%s.%s.w" % (att, part), "%s.%s.weight" % (theirs, part), \
                (rows, o, 1, 1), (rows, o)
            yield "%s.%s.b" % (att, part), "%s.%s.bias" % (theirs, part), (rows,), (rows,)


def edm_network(song):
    """SongUNet or DhariwalUNet with 5 classes; in SongUNet only the last block of a decoder's
    level attends."""
    out = "dec.8x8_aux_" if song else "out_"
    if song:
        yield "label.w", "map_label.weight", (8, 5), (5, 8)
        yield "label.b", "map_label.bias", (8,), (8,)
    yield from both("temb.0", "map_layer0", (32, 8))
    yield from both("temb.1", "map_layer1", (32, 32))
    if not song:
        yield "label.w", "map_label.weight", (32, 5), (5, 32)
    yield from both("stem", "enc.8x8_conv", (8, 3, 3, 3))
    yield from edm_block("enc.0", "enc.8x8_block0", 8, 8, song)
    yield from edm_block("enc.1.down", "enc.4x4_down", 8, 8, song, None, True)
    yield from edm_block("enc.2", "enc.4x4_block0", 8, 16, song, "enc.2.att")
    yield from edm_block("mid.0", "dec.4x4_in0", 16, 16, song, "mid.1.att")
    yield from edm_block("mid.2", "dec.4x4_in1", 16, 16, song)
    yield from edm_block("dec.0", "dec.4x4_block0", 32, 16, song, not song and "dec.0.att")
    yield from edm_block("dec.1", "dec.4x4_block1", 24, 16, song, "dec.1.att")
    yield from edm_block("dec.1.up", "dec.8x8_up", 16, 16, song, None, True)
    yield from edm_block("dec.2", "dec.8x8_block0", 24, 8, song)
    yield from edm_block("dec.3", "dec.8x8_block1", 16, 8, song)
    yield from both("out.n", out + "norm", (8,))
    yield from both("out.c", out + "conv", (3, 8, 3, 3))


def edm_model(song, dtype="f32", prefix="model."):
    """With the constant filters, and weights of augmentation labels."""
    model = fill(edm_network(song), dtype, prefix)
    for block in ("enc.4x4_down", "dec.8x8_up"):
        for part in ("conv0", "skip"):
            name = "%s%s.%s.resample_filter" % (prefix, block, part)
            model.simple(name, "f32", (1, 1, 2, 2), [0.25] * 4)
    model.simple(prefix + "map_augment.weight", "f32", (8, 9), [1] * 72)
    return model


def edm_config(song):
    same = dict(net__out="3", pred__var="none", pred__kind="edm_F", sched__kind="edm",
                sched__sigma_data="0.5", sched__steps=None, sched__beta_start=None,
                sched__beta_end=None, net__norm__min_channels="4", net__classes="5",
                qkv__order="edm")
    if song:
        return variant(net__cond="add", net__attn__heads="1", net__attn__dec="none,last",
                       net__resample_skip_conv="1", net__label="time", **same)
    return variant(net__attn__heads=None, net__attn__head_channels="8", **same)


def edm_expected(song, prefix="model."):
    """q, k and v alternate row by row; classes are columns."""
    model, result = edm_model(song, prefix=prefix), {}
    for ours, theirs, shape, kept in edm_network(song):
        values = model.values(prefix + theirs)
        if ".qkv." in ours:
            columns = math.prod(shape[1:])
            lines = [values[i:i + columns] for i in range(0, len(values), columns)]
            values = sum(lines[0::3] + lines[1::3] + lines[2::3], [])
        if ours == "label.w":
            values = values[0::5] + values[1::5] + values[2::5] + values[3::5] + values[4::5]
        result[ours] = (kept, values)
    return result


# ---- Running the converter -------------------------------------------------------------------

TMP = tempfile.TemporaryDirectory()


def path(name):
    return os.path.join(TMP.name, name)


def write(name, data):
    with open(path(name), "wb" if isinstance(data, bytes) else "w") as file:
        file.write(data)
    return path(name)


def read(name):
    with open(path(name), "rb") as file:
        return file.read()


def tool(*args):
    """(exit status, stdout, stderr) of the converter, run within this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = convert.main(list(args))
        except SystemExit as stop:
            code = stop.code or 0
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return (code, *texts)


def equal(got, want, what=""):
    assert got == want, "%s: got %r, want %r" % (what, got, want)


def listed(data, want, *args, talk=""):
    equal(tool(write("in", data), "--list", *args), (0, want, talk))


def leftovers():
    return sorted(name for name in os.listdir(TMP.name) if name.startswith("out"))


def refused(data, text, config=None, args=()):
    """The file is refused with one line that has `text`, and no output: by a conversion, and by
    --list as well unless the fault is one of the configuration or the arguments."""
    source = write("in", data) if data is not None else path("nowhere")
    out = path("out.unw")
    runs = [(source, "-o", out, "--config", write("config", config or CONFIG), *args)]
    if config is None and not args:             # a conversion may refuse the names first
        runs.append((source, "--list"))
    for run in runs:
        status, out, err = tool(*run)
        equal(status, 2, "exit status (%s)" % err.strip())
        assert err.startswith("convert.py: ") and err.count("\n") == 1 and err[-1] == "\n", err
        assert "Traceback" not in err and "internal fault" not in err, err
        equal(leftovers(), [], "files left")
    assert text in err, "%r lacks %r" % (err, text)


def converted(data, *args, config=CONFIG, talk=None):
    """Metadata and tensors of the converted file."""
    status, out, err = tool(write("in", data), "-o", path("out.unw"), "--config",
                            write("config", config), *args)
    equal((status, out), (0, ""), err)
    if talk:
        assert talk in err, err
    equal(leftovers(), ["out.unw"], "files")
    result = read_unw(read("out.unw"))
    os.unlink(path("out.unw"))
    return result


def read_unw(data):
    """Checks a weight file against the format: (metadata, {name: (dtype, shape, bytes)})."""
    (magic, version, header_size, file_size, meta_off, meta_len, index_off, index_len,
     names_off, names_len, data_off, data_len, count, align, crc, flags) = struct.unpack(
         "<8sII9Q4I", data[:104])
    equal((magic, version, header_size, flags, data[104:128]),
          (b"\x89UNW\r\n\x1a\n", 1, 128, 0, bytes(24)), "header")
    equal(file_size, len(data), "file size")
    equal(align, 64, "align")
    assert 128 <= meta_off and meta_off + meta_len <= index_off, "meta"
    assert index_off + index_len <= names_off <= data_off - names_len, "index, names"
    equal((index_len, data_off % align, data_off + data_len), (64 * count, 0, file_size))
    equal(zlib.crc32(data[:96] + bytes(4) + data[100:data_off]), crc, "head_crc")
    gaps = data[meta_off + meta_len:index_off] + data[names_off + names_len:data_off]
    equal(gaps.strip(b"\0"), b"", "gaps")
    lines = data[meta_off:meta_off + meta_len].decode("utf-8").split("\n")
    equal(lines.pop(), "", "last line")
    meta = dict(line.split("=", 1) for line in lines)
    equal([line.split("=")[0] for line in lines], sorted(meta), "order of keys")
    tensors, spans, last = {}, [], b""
    for i in range(count):
        entry = data[index_off + 64 * i:index_off + 64 * i + 64]
        off, nbytes, name_off, name_len, dtype, rank = struct.unpack("<QQIHBB", entry[:24])
        dims = struct.unpack("<4Q", entry[24:56])
        crc, zero = struct.unpack("<2I", entry[56:])
        name = data[names_off + name_off:names_off + name_off + name_len]
        assert name > last and name_off + name_len <= names_len, "order of names"
        last = name
        equal((zero, off % align, dims[rank:]), (0, 0, (1,) * (4 - rank)), name)
        equal(nbytes, math.prod(dims) * {1: 4, 2: 2, 3: 2}[dtype], name)
        assert data_off <= off and off + nbytes <= file_size, name
        raw = data[off:off + nbytes]
        equal(zlib.crc32(raw), crc, name)
        spans.append((off, off + nbytes))
        dtype = {1: "f32", 2: "f16", 3: "bf16"}[dtype]
        tensors[name.decode("ascii")] = (dtype, dims[:rank], raw)
    by_place = sorted(zip(spans, tensors))
    end = data_off
    for (start, stop), _ in by_place:
        equal((start, data[end:start].strip(b"\0")), (-(-end // 64) * 64, b""), "padding")
        end = stop
    equal([name for _, name in by_place],
          sorted(tensors, key=lambda n: spans[list(tensors).index(n)]), "places")
    meta["places"] = [name for _, name in by_place]
    return meta, tensors


# ---- Tests: reading --------------------------------------------------------------------------


def mixed(views=True):
    model = Model()
    dice = random.Random(2)
    for dtype in KINDS:
        low, high = (0, 2) if dtype == "bool" else (0, 100) if dtype == "u8" else (-100, 100)
        model.simple("t." + dtype, dtype, (2, 3, 5),
                     [dice.randrange(low, high) for _ in range(30)])
    model.simple("scalar", "f32", (), [2.5])
    model.simple("empty", "f32", (0, 3), [])
    model.simple("h", "f16", (9,), [0.0, -0.0, 2.0 ** -24, -2.0 ** -14, 65504.0, 1 / 1024, 3.0,
                                    math.inf, -math.inf])
    model.simple("b", "bf16", (5,), [1.0, -0.0, 2.0 ** -133, 3.3895313892515355e38, -math.inf])
    model.simple("d", "f64", (4,), [1.5, 2.0 ** -149, 0.25, -7.0])
    model.simple("n\u00e4me", "f32", (1,), [1.0])
    if views:
        for dtype in ("f32", "f16", "f64", "u8"):
            key = "base_" + dtype
            model.store(key, dtype, [dice.randrange(0, 200) for _ in range(720)])
            model.add(dtype + ".tied", key, (720,))
            model.add(dtype + ".tied.too", key, (720,))
            model.add(dtype + ".slice", key, (10, 3), offset=17)
            model.add(dtype + ".transposed", key, (20, 36), (1, 20))
            model.add(dtype + ".channels_last", key, (4, 20, 3, 3), (180, 1, 60, 20))
            model.add(dtype + ".permuted", key, (5, 2, 9, 8), (1, 360, 40, 5))
            model.add(dtype + ".gapped", key, (7, 11), (100, 3), 5)
            model.add(dtype + ".expanded", key, (3, 4, 5), (0, 1, 0), 700)
            model.add(dtype + ".diagonal", key, (26,), (27,))
            model.add(dtype + ".rank8", key, (2, 1, 2, 3, 1, 2, 2, 2),
                      (1, 9, 2, 40, 5, 4, 8, 16))
    return model


def test_list():
    """The exact form of a line."""
    model = Model()
    model.simple("w", "f32", (2, 3), [0, 1, 2, 3, 4, 5])
    model.simple("s", "i64", (), [7])
    want = "w\tf32\t2x3\t%08x\ns\ti64\tscalar\t%08x\n" % (
        zlib.crc32(struct.pack("<6f", 0, 1, 2, 3, 4, 5)), zlib.crc32(struct.pack("<f", 7)))
    listed(model.zip(), want)


def test_zip():
    listed(mixed().zip(), mixed().listing())


def test_zip_protocols():
    for protocol in (4, 5):
        listed(mixed().zip(protocol), mixed().listing())


def test_zip_plain_and_large():
    model = mixed()
    storages = [(k, packed(*s)) for k, s in model.storages.items()]
    for change in (dict(flags=0), dict(large=True), dict(flags=0, large=True)):
        entries = zip_entries(model.body(Asm()), storages)
        for entry in entries:
            entry.__dict__.update(change)
        listed(zip_bytes(entries), model.listing())
        if not change.get("large"):
            listed(zip_bytes(entries, large=False), model.listing())
    entries = zip_entries(model.body(Asm()), storages)
    entries += [Entry("archive/byteorder", b"little"), Entry("archive/.format_version", b"1"),
                Entry("archive/data/", b"")]
    listed(zip_bytes(entries[::-1]), model.listing())


def test_stream():
    listed(mixed().stream(), mixed().listing())


def test_safetensors():
    listed(mixed(False).safe(), mixed(False).listing())


def test_large_strides():
    """Tensors over the block that is held at once, with the block made small."""
    block, chunk = convert.BLOCK, convert.CHUNK
    convert.BLOCK, convert.CHUNK = 64, 16
    try:
        listed(mixed().zip(), mixed().listing())
        listed(mixed().stream(), mixed().listing())
    finally:
        convert.BLOCK, convert.CHUNK = block, chunk


def test_pickle_forms():
    """A module's state dict, parameters, shared objects, Python 2's OrderedDict, untyped."""
    asm = Asm()
    data = [("0", struct.pack("<3f", 1, 2, 3))]
    line = "a\tf32\t3\t%08x\n" % zlib.crc32(data[0][1])
    tensor = asm.tensor(asm.storage("FloatStorage", "0", 3), (3,))
    state = asm.dict([("_metadata", asm.ordered())])
    listed(zip_file(asm.dict([("a", tensor)], asm.ordered()) + state + b"b", data), line)
    parameter = asm.name("torch._utils", "_rebuild_parameter") + asm.tuple(
        tensor, asm.number(True), asm.ordered()) + b"R"
    listed(zip_file(asm.dict([("a", parameter)]), data), line)
    shared = b"}" + asm.text("a") + tensor + b"r\0\1\0\0" + b"s" + asm.text("b") \
        + b"j\0\1\0\0" + b"s"
    listed(zip_file(shared, data), line + "b" + line[1:])
    pairs = b"](" + b"](" + asm.text("a") + tensor + b"e" + b"e"
    listed(zip_file(asm.name("collections", "OrderedDict") + pairs + b"\x85R", data), line)
    listed(zip_file(asm.dict([("a", asm.tensor(asm.storage("FloatStorage", "0", 3), (3,),
                                               tail=b"}"))]), data), line)
    untyped = asm.storage("UntypedStorage", "0", 12, "torch.storage")
    v3 = asm.name("torch._utils", "_rebuild_tensor_v3") + b"(" + untyped + asm.number(1) \
        + asm.numbers((2,)) + asm.numbers((1,)) + b"\x89" + asm.ordered() \
        + asm.name("torch", "float32") + b"tR"
    listed(zip_file(asm.dict([("a", v3)]), data),
           "a\tf32\t2\t%08x\n" % zlib.crc32(data[0][1][4:]))


def test_float64_beyond_float32():
    model = Model()
    model.simple("d", "f64", (3,), [1e300, -1e39, 3.4028235677973362e38])
    got = struct.pack("<3f", math.inf, -math.inf, 3.4028234663852886e38)
    listed(model.zip(), "d\tf64\t3\t%08x\n" % zlib.crc32(got))


# ---- Tests: entries and names ----------------------------------------------------------------


def test_entries():
    model = fill(network())

    def training(asm, model):
        """{step, optimizer, net, ema}: `ema` must win, the optimizer must not be searched."""
        zeros = asm.dict([("x", asm.tensor(asm.storage("FloatStorage", "0", 256), (4, 2)))])
        state = asm.dict([("state", b"}" + asm.number(0) + zeros + b"s"),
                          ("lr", b"G" + bytes(8)), ("betas", asm.tuple(b"N", b"N"))])
        return asm.dict([("step", asm.number(10**12)), ("optimizer", state), ("net", zeros),
                         ("ema", model.body(asm)), ("model", asm.text("unet"))])

    data = model.zip(wrap=training)
    listed(data, model.listing(), talk="convert.py: took the entry 'ema'\n")
    first = struct.pack("<8f", *model.values("time_embed.0.weight")[:8])
    listed(data, "x\tf32\t4x2\t%08x\n" % zlib.crc32(first), "--entry", "net")
    meta, tensors = converted(data, talk="took the entry 'ema'")
    equal((meta["info.entry"], len(tensors)), ("ema", len(model.tensors)))
    meta, _ = converted(data, "--entry", "ema")
    equal(meta["info.entry"], "ema")
    refused(data, "missing", args=("--entry", "net"))
    refused(data, "no dictionary of tensors under 'optimizer' (there are: 'net', 'ema')",
            args=("--entry", "optimizer"))
    refused(data, "under 'nothing'", args=("--entry", "nothing"))
    odd = model.zip(wrap=lambda asm, m: asm.dict([("generator", m.body(asm))]))
    refused(odd, "--entry (there are: 'generator')")
    listed(odd, model.listing(), "--entry", "generator")
    equal(converted(model.zip())[0]["info.entry"], "top level")


def test_prefixes_and_buffers():
    model = fill(network(), prefix="module.model.diffusion_model.")
    for name in ("module.u", "module.sqrt_alphas_cumprod", "module.sqrt_1m_alphas_cumprod"):
        model.simple(name, "f32", (4,), [1, 2, 3, 4])
    _, tensors = converted(model.zip())
    equal(sorted(tensors), sorted(part[0] for part in network()))
    model.simple("module.extra", "f32", (1,), [0])
    refused(model.zip(), "missing: time_embed.0.weight", config=CONFIG)
    model = fill(network())
    model.simple("u", "i64", (4,), [1, 2, 3, 4])
    refused(model.zip(), "buffer u", config=CONFIG)


def expected(parts, model, order="legacy"):
    result = {}
    for ours, theirs, shape, kept in parts:
        values = sum(map(model.values, theirs.split()), [])
        if ".att.qkv." in ours and order == "legacy":
            values = new_order(values, math.prod(shape[1:]))
        result[ours] = (kept, values)
    return result


def compare(tensors, want, dtype):
    equal(sorted(tensors), sorted(want))
    for name, (shape, values) in want.items():
        equal(tensors[name], (dtype, shape, packed(dtype, values)), name)


# ---- Tests: conversion -----------------------------------------------------------------------


def test_conversion():
    """All containers and dtypes in, all dtypes out; the numbers are exact in every dtype."""
    parts = list(network())
    for dtype in ("f32", "f16", "bf16", "f64"):
        model = fill(parts, dtype)
        want = expected(parts, model)
        for data in (model.zip(), model.stream(), model.safe()):
            for option in (None, "f32", "f16", "bf16"):
                meta, tensors = converted(data, *(["--dtype", option] if option else []))
                compare(tensors, want, option or ("f32" if dtype == "f64" else dtype))
                equal(meta["places"], [part[0] for part in parts], "order of execution")


def test_small_chunks():
    """Nothing depends on where the values are cut."""
    chunk, parts = convert.CHUNK, list(network())
    model = fill(parts)
    convert.CHUNK = 40
    try:
        for dtype in ("f32", "f16", "bf16"):
            compare(converted(model.zip(), "--dtype", dtype)[1], expected(parts, model), dtype)
    finally:
        convert.CHUNK = chunk


def test_metadata():
    data = fill(network()).zip()
    meta, _ = converted(data)
    want = """
        data.channels=rgb data.max=1 data.min=-1 data.scale=1 data.shift=0 format.kind=unet2d
        info.entry=top info.params=36918 info.source=in net.attn.dec=none,all
        net.attn.enc=none,all net.attn.heads=2 net.attn.mid=1 net.attn.mid_norm=1 net.base=8
        net.blocks=1 net.classes=0 net.cond=scale_shift net.down_pad=sym net.emb=32
        net.image_size=8 net.in=3 net.mult=1,2 net.norm.eps=0.00001 net.norm.groups=4
        net.norm.min_channels=1 net.out=6 net.resample=res net.resample_skip_conv=0
        net.residual_scale=1 net.stem=8 net.temb.freq_shift=0 net.temb.max_period=10000
        net.temb.order=cos_sin pred.channels=3 pred.kind=eps pred.var=learned_range
        sched.beta_end=0.02 sched.beta_start=0.0001 sched.kind=linear sched.steps=1000 t.scale=1
    """
    want = dict(word.split("=") for word in want.split())
    want["info.entry"] = "top level"
    want["info.params"] = str(sum(math.prod(part[2]) for part in network()))
    want["info.source_sha256"] = hashlib.sha256(data).hexdigest()
    want["info.license"] = "see the publisher of the checkpoint"
    want["info.converter"] = "diffinv convert.py 1"
    meta.pop("places")
    equal(meta, want)
    more = CONFIG + "net.residual_scale=0.70710678118654752440\ninfo.license=mine \u00a9\n" \
        "net.norm.eps=1e-6\nt.scale=12.50e2\ndata.shift=-0\n"
    meta, _ = converted(data, config=more)
    equal([meta[k] for k in ("net.residual_scale", "info.license", "net.norm.eps", "t.scale",
                             "data.shift")],
          ["0.707106781186548", "mine \u00a9", "0.000001", "1250", "0"])


def variant(**changes):
    lines = [line for line in CONFIG.split("\n")
             if line.split("=")[0].strip() not in [k.replace("__", ".") for k in changes]]
    lines += ["%s=%s" % (k.replace("__", "."), v) for k, v in changes.items() if v]
    return "\n".join(lines)


def test_kinds_of_network():
    """Resampling by convolution, pooling; additive conditioning, classes, heads, qkv orders."""
    kinds = ("conv", 2, 0), ("pool", 1, 0), ("res", 1, 5), ("conv", 1, 3)
    for kind, double, classes in kinds:
        parts = list(network(kind, double, classes))
        model = fill(parts)
        config = variant(net__resample=kind, net__cond="add" if double == 1 else "scale_shift",
                         net__classes=str(classes))
        meta, tensors = converted(model.zip(), config=config)
        compare(tensors, expected(parts, model), "f32")
        equal(meta["places"], [part[0] for part in parts])
        refused(model.zip(), "does not fit config", config=CONFIG)
    parts = list(network())
    model = fill(parts)
    for config in (variant(net__attn__heads=None, net__attn__head_channels="8"),
                   variant(net__attn__heads="2", net__attn__heads_dec="2")):
        compare(converted(model.zip(), config=config)[1], expected(parts, model), "f32")
    for config in (variant(qkv__order="new"), variant(qkv__order=None, net__attn__heads="1")):
        compare(converted(model.zip(), config=config)[1], expected(parts, model, "new"), "f32")
    meta, tensors = converted(model.zip(), config=variant(net__attn__heads_dec="1"))
    want = expected(parts, model)
    for name, theirs, _, _ in parts:
        if name.startswith("dec.") and ".qkv." in name:     # one head: legacy is new
            want[name] = (want[name][0], model.values(theirs))
    compare(tensors, want, "f32")


def test_diffusers():
    """Both spellings, matrices of rank 2, 3 and 4, all dtypes; q, k, v one below the other."""
    config = json.dumps(DIFFUSERS)
    for how in ((QKV, PROJ, ()), (OLD_QKV, OLD_PROJ, ()), (QKV, PROJ, (1,)),
                (OLD_QKV, OLD_PROJ, (1, 1))):
        parts = list(diffusers_network(*how))
        for dtype in ("f32", "f16"):
            model = fill(parts, dtype)
            for data in (model.zip(), model.safe()):
                meta, tensors = converted(data, config=config)
                compare(tensors, expected(parts, model, "new"), dtype)
                equal(meta["places"], [part[0] for part in parts], "order of execution")
    by_hand = variant(
        net__out="3", net__cond="add", net__resample="conv", net__attn__heads="1",
        net__norm__eps="1e-6", net__temb__freq_shift="1", net__temb__order="sin_cos",
        net__down_pad="end", pred__var="fixed_small", qkv__order="new")
    told = converted(data, config=by_hand)[0]
    equal(meta, told, "config.json")
    assert "net.center" not in meta and "net.mid_scale" not in meta
    refused(data, "qkv.order=edm: the checkpoint is a network of diffusers", by_hand.replace(
        "qkv.order=new", "qkv.order=edm"))


def test_diffusers_mismatches():
    parts = list(diffusers_network(QKV, PROJ, ()))
    config = json.dumps(DIFFUSERS)
    for change, text in (
            (lambda m: m.tensors.pop("mid_block.attentions.0.to_k.bias"),
             "1 missing: mid_block.attentions.0.to_k.bias\n"),
            (lambda m: m.add("mid_block.attentions.0.to_k.weight", "0", (16, 8)),
             "mid_block.attentions.0.to_k.weight (16x8, not 16x16)\n"),
            (lambda m: m.simple("mid_block.attentions.0.to_v.bias", "f16", (16,), [0] * 16),
             "mid_block.attentions.0.to_v.bias (of dtype f16)\n"),
            (lambda m: m.add("mid_block.attentions.0.query.bias", "0", (16,)),
             "1 surplus: mid_block.attentions.0.query.bias\n"),
            (lambda m: m.add("time_proj.weight", "0", (4,)), "a fourier or learned time")):
        model = fill(parts)
        change(model)
        refused(model.zip(), text, config)


def test_diffusers_config():
    """What the fields become, and what is refused by its name."""
    def meta(**fields):
        return randomly("--config", write("config", json.dumps(dict(DIFFUSERS, **fields))))[0]
    for fields, want in (
            (dict(sample_size=[16, 16], center_input_sample=True, num_class_embeds=7),
             "net.image_size=16 net.center=1 net.classes=7"),
            (dict(mid_block_scale_factor=2 ** 0.5, out_channels=6),
             "net.mid_scale=0.707106781186548 net.out=6 pred.var=learned_range"),
            (dict(resnet_time_scale_shift="scale_shift", attention_head_dim=4),
             "net.cond=scale_shift net.attn.mid_norm=0 net.attn.head_channels=4"),
            (dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4),
             "net.cond=scale_shift net.attn.mid_norm=1"),
            (dict(down_block_types=["AttnDownBlock2D", "DownBlock2D"], downsample_type="resnet",
                  upsample_type="resnet"),
             "net.resample=res net.attn.enc=all,none net.attn.dec=none,all"),
            (dict(block_out_channels=[8, 20], time_embedding_dim=64, downsample_padding=1,
                  add_attention=False), "net.mult=1,2.5 net.emb=64 net.down_pad=sym "
             "net.attn.mid=0"),
            (dict(block_out_channels=[12, 16]), "net.mult=1,1.33333333333334"),
            (dict(block_out_channels=[8], down_block_types=["DownBlock2D"],
                  up_block_types=["UpBlock2D"]), "net.resample=none net.mult=1")):
        lines = meta(**fields)
        for word in want.split():
            equal("%s=%s" % (word.split("=")[0], lines.get(word.split("=")[0])), word)
    for field, values in {
            "time_embedding_type": ["fourier", "learned", None],
            "class_embed_type": ["identity"], "downsample_type": ["fir", None],
            "mid_block_type": [None], "act_fn": ["gelu"], "sample_size": [None, [8, 9], 0, "8"],
            "resnet_time_scale_shift": ["ada_group"], "attn_norm_num_groups": [2],
            "freq_shift": [2, True], "downsample_padding": [2],
            "upsample_type": ["resnet"], "down_block_types": [["SkipDownBlock2D"] * 2, 4],
            "up_block_types": [["UpBlock2D"], ["AttnUpBlock2D", "KUpBlock2D"]],
            "block_out_channels": [[], [8, -8], [8, 16.0], "8"], "norm_num_groups": [None],
            "mid_block_scale_factor": [0, "1", True], "norm_eps": [None], "in_channels": [None],
            "center_input_sample": [1], "_class_name": ["UNet2DConditionModel"],
            "cross_attention_dim": [8], "attention_head_dim": [[8, 8], 0]}.items():
        for value in values:
            text = json.dumps(dict(DIFFUSERS, **{field: value}))
            refused(b"", field, text)
    refused(b"", "not JSON", "{]")
    refused(b"", "duplicate field 'a'", '{"a": 1, "a": 1}')
    refused(b"", "nested", '{"a":' + "[" * 100000)


def test_edm():
    for song in (True, False):
        parts, config = list(edm_network(song)), edm_config(song)
        for prefix in ("", "model."):
            want = edm_expected(song, prefix)
            for dtype in ("f32", "f64"):
                model = edm_model(song, dtype, prefix)
                model.simple("u", "f32", (3,), [2, 1, 0])
                meta, tensors = converted(model.zip(), config=config)
                compare(tensors, want, "f32")
                equal(meta["places"], [part[0] for part in parts], "order of execution")
        equal((meta["sched.kind"], meta["pred.kind"], meta.get("net.label")),
              ("edm", "edm_F", "time" if song else None))
    refused(edm_model(False).zip(), "qkv.order=new: the checkpoint is a network of EDM",
            config.replace("qkv.order=edm", "qkv.order=new"))
    refused(edm_model(False).zip(), "enc.16x16_conv.weight",
            config.replace("image_size=8", "image_size=16"))
    model = edm_model(False)
    model.tensors.pop("model.map_label.weight")
    model.add("model.map_label.weight", "0", (8, 5))
    refused(model.zip(), "1 of wrong shape: map_label.weight (8x5, not 32x5)", config)


def test_edm_refusals():
    """Other filters, embeddings and encoders than those the reader knows."""
    name = "model.enc.4x4_down.conv0.resample_filter"
    for size, values, text in (((1, 1, 2, 2), [0.25, 0.25, 0.25, 0.5], "filter [1,1]"),
                               ((1, 1, 4, 4), [1 / 64] * 16, "(1x1x4x4): not the filter"),
                               ((4,), [0.25] * 4, "not the filter")):
        model = edm_model(True)
        model.simple(name, "f32", size, values)
        refused(model.zip(), text, edm_config(True))
    for name, text in (("map_noise.freqs", "fourier time embedding"),
                       ("enc.4x4_aux_down.resample_filter", "skip or residual encoder"),
                       ("enc.4x4_aux_skip.weight", "skip or residual encoder"),
                       ("enc.4x4_aux_residual.weight", "skip or residual encoder"),
                       ("dec.8x8_aux_up.resample_filter", "skip or residual encoder"),
                       ("enc.4x4_block1.norm0.weight", "1 surplus: enc.4x4_block1.norm0")):
        model = edm_model(True)
        model.simple("model." + name, "f32", (1, 1, 2, 2), [0.25] * 4)
        refused(model.zip(), text, edm_config(True))
    model = edm_model(True)
    model.tensors.pop("model.dec.8x8_up.skip.weight")
    refused(model.zip(), "1 missing: dec.8x8_up.skip.weight", edm_config(True))


def test_qkv_orders_of_four_rows():
    """C = 4, 2 heads: row r of the bias holds 10 r; the orders are written out."""
    tensor = convert.Tensor(None, "f32", 0, (12,), (1,))
    orders = {"legacy": [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11],
              "new": list(range(12)),
              "edm": [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]}
    for order, want in orders.items():
        view = convert.new_order(tensor, 2, order)
        got = [sum(i * s for i, s in zip(index, view.stride))
               for index in itertools.product(*map(range, view.size))]
        equal(got, want, order)


def test_strided_weights():
    """Weights stored channels-last, and qkv as a transposed view, come out in plain order."""
    parts = list(network())
    model = fill(parts)
    want = expected(parts, model)
    for _, theirs, shape, _ in parts:
        key, size, _, _ = model.tensors[theirs]
        values = model.values(theirs)
        if len(shape) == 4:
            o, i, k, _ = shape
            stride = (i * k * k, 1, k * i, i)
        elif len(shape) == 3:
            stride = (1, shape[0], 1)
        else:
            continue
        stored = [0] * len(values)
        for value, index in zip(values, itertools.product(*map(range, shape))):
            stored[sum(a * b for a, b in zip(index, stride))] = value
        model.store(key, "f32", stored)
        model.add(theirs, key, shape, stride)
    for dtype in ("f32", "bf16"):
        compare(converted(model.zip(), "--dtype", dtype)[1], want, dtype)


ROUNDING = [        # float32, float16, bfloat16 (bits); ties go to even
    (0x3F800000, 0x3C00, 0x3F80), (0xBF800000, 0xBC00, 0xBF80), (0x80000000, 0x8000, 0x8000),
    (0x3F801000, 0x3C00, 0x3F80), (0x3F803000, 0x3C02, 0x3F80), (0x3F801001, 0x3C01, 0x3F80),
    (0x3F800FFF, 0x3C00, 0x3F80), (0x3F808000, 0x3C04, 0x3F80), (0x3F818000, 0x3C0C, 0x3F82),
    (0x3F808001, 0x3C04, 0x3F81), (0x3F807FFF, 0x3C04, 0x3F80), (0xBF818000, 0xBC0C, 0xBF82),
    (0x3FFFFFFF, 0x4000, 0x4000), (0x477FE000, 0x7BFF, 0x4780), (0x477FEFFF, 0x7BFF, 0x4780),
    (0xC77FEFFF, 0xFBFF, 0xC780), (0x33800000, 0x0001, 0x3380), (0x33000000, 0x0000, 0x3300),
    (0x33000001, 0x0001, 0x3300), (0x33C00000, 0x0002, 0x33C0), (0x38800000, 0x0400, 0x3880),
    (0x387FC000, 0x03FF, 0x3880), (0x387FE000, 0x0400, 0x3880), (0x00008000, 0x0000, 0x0000),
    (0x00018000, 0x0000, 0x0002), (0x807FFFFF, 0x8000, 0x8080), (0x00000001, 0x0000, 0x0000),
]
SPECIAL = [(0x7F800000, 0x7C00, 0x7F80), (0xFF800000, 0xFC00, 0xFF80),
           (0x7FC00000, 0x7E00, 0x7FC0)]


def special_net(bits):
    """The network with these float32 bits at the start of the stem's weights."""
    model = fill(network())
    stem = model.tensors["input_blocks.0.0.weight"][0]
    raw = {k: packed(*s) for k, s in model.storages.items()}
    head = struct.pack("<%dI" % len(bits), *bits)
    raw[stem] = head + raw[stem][len(head):]
    return zip_file(model.body(Asm()), list(raw.items()))


def test_rounding():
    for table in (ROUNDING, ROUNDING + SPECIAL):    # the second goes element by element
        data = special_net([row[0] for row in table])
        for column, dtype in ((1, "f16"), (2, "bf16")):
            _, tensors = converted(data, "--dtype", dtype)
            got = struct.unpack("<%dH" % len(table), tensors["stem.w"][2][:2 * len(table)])
            for row, bits in zip(table, got):
                equal(hex(bits), hex(row[column]), "%s of %08x" % (dtype, row[0]))
    _, tensors = converted(special_net([0x7F800001]), "--dtype", "bf16")
    equal(tensors["stem.w"][2][:2], b"\xC0\x7F", "a signalling NaN stays a NaN")
    _, tensors = converted(special_net([0x7F7F7FFF]), "--dtype", "bf16")
    equal(tensors["stem.w"][2][:2], b"\x7F\x7F", "the largest")


def test_overflow():
    for bits, dtype in ((0x477FF000, "f16"), (0xC77FF000, "f16"), (0x7F7F8000, "bf16"),
                        (0xFF7FFFFF, "bf16")):
        for more in ([], [0x7F800000]):
            refused(special_net([bits] + more), "input_blocks.0.0.weight (stem.w) holds a "
                    "value beyond the range of " + dtype, args=("--dtype", dtype))
    model = fill(network(), "f64")
    model.storages[model.tensors["out.2.bias"][0]][1][2] = 1e39
    refused(model.zip(), "out.2.bias (out.c.b) holds a value beyond the range of f32",
            config=CONFIG)


def test_damaged_weights():
    """A flipped bit among the weights is found while they are copied."""
    model = fill(network())
    data, raw = model.zip(), packed("f32", model.values("middle_block.2.out_layers.3.weight"))
    at = data.index(raw) + 1000
    refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:], "does not match its checksum",
            config=CONFIG)


def test_presets():
    """Each preset asks for as many tensors as the published network has."""
    model = Model()
    model.simple("x", "f32", (1,), [0])
    for name, count in (("ffhq_10m", 362), ("celebahq_p2", 362), ("imagenet256", 566),
                        ("lsun_bedroom", 566), ("portraits64", 270)):
        status, _, err = tool(write("in", model.zip()), "-o", path("out.unw"), "--preset", name)
        equal(status, 2)
        assert "does not fit preset %s: %d missing: time_embed.0" % (name, count) in err, err
        assert "and %d more; 1 surplus: x" % (count - 8) in err, err


def blur_network(base=16, front=1, back=2):
    """As network(), of a KernelWizard."""
    for i in range(3):
        yield from both("front.%d" % i, "feature_extractor.%d" % (2 * i),
                        (base, base if i else 3, 3, 3))

    def blocks(count, ours, theirs, first):
        for i in range(count):
            for k in (1, 2):
                yield from both("%s.res.%d.c%d" % (ours, i, k),
                                "%s.%d.conv%d" % (theirs, first + i, k), (base, base, 3, 3))

    yield from blocks(front, "front", "feature_extractor", 6)
    place, wide = "adapter.model.", (1, 1, 2, 4, 8, 8)
    for i in range(5):
        shape = (wide[i + 1] * base, wide[i] * base, 4, 4)
        yield "down.%d.w" % i, place + "down.%d.weight" % (i > 0), shape, shape
        place += "submodule."
    for i in reversed(range(5)):
        place = place[:-len("submodule.")]
        shape = (2 * wide[i + 1] * base, wide[i] * base, 4, 4)
        yield "up.%d.w" % i, place + "up.1.weight", shape, shape
    yield "up.0.b", "adapter.model.up.1.bias", (base,), (base,)
    yield from blocks(back, "back", "recon_trunk", 0)
    for ours, at, shape in (("up.0", 0, (4 * base, base)), ("up.1", 3, (256, base)),
                            ("mid", 6, (64, 64)), ("out", 8, (3, 64))):
        yield from both("back." + ours, "recon_trunk.%d" % (back + at), shape + (3, 3))


def test_blur():
    """The network that blurs: names, shapes, what is dropped, what is refused; its preset."""
    parts = list(blur_network())
    config = "format.kind=bkse\nnet.base=16\nnet.front=1\nnet.back=2\n"
    model = fill(parts)
    model.simple("kernel_extractor.model.1.weight", "f32", (2, 2), [1, 2, 3, 4])
    for args in ((), ("--dtype", "f16")):
        meta, tensors = converted(model.zip(), *args, config=config)
        compare(tensors, expected(parts, model), args[1] if args else "f32")
    equal({key: value for key, value in meta.items() if key[:5] != "info." and key != "places"},
          {"format.kind": "bkse", "net.in": "3", "net.base": "16", "net.front": "1",
           "net.back": "2"})
    model.simple("recon_trunk.11.weight", "f32", (1,), [1])
    refused(model.zip(), "1 surplus: recon_trunk.11.weight", config=config)
    refused(fill(parts).zip(), "missing 'net.base'", config=config.replace("net.base=16", ""))
    refused(fill(parts).zip(), "multiple of 16", config=config.replace("16", "24"))
    refused(fill(parts).zip(), "unknown key 'net.mult'", config=config + "net.mult=1\n")
    refused(fill(parts).zip(), "net.back=99: expected", config=config.replace("back=2",
                                                                              "back=99"))
    shapes = [shape for _, shape in convert.graph(convert.preset("GOPRO_wVAE"))]
    equal((sum(map(math.prod, shapes)), len(shapes)), (23662531, 145))
    equal(sorted(convert.graph(convert.preset("GOPRO_wVAE"))),
          sorted((ours, kept) for ours, _, _, kept in blur_network(64, 10, 20)))


def test_more_presets():
    """Weights and tensors of the published networks of diffusers and EDM."""
    ddpm, edm = ("conv_in.weight", (128, 3, 3, 3)), ("map_layer0.weight", (512, 128))
    for name, telltale, weights, count in (
            ("ddpm-cifar10-32", ddpm, 35746307, 328),
            ("ddpm-celebahq-256", ddpm, 113673219, 450),
            ("ddpm-church-256", ddpm, 113673219, 450), ("blackhole-50k", edm, 20041217, 200),
            ("ns-5m", edm, 26790785, 306), ("fwi-5m", edm, 26790785, 306),
            ("inv-scatter-5m", edm, 26790785, 306), ("mri-knee", edm, 26002050, 288),
            ("mri-brain", edm, 26002050, 288)):
        shapes = [shape for _, shape in convert.graph(convert.preset(name))]
        equal(sum(map(math.prod, shapes)), weights, name)
        model = Model()
        model.simple(telltale[0], "f32", telltale[1], [0] * math.prod(telltale[1]))
        status, _, err = tool(write("in", model.zip()), "-o", path("out.unw"), "--preset", name)
        equal(status, 2)
        assert "does not fit preset %s: %d missing: " % (name, count - 1) in err, err
        assert "surplus" not in err and "wrong" not in err, err


def test_shipped_prior():
    with open(os.path.join(ROOT, "weights", "portraits64.unw"), "rb") as file:
        meta, tensors = read_unw(file.read())
    equal((len(tensors), meta["info.params"]), (270, "6286403"))
    equal({dtype for dtype, _, _ in tensors.values()}, {"f16"})
    assert "CC BY 3.0" in meta["info.license"]


# ---- Tests: random weights -------------------------------------------------------------------


def randomly(*args):
    """Metadata, tensors and bytes of a file of random weights."""
    status, out, err = tool("--random", "-o", path("out.unw"), *args)
    equal((status, out), (0, ""), err)
    equal(leftovers(), ["out.unw"], "files")
    data = read("out.unw")
    os.unlink(path("out.unw"))
    return (*read_unw(data), data)


def floats(tensor):
    dtype, _, raw = tensor
    if dtype == "bf16":
        raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
    return struct.unpack("<%d%s" % (len(raw) // (2 if dtype == "f16" else 4),
                                    "e" if dtype == "f16" else "f"), raw)


def test_random_networks():
    """The names, shapes and order of a conversion; other metadata but for info.* the same."""
    for kind, double, classes, changes in (("res", 2, 0, {}), ("conv", 1, 5, dict(
            net__resample="conv", net__cond="add", net__classes="5"))):
        parts = list(network(kind, double, classes))
        text = variant(**changes)
        want, _ = converted(fill(parts).zip(), config=text)
        meta, tensors, _ = randomly("--config", write("config", text))
        equal({name: value[:2] for name, value in tensors.items()},
              {ours: ("f32", kept) for ours, _, _, kept in parts})
        told, known = ({key: value for key, value in lines.items() if key[:5] != "info."}
                       for lines in (meta, want))
        equal(told, known)
        equal((meta["info.params"], meta["info.source"], meta["info.license"]),
              (want["info.params"], "random weights, seed 0", "none: random numbers"))
        randomly("--config", write("config", text.replace("qkv.order=legacy", "")))


def test_random_values():
    """Unit gain, norms near 1, nothing zero, nothing twice; larger than a tile and a chunk."""
    wide = variant(net__base="96", net__blocks="2", net__norm__groups="32")
    _, tensors, _ = randomly("--config", write("config", wide))
    assert max(math.prod(shape) for _, shape, _ in tensors.values()) > 40 * convert.POOL
    assert len({raw[:32] for _, _, raw in tensors.values()}) == len(tensors), "two are the same"
    for name, tensor in tensors.items():
        values, columns = floats(tensor), math.prod(tensor[1][1:])
        std = columns ** -0.5 if name.endswith(".w") else 0.1
        middle = 1 if name.endswith(".g") else 0
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - middle) ** 2 for v in values) / len(values))
        few = min(len(values), convert.POOL) ** -0.5
        assert abs(mean - middle) < 6 * std * few, (name, mean)
        assert abs(spread / std - 1) < 4 * few, (name, spread, std)
        if name.endswith(".w"):
            rows = [values[i:i + columns] for i in range(0, len(values), columns)]
            equal(len(set(rows)), len(rows), name)
            assert all(any(row) for row in rows), name


def test_random_seeds_and_dtypes():
    config = write("config", CONFIG)
    _, tensors, data = randomly("--config", config)
    equal(hashlib.sha256(tensors["enc.2.att.qkv.w"][2]).hexdigest()[:16],
          "dca0552d9a984788", "bits")
    equal(randomly("--config", config, "--seed", "0")[2], data)
    meta, others, _ = randomly("--config", config, "--seed", "7")
    equal(meta["info.source"], "random weights, seed 7")
    assert all(others[name][2] != tensors[name][2] for name in tensors)
    for dtype, step in (("f16", 2.0 ** -11), ("bf16", 2.0 ** -8)):
        _, rounded, _ = randomly("--config", config, "--dtype", dtype)
        for name, tensor in tensors.items():
            equal(rounded[name][:2], (dtype, tensor[1]))
            assert all(abs(a - b) <= step * max(abs(b), 2.0 ** -14)
                       for a, b in zip(floats(rounded[name]), floats(tensor))), name


def test_random_usage():
    config, out = write("config", CONFIG), path("out.unw")
    whole = ("--random", "-o", out, "--config", config)
    for args in (("--random",), whole[:3], ("--random", "--config", config), ("in", *whole),
                 (*whole, "--list"), (*whole, "--entry", "ema"), (*whole, "--seed", "-1"),
                 (*whole, "--seed", "x"), (*whole, "--preset", "ffhq_10m"),
                 (*whole, "--dtype", "f64"), ("-o", out, "--config", config, "--seed", "1"),
                 ("--random", "-o", out, "--preset", "nothing")):
        status, text, err = tool(*args)
        equal((status, text, leftovers()), (1, "", []), args)
        assert err.startswith("convert.py: ") and err.count("\n") == 1, err
    status, _, err = tool(*whole[:4], write("config", variant(net__norm__groups="3")))
    equal((status, leftovers()), (2, []))
    assert "do not divide into 3 groups" in err, err


# ---- Tests: refusals -------------------------------------------------------------------------


def test_mismatches():
    parts = list(network())
    for change, text in (
            (lambda m: m.tensors.pop("out.2.bias"), "1 missing: out.2.bias\n"),
            (lambda m: m.add("extra.weight", "0", (1,)), "1 surplus: extra.weight\n"),
            (lambda m: m.add("out.0.bias", "0", (9,)),
             "1 of wrong shape: out.0.bias (9, not 8)\n"),
            (lambda m: m.add("middle_block.1.qkv.weight", "0", (4, 8, 2)),
             "middle_block.1.qkv.weight (4x8x2, not 48x16)"),
            (lambda m: (m.store("i", "i64", [0] * 8), m.add("out.0.bias", "i", (8,))),
             "out.0.bias (of dtype i64)"),
            (lambda m: [m.tensors.pop(n) for n in list(m.tensors)[:20]], "and 12 more")):
        model = fill(parts)
        change(model)
        refused(model.zip(), text, config=CONFIG)
    model = fill(parts)
    model.tensors.pop("out.2.bias")
    model.add("a", "0", (1,))
    model.add("out.0.bias", "0", (9,))
    refused(model.zip(), "does not fit config 'config': 1 missing: out.2.bias; 1 surplus: a; "
            "1 of wrong shape: out.0.bias (9, not 8)", config=CONFIG)
    for name, text in (("conv_in.weight", "a network of diffusers, whose order is new"),
                       ("map_layer0.weight", "a network of EDM, whose order is edm")):
        model = Model()
        model.simple(name, "f32", (1,), [0])
        refused(model.zip(), text, config=CONFIG)
    for changes, text in ((dict(net__base="16"), "time_embed.0.weight (32x8, not 64x16)"),
                          (dict(net__blocks="2"), "input_blocks.4.0"),
                          (dict(net__cond="add"), "emb_layers.1.weight (16x32, not 8x32)"),
                          (dict(net__attn__enc="all,all"), "input_blocks.1.1.norm.weight"),
                          (dict(net__classes="3"), "missing: label_emb.weight"),
                          (dict(net__resample="conv"), "missing: input_blocks.2.0.op.weight")):
        refused(fill(parts).zip(), text, config=variant(**changes))


def test_config_faults():
    data = fill(network()).zip()
    for config, text in (
            ("net.base=8", "missing net.attn.dec, net.attn.enc"),
            (CONFIG + "net.bsae=8", "unknown key 'net.bsae'; net.base?"),
            (CONFIG + "net.base=9", "line 22: duplicate key 'net.base'"),
            (CONFIG + "hello", "line 22: not key=value"),
            (variant(net__in="3.5"), "net.in=3.5: expected an integer from 1 to 65536"),
            (CONFIG + "net.norm.eps=nan", "net.norm.eps=nan: expected a decimal number"),
            (CONFIG + "net.norm.eps=1e-30", "net.norm.eps=1e-30"),
            (CONFIG + "t.scale=1e999", "t.scale=1e999"),
            (CONFIG + "info.license=", "info.license"),
            (CONFIG + "info.params=3", "unknown key 'info.params'"),
            (CONFIG + "sched.sigma_data=1", "sched.sigma_data does not go with sched.kind=lin"),
            (CONFIG + "pred.channels=4", "net.out=6 does not fit pred.channels=4"),
            (variant(pred__var="fixed_small"), "net.out=6 does not fit"),
            (variant(net__attn__heads=None), "one of net.attn.heads and"),
            (CONFIG + "net.attn.head_channels=8", "one of net.attn.heads and"),
            (variant(net__attn__heads="3"), "3 heads do not divide 16"),
            (variant(net__attn__heads=None, net__attn__head_channels="5"),
             "does not divide 16"),
            (variant(net__norm__groups="3"), "do not divide into 3 groups"),
            (variant(qkv__order=None), "missing qkv.order"),
            (variant(net__attn__enc="all"), "net.attn.enc must have 2 values"),
            (variant(net__resample="res,res"), "net.resample must have 1 values"),
            (variant(net__resample="none"), "net.resample must have 1 values"),
            (variant(net__resample="up"), "net.resample=up: expected one of res, conv, pool"),
            (variant(net__image_size="9"), "net.image_size must be a multiple of 2"),
            (variant(net__mult="0.01,1"), "net.mult times net.base"),
            (variant(net__mult=",".join(["1"] * 17)), "at most 16 values"),
            (variant(sched__kind="table"), "sched.kind=table: expected one of"),
            (variant(pred__kind="edm_F"), "pred.kind=edm_F does not go with sched.kind=linear"),
            (variant(net__label="time"), "net.label goes with net.classes"),
            (variant(net__in="4", net__out="8"), "missing data.channels"),
            (CONFIG + "data.max=-1", "data.min must be below data.max")):
        refused(data, text, config=config)


def test_usage():
    source, config = write("in", fill(network()).zip()), write("config", CONFIG)
    for args in ((), (source,), (source, "--list", "-o", "x"), (source, "-o", path("out.unw")),
                 (source, "-o", path("out.unw"), "--preset", "ffhq_10m", "--config", config),
                 (source, "-o", path("out.unw"), "--preset", "nothing"), (source, "--lis"),
                 (source, "--list", "--preset", "ffhq_10m"), (source, source, "--list"),
                 (source, "-o", path("out.unw"), "--config", config, "--dtype", "f8"),
                 (source, "-o", source, "--config", config)):
        status, out, err = tool(*args)
        equal((status, out), (1, ""), args)
        assert err.startswith("convert.py: ") and err.count("\n") == 1, err
    equal(read("in"), fill(network()).zip(), "the input")
    equal(tool("--help")[0], 0)
    status, _, err = tool(source, "-o", path("out.unw"), "--config", path("nowhere"))
    equal((status, err.startswith("convert.py: config 'nowhere': cannot read")), (2, True), err)


def test_output_faults():
    data = fill(network()).zip()
    config = write("config", CONFIG)
    os.mkdir(path("directory"))
    for place in (path("directory"), path(os.path.join("nowhere", "out.unw")), os.devnull):
        status, _, err = tool(write("in", data), "-o", place, "--config", config)
        equal(status, 6, err)
        assert err.startswith("convert.py: ") and err.count("\n") == 1, err
    equal(os.listdir(path("directory")), [])
    write("out.unw", "old")                     # a failure keeps it, success replaces it
    status, _, _ = tool(write("in", data[:-1]), "-o", path("out.unw"), "--config", config)
    equal((status, read("out.unw"), leftovers()), (2, b"old", ["out.unw"]))
    converted(data)


def test_interruptions():
    """Whatever stops a conversion half-way: one line, the right status, no file left."""
    kept = convert.recode
    for fault, code, text in ((KeyboardInterrupt, 5, "interrupted"), (MemoryError, 3, "memory"),
                              (RecursionError, 2, "deeply"), (KeyError, 2, "internal")):
        calls = itertools.count()

        def stop(*args):
            if next(calls) == 40:
                raise fault
            return kept(*args)
        convert.recode = stop
        try:
            status, _, err = tool(write("in", fill(network()).zip()), "-o", path("out.unw"),
                                  "--config", write("config", CONFIG))
        finally:
            convert.recode = kept
        equal((status, leftovers(), err.count("\n")), (code, [], 1), err)
        assert err.startswith("convert.py: ") and text in err, err


def test_process():
    """The command as a user types it."""
    def command(*args, **more):
        return subprocess.run([sys.executable, TOOL, *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    model = mixed()
    source = write("in", model.zip())
    run = command(source, "--list", env=dict(os.environ, PYTHONIOENCODING="utf-8"))
    equal((run.returncode, run.stdout.decode("utf-8"), run.stderr), (0, model.listing(), b""))
    run = command(source, "--list", env=dict(os.environ, PYTHONIOENCODING="ascii"))
    equal((run.returncode, b"n\\xe4me\t" in run.stdout), (0, True))
    run = command(write("in", b"\x80\x02cos\nsystem\n(X\4\0\0\0truetR."), "--list")
    equal((run.returncode, run.stdout, run.stderr.count(b"\n")), (2, b"", 1), run.stderr)
    run = command(path("nowhere"), "--list")
    equal((run.returncode, run.stderr.count(b"\n")), (2, 1), run.stderr)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            run = subprocess.run([sys.executable, TOOL, write("in", model.zip()), "--list"],
                                 stdout=full, stderr=subprocess.PIPE)
        equal((run.returncode, run.stderr.count(b"\n")), (6, 1), run.stderr)


# ---- Hostile files ---------------------------------------------------------------------------

A = Asm()
S = Asm(stream=True)
FOUR = [("0", bytes(16))]                       # one storage of four floats
FLOATS = A.storage("FloatStorage", "0", 4)
GOOD = A.tensor(FLOATS, (4,))


def pickled(body):
    """A zip whose data.pkl is this pickle, header and STOP included."""
    return zip_bytes(zip_entries(body, FOUR, 0))


def state(tensor):
    return zip_file(A.dict([("w", tensor)]), FOUR)


def pid(*items):
    return state(A.tensor(b"(" + b"".join(items) + b"tQ", (4,)))


def good_pid(key=A.text("0"), count=A.number(4), kind=A.name("torch", "FloatStorage")):
    return pid(A.text("storage"), kind, key, A.text("cpu"), count)


def altered(change, which=1, **end):
    """The good zip with something about one entry, or the end, changed."""
    entries = zip_entries(A.dict([("w", GOOD)]), FOUR)
    entries[which].__dict__.update(change)
    return zip_bytes(entries, **end)


def extra_entry(*more, **end):
    return zip_bytes(zip_entries(A.dict([("w", GOOD)]), FOUR) + list(more), **end)


def hostile_zips():
    good = state(GOOD)
    flags = dict(flags=0)
    yield "duplicate entry", extra_entry(Entry("archive/data/0", bytes(16))), "duplicate"
    yield "duplicate data.pkl", extra_entry(Entry("archive/data.pkl", b"")), "duplicate"
    yield "encrypted", altered(dict(flags=0x0809)), "encrypted"
    yield "strong encryption", altered(dict(flags=0x0848)), "encrypted"
    yield "masked headers", altered(dict(flags=0x2808)), "encrypted"
    yield "two roots", extra_entry(Entry("other/data.pkl", b"")), "not one folder"
    yield "a file beside the root", extra_entry(Entry("data.pkl", b"")), "not one folder"
    yield "root without a name", zip_bytes(zip_entries(A.dict([("w", GOOD)]), FOUR, root="")), \
        "not one folder"
    yield "no data.pkl", zip_bytes([Entry("archive/x", b"")]), "not one folder"
    yield "name with a control character", extra_entry(Entry("archive/a\nb", b"")), "entry name"
    yield "name that is not UTF-8", extra_entry(Entry(b"archive/\xff", b"")), "entry name"
    yield "empty name", extra_entry(Entry("", b"")), "entry name"
    yield "long name", extra_entry(Entry("archive/" + "x" * 600, b"")), "entry name"
    yield "other local name", altered(dict(local=dict(name=b"archive/data/1"))), "disagrees"
    yield "other local method", altered(dict(local=dict(method=8))), "disagrees"
    yield "other local flags", altered(dict(local=dict(flags=0))), "disagrees"
    yield "other local checksum", altered(dict(flags, local=dict(crc=1))), "disagrees"
    yield "other local size", altered(dict(flags, local=dict(size=17, packed=17))), "disagrees"
    yield "no local sizes", altered(dict(flags, local=dict(size=0, packed=0))), "disagrees"
    yield "deferred but other size", altered(dict(local=dict(size=17, packed=17))), "disagrees"
    yield "no local header", altered(dict(local=dict(magic=b"PK\x03\x05"))), "disagrees"
    yield "size beyond the file", altered(dict(size=1 << 30, packed=1 << 30)), "beyond the data"
    yield "size into the directory", altered(dict(size=200, packed=200), 2), "beyond the data"
    yield "huge size", altered(dict(size=1 << 63, packed=1 << 63, large=True)), "beyond"
    yield "two sizes", altered(dict(size=17)), "two sizes"
    yield "other disk", altered(dict(disk=1)), "two sizes"
    yield "overlapping entries", altered(dict(size=64, packed=64)), "overlap"
    yield "entry beyond the file", altered(dict(offset=1 << 31)), "beyond the file"
    yield "entry at the end", altered(dict(offset=len(good) - 10)), "beyond the file"
    yield "large sizes missing", altered(dict(large=2)), "lacks its large sizes"
    yield "compressed", altered(dict(method=8)), "compressed"
    yield "unknown method", altered(dict(method=99)), "compressed"
    yield "wrong checksum", altered(dict(crc=1)), "does not match its checksum"
    yield "wrong checksum of the pickle", altered(dict(crc=1), 0), "does not match its checksum"
    yield "comment", extra_entry(tail=b"hello"), "no directory at the end"
    yield "bytes after the end", good + b"\0", "no directory at the end"
    yield "truncated by one", good[:-1], "no directory at the end"
    yield "truncated by half", good[:len(good) // 2], "no directory at the end"
    yield "only a magic", b"PK\x03\x04", "truncated"
    yield "too many entries said", extra_entry(count=5), "ends early"
    yield "too few entries said", extra_entry(count=2), "disagree"
    yield "millions of entries said", extra_entry(count=1 << 30), "too many"
    yield "two counts", extra_entry(short=2), "disagree"
    yield "directory elsewhere", extra_entry(at=10), "the directory is damaged"
    yield "directory beyond", extra_entry(at=1 << 30), "the directory is damaged"
    yield "zip64 elsewhere", extra_entry(here=10), "not where it should be"
    yield "second disk", extra_entry(large=False, disk=1), "the directory is damaged"
    yield "big-endian", extra_entry(Entry("archive/byteorder", b"big")), "big-endian"
    yield "TorchScript", extra_entry(Entry("archive/constants.pkl", b"")), "TorchScript"
    code = Entry("archive/code/a.py", b"", method=8)
    yield "TorchScript code", extra_entry(code), "TorchScript"
    missing = zip_entries(A.dict([("w", GOOD)]), [])
    yield "record missing", zip_bytes(missing), "record data/0 has no bytes"
    for size in (0, 15, 17, 32):
        entries = zip_entries(A.dict([("w", GOOD)]), [("0", bytes(size))])
        yield "record of %d" % size, zip_bytes(entries), "record data/0 has %d bytes" % size
    yield "pickle goes on", pickled(A.whole(A.dict([("w", GOOD)])) + b"."), "goes on"
    yield "pickle truncated", pickled(A.whole(A.dict([("w", GOOD)]))[:-1]), "truncated"
    yield "empty pickle", pickled(b""), "truncated"


def hostile_pickles():
    for module, name in (("os", "system"), ("builtins", "eval"), ("posix", "system"),
                         ("torch", "load"), ("torch._utils", "_rebuild_sparse_tensor"),
                         ("torch.storage", "_load_from_bytes"), ("collections", "Ordereddict"),
                         ("numpy.core.multiarray", "scalar"), ("", "")):
        call = A.name(module, name) + A.tuple(A.text("x")) + b"R"
        yield "calls %s.%s" % (module, name), state(call), "names '%s.%s'" % (module, name)
    four = Asm(4)
    for module, name in (("collections", "OrderedDict.__reduce__"), ("collections.abc", "x"),
                         ("torch", "FloatStorage.__init__"),
                         ("torch._utils", "_rebuild_tensor_v2.__globals__")):
        body = four.dict([("w", four.name(module, name))])
        yield "dotted " + name, zip_file(body, FOUR, 4), "names '%s.%s'" % (module, name)
    edm = A.name("torch_utils.persistence", "_reconstruct_persistent_obj")
    yield "EDM source", state(edm), "program source"
    yield "EDM .pkl", Asm(4).whole(Asm(4).name("torch_utils.persistence", "_reconstruct")), \
        "program source"
    yield "name of 300 letters", state(b"ctorch\n" + b"x" * 300 + b"\n"), "longer than 255"
    yield "global of numbers", state(b"K\1K\2\x93"), "no text"
    for code, what in ((b"\x81", "NEWOBJ"), (b"\x92", "NEWOBJ_EX"), (b"o", "OBJ"),
                       (b"ios\nsystem\n", "INST"), (b"\x82\1", "EXT1"), (b"\x83\1\0", "EXT2"),
                       (b"\x84\1\0\0\0", "EXT4"), (b"S'x'\n", "STRING"), (b"I1\n", "INT"),
                       (b"L1L\n", "LONG"), (b"\x8b\1\0\0\0\1", "LONG4"), (b"V x\n", "UNICODE"),
                       (b"U\1x", "SHORT_BINSTRING"), (b"T\1\0\0\0x", "BINSTRING"),
                       (b"B\1\0\0\0x", "BINBYTES"), (b"C\1x", "SHORT_BINBYTES"),
                       (b"\x8e" + b"\xff" * 8, "BINBYTES8"), (b"\x97", "NEXT_BUFFER"),
                       (b"\x8d" + b"\xff" * 8, "BINUNICODE8"),
                       (b"\x96" + b"\xff" * 8, "BYTEARRAY8"),
                       (b"P0\n", "PERSID"), (b"0", "POP"), (b"1", "POP_MARK"), (b"2", "DUP"),
                       (b"d", "DICT"), (b"l", "LIST"), (b"\x8f", "EMPTY_SET"),
                       (b"\x91", "FROZENSET"), (b"\x80\2", "PROTO again"), (b"\0", "zero")):
        yield what, state(code), "opcode 0x%02x" % code[0]
    yield "string beyond the end", state(b"X\xff\xff\0\0abc"), "truncated"
    yield "string of 4 GB", state(b"X\xff\xff\xff\xffabc"), "string of 4294967295 bytes"
    yield "string that is not UTF-8", state(b"X\1\0\0\0\xff"), "not UTF-8"
    yield "integer beyond the end", pickled(b"\x80\2\x8a\xff\1"), "truncated"
    yield "protocol 1", pickled(b"}."), "no pickle of protocol"
    yield "protocol 6", pickled(b"\x80\6}."), "no pickle of protocol"
    for code in (b"t", b"e", b"u"):
        yield "no mark for %s" % code.decode(), pickled(b"\x80\2" + code + b"."), "no mark"
    for code in (b"\x85", b"\x86", b"a", b"s", b"R", b"b", b"Q", b"q\0", b"\x94", b"\x93"):
        yield "nothing for %02x" % code[0], pickled(b"\x80\2" + code + b"."), "underflow"
        yield "mark for %02x" % code[0], pickled(b"\x80\2N(" + code + b"."), "underflow"
    yield "STOP on nothing", pickled(b"\x80\2."), "one object"
    yield "STOP on two", pickled(b"\x80\2NN."), "one object"
    yield "STOP in a mark", pickled(b"\x80\2N(."), "one object"
    yield "memo not set", state(b"h\7"), "memo 7"
    yield "append to a dictionary", pickled(b"\x80\2}Na."), "append"
    yield "items of a list", pickled(b"\x80\2]NNs."), "no dictionary"
    yield "odd items", pickled(b"\x80\2}(Nu."), "no dictionary"
    yield "build on a dictionary", state(b"}}b"), "attributes"
    yield "build on a tensor", state(GOOD + b"}b"), "attributes"
    yield "build on a global", state(A.name("collections", "OrderedDict") + b"}b"), "attributes"
    yield "call of a string", state(A.text("x") + b")R"), "no function"
    ordered = A.name("collections", "OrderedDict")
    yield "call without a tuple", state(ordered + b"]R"), "no function"
    yield "call of a storage class", state(A.name("torch", "FloatStorage") + b")R"), "arguments"
    yield "call of a dtype", state(A.name("torch", "float32") + b")R"), "arguments"
    yield "odd OrderedDict", state(ordered + b"K\1\x85R"), "arguments"
    yield "odd pairs", state(ordered + b"](K\1e\x85R"), "arguments"
    for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"):
        body = A.name("torch._utils", name) + b")R"
        yield "no arguments for " + name, state(body), "arguments"
    yield "parameter of a number", state(A.name("torch._utils", "_rebuild_parameter")
                                         + b"K\1K\1K\1\x87R"), "arguments"
    yield "key that is a tuple", pickled(b"\x80\2})Ns."), "dictionary key"
    yield "key that is a dictionary", pickled(b"\x80\2}}Ns."), "dictionary key"
    yield "duplicate key", zip_file(A.dict([("w", GOOD), ("w", GOOD)]), FOUR), "duplicate key"
    yield "marks", pickled(b"\x80\2" + b"(" * 1001), "nested deeper"
    yield "deep stack", pickled(b"\x80\2" + b"N" * ((1 << 20) + 1)), "stack deeper"
    yield "nested tuples", state(b")" + b"\x85" * 200000), "no dictionary of tensors"
    yield "nested lists", state(b"]" * 999 + b"a" * 998), "no dictionary of tensors"
    yield "list within itself", state(b"]q\0h\0a"), "no dictionary of tensors"
    yield "a number", pickled(b"\x80\2K\1."), "no dictionary of tensors"
    yield "an empty dictionary", pickled(b"\x80\2}."), "no dictionary of tensors"
    yield "a lone tensor", pickled(A.whole(GOOD)), "no dictionary of tensors"
    yield "a tensor and a number", zip_file(A.dict([("w", GOOD), ("n", b"K\1")]), FOUR), \
        "no dictionary of tensors"
    yield "numbered tensors", pickled(b"\x80\2}K\1" + GOOD + b"s."), "no dictionary of tensors"
    for name in ("", "a\nb", "a\tb", "a\x1b[2J", "x" * 256, "\u202e", "\u00e4" * 128):
        yield "tensor name %r" % name[:9], zip_file(A.dict([(name, GOOD)]), FOUR), "tensor name"


def hostile_tensors():
    yield "pid of a string", state(A.tensor(A.text("0") + b"Q", (4,))), "persistent id"
    yield "pid of 4", pid(A.text("storage"), A.name("torch", "FloatStorage"), A.text("0"),
                          A.text("cpu")), "persistent id"
    yield "pid of 6", pid(A.text("storage"), A.name("torch", "FloatStorage"), A.text("0"),
                          A.text("cpu"), A.number(4), b"N"), "persistent id"
    yield "pid of a module", pid(A.text("module"), A.name("torch", "FloatStorage"), A.text("0"),
                                 A.text("cpu"), A.number(4)), "persistent id"
    yield "pid without a class", good_pid(kind=A.text("FloatStorage")), "unknown type"
    yield "pid of a dtype", good_pid(kind=A.name("torch", "float32")), "unknown type"
    for key in ("../../etc/passwd", "", "a/b", "0" * 65, "\u0663", "0\n", "."):
        yield "storage key %r" % key[:9], good_pid(A.text(key)), "storage key"
    yield "storage key of a number", good_pid(A.number(0)), "storage key"
    for count in (-1, True, 1 << 70):
        yield "storage of %d" % count, good_pid(count=A.number(count)), "size or view"
    yield "storage of text", good_pid(count=A.text("4")), "size or view"
    half = A.storage("HalfStorage", "0", 8)
    body = A.dict([("w", GOOD), ("v", A.tensor(half, (8,)))])
    yield "storage of two types", zip_file(body, FOUR), "described twice"
    yield "tensor on a number", state(A.tensor(A.number(4), (4,))), "without a storage"
    yield "tensor on a tensor", state(A.tensor(GOOD, (4,))), "without a storage"
    yield "ranks disagree", state(A.tensor(FLOATS, (2, 2), (1,))), "disagree"
    yield "rank 9", state(A.tensor(FLOATS, (1,) * 9)), "rank 9"
    yield "negative size", state(A.tensor(FLOATS, (-1,), (1,))), "negative"
    yield "negative stride", state(A.tensor(FLOATS, (2,), (-1,), 1)), "negative"
    yield "negative offset", state(A.tensor(FLOATS, (2,), (1,), -1)), "negative"
    yield "size True", state(A.tensor(FLOATS, (True,), (1,))), "negative or unknown"
    yield "size of text", state(A.name("torch._utils", "_rebuild_tensor_v2") + b"(" + FLOATS
                                + A.number(0) + A.tuple(A.text("4")) + A.numbers((1,)) + b"\x89"
                                + A.ordered() + b"tR"), "negative or unknown"
    yield "one too many", state(A.tensor(FLOATS, (5,))), "reaches element 4 of 4"
    yield "offset too far", state(A.tensor(FLOATS, (4,), (1,), 1)), "reaches element 4 of 4"
    yield "stride too far", state(A.tensor(FLOATS, (2, 2), (3, 1))), "reaches element 4 of 4"
    yield "offset of a scalar", state(A.tensor(FLOATS, (), (), 4)), "reaches element 4 of 4"
    yield "huge stride", state(A.tensor(FLOATS, (2,), (1 << 61,))), "reaches element"
    yield "memory bomb", state(A.tensor(FLOATS, (1 << 25,), (0,))), "too many"
    yield "huge product", state(A.tensor(FLOATS, (1 << 61,) * 8, (0,) * 8)), "too many"
    bombs = [("w%d" % i, A.tensor(FLOATS, (1 << 24,), (0,))) for i in range(5)]
    yield "many bombs", zip_file(A.dict(bombs), FOUR), "bytes out of a file of"
    negative = A.dict([("neg", b"\x88")])
    yield "negative view", state(A.tensor(FLOATS, (4,), tail=negative)), "extra"
    yield "attributes of text", state(A.tensor(FLOATS, (4,), tail=A.text("x"))), "extra"
    untyped = A.storage("UntypedStorage", "0", 16, "torch.storage")
    yield "untyped without a dtype", state(A.tensor(untyped, (4,))), "unknown dtype"

    def v3(storage, dtype, size=(4,)):
        return state(A.name("torch._utils", "_rebuild_tensor_v3") + b"(" + storage + A.number(0)
                     + A.numbers(size) + A.numbers(rows(size)) + b"\x89" + A.ordered() + dtype
                     + b"tR")
    yield "dtype of text", v3(untyped, A.text("float32")), "unknown dtype"
    yield "dtype that is a class", v3(untyped, A.name("torch", "FloatStorage")), "unknown dtype"
    yield "complex", v3(untyped, A.name("torch", "complex64")), "names 'torch.complex64'"
    yield "dtype on a typed storage", v3(FLOATS, A.name("torch", "float32")), "unknown dtype"
    yield "untyped too short", v3(untyped, A.name("torch", "float64"), (3,)), "element 2 of 2"


def hostile_streams():
    body = S.dict([("w", S.tensor(S.storage("FloatStorage", "0", 4), (4,)))])
    one = [("0", 4, bytes(16))]
    good = stream_file(body, one)
    yield "big-endian stream", stream_file(body, one, little=False), "little-endian"
    yield "other version", stream_file(body, one, version=1002), "unknown version"
    yield "other magic", stream_file(body, one, magic=12345), "no PyTorch checkpoint"
    yield "a plain pickle", S.whole(S.dict([("a", b"K\1")])), "no PyTorch checkpoint"
    yield "no list of keys", stream_file(body, one, keys=[]), "not those of the tensors"
    yield "unknown key", stream_file(body, one, keys=["1"]), "not those of the tensors"
    yield "surplus key", stream_file(body, one, keys=["0", "1"]), "not those of the tensors"
    yield "key twice", stream_file(body, one * 2), "not those of the tensors"
    for count in (3, 5, -1, 1 << 62):
        yield "count of %d" % count, stream_file(body, one, count=count), "elements, the pickle"
    yield "bytes after the end", good + b"\0", "1 bytes after"
    for size in (1, 16, 17, 25, 60, len(good) - 3):
        yield "stream cut by %d" % size, good[:-size], "truncated"
    view = S.tuple(S.text("storage"), S.name("torch", "FloatStorage"), S.text("0"),
                   S.text("cpu"), S.number(4),
                   S.tuple(S.text("1"), S.number(0), S.number(4))) + b"Q"
    yield "storage with a view", stream_file(S.dict([("w", S.tensor(view, (4,)))]), one), \
        "size or view"
    yield "pid of 5 in a stream", stream_file(A.dict([("w", GOOD)]), one), "persistent id"
    huge = S.dict([("w", S.tensor(S.storage("FloatStorage", "0", 1 << 61), (4,)))])
    yield "huge storage", stream_file(huge, one), "ends within"
    yield "call in a stream", stream_file(S.name("os", "system") + S.tuple(S.text("x")) + b"R",
                                          []), "names 'os.system'"


def hostile_safetensors():
    def one(data=bytes(16), **odd):
        entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
        return safe_file({"w": dict(entry, **odd)}, data)

    def raw(text, data=bytes(16), **odd):
        return safe_file(text.encode("utf-8", "surrogatepass"), data, **odd)
    shaped = '{"w":{"dtype":"F32","shape":[%s],"data_offsets":[0,16]}}'
    entry = '{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
    yield "header beyond the file", raw("{}", length=1 << 20), "not a safetensors file"
    yield "huge header", raw("{}", length=1 << 63), "not a safetensors file"
    yield "no header", raw("{}", length=0), "not JSON"
    yield "half a header", raw('{"w":' + entry + "}", length=30), "not JSON"
    yield "not JSON", raw("{]"), "not JSON"
    yield "not UTF-8", safe_file(b'{"\xff":1}', b""), "not JSON"
    yield "bytes after the JSON", raw("{} x"), "not JSON"
    yield "deep nesting", raw('{"a":' + "[" * 200000), "nested"
    yield "deep objects", raw('{"a":' * 100000), "nested"
    yield "too many parts", raw('{"a":[' + "[]," * 600000 + "[]]}"), "too many parts"
    yield "duplicate name", raw('{"w":%s,"w":%s}' % (entry, entry)), "duplicate key"
    yield "duplicate field", raw('{"w":{"dtype":"F32","dtype":"F16"}}'), "duplicate key"
    for text in ("4.0", "1e2", "NaN", "-Infinity"):
        yield "size " + text, raw(shaped % text), "where an integer belongs"
    yield "endless number", raw(shaped % ("9" * 5000)), "out of range"
    for shape in ([-4], [True], ["4"], [None], [[4]], "4", 4, {}, [1] * 9, [1 << 63, 0]):
        yield "shape %s" % (shape,), one(shape=shape), "damaged shape"
    for place in ([16, 0], [0, 15], [0, 17], [4, 16]):
        yield "place %s" % place, one(data_offsets=place), "does not fill"
    for place in ([0], [0, 16, 32], "x", None, [0, True], [-16, 0]):
        yield "place %s" % place, one(data_offsets=place), "damaged"
    yield "unknown dtype", one(dtype="F8_E4M3"), "unknown dtype 'F8_E4M3'"
    yield "dtype of a list", one(dtype=["F32"]), "unknown dtype"
    yield "shape too large", one(shape=[1 << 40, 1 << 40]), "does not fill"
    yield "trailing bytes", one(bytes(17)), "17 bytes of data, 16 described"
    yield "missing bytes", one(bytes(15)), "15 bytes of data, 16 described"
    yield "extra field", one(extra=1), "is not dtype, shape and data_offsets"
    yield "entry that is no object", raw('{"w":[]}'), "is not dtype, shape and data_offsets"
    yield "notes of numbers", safe_file({"__metadata__": {"a": 1}}, b""), "__metadata__"
    yield "notes that are a list", safe_file({"__metadata__": []}, b""), "__metadata__"
    for first, second, what in ([0, 8], [12, 20], "hole"), ([0, 8], [4, 12], "overlap"), \
            ([8, 16], [16, 24], "hole"), ([0, 8], [0, 8], "same"):
        header = {n: {"dtype": "F32", "shape": [2], "data_offsets": place}
                  for n, place in (("a", first), ("b", second))}
        yield what + str(first), safe_file(header, bytes(second[1])), "hole or an overlap"
    yield "lone surrogate", raw('{"\\ud800":' + entry + "}"), "tensor name"
    yield "control character", raw('{"a\\u0007":' + entry + "}"), "tensor name"
    yield "no tensors", safe_file({"__metadata__": {}}, b""), "no dictionary of tensors"


def strangers():
    yield "missing file", None, "cannot open"
    yield "empty file", b"", "empty"
    yield "noise", bytes(range(200, 256)) * 20, "no known checkpoint format"
    yield "text", b"hello, world; this is not a checkpoint", "no known checkpoint format"
    yield "tar", b"sys_info".ljust(257, b"\0") + b"ustar\0" + bytes(300), "tar archive"
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"
    yield "TensorFlow", bytes(50) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "TensorFlow"
    yield "npy", b"\x93NUMPY\1\0" + bytes(50), "NumPy"
    yield "npz", zip_bytes([Entry("a.npy", b"\x93NUMPY\1\0")]), "not a PyTorch checkpoint"
    yield "gzip", b"\x1f\x8b\x08" + bytes(50), "gzip"
    yield "web page", b"<!DOCTYPE html><html></html>", "web page"
    yield "git-lfs", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"
    yield "GGUF", b"GGUF\3\0\0\0" + bytes(50), "GGUF"
    yield "weight file", b"\x89UNW\r\n\x1a\n" + bytes(120), "already"
    yield "half a pickle", b"\x80", "truncated"


HOSTILE = (hostile_zips, hostile_pickles, hostile_tensors, hostile_streams, hostile_safetensors,
           strangers)


def test_directory_as_input():
    status, out, err = tool(TMP.name, "--list")
    equal((status, out, err.count("\n")), (2, "", 1), err)


def test_good_hostiles():
    """The files that the hostile ones are made from are themselves accepted."""
    line = "w\tf32\t4\t%08x\n" % zlib.crc32(bytes(16))
    listed(state(GOOD), line)
    listed(good_pid(), line)
    listed(altered({}), line)
    listed(altered(dict(flags=0)), line)
    listed(extra_entry(Entry("archive/byteorder", b"little")), line)
    listed(pickled(A.whole(A.dict([("w", GOOD)]))), line)
    listed(stream_file(S.dict([("w", S.tensor(S.storage("FloatStorage", "0", 4), (4,)))]),
                       [("0", 4, bytes(16))]), line)
    listed(safe_file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)),
           line)


def test_cuts_and_flips():
    """A good file cut anywhere is refused; with a byte changed it never brings a traceback."""
    dice = random.Random(3)
    stream = stream_file(S.dict([("w", S.tensor(S.storage("FloatStorage", "0", 4), (4,)))]),
                         [("0", 4, bytes(16))])
    safe = safe_file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16))
    for good in (state(GOOD), stream, safe):
        for at in range(len(good)):
            flipped = good[:at] + bytes([good[at] ^ dice.randrange(1, 256)]) + good[at + 1:]
            for data, codes in ((good[:at], (2,)), (flipped, (0, 2))):
                status, _, err = tool(write("in", data), "--list")
                assert status in codes and "internal fault" not in err, (status, err)
                equal(err.count("\n"), 1 if status else 0, err)


# ---- The run ---------------------------------------------------------------------------------


def cases():
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            yield name, test
    for table in HOSTILE:
        for name, data, text in table():
            yield "%s: %s" % (table.__name__, name), lambda d=data, t=text: refused(d, t)


def main():
    passed = failed = 0
    for name, test in cases():
        try:
            test()
            passed += 1
        except Exception:
            failed += 1
            print("FAILED %s\n%s" % (name, traceback.format_exc()), file=sys.stderr)
            for left in leftovers():
                os.unlink(path(left))
    TMP.cleanup()
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
