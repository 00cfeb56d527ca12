# The few commands a person types. Everything is installed into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find kernels CMakeLists.txt pyproject.toml -type f 2>/dev/null)
CMAKE := cmake -S . --no-warn-unused-cli
KERNELS := $(CMAKE) -B build/kernels -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_BENCH=ON -DASA_LIBRARY=ON
ADDRESS = $(CMAKE) -B build/address -DASA_TESTS=ON -DASA_LIBRARY=ON -DASA_CUDA=EMULATED -DASA_SANITIZE=address,undefined \
	-DPython_EXECUTABLE=$(abspath $(BIN)/python)
JOBS ?= $(shell nproc)
DEMO_AUDIO ?= examples/audio/demo.flac
DEMO_TEXT ?= Last summer I went to the mountains with my family. We walked for three hours, and then we found a small lake. The water was cold.
ASA_SHARED ?= ../shared
PYTHONS ?= 3.11 3.12 3.13
LOCK := build/lock
DOCS := build/docs
NVCC ?= $(or $(shell command -v nvcc),$(abspath build/cuda-toolkit/nvidia/cu13/bin/nvcc))
# Which build of PyTorch: cpu, or PyPI's, which brings CUDA (2 GB).
TORCH ?= cpu
PINS := requirements/install $(BIN)/python
HERE := $(BIN)/pip install --quiet --no-deps --no-build-isolation
SPEECH ?= $(ASA_SHARED)/data/speechocean762/train.jsonl

.PHONY: help demo test ray-tests kernel-tests libasa wasm kiosk fuzz-device sanitize sanitize-address \
	sanitize-thread neon neon32 lint format bench bench-smoke cuda cuda-tests bundles gpu-engines triton-kernels docs lock wheel test-pythons \
	test-oldest test-newest clean fuzz-audio

help:
	@echo "make demo         install, then score a recording as a live stream"
	@echo "make fuzz-device  changed bytes of a device's grader file into libasa, under ASan and UBSan"
	@echo "make fuzz-audio   changed bytes of every container into the audio front, for two minutes"
	@echo "make test         install with all that the tests need, then run them"
	@echo "make ray-tests    the tests that run a Ray cluster on this machine"
	@echo "make kernel-tests the compiled kernels' own tests"
	@echo "make libasa       the grader as a C library, its example and its file, in build/libasa"
	@echo "make wasm         the same for web pages, by emscripten, in build/wasm/package"
	@echo "make kiosk        a page that scores who speaks to it, as static files, in build/kiosk"
	@echo "make sanitize     the same, and fuzzing from Python, under ASan, UBSan and TSan"
	@echo "make neon         the same, compiled for 64-bit ARM and run under qemu-user"
	@echo "make neon32       libasa's part of it, for 32-bit ARM"
	@echo "make cuda         the CUDA kernels, by nvcc, for every architecture; checked where a GPU is"
	@echo "make cuda-tests   the same sources on an emulated GPU"
	@echo "make lint         ruff, mypy, import-linter and clang-format"
	@echo "make format       let ruff and clang-format rewrite the sources"
	@echo "make bench        every benchmark; writes benchmarks/results"
	@echo "make bench-smoke  the same, so short that its figures mean nothing"
	@echo "make bundles      a bundle of every grader in models/ (ONLY=NAME: of one), in build/bundles"
	@echo "make triton-kernels  the Triton kernels, for every architecture, built without a GPU"
	@echo "make docs         the documentation as a site, in build/docs/site"
	@echo "make wheel        an sdist, and wheels from it, in dist"
	@echo "make test-pythons the wheels and the tests that need no PyTorch, on each Python that is here"
	@echo "make test-oldest  every test on the oldest releases that pyproject.toml admits"
	@echo "make test-newest  every test on the newest; others' deprecations are reported"
	@echo "make lock         renew the pins in requirements"
	@echo "make gpu-engines  TensorRT-RTX engines of the shipped grader, built without a GPU"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps of what an environment holds: all of it pinned, ours built here without fetching anything.
# What the tests or the bundles need holds what the demo needs.
$(VENV)/.run: $(BIN)/python $(SOURCES) requirements/build.txt requirements/runtime.txt
	if test -e $(VENV)/.dev; then $(MAKE) $(VENV)/.dev; \
	elif test -e $(VENV)/.bundles; then $(MAKE) $(VENV)/.bundles; \
	else $(PINS) build runtime && $(HERE) .; fi
	touch $@

$(VENV)/.bundles: $(BIN)/python $(SOURCES) requirements/build.txt requirements/bundles.txt
	if test -e $(VENV)/.dev; then $(MAKE) $(VENV)/.dev; \
	else $(PINS) build torch-$(TORCH) bundles && $(HERE) --editable .; fi
	touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES) requirements/build.txt requirements/dev.txt
	$(PINS) build torch-$(TORCH) dev
	$(HERE) --editable .
	$(BIN)/pip check
	touch $@

