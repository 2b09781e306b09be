# diffinv: no configure step. `make`, `make demo`, `make test`, `make bench`, `make install`.
#   CC=clang|tcc   DOUBLE=1 (the arbiter, diffinv-double)   ISA=0 (one instruction set)
#   OPENMP=0       PREFIX=/usr/local   DESTDIR=

CC      = cc
PREFIX  = /usr/local
DESTDIR =
CFLAGS  = -O3
WARN    = -std=c99 -pedantic -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes
AR      = ar

# What the compiler can do, found by compiling; one report line below.
try     = $(shell mkdir -p build && printf '$(2)\nint main(void){return 0;}\n' | $(CC) $(1) -x c - -o build/.try >/dev/null 2>&1 && echo yes)
EXACT  := $(if $(call try,-ffp-contract=off -fno-math-errno,),-ffp-contract=off -fno-math-errno)
EXACT  += $(if $(findstring s390,$(shell $(CC) -dumpmachine 2>/dev/null)),-fexcess-precision=fast)
ifneq ($(OPENMP),0)
OMP    := $(if $(call try,-fopenmp,\43include <omp.h>),-fopenmp)
endif
ifneq ($(ISA),0)
V3     := $(if $(call try,-march=x86-64-v3 -ffp-contract=off,typedef float v __attribute__((vector_size(32)));),yes)
V4     := $(if $(call try,-march=x86-64-v4 -ffp-contract=off,typedef float v __attribute__((vector_size(64)));),yes)
WIDE   := $(if $(V4),$(if $(call try,-march=x86-64-v4 -mprefer-vector-width=512,),-mprefer-vector-width=512))
endif
ifeq ($(shell $(CC) -v 2>&1 | grep -c '^tcc'),1)
OMP    :=
V3     :=
V4     :=
endif

ifeq ($(DOUBLE),1)
B       = build/double
S       = -double
DEFS    = -DDI_DOUBLE
else
B       = build/float
S       =
DEFS    =
endif
DEFS   += $(if $(V3),-DDI_HAVE_V3) $(if $(V4),-DDI_HAVE_V4)
ALL     = $(WARN) $(CFLAGS) $(EXACT) $(OMP) $(DEFS) -I.

LIB     = $(B)/ops.o $(B)/unet.o $(B)/diffinv.o $(B)/solvers.o \
          $(if $(V3),$(B)/ops_v3.o) $(if $(V4),$(B)/ops_v4.o)
