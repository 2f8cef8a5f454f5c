# SPDX-License-Identifier: Apache-2.0
# Short words for long commands: tools/setup, meson and the scripts in tools/ do the work.

BUILD := build
ARGS  :=
MODEL := .deps/models/SmolLM2-135M-Instruct.Q4_1.gguf
NAME  :=
FUZZ_SECONDS := 30

.DEFAULT_GOAL := help
.PHONY: help run build test check bench fuzz install clean

help:
	@echo 'make run     build MDN and start a whole network here with a small model; ARGS=--once answers one question and ends'
	@echo 'make build   only build: build/mdn'
	@echo 'make test    unit, fuzz corpus, thread, end-to-end and lab tests'
	@echo 'make check   format, include law, lint'
	@echo 'make bench   benchmarks against real peers; NAME=x runs one: decide, engine, gateway, dns,'
	@echo '             transfer, registry, distribution, simulate; what each is: bench/run --help'
	@echo 'make fuzz    look for new crashes in the parsers, FUZZ_SECONDS=30 each'
	@echo 'make install install what was built; DESTDIR and PREFIX as usual'
	@echo 'make clean   remove what was built (not .deps; state/ holds your models and is yours to remove)'
	@echo
	@echo 'The first run fetches and builds what is needed into .deps: tools/setup --help, docs/building.md'

build:
	@tools/setup run
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --buildtype=release $(if $(PREFIX),--prefix=$(PREFIX))
	@ninja -C $(BUILD)

run: build
	$(BUILD)/mdn dev up --model $(MODEL) --state state $(ARGS)

test:
	@tools/setup test
	@tools/test

check:
	@tools/setup check
	@tools/check

bench:
	@tools/setup bench
	@bench/run $(NAME)

fuzz:
	@tools/setup fuzz
	@tools/fuzz $(FUZZ_SECONDS)

install: build
	$(if $(PREFIX),meson configure $(BUILD) --prefix=$(PREFIX))
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD) build-asan build-tsan build-fuzz build-bench
