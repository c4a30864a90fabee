# Builds, runs and tests Tablewalk. `make help` explains the targets and variables.

SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:

TARGET := aarch64-unknown-linux-gnu
# What people run, in bins/: these go into the initramfs, examples of a use do not.
PROGRAMS := init pt walktest uffd
EXAMPLES := lazyload checkpoint
# What tests these, the call and the kernel, in testers/, packed apart.
TESTERS := contract blocks kinds hostile stress moved tracked scene busy without unruly module
# What of these the smallest image has room for.
SMALL_TESTERS := contract blocks kinds stress moved lazyload scene
# Variants of the kernel, and the fragments of kernel/config/ that make each.
VARIANTS := thp nothp hostile kinds bare
FRAGMENTS_thp := base 4k48 thp
FRAGMENTS_nothp := base 4k48 nothp
FRAGMENTS_hostile := base 4k48 thp hostile
FRAGMENTS_kinds := base 4k48 thp kinds init
FRAGMENTS_bare := base 4k48 bare
# A later version, for which there is a series too, from Debian's backport. Not of KERNEL_SRC.
FRAGMENTS_6.12 := base 4k48 thp hostile
SOURCE_6.12 := /usr/src/linux-source-6.12.tar.xz
# For measurements.
FRAGMENTS_speed := base 4k48 thp speed
# For images: one kernel for all boards, and the smallest one, for virt.
FRAGMENTS_boards := base 4k48 thp embed virt versal raspi3b zcu102
FRAGMENTS_small := base 4k39 embed small
# Every geometry that arm64 has, and kernels that check themselves: see tests/matrix.
ALL_GEOMETRIES := 4k39 4k48 16k36 16k47 16k48 64k42 64k48 64k52
ALL_SANITIZERS := kasan=4k48,thp,hostile,sanitize kcsan=4k48,thp,hostile,kcsan

# More than this a boot loader of a small board may have no room for.
export INITRAMFS_LIMIT := 142336
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
$(foreach name,RUN IMAGE PARTS CONFIG KDIR SECONDS_EACH,$(if $(filter-out undefined,$(origin $(name))), \
	$(eval override $(name) := $$(value $(name)))))
export RUN IMAGE PARTS CONFIG KDIR SECONDS_EACH
unexport CDPATH

# These do all set-up that they need.
PACKAGES := $(if $(filter run test dist dist-again,$(MAKECMDGOALS)),setup,packages)

RUST_PATH := $(shell scripts/rust-path)
CARGO := PATH=$(RUST_PATH):$$PATH cargo
# Source paths inside the programs do not depend on the machine.
REMAP := --config 'target.$(TARGET).rustflags=["--remap-path-prefix=$(CURDIR)=.", \
	"--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo"]'
BIN := $(CURDIR)/target/$(TARGET)/release

.PHONY: help setup programs bench-program kernel initramfs run test matrix sanitize bench guard stock clean
.PHONY: packages packages-6.12 small keys dist dist-again boards
.PHONY: series-check check-config headers module deb examples lava neighbours trinity fuzz ptview pictures
.PHONY: check format lint documentation host-tests loom miri package judge-tests output-tests

# Prints what stands behind `##` in this file.
help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## Targets
##   run         set up, build and boot the demo; the exit status is the verdict
# The KTAP parser comes with the kernel.
run: $(if $(IMAGE),,kernel-thp) initramfs
	@read -ra words <<<"$$RUN"; \
	$(if $(IMAGE),KUNIT=) tests/boot run "$${IMAGE:-build/Image}" build/initramfs.cpio.gz "$${words[@]}"

##   test        set up, build, check, and boot everything on every kernel variant
test:
	@MAKE='$(MAKE_PROGRAM)' tests/all $(BIN)

##   setup       install missing Debian packages, or say how to; FOR=6.12, dist or pictures: those of
##               kernel-6.12, of boards, of pictures. run, test and dist do that themselves
setup:
	@scripts/variables
	@scripts/setup $(FOR)

# Others look whether packages are there, and install none.
packages:
	@scripts/variables
	@scripts/setup --check