demo: $(VENV)/.run
	cd examples && ../$(BIN)/asa-engine assess ../$(DEMO_AUDIO) --text "$(DEMO_TEXT)" --stream --live

# Two minutes by default; build/fuzz keeps what it finds.
fuzz-audio: $(VENV)/.dev
	$(BIN)/python tests/fuzz/audio.py --seconds $(or $(SECONDS),120)

test: $(VENV)/.dev
	$(BIN)/pytest

# A cluster of two nodes on the loopback; Ray is fetched here alone, as little else needs it.
ray-tests: $(VENV)/.dev requirements/ray.txt
	$(PINS) ray
	$(BIN)/pytest tests/cluster

kernel-tests:
	$(KERNELS)
	cmake --build build/kernels --parallel $(JOBS)
	ctest --test-dir build/kernels --output-on-failure

# What a device needs: bin/asa-score, include, lib, and each shipped grader as one file.
libasa: $(VENV)/.run
	$(KERNELS)
	cmake --build build/kernels --parallel $(JOBS) --target asa asa_shared asa-score read_text
	cmake --install build/kernels --prefix build/libasa --component libasa
	$(BIN)/asa-engine export acoustic -o build/libasa/grader.asa --target device --force
	$(BIN)/asa-engine export pronunciation -o build/libasa/reading.asa --target device --force

# The web package, in build/wasm/package. Debian's emscripten finds its JavaScript in Debian's place.
WASM = NODE_PATH=/usr/share/nodejs emcmake $(CMAKE) -DASA_PYTHON=OFF -DASA_LIBRARY=ON
wasm:
	$(WASM) -B build/wasm -DCMAKE_CXX_FLAGS="-msimd128 -fexceptions"
	$(WASM) -B build/wasm-threads -DCMAKE_CXX_FLAGS="-msimd128 -fexceptions -pthread" \
		-DASA_WEB_THREADS=ON -DASA_WEB_PACKAGE=$(abspath build/wasm/package)
	for build in wasm wasm-threads; do \
		NODE_PATH=/usr/share/nodejs cmake --build build/$$build --parallel $(JOBS) --target asa_web || exit; \
	done

