# Builds, runs and tests Tablewalk. `make help` explains the targets and variables.

SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:

TARGET := aarch64-unknown-linux-gnu
PROGRAMS := init pt walktest uffd
# Packed apart: they are for tests.
TESTERS := contract blocks kinds hostile stress moved lazyload tracked checkpoint scene busy without
# Those of them that the smallest image has room for.
SMALL_TESTERS := contract blocks kinds stress moved lazyload scene
# Variants of the kernel, and the fragments of kernel/config/ that make each.
VARIANTS := thp nothp hostile kinds bare
FRAGMENTS_thp := base 4k39 thp
FRAGMENTS_nothp := base 4k39 nothp
FRAGMENTS_hostile := base 4k39 thp hostile
FRAGMENTS_kinds := base 4k39 thp kinds init
FRAGMENTS_bare := base 4k39 bare
# A later version, for which there is a series too, from Debian's backport. Not of KERNEL_SRC.
FRAGMENTS_6.12 := base 4k39 thp hostile
SOURCE_6.12 := /usr/src/linux-source-6.12.tar.xz
# For measurements.
FRAGMENTS_speed := base 4k39 thp speed
# For images: one kernel for all boards, and the smallest one, for virt.
FRAGMENTS_boards := base 4k39 thp embed virt versal raspi3b zcu102
FRAGMENTS_small := base 4k39 embed small
# Every geometry that arm64 has, and kernels that check themselves: see tests/matrix.
GEOMETRIES := 4k39 4k48 16k36 16k47 16k48 64k42 64k48 64k52
SANITIZERS := kasan=4k39,thp,hostile,sanitize kcsan=4k39,thp,hostile,kcsan

# More than this a boot loader of a small board may have no room for.
export INITRAMFS_LIMIT := 143360
# The smallest image.
export SMALL_LIMIT := 1310720
# The programs are looked for here, whatever the user has set for other projects.
export CARGO_TARGET_DIR := $(CURDIR)/target
# What a user has set for other projects would take the place of what .cargo/config.toml and Cargo.toml say.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS $(filter-out CARGO_TARGET_DIR CARGO_BUILD_JOBS, \
	$(filter CARGO_BUILD_% CARGO_PROFILE_% CARGO_TARGET_%,$(.VARIABLES)))
# Cargo and the shell know where the user is at home without the variable; the paths below need it.
ifeq ($(HOME),)
export HOME := $(shell unset HOME; echo ~)
endif
# Words for recipes, which reach them as data: nothing in them is for the shell.
export RUN IMAGE PARTS CONFIG SECONDS_EACH

RUST_PATH := $(shell scripts/rust-path)
CARGO := PATH=$(RUST_PATH):$$PATH cargo
# Source paths inside the programs do not depend on the machine.
REMAP := --config 'target.$(TARGET).rustflags=["--remap-path-prefix=$(CURDIR)=.", \
	"--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo"]'
BIN := $(CURDIR)/target/$(TARGET)/release

.PHONY: help setup programs bench-program kernel initramfs run test matrix sanitize bench stock clean
.PHONY: setup-6.12 small keys dist dist-again boards
.PHONY: series-check check-config headers examples lava neighbours trinity fuzz ptview pictures
.PHONY: check format lint documentation host-tests loom miri package judge-tests output-tests