##   programs    the programs, and what is promised of their ELF files
programs: $(PACKAGES)
	$(CARGO) build --quiet --locked --release --target $(TARGET) -p tablewalk-bins -p tablewalk-testers $(REMAP)
	tests/check-elf $(addprefix $(BIN)/,$(PROGRAMS) $(EXAMPLES) $(TESTERS))

# As fast as the crates can be, not as small.
SPEED := $(CURDIR)/target/$(TARGET)/speed
bench-program: $(PACKAGES)
	$(CARGO) build --quiet --locked --profile speed --target $(TARGET) -p tablewalk-bench $(REMAP)
	tests/check-elf $(SPEED)/bench

##   kernel      build/Image (with huge pages), and Image-nothp, -hostile, -kinds, -bare for
##               tests; kernel-6.12 is a later one
kernel: $(addprefix kernel-,$(VARIANTS))

# The cache of kernel/build knows whether there is anything to do. The first variant is the default
# one, and brings what comes with a kernel.
kernel-%: $(PACKAGES)
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
		rm -rf build/$* && mkdir build/$* && cp -r "$$kernel/tools" build/$*/; \
	fi

# Its selftest and KTAP parser are its own; the latter wants to stand in tools/testing/kunit.
kernel-6.12: packages-6.12
packages-6.12: packages
	@scripts/setup --check 6.12

##   initramfs   build/initramfs.cpio.gz
initramfs: programs
	@mkdir -p build
	@initramfs/pack build/initramfs.cpio.gz $(addprefix $(BIN)/,$(PROGRAMS))

##   small       build/small.Image.gz: one file of the smallest kernel and programs
small: programs
	@mkdir -p build
	@kernel=$$(kernel/build $(FRAGMENTS_small)) && INITRAMFS_LIMIT= initramfs/pack build/small.cpio.gz \
		$(addprefix $(BIN)/,$(PROGRAMS) $(SMALL_TESTERS)) && \
	IMAGE_LIMIT=$(SMALL_LIMIT) images/embed "$$kernel" build/small.cpio.gz build/small.Image.gz

# Before anything is built: are there keys?
keys:
	@scripts/variables && scripts/setup $(if $(filter setup,$(PACKAGES)),,--check) dist && images/keys >/dev/null

##   dist        build/dist: images for boards, U-Boot, UEFI, Raspberry Pi, with checksums
dist: keys programs headers
	@boards=$$(kernel/build $(FRAGMENTS_boards)) && small=$$(kernel/build $(FRAGMENTS_small)) && \
	modules=$$(kernel/module/debian build/module) && MODULES=$$(xargs <<<"$$modules") \
	SMALL_PROGRAMS='$(addprefix $(BIN)/,$(SMALL_TESTERS))' images/all build/dist "$$boards" "$$small" \
		$(addprefix $(BIN)/,$(PROGRAMS))

##   dist-again  the same in another folder, kernels too; are they the same bytes?
dist-again: dist
	@MAKE='$(MAKE_PROGRAM)' tests/dist-again

##   boards      boots the images on every board and firmware that QEMU has, as a table
boards: dist
	@boards=$$(kernel/build $(FRAGMENTS_boards)) && tests/boards build/dist "$$boards"

##   check       format, lint, documentation, host-tests, loom, package, judge-tests,
##               output-tests: no boot
check: format lint documentation host-tests loom package judge-tests output-tests

format: $(PACKAGES)
	$(CARGO) fmt --check

lint: $(PACKAGES)
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	$(CARGO) clippy --quiet --locked --workspace --exclude ptview --target $(TARGET) -- -D warnings

