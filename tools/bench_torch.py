#!/usr/bin/env python3
"""Times diffinv against PyTorch on the same network, in turns. Needs torch and numpy.

    make bench; tools/bench_torch.py WEIGHTS.unw SIZE [--threads 1] [--class exact|fast]
    tools/bench_torch.py WEIGHTS.unw SIZE --variants       # which way of PyTorch is fastest
    tools/bench_torch.py WEIGHTS.unw SIZE --onnx OUT.onnx  # the network for bench_ort.js

Both get the same input and output gradient. First outputs and gradients are compared, then the
two are timed in turns: pairs of a forward pass, then pairs of forward and input derivative. A
ratio is taken within each pair, so that a slow minute of the machine falls on both.

PyTorch gets its best here: frozen weights, inference mode for the forward pass, the gradient of
the input alone, the scale and shift folded into the group norm, and of the VARIANTS the
fastest. Its memory comes from a heap that is kept (--malloc), or every large tensor would be
mapped and cleared by the kernel anew. With one thread PyTorch leaves 1x1 convolutions and
matrix products to the BLAS it finds; give it a good one with --blas FOLDER (of a libblas.so.3).
"""
import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

# What each --malloc sets; the process starts itself again with it.
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(1 << 28)}
MALLOC = {"plain": {}, "kept": KEPT,
          "huge": dict(KEPT, GLIBC_TUNABLES="glibc.malloc.hugetlb=1")}

# How PyTorch may run the network. packed: convolutions keep their weights in oneDNN's own
# layout, and the input's gradient is one more of them, with weights flipped.
VARIANTS = ("eager", "nhwc", "packed", "packed_nhwc", "traced", "frozen", "optimized")
NO_GRADIENT = ("frozen", "optimized")
TRACED = ("traced",) + NO_GRADIENT
WARM = 1, 3                 # passes before it counts; a trace is compiled at its second call


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS.unw")
    parser.add_argument("size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--class", dest="kind", choices=("exact", "fast"), default="exact")
    parser.add_argument("--n", type=int, default=1, help="images a pass")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--bench", default="build/float/bench")
    parser.add_argument("--only", choices=("forward", "derivative"))
    parser.add_argument("--forward", choices=VARIANTS, default="packed")
    parser.add_argument("--derivative", choices=VARIANTS[:-2], default="packed")
    parser.add_argument("--malloc", choices=MALLOC, default="huge")
    parser.add_argument("--blas", metavar="FOLDER")
    parser.add_argument("--variants", nargs="?", const=",".join(VARIANTS), metavar="LIST")
    parser.add_argument("--onnx", metavar="OUT.onnx")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--memory", choices=("forward", "derivative"),
                        help="one pass only: bytes before and at the peak")
    args = parser.parse_args()
    if min(args.size, args.threads, args.n, args.pairs) < 1:
        parser.error("SIZE, --threads, --n and --pairs are at least 1")
    return args