help:
	@echo 'Targets'
	@echo '  run         set up, build and boot the demo; the exit status is the verdict'
	@echo '  test        set up, build, check, and boot everything on every kernel variant'
	@echo '  check       format, lint, documentation, host-tests, loom, package, judge-tests,'
	@echo '              output-tests: no boot'
	@echo '  loom        models of what the threads of a pager share, and mutants that must fail'
	@echo '  miri        tests of the walker and of the ring under Miri, for those who have it'
	@echo '  matrix      every group of tests on every geometry, as a table'
	@echo '  sanitize    the same on kernels that check themselves (KASAN, lockdep, KCSAN ...)'
	@echo '  small       build/small.Image.gz: one file of the smallest kernel and programs'
	@echo '  dist        build/dist: images for boards, U-Boot, UEFI, Raspberry Pi, with checksums'
	@echo '  dist-again  the same in another folder, kernels too; are they the same bytes?'
	@echo '  boards      boots the images on every board and firmware that QEMU has, as a table'
	@echo '  series-check  checkpatch, sparse and builds of the series, as its reviewers would'
	@echo '  check-config  what a kernel configuration lacks, and why it is needed; CONFIG: .config or'
	@echo '              a copy of /proc/config.gz'
	@echo '  headers     build/include/linux/remap_page_table.h, for C programs'
	@echo '  examples    an init in Rust and one in C: build/own-init, build/c-init'
	@echo '  lava        jobs of examples/lava with LAVA'"'"'s dispatcher, results against what init prints'
	@echo '  neighbours  the kernel'"'"'s own memory tests without and with the series, as a table'
	@echo '  trinity     the system-call fuzzer of that name on the call'
	@echo '  fuzz        coverage-guided fuzzing of the walker, SECONDS_EACH target [60]'
	@echo '  stock       kernels of Debian that nobody patched, as a table; ROWS, ROUNDS'
	@echo '  bench       instructions per operation, beside the kernel'"'"'s own ways; PARTS: calls,'
	@echo '              dumps, faults or dirty alone; CPU [cortex-a72]'
	@echo '  ptview      build/ptview: makes pictures of what pt has saved or printed'
	@echo '  pictures    boots a process worth seeing, and tries its pictures in Chromium'
	@echo '  kernel      build/Image (with huge pages), and Image-nothp, -hostile, -kinds, -bare for'
	@echo '              tests; kernel-6.12 is a later one'
	@echo '  programs    the programs, and what is promised of their ELF files'
	@echo '  initramfs   build/initramfs.cpio.gz'
	@echo '  setup       install missing Debian packages, or say how to'
	@echo '  clean       remove build/ and target/; kernels stay in the cache'
	@echo 'Variables, for make or from the environment'
	@echo '  KERNEL_SRC  kernel source, a folder or a tar archive [Debian linux-source-6.1]'
	@echo '  JOBS        parallel jobs of the kernel build [one per CPU]'
	@echo '  TABLEWALK_CACHE  where built kernels are kept [~/.cache/tablewalk]'
	@echo '  TIMEOUT     seconds until a boot counts as hung [300]'
	@echo 'Variables of host-tests'
	@echo '  TORTURE_SECONDS TORTURE_SEED TORTURE_PATIENCE  how long the pager is tortured, from which'
	@echo '              random number on, seconds after which a wait has failed [20 1 1]'
	@echo 'Variables of matrix and sanitize'
	@echo '  ROUNDS CALLS  races and kills, rounds of the journal; random calls [200 100000; 1000 200000]'
	@echo '  KILLS         processes with a pager that are killed [100; 10000]'
	@echo '  GEOMETRIES SANITIZERS  rows of the table [all]'
	@echo '  GROUPS_WANTED columns of the table [all]'
	@echo '  SMP           numbers of CPUs [2; "2 4"]'
	@echo 'Variables of dist and boards'
	@echo '  KEYS        folder of your tablewalk.key and .crt, which sign the FIT [a test key is made]'
	@echo '  ROWS        rows of the table of boards [all]'
	@echo 'Variables of run'
	@echo '  RUN         what init runs, as "walktest + uffd --pages 64" [all]'
	@echo '  IMAGE       boot this Image; none is built [build/Image]'
	@echo '  CPU SMP MEM the QEMU CPU, number of CPUs, MiB of memory [cortex-a72 2 1024]'
	@echo '  KERNEL_ARGS QEMU_ARGS  more words for the kernel, for QEMU []'

setup:
	@scripts/variables
	@scripts/setup

programs: setup
	$(CARGO) build --quiet --locked --release --target $(TARGET) -p tablewalk-bins $(REMAP)
	tests/check-elf $(addprefix $(BIN)/,$(PROGRAMS) $(TESTERS) unruly)

# As fast as the crates can be, not as small.
SPEED := $(CURDIR)/target/$(TARGET)/speed
bench-program: setup
	$(CARGO) build --quiet --locked --profile speed --target $(TARGET) -p tablewalk-bench $(REMAP)
	tests/check-elf $(SPEED)/bench

kernel: $(addprefix kernel-,$(VARIANTS))

# The cache of kernel/build knows whether there is anything to do. The first variant is the default
# one, and brings what comes with a kernel.
kernel-%: setup
	@mkdir -p build
	@kernel=$$($(if $(SOURCE_$*),KERNEL_SRC=$(SOURCE_$*)) kernel/build $(FRAGMENTS_$*)) && \
	cp "$$kernel/Image" build/Image.$*.new && mv build/Image.$*.new build/Image-$* && \
	cp "$$kernel/config" build/config-$* && \
	echo "kernel: build/Image-$* from $$kernel" && \
	if [ $* = $(firstword $(VARIANTS)) ]; then \
		ln -f build/Image-$* build/Image && cp "$$kernel/selftest" build/ && \
		rm -rf build/tools && cp -r "$$kernel/tools" build/; \
	elif [ -n "$(SOURCE_$*)" ]; then \
		cp "$$kernel/selftest" build/selftest-$* && \
		rm -rf build/tools-$* && cp -r "$$kernel/tools" build/tools-$*; \
	fi

# Its selftest and KTAP parser are its own.
kernel-6.12: setup-6.12
setup-6.12: setup
	@scripts/setup 6.12

initramfs: programs
	@mkdir -p build
	@initramfs/pack build/initramfs.cpio.gz $(addprefix $(BIN)/,$(PROGRAMS))

small: programs
	@mkdir -p build
	@kernel=$$(kernel/build $(FRAGMENTS_small)) && INITRAMFS_LIMIT= initramfs/pack build/small.cpio.gz \
		$(addprefix $(BIN)/,$(PROGRAMS) $(SMALL_TESTERS)) && \
	IMAGE_LIMIT=$(SMALL_LIMIT) images/embed "$$kernel" build/small.cpio.gz build/small.Image.gz

# Before anything is built: are there keys?
keys:
	@scripts/variables && scripts/setup dist && images/keys >/dev/null