documentation: export RUSTDOCFLAGS := -D warnings
documentation: $(PACKAGES)
	$(CARGO) doc --quiet --locked --no-deps
	$(CARGO) doc --quiet --locked --no-deps --workspace --exclude ptview --target $(TARGET)
	@! mandoc -Tlint -W warning docs/man/* 2>&1 | grep .

host-tests: $(PACKAGES)
	$(CARGO) test --quiet --locked

# Can be published: everything that they need is in them, and they build alone.
package: $(PACKAGES)
	$(CARGO) package --quiet --locked --allow-dirty -p tablewalk-uapi -p tablewalk-walker

##   fuzz        coverage-guided fuzzing of the walker, SECONDS_EACH target [60]
fuzz: $(PACKAGES)
	@PATH=$(RUST_PATH):$$PATH tests/fuzz "$${SECONDS_EACH:-60}"

judge-tests: $(PACKAGES) headers
	python3 -B -m unittest --quiet tests/test_judge.py tests/test_kernel_messages.py tests/test_boot.py \
		tests/test_check_config.py tests/test_make.py tests/test_json.py tests/test_header.py \
		tests/test_figures.py

# What a program does whose output is not taken, under QEMU's emulation of processes.
output-tests: programs
	python3 -B -m unittest --quiet tests/test_output.py

##   loom        models of what the threads of a pager share, and mutants that must fail
# A folder of its own: the flags are for every crate.
loom: $(PACKAGES)
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=$(CURDIR)/target/loom \
		$(CARGO) test --quiet --locked --profile loom -p tablewalk-pager --lib models::

##   miri        tests of the walker and of the ring under Miri, for those who have it
# Needs a nightly toolchain with Miri, which Debian has not. What makes system calls is left out: Miri
# knows no userfaultfd and no assembly.
miri:
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked -p tablewalk-walker --lib
	MIRIFLAGS=-Zmiri-many-seeds=0..16 cargo +nightly miri test --locked -p tablewalk-pager --lib \
		pool::tests layout::tests

# A variable, since make runs a line with $(MAKE) in it even where it should only show it.
MAKE_PROGRAM := $(MAKE)
##   matrix      every group of tests on every geometry, as a table
matrix: $(PACKAGES) programs
	@tests/matrix $(BIN) $(foreach g,$(or $(GEOMETRIES),$(ALL_GEOMETRIES)),$g=$g,thp,hostile)

##   sanitize    the same on kernels that check themselves (KASAN, lockdep, KCSAN ...)
sanitize: export ROUNDS ?= 1000
sanitize: export CALLS ?= 200000
sanitize: export KILLS ?= 10000
sanitize: export SMP ?= 2 4
sanitize: $(PACKAGES) programs
	@tests/matrix $(BIN) $(or $(SANITIZERS),$(ALL_SANITIZERS))

##   series-check  checkpatch, sparse and builds of the series, as its reviewers would
# What the default set-up does not install is named by the scripts.
series-check:
	@kernel/check

##   check-config  what a kernel configuration lacks, and why it is needed; CONFIG: .config or
##               a copy of /proc/config.gz
check-config:
	@[ -n "$$CONFIG" ] || { echo 'CONFIG: no file; make check-config CONFIG=path/to/.config' >&2; exit 2; }
	@kernel/check-config "$$CONFIG"

# The header has one home, the kernel series.
HEADER := include/uapi/linux/remap_page_table.h
##   headers     build/include/linux/remap_page_table.h, for C programs
headers:
	@rm -rf build/include && mkdir -p build/include
	@awk '/^(From|diff) / { inside = $$NF == "b/$(HEADER)" } inside' \
		$(sort $(wildcard kernel/patches/6.1/*.patch)) | patch --quiet --strip=4 --directory=build/include
	@mkdir build/include/linux && mv build/include/*.h build/include/linux/
	@echo headers: build/include/linux/remap_page_table.h

##   module      build/module/remap_page_table.ko, for a kernel without the call; KDIR: its headers,
##               as kernel/headers fetches them
module: $(PACKAGES) headers
	@[ -n "$$KDIR" ] || { echo 'KDIR: no folder; make module KDIR=$$(kernel/headers 6.1.0-56-arm64)' >&2; exit 2; }
	@kernel/module/build "$$KDIR" build/module
	@echo module: build/module/remap_page_table.ko

##   deb         build/remap-page-table-dkms_*.deb: the module's source, which DKMS builds where it is installed
deb: $(PACKAGES) headers
	@kernel/module/package build

##   examples    an init in Rust and one in C: build/own-init, build/c-init
examples: $(PACKAGES) headers
	$(CARGO) build --quiet --locked --release --target $(TARGET) -p own-init $(REMAP)
	tests/check-elf $(BIN)/own-init && cp $(BIN)/own-init build/
	aarch64-linux-gnu-gcc -static -O2 -Wall -Wextra -Werror -Ibuild/include -o build/c-init \
		examples/c-init/init.c

##   lava        jobs of examples/lava with LAVA's dispatcher, results against what init prints
lava: kernel-thp kernel-bare initramfs
	@tests/lava build/Image build/initramfs.cpio.gz build/Image-bare

##   neighbours  the kernel's own memory tests without and with the series, as a table
neighbours: programs
	@kernel/neighbours $(BIN)/init

##   trinity     the system-call fuzzer of that name on the call
trinity: programs headers
	@tests/trinity/run $(BIN)/init

##   stock       kernels of Debian that nobody patched, as a table; ROWS, ROUNDS
stock: programs headers
	@tests/stock $(BIN)

##   bench       instructions per operation, beside the kernel's own ways; PARTS: calls,
##               dumps, faults, start or dirty alone; CPU [cortex-a72], SMP [1 2 4]
bench: kernel-speed programs bench-program
	@read -ra parts <<<"$$PARTS"; tests/bench build/Image-speed $(BIN)/init $(SPEED)/bench "$${parts[@]}"

##   guard       ten figures of bench on one CPU: none may be more than twice that of bench/figures
guard: kernel-speed programs bench-program
	@mkdir -p build/log
	@CPU=cortex-a72 SMP=1 TIMEOUT=1500 tests/bench build/Image-speed $(BIN)/init $(SPEED)/bench calls dumps faults dirty \
		>build/log/guard.log || { cat build/log/guard.log; exit 1; }
	@python3 -B tests/figures.py build/log/bench-1.log bench/figures

##   ptview      build/ptview: makes pictures of what pt has saved or printed
# For the machine that builds, as fast as it can be.
ptview: $(PACKAGES)
	@mkdir -p build
	$(CARGO) build --quiet --locked --profile speed -p ptview
	cp $(CARGO_TARGET_DIR)/speed/ptview build/ptview

##   pictures    boots a process worth seeing, and tries its pictures in Chromium
pictures: kernel-kinds programs ptview
	@scripts/setup --check pictures
	@tests/pictures build/Image-kinds $(BIN)

##   clean       remove build/ and target/; kernels stay in the cache
clean:
	rm -rf build target

## Variables, for make or from the environment
##   KERNEL_SRC  kernel source, a folder or a tar archive [Debian linux-source-6.1]
##   JOBS        parallel jobs of the kernel build [one per CPU]
##   TABLEWALK_CACHE  where built kernels are kept [~/.cache/tablewalk]
##   TIMEOUT     seconds until a boot counts as hung [300]
## Variables of host-tests
##   TORTURE_SECONDS TORTURE_SEED TORTURE_PATIENCE  how long the pager is tortured, from which
##               random number on, seconds after which a wait has failed [20 1 1]
## Variables of matrix and sanitize
##   ROUNDS CALLS  races and kills, rounds of the journal; random calls [200 100000; 1000 200000]
##   KILLS         processes with a pager that are killed [100; 10000]
##   GEOMETRIES SANITIZERS  rows of the table [all]
##   GROUPS_WANTED columns of the table [all]
##   SMP           numbers of CPUs [2; "2 4"]
## Variables of dist and boards
##   KEYS        folder of your tablewalk.key and .crt, which sign the FIT [a test key is made]
##   ROWS        rows of the table of boards [all]
## Variables of run
##   RUN         what init runs, as "walktest + uffd --pages 64" [all]
##   IMAGE       boot this Image; none is built [build/Image]
##   CPU SMP MEM the QEMU CPU, number of CPUs, MiB of memory [cortex-a72 2 1024]
##   KERNEL_ARGS QEMU_ARGS  more words for the kernel, for QEMU []
