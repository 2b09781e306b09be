#!/usr/bin/env python3
"""The library from Python by ctypes, without NumPy: a network call, then a picture restored.

    example.py [LIBRARY] [WEIGHTS]

Without arguments the library and the weights are looked for beside this file's folder (a source
tree) and where the linker and an installation keep them. See diffinv.h for what each call does.
"""
import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_size_t, c_uint, c_uint64
from ctypes import c_void_p

READ = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64, c_void_p, c_size_t)
SIDE = 64
PIXELS = 3 * SIDE * SIDE
REAL = c_float  # c_double with libdiffinv-double

# name: (result, arguments); a di_status is an int, an object a void *
CALLS = {
    "di_open": (c_int, [POINTER(c_void_p), c_void_p, c_void_p]),
    "di_close": (None, [c_void_p]),
    "di_error": (c_char_p, [c_void_p]),
    "di_net_open": (c_int, [c_void_p, READ, c_void_p, c_uint64, c_uint, POINTER(c_void_p)]),
    "di_net_run": (c_int, [c_void_p, c_size_t, c_int, c_int, POINTER(c_double), POINTER(c_int),
                           POINTER(REAL), POINTER(REAL), POINTER(REAL), POINTER(REAL)]),
    "di_prior_net": (c_int, [c_void_p, c_int, c_int, POINTER(c_void_p)]),
    "di_problem_sr": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_int, POINTER(c_void_p)]),
    "di_apply": (c_int, [c_void_p, c_size_t, POINTER(REAL), POINTER(REAL)]),
    "di_solver_find": (c_void_p, [c_char_p]),
    "di_run_open": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)]),
    "di_run_set": (c_int, [c_void_p, c_char_p, c_char_p]),
    "di_run_go": (c_int, [c_void_p, POINTER(REAL), c_uint64, c_uint64, c_size_t, POINTER(REAL)]),
    "di_psnr": (c_double, [POINTER(REAL), POINTER(REAL), c_size_t]),
}


def load(path):
    try:
        lib = ctypes.CDLL(path)
    except OSError as error:
        sys.exit("example.py: %s" % error)
    for name, (result, arguments) in CALLS.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def find(given, *places):
    """The argument, or the first place that exists."""
    for place in ([given] if given else places):
        if place and (os.path.exists(place) or os.sep not in place):
            return place
    sys.exit("example.py: not found: %s; name it: example.py LIBRARY WEIGHTS"
             % (given or ", ".join(filter(None, places))))


class Library:
    """A context; calls that return a status raise what di_error says."""

    def __init__(self, path):
        self.lib = load(path)
        self.ctx = c_void_p()
        self.check(self.lib.di_open(byref(self.ctx), None, None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lib.di_close(self.ctx)

    def check(self, status):
        if status:
            text = self.lib.di_error(self.ctx) if self.ctx else b"no context"
            raise RuntimeError("status %d: %s" % (status, text.decode()))

    def make(self, name, *arguments):
        """An object of the context, which the call writes to its last argument."""
        made = c_void_p()
        self.check(getattr(self.lib, name)(*arguments, byref(made)))
        return made

    def network(self, path):
        with open(path, "rb") as file:
            def read(_, offset, dst, n):
                file.seek(offset)
                data = file.read(n)
                ctypes.memmove(dst, data, len(data))
                return len(data) != n
            return self.make("di_net_open", self.ctx, READ(read), None, os.path.getsize(path), 0)


def main(library, weights):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    library = find(library, os.path.join(here, "libdiffinv.so"), ctypes.util.find_library("diffinv"))
    weights = find(weights, os.path.join(here, "weights", "portraits64.unw"),
                   "/usr/local/share/diffinv/portraits64.unw",
                   "/usr/share/diffinv/portraits64.unw")
    image = REAL * PIXELS
    with Library(library) as di:
        net = di.network(weights)
        x = image(*(((i * 37) % 101) / 50 - 1 for i in range(PIXELS)))
        eps = image()
        di.check(di.lib.di_net_run(net, 1, SIDE, SIDE, byref(c_double(500)), None, x, eps, None,
                                   None))
        print("network: first values %.6f %.6f %.6f" % tuple(eps[:3]))

        prior = di.make("di_prior_net", net, SIDE, SIDE)
        problem = di.make("di_problem_sr", di.ctx, 3, SIDE, SIDE, 4, 0)
        truth = image(*(i % SIDE / SIDE - 0.5 for i in range(PIXELS)))  # a ramp
        y = (REAL * (PIXELS // 16))()
        di.check(di.lib.di_apply(problem, 1, truth, y))
        run = di.make("di_run_open", di.ctx, di.lib.di_solver_find(b"ddnm"), prior, problem)
        di.check(di.lib.di_run_set(run, b"steps", b"5"))
        di.check(di.lib.di_run_set(run, b"sigma_y", b"0"))
        di.check(di.lib.di_run_go(run, y, 0, 0, 1, x))
        print("restored: %.2f dB" % di.lib.di_psnr(x, truth, PIXELS))


if __name__ == "__main__":
    main(*(sys.argv[1:] + [None, None])[:2])