TOOL    = $(patsubst tools/%.c,$(B)/tools_%.o,$(filter-out tools/bench.c,$(wildcard tools/*.c)))
TOOL_H  = $(wildcard tools/*.h)

.PHONY: all demo test bench install uninstall clean report
all: report diffinv$(S) libdiffinv$(S).a libdiffinv$(S).so

report:
	@echo "diffinv: $(CC), $(if $(OMP),OpenMP,one thread (no OpenMP)),$(if $(V3), v3)$(if $(V4), v4) baseline$(if $(DOUBLE),$(comma) double)"

diffinv$(S): $(TOOL) libdiffinv$(S).a
	$(CC) $(CFLAGS) $(OMP) $(LDFLAGS) -o $@ $(TOOL) libdiffinv$(S).a -lm

libdiffinv$(S).a: $(LIB)
	@rm -f $@
	$(AR) rcs $@ $(LIB)

libdiffinv$(S).so: $(LIB)
	$(CC) $(CFLAGS) $(OMP) $(LDFLAGS) -shared -o $@ $(LIB) -lm

$(B)/%.o: %.c diffinv.h
	@mkdir -p $(B)
	$(CC) $(ALL) -fPIC -c -o $@ $<
# Elementwise and straight-line code, and the fallback where better kernels are compiled in:
# -O3 only makes them larger.
$(B)/solvers.o $(B)/diffinv.o $(if $(V3),$(B)/ops.o): $(B)/%.o: %.c diffinv.h
	@mkdir -p $(B)
	$(CC) $(ALL) -O2 -fPIC -c -o $@ $<
$(B)/unet.o: unet.c diffinv.h
	@mkdir -p $(B)
	$(CC) $(ALL) -Os -fPIC -c -o $@ $<
$(B)/ops_v3.o: ops.c diffinv.h
	@mkdir -p $(B)
	$(CC) $(ALL) -fPIC -march=x86-64-v3 -DDI_KERNELS_ONLY -DDI_ISA=v3 -c -o $@ $<
$(B)/ops_v4.o: ops.c diffinv.h
	@mkdir -p $(B)
	$(CC) $(ALL) -fPIC -march=x86-64-v4 $(WIDE) -DDI_KERNELS_ONLY -DDI_ISA=v4 -c -o $@ $<
$(B)/tools_%.o: tools/%.c diffinv.h $(TOOL_H)
	@mkdir -p $(B)
	$(CC) $(ALL) -Os -DDI_DATADIR='"$(PREFIX)/share/diffinv"' -c -o $@ $<

demo: diffinv
	sh tools/demo.sh $(IMG)

# Tests run in both builds; waiting threads sleep, so a busy machine does not stall them.
T       = $(B)/tests
D       = build/double/tests
TESTS   = ops fft problems solvers net hostile mo dmplug cps flow
# A test's own sources beside tools/io.c.
WITH_flow = $(filter-out tools/make_image.c,$(wildcard tools/make*.c)) tools/picture.c tools/view_flow.c
CHECK   = $(CC) $(WARN) -O2 $(EXACT) $(OMP) -I.
test: all
	@$(MAKE) --no-print-directory DOUBLE=1 diffinv-double libdiffinv-double.a
	@mkdir -p $(T) $(D)
	for t in $(TESTS); do \
	  case $$t in flow) with='$(WITH_flow)';; *) with=;; esac; \
	  $(CHECK) $(DEFS) -o $(T)/$$t tests/test_$$t.c tools/io.c $$with libdiffinv.a -lm && \
	  $(CHECK) $(DEFS) -DDI_DOUBLE -o $(D)/$$t tests/test_$$t.c tools/io.c $$with libdiffinv-double.a -lm || exit 1; done
	$(CHECK) -o $(T)/io tests/test_io.c tools/io.c tools/picture.c -lm
	$(CHECK) $(DEFS) -o $(T)/hash tests/hash.c libdiffinv.a -lm
	$(CHECK) $(DEFS) -DDI_DOUBLE -o $(D)/hash tests/hash.c libdiffinv-double.a -lm
	@CC='$(CC)' OMP_WAIT_POLICY=passive sh tests/run.sh \
	  $(foreach t,$(TESTS),'$(t)=$(T)/$(t)' '$(t), double=$(D)/$(t)') 'files=$(T)/io' \
	  'bits=sh tests/test_bits.sh $(T)/hash $(D)/hash' 'build=sh tests/test_build.sh' \
	  'converter=python3 tests/test_convert.py' 'command=sh tests/test_cli.sh ./diffinv' \
	  'command, fluid=sh tests/test_cli_flow.sh ./diffinv'

bench: libdiffinv$(S).a
	$(CC) $(WARN) -O2 -march=native -ffp-contract=fast $(OMP) $(DEFS) -I. -o $(B)/bench tools/bench.c libdiffinv$(S).a -lm
	$(B)/bench $(BENCH)

SHARE   = $(DESTDIR)$(PREFIX)/share/diffinv
install: all
	mkdir -p $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include $(SHARE)
	cp diffinv$(S) $(DESTDIR)$(PREFIX)/bin/
	cp libdiffinv$(S).a libdiffinv$(S).so $(DESTDIR)$(PREFIX)/lib/
	cp diffinv.h $(DESTDIR)$(PREFIX)/include/
	cp weights/*.unw weights/README.md $(SHARE)/

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/diffinv$(S) $(DESTDIR)$(PREFIX)/include/diffinv.h \
	  $(DESTDIR)$(PREFIX)/lib/libdiffinv$(S).a $(DESTDIR)$(PREFIX)/lib/libdiffinv$(S).so
	rm -rf $(SHARE)

clean:
	rm -rf build diffinv diffinv-double libdiffinv*.a libdiffinv*.so demo-out
