# Builds, runs and tests Tablewalk. `make help` explains the targets and variables.

SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:

TARGET := aarch64-unknown-linux-gnu
PROGRAMS := init walktest uffd contract
VARIANTS := thp nothp

# More than this a boot loader of a small board may have no room for.
export INITRAMFS_LIMIT := 49152
# The programs are looked for here, whatever the user has set for other projects.
export CARGO_TARGET_DIR := $(CURDIR)/target

RUST_PATH := $(shell scripts/rust-path)
CARGO := PATH=$(RUST_PATH):$$PATH cargo
# Source paths inside the programs do not depend on the machine.
REMAP := --config 'target.$(TARGET).rustflags=["--remap-path-prefix=$(CURDIR)=.", \
	"--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo"]'
BIN := $(CURDIR)/target/$(TARGET)/release

.PHONY: help setup programs kernel initramfs run test bench clean
.PHONY: check format lint documentation host-tests judge-tests

help:
	@echo 'Targets'
	@echo '  run         set up, build and boot the demo; the exit status is the verdict'
	@echo '  test        set up, build, check, and boot everything on every kernel variant'
	@echo '  check       format, lint, documentation, host-tests, judge-tests: no boot'
	@echo '  bench       instructions per operation, beside the kernel'"'"'s own ways'
	@echo '  kernel      build/Image (with huge pages) and build/Image-nothp'
	@echo '  programs    the programs, and what is promised of their ELF files'
	@echo '  initramfs   build/initramfs.cpio.gz'
	@echo '  setup       install missing Debian packages, or say how to'
	@echo '  clean       remove build/ and target/; kernels stay in the cache'
	@echo 'Variables, for make or from the environment'
	@echo '  KERNEL_SRC  kernel source, a folder or a tar archive [Debian linux-source-6.1]'
	@echo '  JOBS        parallel jobs of the kernel build [one per CPU]'
	@echo '  TABLEWALK_CACHE  where built kernels are kept [~/.cache/tablewalk]'
	@echo '  TIMEOUT     seconds until a boot counts as hung [300]'
	@echo 'Variables of run'
	@echo '  RUN         what init runs, as "walktest + uffd --pages 64" [all]'
	@echo '  IMAGE       boot this Image; none is built [build/Image]'
	@echo '  CPU SMP MEM the QEMU CPU, number of CPUs, MiB of memory [cortex-a72 2 1024]'
	@echo '  KERNEL_ARGS QEMU_ARGS  more words for the kernel, for QEMU []'

setup:
	@scripts/setup

programs: setup
	$(CARGO) build --quiet --locked --release --target $(TARGET) -p tablewalk-bins $(REMAP)
	tests/check-elf $(addprefix $(BIN)/,$(PROGRAMS))

# The first variant is the default one.
kernel: setup
	@mkdir -p build
	@for variant in $(VARIANTS); do \
		kernel=$$(kernel/build base $$variant) || exit 1; \
		cp "$$kernel/Image" build/Image.new && mv build/Image.new build/Image-$$variant || exit 1; \
		echo "kernel: build/Image-$$variant from $$kernel"; \
	done; \
	rm -rf build/tools && cp -r "$$kernel/tools" build/ && cp "$$kernel/selftest" build/
	@ln -f build/Image-$(firstword $(VARIANTS)) build/Image

initramfs: programs
	@mkdir -p build
	@initramfs/pack build/initramfs.cpio.gz $(addprefix $(BIN)/,$(PROGRAMS))

# The KTAP parser comes with the kernel.
run: $(if $(IMAGE),,kernel) initramfs
	@$(if $(IMAGE),KUNIT=) tests/boot run $(or $(IMAGE),build/Image) build/initramfs.cpio.gz $(RUN)

check: format lint documentation host-tests judge-tests

format: setup
	$(CARGO) fmt --check

lint: setup
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings
	$(CARGO) clippy --quiet --locked --workspace --target $(TARGET) -- -D warnings

documentation: export RUSTDOCFLAGS := -D warnings
documentation: setup
	$(CARGO) doc --quiet --locked --no-deps
	$(CARGO) doc --quiet --locked --no-deps --workspace --target $(TARGET)

host-tests: setup
	$(CARGO) test --quiet --locked

judge-tests: setup
	python3 -B -m unittest --quiet tests/test_judge.py

test:
	@MAKE='$(MAKE)' tests/all $(BIN)/init

bench: kernel programs
	@tests/bench build/Image $(BIN)/init $(BIN)/bench

clean:
	rm -rf build target