# Static files for any web server. Their hash names the version that browsers keep.
kiosk: wasm $(VENV)/.run
	rm -rf build/kiosk
	mkdir -p build/kiosk/web
	cp kiosk/* build/kiosk
	cp build/wasm/package/asa* build/wasm/package/index.js build/kiosk/web
	$(BIN)/asa-engine export acoustic -o build/kiosk/grader.asa --target device
	$(BIN)/asa-engine export pronunciation -o build/kiosk/reading.asa --target device
	sed -i "s/@VERSION@/$$(find build/kiosk -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c -16)/" \
		build/kiosk/sw.js

# Half a minute by default, in the build that `sanitize` tests; a seed of its own each day.
fuzz-device: $(VENV)/.dev
	$(ADDRESS)
	cmake --build build/address --parallel $(JOBS) --target test_device_file
	build/address/kernels/tests/test_device_file $(or $(SECONDS),30) $$(date +%Y%m%d)

sanitize: sanitize-address sanitize-thread

# One build has both ASan and UBSan. The tests of what Python sees run on its module. Python itself is not, so the
# library comes first in every process (with libstdc++, whose exceptions it watches), and what the
# interpreter still holds at its end is no leak.
sanitize-address: $(VENV)/.dev
	$(ADDRESS)
	cmake --build build/address --parallel $(JOBS)
	ctest --test-dir build/address --output-on-failure
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests/kernels/sanitized \
	ASA_KERNELS_MODULE=$$(echo $(abspath build/address)/kernels/_kernels.*.so) \
	ASA_CUDA_MODULE=$$(echo $(abspath build/address)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/kernels tests/gpu/test_cuda_kernels.py \
		-k "not hugging_face and not real_weights"

sanitize-thread:
	$(CMAKE) -B build/thread -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_LIBRARY=ON -DASA_SANITIZE=thread
	cmake --build build/thread --parallel $(JOBS) --target test_threads test_libasa
	ctest --test-dir build/thread --output-on-failure -R "threads|libasa"

# Without the tests of threads, changed files, exhausted memory and language models, which an emulated
# CPU takes minutes for. Then a recording on a CPU of each kind, whose scores are compared with this
# CPU's: a Raspberry Pi 4's, one with dot products, one with i8mm and bf16, too. At fp32 the three run the
# same code.
NEON_PROGRAM = -L /usr/aarch64-linux-gnu $(abspath build/neon)/kernels/runtime/asa-score
NEON_SCORES = $(BIN)/python -m pytest tests/device/test_asa_score.py
neon: $(VENV)/.dev
	$(CMAKE) -B build/neon -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_LIBRARY=ON \
		-DCMAKE_TOOLCHAIN_FILE=kernels/aarch64-toolchain.cmake
	cmake --build build/neon --parallel $(JOBS)
	ctest --test-dir build/neon --output-on-failure --exclude-regex "threads|device_file|libasa|language_model"
	ASA_SCORE="qemu-aarch64 -cpu cortex-a72 $(NEON_PROGRAM)" ASA_SCORE_ISA=neon $(NEON_SCORES)
	ASA_SCORE="qemu-aarch64 -cpu neoverse-n1 $(NEON_PROGRAM)" ASA_SCORE_ISA=neon_dot $(NEON_SCORES) -k int8
	ASA_SCORE="qemu-aarch64 -cpu max $(NEON_PROGRAM)" ASA_SCORE_ISA=neon_bf16 $(NEON_SCORES) -k int8

# Only what libasa needs: the tests of language models and threads stay out.
neon32: $(VENV)/.dev
	$(CMAKE) -B build/neon32 -DASA_PYTHON=OFF -DASA_TESTS=ON -DASA_LIBRARY=ON \
		-DCMAKE_TOOLCHAIN_FILE=kernels/armv7-toolchain.cmake
	cmake --build build/neon32 --parallel $(JOBS) --target asa-score test_kernels test_ops test_models \
		test_device_file
	ctest --test-dir build/neon32 --output-on-failure -R "^(kernels|ops|models|device_file)$$"
	ASA_SCORE="qemu-arm -L /usr/arm-linux-gnueabihf $(abspath build/neon32)/kernels/runtime/asa-score" \
	ASA_SCORE_ISA=neon $(NEON_SCORES)

# nvcc as PyPI has it, where none is installed; it looks for its libraries in lib64.
$(abspath build/cuda-toolkit/nvidia/cu13/bin/nvcc): | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --require-hashes --upgrade --target build/cuda-toolkit \
		--requirement requirements/nvcc.txt
	ln -sfn lib build/cuda-toolkit/nvidia/cu13/lib64

# Without a GPU parity is skipped, and the Python tests see that the module says so.
cuda: $(VENV)/.dev | $(NVCC)
	$(CMAKE) -B build/cuda -DASA_TESTS=ON -DASA_CUDA=ON -DCMAKE_CUDA_COMPILER=$(NVCC) \
		$(if $(CUDA_ARCHITECTURES),-DASA_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)") \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/cuda --parallel $(JOBS) --target parity _cuda
	ctest --test-dir build/cuda --output-on-failure -R cuda
	PYTHONPATH=tests/kernels/sanitized ASA_CUDA_MODULE=$$(echo $(abspath build/cuda)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/gpu/test_cuda_kernels.py

cuda-tests: $(VENV)/.dev
	$(CMAKE) -B build/emulated -DASA_TESTS=ON -DASA_CUDA=EMULATED -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/emulated --parallel $(JOBS) --target parity test_emulation _cuda
	ctest --test-dir build/emulated --output-on-failure -R cuda
	PYTHONPATH=tests/kernels/sanitized ASA_CUDA_MODULE=$$(echo $(abspath build/emulated)/kernels/_cuda.*.so) \
	$(BIN)/python -m pytest tests/gpu/test_cuda_kernels.py

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files '*.h' '*.c' '*.cc' '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files '*.h' '*.c' '*.cc' '*.cu' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.dev
	$(BIN)/asa-engine bench

bench-smoke: $(VENV)/.dev
	$(BIN)/asa-engine bench --smoke --output build/bench

# What is made already is left; ONLY="s1-text s4-session" makes those, PRECISION=fp32,int8 (or all)
# writes others than the one that is fastest within the budget, FORCE=1 makes all anew.
bundles: $(VENV)/.bundles
	$(BIN)/python -m asa_export.bundles models build/bundles $(SPEECH) \
		--only $(ONLY) --precision $(PRECISION) $(if $(FORCE),--force)

gpu-engines: $(VENV)/.dev
	$(PINS) tensorrt-rtx
	$(BIN)/asa-engine export acoustic --output build/gpu --force --target tensorrt \
		--precision fp16,bf16,int8 --compute-capability 8.6,8.9,12.0

triton-kernels: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu.compiles

wheel:
	release/wheels $(PYTHONS)

test-pythons: wheel
	TESTS="$(TESTS)" release/pythons $(PYTHONS)

# Renews every pin within pyproject.toml's ranges; `make lock UPGRADE=` adds only what is missing.
lock: $(LOCK)/bin/uv
	requirements/lock $<

# Environments of their own: the oldest direct dependencies, with what these bring; the newest of all.
test-oldest: $(LOCK)/bin/uv
	release/ranges oldest $< $(PYTHON)

test-newest: $(LOCK)/bin/uv
	release/ranges newest $< $(PYTHON)

$(LOCK)/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv $(LOCK)
	requirements/install $(LOCK)/bin/python uv
	touch $@

# A page that links to what is not there, or would fetch anything from another host, is an error.
docs: $(DOCS)/bin/mkdocs
	NO_MKDOCS_2_WARNING=1 $< build

$(DOCS)/bin/mkdocs: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	requirements/install $(DOCS)/bin/python docs
	touch $@

clean:
	rm -rf build dist $(VENV)