def start_again(args):
    """The C library, OpenMP and the loader read their settings once, before Python does."""
    if os.environ.get("DIFFINV_BENCH"):
        return
    n = str(args.threads)
    env = {"DIFFINV_BENCH": "1", "OMP_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n}
    env.update(MALLOC[args.malloc])
    if "OMP_WAIT_POLICY" not in os.environ:         # who waits must not disturb who is timed
        env["OMP_WAIT_POLICY"] = "passive"
    if args.blas:
        env["LD_LIBRARY_PATH"] = args.blas + ":" + os.environ.get("LD_LIBRARY_PATH", "")
    os.execve(sys.executable, [sys.executable] + sys.argv, dict(os.environ, **env))


def die(text):
    sys.exit("bench_torch.py: " + text)


ARGS = arguments() if __name__ == "__main__" else None
if ARGS:
    start_again(ARGS)

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as fault:
    die("%s; run it with a Python that has torch and numpy" % fault)

# ---- The weight file -------------------------------------------------------------------------


def read_unw(path):
    """Metadata, and the tensors by name as float32. The C program checks the file, not this."""
    with open(path, "rb") as file:
        head = file.read(128)
        if head[:8] != b"\x89UNW\r\n\x1a\n":
            die("%s: not a UNW1 file" % path)
        spans = np.frombuffer(head, "<u8", 8, 24)
        text, index, names = (os.pread(file.fileno(), int(n), int(at))
                              for at, n in spans[:6].reshape(3, 2))
        meta = dict(line.split("=", 1) for line in text.decode().splitlines())
        tensors = {}
        for i in range(0, len(index), 64):
            at, size = (int(v) for v in np.frombuffer(index, "<u8", 2, i))
            name = int(np.frombuffer(index, "<u4", 1, i + 16)[0])
            length = int(np.frombuffer(index, "<u2", 1, i + 20)[0])
            kind, rank = index[i + 22:i + 24]
            shape = tuple(int(v) for v in np.frombuffer(index, "<u8", 4, i + 24))[:rank]
            data = np.frombuffer(os.pread(file.fileno(), size, at),
                                 {1: "<f4", 2: "<f2", 3: "<u2", 4: "<f8"}[kind])
            if kind == 3:                           # bf16: the upper half of a float32
                data = (data.astype("<u4") << 16).view("<f4")
            data = data.astype("f4").reshape(shape)
            tensors[names[name:name + length].decode()] = torch.from_numpy(data)
    return meta, tensors


# ---- The network -----------------------------------------------------------------------------


class Packed(torch.autograd.Function):
    """A convolution of stride 1, y = w * x + b, with weights in oneDNN's layout."""

    @staticmethod
    def forward(ctx, x, conv):
        ctx.conv = conv
        return conv.run(x, "ahead")

    @staticmethod
    def backward(ctx, gy):
        return ctx.conv.run(gy, "back"), None


class Conv(torch.nn.Module):
    def __init__(self, w, b, packed, nhwc):
        """packed: the ways it will be run, ahead or back, or () to leave it to F.conv2d."""
        super().__init__()
        if w.dim() == 2:
            w = w[:, :, None, None]
        self.k = w.shape[2]
        if nhwc:
            w = w.contiguous(memory_format=torch.channels_last)
        self.w, self.b = (torch.nn.Parameter(v, requires_grad=False) for v in (w, b))
        self.packed, self.made = packed, {}

    def run(self, x, way):
        """Packs at the first call, for the best layout depends on the size; then the plain
        weights can go."""
        if way not in self.made:
            w, b = self.w, self.b
            if way == "back":
                w, b = w.flip(2, 3).transpose(0, 1).contiguous(), None
            pad = self.k // 2
            self.made[way] = torch.ops.mkldnn_prepacked.conv2d_prepack(
                w, b, [1, 1], [pad, pad], [1, 1], 1, list(x.shape), "none")
            if len(self.made) == len(self.packed):
                del self.w
        return torch.ops.mkldnn_prepacked.conv2d_run(x, self.made[way])

    def forward(self, x, stride=1):
        if not self.packed or stride > 1:
            return F.conv2d(x, self.w, self.b, stride, self.k // 2)
        return Packed.apply(x, self) if x.requires_grad else self.run(x, "ahead")


FIXED = {"format.kind": "unet2d", "net.attn.mid": "1", "net.attn.mid_norm": "1",
         "net.down_pad": "sym", "net.resample_skip_conv": "0", "net.temb.freq_shift": "0",
         "net.temb.order": "cos_sin"}


class Net(torch.nn.Module):
    """The ADM network of guided-diffusion: y (n,out,h,w) of x (n,in,h,w) and t (n)."""

    def __init__(self, meta, tensors, packed=(), nhwc=False):
        super().__init__()
        odd = ["%s=%s" % (key, meta.get(key)) for key, value in FIXED.items()
               if meta.get(key) != value]
        odd += ["%s=%s" % (key, meta[key]) for key in ("net.attn.enc", "net.attn.dec")
                if "last" in meta[key]]
        if float(meta["net.residual_scale"]) != 1:
            odd.append("net.residual_scale=" + meta["net.residual_scale"])
        if odd:
            die("an ADM network only; this has " + ", ".join(odd))
        numbers = {key: int(meta["net." + key]) for key in ("in", "out", "base", "blocks",
                                                            "classes")}
        self.cin, self.cout, self.base, self.blocks, self.classes = numbers.values()
        self.levels = len(meta["net.mult"].split(","))
        self.enc, self.dec = ([word == "all" for word in meta["net.attn." + side].split(",")]
                              for side in ("enc", "dec"))
        self.resample = meta["net.resample"].split(",")
        self.add = meta["net.cond"] == "add"
        self.eps, self.max_period = (float(meta["net." + key])
                                     for key in ("norm.eps", "temb.max_period"))
        self.groups, self.least = (int(meta["net.norm." + key])
                                   for key in ("groups", "min_channels"))
        self.head = int(meta.get("net.attn.head_channels", 0))
        self.heads = {side: int(meta.get(key, meta.get("net.attn.heads", 0))) for side, key in
                      (("enc", "net.attn.heads"), ("mid", "net.attn.heads"),
                       ("dec", "net.attn.heads_dec"))}
        self.nhwc = nhwc
        half = self.base // 2
        rate = torch.exp(-math.log(self.max_period) * torch.arange(half).double() / half)
        self.register_buffer("rate", rate)
        self.conv, self.other = torch.nn.ModuleDict(), torch.nn.ParameterDict()
        for name in sorted(tensors, reverse=True):     # .w comes before .b
            path, leaf = name.rsplit(".", 1)
            key = path.replace(".", "_")
            linear = path.startswith("temb") or path.endswith(".emb")
            if leaf == "w" and not linear and path != "label":
                self.conv[key] = Conv(tensors.pop(name), tensors.pop(path + ".b"), packed, nhwc)
            elif name in tensors:
                self.other[key + "_" + leaf] = torch.nn.Parameter(tensors.pop(name),
                                                                  requires_grad=False)

    def convolve(self, path, x, stride=1):
        return self.conv[path](x, stride)

    def linear(self, path, x):
        return F.linear(x, self.other[path + "_w"], self.other[path + "_b"])

    def norm(self, path, x, emb=None, silu=True):
        """Group norm, then scale and shift by emb if it is given, then SiLU. The scale and
        shift go into the norm's own: a pass over memory less. Each image is then a part of
        the channels of one, for theirs differ."""
        n, c, h, w = map(int, x.shape)
        groups = min(self.groups, c // self.least)
        g, b = self.other[path + "_g"], self.other[path + "_b"]
        if emb is not None:
            scale, shift = emb.chunk(2, 1)
            g, b = (g * (1 + scale)).flatten(), (b * (1 + scale) + shift).flatten()
        if n > 1 and emb is not None:
            x = F.group_norm(x.reshape(1, n * c, h, w), n * groups, g, b, self.eps)
            x = x.reshape(n, c, h, w)
        else:
            x = F.group_norm(x, groups, g, b, self.eps)
        return F.silu(x, inplace=not x.requires_grad) if silu else x

    def res(self, path, x, emb, change=None):
        path += "_res"
        h = self.norm(path + "_n1", x)
        if change:
            h, x = change(h), change(x)
        h = self.convolve(path + "_c1", h)
        e = self.linear(path + "_emb", emb)
        if self.add:
            h = self.norm(path + "_n2", h + e[:, :, None, None])
        else:
            h = self.norm(path + "_n2", h, e)
        h = self.convolve(path + "_c2", h)
        if path + "_skip" in self.conv:
            x = self.convolve(path + "_skip", x)
        return h + x if h.requires_grad else h.add_(x)

    def attend(self, path, x):
        n, c, h, w = map(int, x.shape)
        heads = c // self.head if self.head else self.heads[path[:3]]
        d = c // heads
        qkv = self.convolve(path + "_att_qkv", self.norm(path + "_att_n", x, silu=False))
        q, k, v = qkv.reshape(n, 3, heads, d, h * w).unbind(1)
        q, k, v = (part.reshape(n * heads, d, h * w) for part in (q, k, v))
        p = torch.softmax(torch.bmm(q.transpose(1, 2) * d ** -0.5, k), 2)
        out = torch.bmm(v, p.transpose(1, 2)).reshape(n, c, h, w)
        if self.nhwc:
            out = out.contiguous(memory_format=torch.channels_last)
        return x + self.convolve(path + "_att_proj", out)

    @staticmethod
    def pool(x):
        return F.avg_pool2d(x, 2)

    @staticmethod
    def double(x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def down(self, path, x, emb, kind):
        if kind == "conv":
            return self.convolve(path, x, 2)
        return self.res(path, x, emb, self.pool) if kind == "res" else self.pool(x)

    def up(self, path, x, emb, kind):
        if kind == "res":
            return self.res(path, x, emb, self.double)
        x = self.double(x)
        return self.convolve(path, x) if kind == "conv" else x

    def forward(self, x, t):
        angle = t.double()[:, None] * self.rate
        v = torch.cat([angle.cos(), angle.sin()], 1).float()
        v = F.pad(v, (0, self.base % 2))
        emb = self.linear("temb_1", F.silu(self.linear("temb_0", v)))
        if self.classes:
            emb = emb + self.other["label_w"][:1]
        emb = F.silu(emb)
        if self.nhwc:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.convolve("stem", x)
        skips, k = [x], 0
        for level in range(self.levels):
            for _ in range(self.blocks):
                x = self.res("enc_%d" % k, x, emb)
                if self.enc[level]:
                    x = self.attend("enc_%d" % k, x)
                skips.append(x)
                k += 1
            if level < self.levels - 1:
                x = self.down("enc_%d_down" % k, x, emb, self.resample[level])
                skips.append(x)
                k += 1
        x = self.res("mid_0", x, emb)
        x = self.attend("mid_1", x)
        x = self.res("mid_2", x, emb)
        k = 0
        for level in reversed(range(self.levels)):
            for block in range(self.blocks + 1):
                x = self.res("dec_%d" % k, torch.cat([x, skips.pop()], 1), emb)
                if self.dec[level]:
                    x = self.attend("dec_%d" % k, x)
                if level and block == self.blocks:
                    x = self.up("dec_%d_up" % k, x, emb, self.resample[level - 1])
                k += 1
        return self.convolve("out_c", self.norm("out_n", x))


# ---- Running it ------------------------------------------------------------------------------


class Peer:
    """The network as one of the VARIANTS."""

    def __init__(self, args, variant, gradient):
        meta, tensors = read_unw(args.weights)
        packed = ("ahead", "back")[:1 + gradient] if variant.startswith("packed") else ()
        self.net = Net(meta, tensors, packed, "nhwc" in variant).eval()
        rng = np.random.RandomState(1)
        shape = args.n, self.net.cin, args.size, args.size
        self.x = torch.from_numpy(rng.standard_normal(shape).astype("f4"))
        shape = args.n, self.net.cout, args.size, args.size
        self.g = torch.from_numpy(rng.standard_normal(shape).astype("f4"))
        self.t = torch.full((args.n,), 500.0)
        if variant in TRACED:
            x = self.x.clone().requires_grad_(gradient)
            self.net = torch.jit.trace(self.net, (x, self.t), check_trace=False)
        if variant in NO_GRADIENT:
            self.net = torch.jit.freeze(self.net)
        if variant == "optimized":
            self.net = torch.jit.optimize_for_inference(self.net)

    def forward(self):
        start = time.perf_counter()
        with torch.inference_mode():
            self.y = self.net(self.x, self.t)
        return time.perf_counter() - start

    def derivative(self):
        x = self.x.clone().requires_grad_(True)
        start = time.perf_counter()
        self.y = self.net(x, self.t)
        self.gx, = torch.autograd.grad(self.y, x, self.g)
        return time.perf_counter() - start


class Ours:
    """bench serve as a child; see tools/bench.c."""

    def __init__(self, args):
        env = {key: value for key, value in os.environ.items()
               if key not in KEPT and key not in ("GLIBC_TUNABLES", "LD_LIBRARY_PATH")}
        command = [args.bench, "serve", args.weights, str(args.size),
                   "threads=%d" % args.threads, "class=" + args.kind, "n=%d" % args.n]
        try:
            self.child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, bufsize=1,
                                          stdout=subprocess.PIPE, universal_newlines=True)
        except OSError as fault:
            die("%s: %s; make bench builds it" % (args.bench, fault.strerror))
        if self.answer() != "ready":
            die("%s serve does not start" % args.bench)
        self.facts = dict(word.split("=", 1) for word in self.ask("i").split())

    def answer(self):
        return self.child.stdout.readline().strip()

    def ask(self, line):
        self.child.stdin.write(line + "\n")
        text = self.answer()
        if not text or text.startswith("error"):
            die("bench serve: %s" % (text or "ended"))
        return text

    def give(self, letter, tensor):
        with tempfile.NamedTemporaryFile() as file:
            file.write(tensor.detach().contiguous().numpy().astype("<f4").tobytes())
            file.flush()
            self.ask("%s %s" % (letter, file.name))

    def take(self, letter, like):
        with tempfile.NamedTemporaryFile() as file:
            self.ask("%s %s" % (letter, file.name))
            return torch.from_numpy(np.fromfile(file.name, "<f4")).reshape(like.shape)


def error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def peak_memory():
    """Bytes. Not getrusage's where there is better: that includes whoever started us."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def plain_memory(args, what, variant):
    """Bytes before and at the peak of one pass in a process of its own with the plain malloc,
    for a heap that is kept grows beyond what the network needs."""
    env = {key: value for key, value in os.environ.items()
           if key not in KEPT and key not in ("DIFFINV_BENCH", "GLIBC_TUNABLES")}
    command = [sys.executable, os.path.abspath(__file__), args.weights, str(args.size), "--n",
               str(args.n), "--threads", str(args.threads), "--malloc", "plain", "--memory",
               what, "--" + what, variant]
    out = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout
    return map(int, out.split())


def compare(args, ours, what, variant):
    """Checks, then times the pairs of one kind."""
    letter, passes = ("f", 1) if what == "forward" else ("v", 2)
    peer = Peer(args, variant, what == "derivative")
    theirs = getattr(peer, what)
    ours.give("x", peer.x)
    ours.give("g", peer.g)
    for _ in range(WARM[variant in TRACED]):
        theirs()
    ours.ask(letter)
    pairs = [("outputs", ours.take("y", peer.y), peer.y)]
    if letter == "v":
        pairs.append(("input gradients", ours.take("d", peer.gx), peer.gx))
    worst = [error(mine, true) for _, mine, true in pairs]
    print("%s: largest difference, of the largest value: %s" % (what, ", ".join(
        "%s %.1e" % (pair[0], part) for pair, part in zip(pairs, worst))))
    if not max(worst) < 0.01:
        die("not the same network")
    a, b = [], []
    for _ in range(args.pairs):
        a.append(float(ours.ask(letter)))
        b.append(theirs())
    rate = 2e-9 * passes * float(ours.facts["macs"])
    mine, kept = float(ours.ask("m")), peak_memory()
    del peer, theirs
    base, peak = plain_memory(args, what, variant)
    for who, seconds, memory in (("diffinv", a, mine), ("torch", b, peak)):
        middle = statistics.median(seconds)
        print("  %-8s median %8.3f s, best %8.3f s, %6.1f GFLOP/s, peak memory %6.0f MB"
              % (who, middle, min(seconds), rate / middle, memory / 1e6))
    ratios = sorted(other / own for own, other in zip(a, b))
    print("  torch / diffinv: median of %d pairs %.3f, %.3f to %.3f"
          % (args.pairs, statistics.median(ratios), ratios[0], ratios[-1]))
    print("  (torch: %s; %.0f MB of its memory are there before the network; timed with malloc "
          "%s, %.0f MB)" % (variant, base / 1e6, args.malloc, kept / 1e6))
    sys.stdout.flush()


def variants(args):
    """Seconds of the variants, taken in turns; the best of --pairs after some to warm up."""
    for what in ("forward", "derivative"):
        calls, best = {}, {}
        for variant in args.variants.split(",") if args.only in (None, what) else ():
            if what == "derivative" and variant in NO_GRADIENT:
                continue
            try:
                calls[variant] = getattr(Peer(args, variant, what == "derivative"), what)
                for _ in range(WARM[variant in TRACED]):
                    calls[variant]()
            except RuntimeError as fault:
                print("%s %s does not run: %s" % (what, variant, str(fault).split("\n")[0]))
                del calls[variant]
        for _ in range(args.pairs):
            for variant, call in calls.items():
                best[variant] = min(call(), best.get(variant, math.inf))
        for variant, seconds in sorted(best.items(), key=lambda item: item[1]):
            print("%-10s %-12s %8.3f s" % (what, variant, seconds))
        sys.stdout.flush()


def write_onnx(args):
    peer = Peer(args, "eager", False)
    with torch.no_grad():
        torch.onnx.export(peer.net, (peer.x, peer.t), args.onnx, input_names=["x", "t"],
                          output_names=["y"], opset_version=args.opset,
                          do_constant_folding=True)


def blas():
    """Which BLAS was loaded, from the process's own map."""
    try:
        with open("/proc/self/maps") as file:
            found = {os.path.realpath(line.split()[-1]) for line in file if "blas" in line}
    except OSError:
        found = set()
    return ", ".join(sorted(map(os.path.basename, found))) or "built in"


def main(args):
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")                 # of traces, that sizes become constants
    if args.memory:
        base = peak_memory()
        variant = args.forward if args.memory == "forward" else args.derivative
        getattr(Peer(args, variant, args.memory == "derivative"), args.memory)()
        print(base, peak_memory())
        return
    print("torch %s, oneDNN %s, BLAS %s, malloc %s; %d thread%s, %d image%s of %dx%d, class %s"
          % (torch.__version__, "on" if torch.backends.mkldnn.is_available() else "missing",
             blas(), args.malloc, args.threads, "s" * (args.threads > 1), args.n,
             "s" * (args.n > 1), args.size, args.size, args.kind))
    if args.onnx:
        write_onnx(args)
    elif args.variants:
        variants(args)
    else:
        ours = Ours(args)
        print("diffinv %(version)s, kernels %(isa)s, %(real)s" % ours.facts)
        for what, variant in (("forward", args.forward), ("derivative", args.derivative)):
            if args.only in (None, what):
                compare(args, ours, what, variant)


if __name__ == "__main__":
    main(ARGS)