dist: keys programs
	@boards=$$(kernel/build $(FRAGMENTS_boards)) && small=$$(kernel/build $(FRAGMENTS_small)) && \
	SMALL_PROGRAMS='$(addprefix $(BIN)/,$(SMALL_TESTERS))' images/all build/dist "$$boards" "$$small" \
		$(addprefix $(BIN)/,$(PROGRAMS))

dist-again: dist
	@MAKE='$(MAKE)' tests/dist-again

boards: dist
	@boards=$$(kernel/build $(FRAGMENTS_boards)) && tests/boards build/dist "$$boards"

# The KTAP parser comes with the kernel.
run: $(if $(IMAGE),,kernel-thp) initramfs
	@read -ra words <<<"$$RUN"; \
	$(if $(IMAGE),KUNIT=) tests/boot run "$${IMAGE:-build/Image}" build/initramfs.cpio.gz "$${words[@]}"

check: format lint documentation host-tests loom package judge-tests output-tests

format: setup
	$(CARGO) fmt --check

lint: setup
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	$(CARGO) clippy --quiet --locked --workspace --exclude ptview --target $(TARGET) -- -D warnings

documentation: export RUSTDOCFLAGS := -D warnings
documentation: setup
	$(CARGO) doc --quiet --locked --no-deps
	$(CARGO) doc --quiet --locked --no-deps --workspace --exclude ptview --target $(TARGET)

host-tests: setup
	$(CARGO) test --quiet --locked

# Can be published: everything that they need is in them, and they build alone.
package: setup
	$(CARGO) package --quiet --locked --allow-dirty -p tablewalk-uapi -p tablewalk-walker

fuzz: setup
	@PATH=$(RUST_PATH):$$PATH tests/fuzz "$${SECONDS_EACH:-60}"

judge-tests: setup
	python3 -B -m unittest --quiet tests/test_judge.py tests/test_kernel_messages.py tests/test_boot.py \
		tests/test_check_config.py tests/test_make.py

# What a program does whose output is not taken, under QEMU's emulation of processes.
output-tests: programs
	python3 -B -m unittest --quiet tests/test_output.py

# A folder of its own: the flags are for every crate.
loom: setup
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=$(CURDIR)/target/loom \
		$(CARGO) test --quiet --locked --profile loom -p tablewalk-pager --lib models::

# Needs a nightly toolchain with Miri, which Debian has not. What makes system calls is left out: Miri
# knows no userfaultfd and no assembly.
miri:
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked -p tablewalk-walker --lib
	MIRIFLAGS=-Zmiri-many-seeds=0..16 cargo +nightly miri test --locked -p tablewalk-pager --lib \
		pool::tests layout::tests

test:
	@MAKE='$(MAKE)' tests/all $(BIN)

matrix: setup programs
	@tests/matrix $(BIN) $(foreach g,$(GEOMETRIES),$g=$g,thp,hostile)

sanitize: export ROUNDS ?= 1000
sanitize: export CALLS ?= 200000
sanitize: export KILLS ?= 10000
sanitize: export SMP ?= 2 4
sanitize: setup programs
	@tests/matrix $(BIN) $(SANITIZERS)

# What the default set-up does not install is named by the scripts.
series-check:
	@kernel/check

check-config:
	@kernel/check-config "$${CONFIG:?which? make check-config CONFIG=path/to/.config}"

# The header has one home, the kernel series.
HEADER := include/uapi/linux/remap_page_table.h
headers:
	@rm -rf build/include && mkdir -p build/include
	@awk '/^(From|diff) / { inside = $$NF == "b/$(HEADER)" } inside' \
		$(sort $(wildcard kernel/patches/6.1/*.patch)) | patch --quiet --strip=4 --directory=build/include
	@mkdir build/include/linux && mv build/include/*.h build/include/linux/
	@echo headers: build/include/linux/remap_page_table.h

examples: setup headers
	$(CARGO) build --quiet --locked --release --target $(TARGET) -p own-init $(REMAP)
	tests/check-elf $(BIN)/own-init && cp $(BIN)/own-init build/
	aarch64-linux-gnu-gcc -static -O2 -Wall -Wextra -Werror -Ibuild/include -o build/c-init \
		examples/c-init/init.c

lava: kernel-thp kernel-bare initramfs
	@tests/lava build/Image build/initramfs.cpio.gz build/Image-bare

neighbours: programs
	@kernel/neighbours $(BIN)/init

trinity: programs
	@tests/trinity/run $(BIN)/init

stock: programs
	@tests/stock $(BIN)

bench: kernel-speed programs bench-program
	@read -ra parts <<<"$$PARTS"; tests/bench build/Image-speed $(BIN)/init $(SPEED)/bench "$${parts[@]}"

# For the machine that builds, as fast as it can be.
ptview: setup
	@mkdir -p build
	$(CARGO) build --quiet --locked --profile speed -p ptview
	cp $(CARGO_TARGET_DIR)/speed/ptview build/ptview

pictures: kernel-kinds programs ptview
	@scripts/setup pictures
	@tests/pictures build/Image-kinds $(BIN)

clean:
	rm -rf build target
