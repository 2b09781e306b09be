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
# C throws nothing: tables for unwinding would be a tenth of the command.
LEAN   := $(if $(call try,-fno-asynchronous-unwind-tables,),-fno-asynchronous-unwind-tables)
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
PCDEFS  = -DDI_DOUBLE
else
B       = build/float
S       =
DEFS    =
endif
DEFS   += $(if $(V3),-DDI_HAVE_V3) $(if $(V4),-DDI_HAVE_V4)
ALL     = $(WARN) $(CFLAGS) $(EXACT) $(LEAN) $(OMP) $(DEFS) -I.

VERSION:= $(shell sed -n 's/^.define DI_VERSION "\(.*\)"/\1/p' diffinv.h)
SO      = libdiffinv$(S).so
SONAME  = $(SO).$(firstword $(subst ., ,$(VERSION)))
SOFLAG := $(if $(filter Darwin,$(shell uname -s)),,-Wl,-soname,)

LIB     = $(B)/ops.o $(B)/unet.o $(B)/diffinv.o $(B)/solvers.o \
          $(if $(V3),$(B)/ops_v3.o) $(if $(V4),$(B)/ops_v4.o)
TOOL    = $(patsubst tools/%.c,$(B)/tools_%.o,$(filter-out tools/bench.c,$(wildcard tools/*.c)))
TOOL_H  = $(wildcard tools/*.h)

.PHONY: all demo gallery test fuzz bench install uninstall clean report
all: report diffinv$(S) libdiffinv$(S).a libdiffinv$(S).so

report:
	@echo "diffinv: $(CC), $(if $(OMP),OpenMP,one thread (no OpenMP)),$(if $(V3), v3)$(if $(V4), v4) baseline$(if $(DOUBLE),$(comma) double)"

diffinv$(S): $(TOOL) libdiffinv$(S).a
	$(CC) $(CFLAGS) $(OMP) $(LDFLAGS) -o $@ $(TOOL) libdiffinv$(S).a -lm

libdiffinv$(S).a: $(LIB)
	@rm -f $@
	$(AR) rcs $@ $(LIB)

$(SO): $(LIB)
	$(CC) $(CFLAGS) $(OMP) $(LDFLAGS) -shared $(if $(SOFLAG),$(SOFLAG)$(SONAME)) -o $@ $(LIB) -lm

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
gallery: diffinv
	sh tools/gallery.sh $(IMG)

# Tests run in both builds; waiting threads sleep, so a busy machine does not stall them.
T       = $(B)/tests
D       = build/double/tests
TESTS   = ops fft problems images fourier nblur solvers net hostile mo dmplug cps hole flow alloc
# What tests take of the command: its files and makers.
MAKERS  = io picture score view_hole \
          $(filter-out make_image,$(patsubst tools/%.c,%,$(wildcard tools/make*.c)))
FUZZ    = weights png npy pnm settings state
TOOL_C  = $(filter-out tools/bench.c tools/main.c,$(wildcard tools/*.c))
RENAMED = -Dmalloc=test_malloc -Dcalloc=test_calloc -Drealloc=test_realloc
CHECK   = $(CC) $(WARN) -O2 $(EXACT) $(OMP) -I.
test: all
	@$(MAKE) --no-print-directory DOUBLE=1 diffinv-double libdiffinv-double.a
	@mkdir -p $(T) $(D)
	for t in $(TESTS); do \
	  $(CHECK) $(DEFS) -o $(T)/$$t tests/test_$$t.c $(patsubst %,$(B)/tools_%.o,$(MAKERS)) libdiffinv.a -lm && \
	  $(CHECK) $(DEFS) -DDI_DOUBLE -o $(D)/$$t tests/test_$$t.c $(patsubst %,build/double/tools_%.o,$(MAKERS)) \
	    libdiffinv-double.a -lm || exit 1; done
	$(CHECK) -o $(T)/io tests/test_io.c tools/io.c tools/picture.c -lm
	$(CHECK) -Wno-missing-prototypes -Dmain=diffinv_main -c -o $(T)/main.o tools/main.c
	for t in $(patsubst tools/%.c,%,$(TOOL_C)); do \
	  $(CHECK) $(RENAMED) -c -o $(T)/renamed_$$t.o tools/$$t.c || exit 1; done
	$(CHECK) $(DEFS) -o $(T)/alloc_tool tests/test_alloc_tool.c $(T)/main.o $(T)/renamed_*.o libdiffinv.a -lm
	$(CHECK) $(DEFS) -DDI_FUZZ -o $(T)/fuzz tests/fuzz.c tools/io.c $(T)/main.o \
	  $(filter-out $(B)/tools_main.o $(B)/tools_io.o,$(TOOL)) libdiffinv.a -lm
	$(CHECK) $(DEFS) -o $(T)/hash tests/hash.c libdiffinv.a -lm
	$(CHECK) $(DEFS) -DDI_DOUBLE -o $(D)/hash tests/hash.c libdiffinv-double.a -lm
	@CC='$(CC)' OMP_WAIT_POLICY=passive sh tests/run.sh \
	  $(foreach t,$(TESTS),'$(t)=$(T)/$(t)' '$(t), double=$(D)/$(t)') 'files=$(T)/io' \
	  'memory ends=$(T)/alloc_tool' \
	  'hostile inputs=$(T)/fuzz $(foreach t,$(FUZZ),$(t) $(wildcard tests/fuzz/$(t)/*))' \
	  'bits=sh tests/test_bits.sh $(T)/hash $(D)/hash' 'build=sh tests/test_build.sh' \
	  'converter=python3 tests/test_convert.py' 'command=sh tests/test_cli.sh ./diffinv' \
	  'command, views=sh tests/test_cli_view.sh ./diffinv' 'command, fluid=sh tests/test_cli_flow.sh ./diffinv' \
	  'command, Fourier=sh tests/test_cli_fourier.sh ./diffinv $(T)/nblur' \
	  'command, black hole=sh tests/test_cli_hole.sh ./diffinv' \
	  'command, images=sh tests/test_cli_images.sh ./diffinv' \
	  'memory=sh tests/test_memory.sh ./diffinv' \
	  'ends of files=sh tests/test_files.sh ./diffinv'

# One of $(FUZZ), with clang's libFuzzer: make fuzz TARGET=png SECONDS=600. What it finds lies in
# build/fuzz; what is new to it, in build/fuzz/TARGET.
TARGET  = png
SECONDS = 600
fuzz:
	@mkdir -p build/fuzz/$(TARGET)
	clang -std=c99 -g -O1 -ffp-contract=off -fno-math-errno -fsanitize=fuzzer,address,undefined \
	  -fno-sanitize-recover=undefined -DDI_FUZZ -DTARGET=$(TARGET) -Dmain=diffinv_main -I. \
	  -o build/fuzz/fuzz_$(TARGET) tests/fuzz.c tools/main.c $(TOOL_C) ops.c unet.c diffinv.c solvers.c -lm
	build/fuzz/fuzz_$(TARGET) -max_total_time=$(SECONDS) -max_len=16384 -timeout=20 -malloc_limit_mb=600 \
	  -artifact_prefix=build/fuzz/$(TARGET)- -print_final_stats=1 build/fuzz/$(TARGET) tests/fuzz/$(TARGET)

bench: libdiffinv$(S).a
	$(CC) $(WARN) -O2 -march=native -ffp-contract=fast $(OMP) $(DEFS) -I. -o $(B)/bench tools/bench.c libdiffinv$(S).a -lm
	$(B)/bench $(BENCH)

# What goes where; uninstall removes these files and no others, and the folders that are ours.
TO      = $(DESTDIR)$(PREFIX)
SHARE   = $(TO)/share/diffinv
DOC     = $(TO)/share/doc/diffinv
PUT     = $(TO)/bin/diffinv$(S) $(TO)/lib/libdiffinv$(S).a $(TO)/lib/$(SO).$(VERSION) \
          $(TO)/lib/$(SONAME) $(TO)/lib/$(SO) $(TO)/lib/pkgconfig/diffinv$(S).pc \
          $(TO)/include/diffinv.h $(TO)/share/man/man1/diffinv.1 $(DOC)/README.md $(DOC)/LICENSE \
          $(patsubst weights/%,$(SHARE)/%,$(wildcard weights/*.unw) weights/README.md)
install: all
	mkdir -p $(sort $(dir $(PUT)))
	cp diffinv$(S) $(TO)/bin/
	cp libdiffinv$(S).a $(TO)/lib/
	cp $(SO) $(TO)/lib/$(SO).$(VERSION)
	ln -sf $(SO).$(VERSION) $(TO)/lib/$(SONAME)
	ln -sf $(SONAME) $(TO)/lib/$(SO)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@S@|$(S)|' \
	  -e 's|@DEFS@|$(PCDEFS)|' -e 's|@OMP@|$(OMP)|' tools/diffinv.pc.in > $(TO)/lib/pkgconfig/diffinv$(S).pc
	cp diffinv.h $(TO)/include/
	cp tools/diffinv.1 $(TO)/share/man/man1/
	cp README.md LICENSE $(DOC)/
	cp weights/*.unw weights/README.md $(SHARE)/

uninstall:
	rm -f $(PUT)
	-rmdir $(SHARE) $(DOC) 2>/dev/null || true

clean:
	rm -rf build diffinv diffinv-double libdiffinv*.a libdiffinv*.so demo-out
